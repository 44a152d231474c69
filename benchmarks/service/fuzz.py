"""Do mutated messages ever crash, hang or unmask a node?

Usage: python benchmarks/service/fuzz.py [--messages 200000] [--seed 0] [--output FILE]

Half of the messages go to the central node's ModelInfer and its siblings, half to a worker's stream and to what it
takes from clients, through the handlers that gRPC calls, in one process: that is where every byte from outside is first
looked at. A message starts as a valid one (all kinds), and gets bytes changed, repeated, removed, or joined with
another's.

What counts as a failure: an exception that is not the handler's own refusal, a handler that takes a second, a refusal
that is INTERNAL or tells of Python. About one minute. Exits 1 after any.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
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
from coformer_runtime.submit import submitting
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


Target = Callable[[bytes], list[str]]


class Fault(Exception):
    """What is looked for: a crash, a hang, or a refusal that is not masked."""


def central_target(central: Central) -> Target:
    """One message to the central node: its first byte chooses the method; returns the status."""
    front = Front(central)
    plain = {
        "ModelInfer": front.model_infer, "ModelMetadata": front.model_metadata, "ModelConfig": front.model_config,
        "ModelReady": front.model_ready, "ServerMetadata": front.server_metadata, "ServerReady": front.server_ready,
        "ServerLive": front.server_live,
    }  # fmt: skip
    handlers = [answering(METHODS[name][0], method) for name, method in plain.items()]

    def send(data: bytes) -> list[str]:
        context, started = Context(), time.monotonic()
        with contextlib.suppress(Refused):
            handlers[data[0] % len(handlers) if data else 0](data[1:], context)
        _judge(context.code == "INTERNAL", context.details, started)
        return [context.code]

    return send


def worker_target(manifest: Manifest) -> Target:
    """One stream to a worker, frames behind their lengths (4 bytes, little-endian); returns the kinds of replies."""
    exchange = Exchange(manifest, lambda array: bundles.features_of(1, np.array(array)), threading.Lock())
    submit = submitting(exchange)

    def send(data: bytes) -> list[str]:
        kinds, started, context = [], time.monotonic(), Context()
        frames = frames_of(data)
        for reply in exchange.converse(iter(frames), context):
            frame = wire.decode_frame(reply)
            kinds.append({wire.HELLO: "hello", wire.FEATURES: "features"}.get(frame.kind, f"failure {frame.status}"))
            told = str(wire.frame_error(frame)) if frame.kind == wire.FAILURE else ""
            _judge(frame.status == wire.ENGINE_FAILED, told, started)
        for frame_bytes in frames[:1]:
            with contextlib.suppress(Refused):
                submit(frame_bytes, context)
            kinds.append(f"submit {context.code}")
            _judge(context.code == "INTERNAL", context.details, started)
        return kinds

    return send


def _judge(unmasked: bool, told: str, started: float) -> None:
    took_s = time.monotonic() - started
    if unmasked or any(mark in told for mark in UNMASKED) or took_s > ALLOWED_S:
        raise Fault(f"{told} after {took_s:.2f} s")


def frames_of(data: bytes) -> list[bytes]:
    """The frames of a stream; what a length says beyond the end is cut."""
    frames = []
    while len(data) >= 4:
        size = int.from_bytes(data[:4], "little")
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    return frames


def stream_of(frames: list[bytes]) -> bytes:
    """The inverse of `frames_of`."""
    return b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)


def fuzz(target: Target, made: Iterator[tuple[int, bytes]], count: int) -> dict[str, Any]:
    """Messages to a target until `count` of them were sent; `made` yields how many one input holds, and the input."""
    replies: collections.Counter[str] = collections.Counter()
    failures, sent = [], 0
    while sent < count:
        number, data = next(made)
        sent += number
        try:
            replies.update(target(data))
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            failures.append(f"{data.hex()}: {error!r}")
    return {"messages": sent, "replies": dict(replies), "failures": failures[:20], "failure_count": len(failures)}


def central_messages(manifest: Manifest, dice: random.Random) -> Iterator[tuple[int, bytes]]:
    """Mutated requests of all methods."""
    valid = client_messages(manifest)
    others = [data for _, data in valid]
    order = ["ModelInfer", "ModelMetadata", "ModelConfig", "ModelReady", "ServerMetadata", "ServerReady", "ServerLive"]
    while True:
        method, data = dice.choice(valid)
        yield 1, bytes([order.index(method)]) + mutated(data, others, dice)


def worker_messages(manifest: Manifest, dice: random.Random) -> Iterator[tuple[int, bytes]]:
    """Streams of eight mutated frames; the first is tried as a client's input as well."""
    pixels = bundles.golden_pixels()[:1]
    hello = wire.encode_frame(wire.hello_frame(manifest, "0"))
    ask = wire.encode_frame(wire.tensor_frame(wire.REQUEST, 5, manifest.build, pixels, 1000))
    broadcast = wire.encode_frame(wire.tensor_frame(wire.REQUEST, wire.BROADCAST | 5, wire.ANY_BUILD, pixels, 1000))
    cancel = wire.encode_frame(wire.Frame(wire.CANCEL, 5, manifest.build))
    while True:
        frames = [hello] if dice.random() < 0.7 else []
        frames += [mutated(dice.choice((hello, ask, ask, broadcast, cancel)), [hello, ask], dice) for _ in range(8)]
        yield 8, stream_of(frames)


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
            made = central_messages(central.manifest, dice)
            measured: dict[str, Any] = {"central": fuzz(central_target(central), made, options.messages // 2)}
        manifest = open_bundle(dirs[1]).manifest
        made = worker_messages(manifest, dice)
        measured["worker"] = fuzz(worker_target(manifest), made, options.messages // 2)
    measured["seconds"], measured["seed"] = round(time.monotonic() - started, 1), options.seed
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")
    for name in ("central", "worker"):
        found = measured[name]
        print(f"{name}: {found['messages']} messages, {found['failure_count']} failures")
        print(f"  {found['replies']}")
        for failure in found["failures"]:
            print(" ", failure[:400])
    return 1 if measured["central"]["failure_count"] or measured["worker"]["failure_count"] else 0


if __name__ == "__main__":
    sys.exit(main())
