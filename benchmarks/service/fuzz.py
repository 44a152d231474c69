"""Do mutated messages ever crash, hang or unmask a node?

Usage: python benchmarks/service/fuzz.py [--messages 200000] [--seed 0] [--output FILE]

Half of the messages go to the central node's ModelInfer and its siblings, half to a worker's stream, through the
handlers that gRPC calls, in one process: that is where every byte from outside is first looked at. A message starts as
a valid one (all kinds), and gets bytes changed, repeated, removed, or joined with another's.

What counts as a failure: an exception that is not the handler's own refusal, a handler that takes a second, a refusal
that is INTERNAL or tells of Python. About one minute. Exits 1 after any.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import numpy as np

from coformer_runtime import wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.exchange import Exchange
from coformer_runtime.front import Front, answering
from coformer_runtime.manifest import Manifest
from coformer_runtime.oip import METHODS, messages
from tests.runtime import bundles

RESULT = ROOT / "benchmarks" / "results" / "cluster_fuzz.json"
ALLOWED_S = 1.0
UNMASKED = ("Traceback", ".py", "Error(", "object at 0x")


class Refused(Exception):
    """What gRPC's own abort raises."""


class Context:
    """The part of gRPC's context that the handlers use; remembers the status."""

    def __init__(self) -> None:
        self.code, self.details = "OK", ""

    def time_remaining(self) -> None:
        """No limit."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Nobody hangs up."""
        return True

    def set_trailing_metadata(self, metadata: Any) -> None:
        """Not looked at: it says the same as the details."""

    def auth_context(self) -> dict[str, list[bytes]]:
        """No TLS."""
        return {}

    def cancel(self) -> None:
        """A stream that takes too long."""

    def abort(self, code: Any, details: str) -> None:
        """Remember the status and leave the handler."""
        self.code, self.details = code.name, details
        raise Refused


def mutated(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """One to four random edits."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at, kind = dice.randrange(len(changed) + 1), dice.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            changed[at:at] = dice.randbytes(dice.randint(1, 9))
        elif kind == 2:
            del changed[at : at + dice.randint(1, 40)]
        elif kind == 3:
            changed[at : at + 4] = dice.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x80\x80\x80\x80"))
        elif kind == 4:
            changed[at:] = dice.choice(others)[at:]
        else:
            changed[at:at] = changed[at : at + dice.randint(1, 64)]
    return bytes(changed)


def client_messages(manifest: Manifest) -> list[tuple[str, bytes]]:
    """Method and a valid request for each, several for ModelInfer."""
    valid = []
    for method, (request, _) in METHODS.items():
        made = messages()[request]()
        fields = {field.name for field in made.DESCRIPTOR.fields}
        if "name" in fields:
            made.name = "coformer"
        if method != "ModelInfer":
            valid.append((method, made.SerializeToString() or b"\0"))
    pixels = bundles.golden_pixels()[:1]
    for typed in (False, True):
        made = messages()["ModelInferRequest"](model_name="coformer", id="a")
        tensor = made.inputs.add(name="pixels", datatype="UINT8", shape=pixels.shape)
        if typed:
            tensor.contents.uint_contents.extend(pixels.flatten().tolist())
        else:
            made.raw_input_contents.append(pixels.tobytes())
        made.parameters["p"].double_param = 0.5
        made.outputs.add(name="logits")
        valid += [("ModelInfer", made.SerializeToString())] * 4
    return valid


def fuzz_central(central: Central, count: int, dice: random.Random) -> dict[str, Any]:
    """Mutated requests through the central node's handlers."""
    front, valid = Front(central), client_messages(central.manifest)
    plain = {
        "ServerLive": front.server_live, "ServerReady": front.server_ready, "ServerMetadata": front.server_metadata,
        "ModelReady": front.model_ready, "ModelMetadata": front.model_metadata, "ModelInfer": front.model_infer,
        "ModelConfig": front.model_config,
    }  # fmt: skip
    handlers = {name: answering(METHODS[name][0], method) for name, method in plain.items()}
    codes: collections.Counter[str] = collections.Counter()
    failures, others = [], [data for _, data in valid]
    for _ in range(count):
        method, data = dice.choice(valid)
        data, context, started = mutated(data, others, dice), Context(), time.monotonic()
        try:
            handlers[method](data, context)
        except Refused:
            pass
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            failures.append(f"{method} {data.hex()}: {error!r}")
        took_s = time.monotonic() - started
        codes[context.code] += 1
        if context.code == "INTERNAL" or any(mark in context.details for mark in UNMASKED) or took_s > ALLOWED_S:
            failures.append(f"{method} {data.hex()}: {context.code} {context.details} after {took_s:.2f} s")
    return {"messages": count, "codes": dict(codes), "failures": failures[:20], "failure_count": len(failures)}


def fuzz_worker(manifest: Manifest, count: int, dice: random.Random) -> dict[str, Any]:
    """Mutated frames through a worker's stream handler, a few to a stream."""
    exchange = Exchange(manifest, lambda array: bundles.features_of(1, np.array(array)), threading.Lock())
    pixels = bundles.golden_pixels()[:1]
    hello = wire.encode_frame(wire.hello_frame(manifest, "0"))
    ask = wire.encode_frame(wire.tensor_frame(wire.REQUEST, 5, manifest.build, pixels, 1000))
    cancel = wire.encode_frame(wire.Frame(wire.CANCEL, 5, manifest.build))
    kinds: collections.Counter[str] = collections.Counter()
    failures, sent = [], 0
    while sent < count:
        frames = [hello] if dice.random() < 0.7 else []
        frames += [mutated(dice.choice((hello, ask, ask, ask, cancel)), [hello, ask], dice) for _ in range(8)]
        sent += 8
        started = time.monotonic()
        try:
            for data in exchange.converse(iter(frames), Context()):
                frame = wire.decode_frame(data)
                kinds[{wire.HELLO: "hello", wire.FEATURES: "features"}.get(frame.kind, f"failure {frame.status}")] += 1
                told = str(wire.frame_error(frame)) if frame.kind == wire.FAILURE else ""
                if frame.status == wire.ENGINE_FAILED or any(mark in told for mark in UNMASKED):
                    failures.append(f"{[each.hex() for each in frames]}: {told}")
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            failures.append(f"{[each.hex() for each in frames]}: {error!r}")
        if time.monotonic() - started > ALLOWED_S:
            failures.append(f"{[each.hex() for each in frames]}: took {time.monotonic() - started:.2f} s")
    return {"messages": sent, "replies": dict(kinds), "failures": failures[:20], "failure_count": len(failures)}


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    dice, started = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        dirs = bundles.make_cluster(Path(directory))
        with Central(open_bundle(dirs[0]), CentralOptions((), 1000, 1)) as central:
            measured: dict[str, Any] = {"central": fuzz_central(central, options.messages // 2, dice)}
        measured["worker"] = fuzz_worker(open_bundle(dirs[1]).manifest, options.messages // 2, dice)
    measured["seconds"], measured["seed"] = round(time.monotonic() - started, 1), options.seed
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")
    for name in ("central", "worker"):
        found = measured[name]
        print(f"{name}: {found['messages']} messages, {found['failure_count']} failures")
        print(f"  {found.get('codes') or found.get('replies')}")
        for failure in found["failures"]:
            print(" ", failure[:400])
    return 1 if measured["central"]["failure_count"] or measured["worker"]["failure_count"] else 0


if __name__ == "__main__":
    sys.exit(main())
