"""Do mutated messages ever crash, hang or unmask a node?

Usage: python benchmarks/service/fuzz.py [--messages 200000] [--seed 0] [--output FILE]

They go to a central node's handlers (all methods of the protocol, streams of texts, health), to a worker's (streams of
frames, and what it takes from clients), and, as a worker's words, to the central node's link. Nodes of one build, of
several, with profiles, and ones that continue texts have their share: PARTS. A message starts as a valid one (all
kinds), and gets bytes changed, repeated, removed, or joined with another's; frames of a stream, which ends with the
first malformed one, get other numbers, sizes and payloads before. fuzz_targets.py says what is a failure. Counted are
messages that a node has looked at.

About a minute. Exits 1 after any failure.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import numpy as np

from benchmarks.service.fuzz_targets import METHODS, Target, central_target, link_target, stream_of, worker_target
from benchmarks.service.soak import Errors
from coformer_runtime import breaker, wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.dtypes import dtype_named
from coformer_runtime.errors import CoformerError
from coformer_runtime.health import SERVICE as HEALTH
from coformer_runtime.health import messages as health_messages
from coformer_runtime.manifest import Manifest
from coformer_runtime.oip import METHODS as TYPES
from coformer_runtime.oip import STREAM, messages, set_parameter
from tests.runtime import bundles, generation_bundles, text_bundles
from tests.runtime.fake_decoder import fake_decoder, fake_manifest

RESULT = ROOT / "benchmarks" / "results" / "cluster_fuzz.json"
OTHER_BUILD = "d" * 64

Made = Iterator[bytes]  # inputs of a target


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


def infer_request(manifest: Manifest, array: np.ndarray, typed: bool) -> Any:
    """A ModelInferRequest with this input, its data raw or typed."""
    dtype = dtype_named(array.dtype.name, "fuzz")
    made = messages()["ModelInferRequest"](model_name="coformer", id="a")
    tensor = made.inputs.add(name=manifest.input.name, datatype=dtype.oip, shape=array.shape)
    if typed:
        getattr(tensor.contents, dtype.contents).extend(array.flatten().tolist())
    else:
        made.raw_input_contents.append(array.tobytes())
    return made


def client_messages(manifest: Manifest, arrays: list[np.ndarray]) -> list[tuple[str, bytes]]:
    """Method and a valid request for each, several for those with inputs."""
    valid = []
    for method, (request, _) in TYPES.items():
        made = messages()[request]()
        if "name" in {field.name for field in made.DESCRIPTOR.fields}:
            made.name = "coformer"
        if method not in ("ModelInfer", STREAM):
            valid.append((method, made.SerializeToString() or b"\0"))
    asked = health_messages()["HealthCheckRequest"](service=HEALTH).SerializeToString()
    valid += [("Check", asked), ("Watch", asked)]
    for array in arrays:
        for typed in (False, True):
            made = infer_request(manifest, array, typed)
            made.parameters["p"].double_param = 0.5
            made.outputs.add(name="logits")
            valid += [("ModelInfer", made.SerializeToString())] * 4
            text = infer_request(manifest, array[:, :4] if manifest.generation else array, typed)
            for name, value in {"max_tokens": 3, "temperature": 0.7, "top_k": 2, "seed": 5}.items():
                set_parameter(text.parameters[name], value)
            valid += [(STREAM, text.SerializeToString())] * (6 if manifest.generation else 1)
    return valid


def central_messages(manifest: Manifest, arrays: list[np.ndarray], dice: random.Random) -> Made:
    """Mutated requests of all methods; a stream has two."""
    valid = client_messages(manifest, arrays)
    others = [data for _, data in valid]
    while True:
        method, data = dice.choice(valid)
        place = bytes([METHODS.index(method)])
        if method == STREAM:
            yield place + stream_of([mutated(data, others, dice) for _ in range(2)])
        else:
            yield place + mutated(data, others, dice)


def altered(data: bytes, dice: random.Random) -> bytes:
    """A frame of the same kind that says something else, and is well-formed."""
    frame = wire.decode_frame(data)
    payload = bytearray(frame.payload)
    for _ in range(dice.randint(0, 3) if payload else 0):
        payload[dice.randrange(len(payload))] = dice.randrange(256)
    size = len(payload)
    shapes = [frame.shape, frame.shape, frame.shape[::-1], (1, *frame.shape), (size,), (size // 8,), (size // 4, 1), ()]
    changed = frame._replace(
        request_id=dice.choice((frame.request_id, frame.request_id, 0, 5, 6, 1 << 62, dice.getrandbits(64))),
        build=frame.build if dice.random() < 0.9 else dice.randbytes(32).hex(),
        payload=bytes(payload),
        shape=dice.choice(shapes) if frame.dtype else (),
        dtype=dice.choice((frame.dtype, frame.dtype, "uint8", "int32", "int64", "float32")) if frame.dtype else None,
        budget_ms=dice.choice((0, 1, 1000, wire.MAX_BUDGET_MS)),
        status=dice.choice(wire.STATUSES) if frame.status else 0,
        member=dice.choice((0, 1, 2, 3, wire.NO_MEMBER)),
        compute_us=dice.choice((0, wire.MAX_BUDGET_MS)),
    )
    try:
        return wire.encode_frame(changed)
    except CoformerError:  # another shape or dtype has another size
        return wire.encode_frame(changed._replace(shape=frame.shape, dtype=frame.dtype))


def conversations(hellos: list[bytes], frames: list[bytes], dice: random.Random) -> Made:
    """Streams of up to seven altered frames and one that is mutated, most of them behind a hello."""
    every = [*hellos, *frames]
    while True:
        said = [altered(dice.choice(frames), dice) for _ in range(dice.randint(0, 7))]
        greeting = [dice.choice(hellos) if dice.random() < 0.8 else altered(dice.choice(hellos), dice)]
        last = mutated(dice.choice(every), every, dice)
        yield stream_of([*(greeting if dice.random() < 0.95 else []), *said, last])


def worker_messages(manifests: list[Manifest], arrays: list[np.ndarray], dice: random.Random) -> Made:
    """What central nodes and clients send to a worker of these builds."""
    hellos, frames = [], []
    for manifest in manifests:
        hellos.append(wire.encode_frame(wire.hello_frame(manifest, "0")))
        for array in arrays:
            ask = wire.encode_frame(wire.tensor_frame(wire.REQUEST, 5, manifest.build, array, 1000))
            frames += [ask, ask]
        frames.append(wire.encode_frame(wire.Frame(wire.CANCEL, 5, manifest.build)))
        frames.append(wire.encode_frame(wire.Frame(wire.ECHO, 7, manifest.build, bytes(40))))
    broadcast = wire.tensor_frame(wire.REQUEST, wire.BROADCAST | 5, wire.ANY_BUILD, arrays[0], 1000)
    return conversations(hellos, [*frames, wire.encode_frame(broadcast)], dice)


def link_messages(manifest: Manifest, dice: random.Random) -> Made:
    """What the worker hall says to the central node: replies to the requests 5 and 6, to a client's, and to an echo."""
    build, features = manifest.build, bundles.features_of(1, bundles.golden_pixels()[:1])
    frames = [
        wire.tensor_frame(wire.FEATURES, number, build, features, member=1, compute_us=900)
        for number in (5, 6, wire.BROADCAST | 5)
    ]
    wrong = wire.failure_frame(5, build, wire.LATE, CoformerError("what", "where", "mend"), 1)
    frames += [wrong, wrong._replace(request_id=6, status=wire.CANCELLED), wrong._replace(request_id=0)]
    frames += [wire.Frame(wire.ECHO, (1 << 62) + more, build) for more in (0, 1)]
    hello = wire.encode_frame(wire.hello_frame(manifest, "0"))
    return conversations([hello], [wire.encode_frame(frame) for frame in frames], dice)


def fuzz(target: Target, made: Made, count: int) -> dict[str, Any]:
    """Messages to a target until it has looked at `count` of them."""
    replies: collections.Counter[str] = collections.Counter()
    failures = Errors()
    while target.looked.messages < count:
        data = next(made)
        try:
            replies.update(target(data))
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            failures.add(f"{data.hex()}: {error!r}")
    found = {"messages": target.looked.messages, "replies": dict(replies)}
    return dict(found, failures=failures.first, failure_count=failures.count)


Part = Callable[[Path, random.Random], "contextlib.AbstractContextManager[tuple[Target, Made]]"]


@contextlib.contextmanager
def central_part(folder: Path, dice: random.Random, kind: str) -> Iterator[tuple[Target, Made]]:
    """A central node, alone: of pixels, of texts with profiles, or one that continues texts."""
    make = {
        "pixels": (bundles.make_cluster, [bundles.golden_pixels()[:1]]),
        "profiles": (text_bundles.make_text_cluster, [text_bundles.texts(2)[:, :8], text_bundles.texts(1)]),
        "generation": (generation_bundles.make_generation_cluster, [np.ones((1, 12), np.int32)]),
    }
    cluster, arrays = make[kind]
    bundle = open_bundle(cluster(folder)[0])
    with Central(bundle, CentralOptions((), 1000, 1, truncate=kind == "profiles")) as central:
        yield central_target(central), central_messages(bundle.manifest, arrays, dice)


@contextlib.contextmanager
def worker_part(folder: Path, dice: random.Random, kind: str) -> Iterator[tuple[Target, Made]]:
    """A worker: of pixels, of two builds, of texts with profiles, or one that continues texts."""
    pixels = [bundles.golden_pixels()[:1]]
    manifest = bundles.member_manifest(1, bundles.member_files(1))
    if kind == "profiles":
        texts = text_bundles.text_manifest(1)
        arrays = [text_bundles.texts(2)[:, :8], text_bundles.texts(1)]
        target = worker_target(texts, lambda array: text_bundles.features_of(1, np.array(array) % text_bundles.WORDS))
        yield target, worker_messages([texts], arrays, dice)
    elif kind == "generation":
        decoder = fake_decoder()
        arrays = [np.array([9, 0, 1, 2, 3], np.int64), np.array([9, 3, 4], np.int64)]
        target = worker_target(fake_manifest(), lambda array: decoder.run({"ids": array})["features"], may_fail=True)
        yield target, worker_messages([fake_manifest()], arrays, dice)
    elif kind == "builds":
        other = manifest._replace(build=OTHER_BUILD)
        target = worker_target(manifest, others=((other, lambda array: bundles.features_of(1, np.array(array))),))
        yield target, worker_messages([manifest, other], pixels, dice)
    else:
        yield worker_target(manifest), worker_messages([manifest], pixels, dice)


@contextlib.contextmanager
def link_part(folder: Path, dice: random.Random, kind: str) -> Iterator[tuple[Target, Made]]:
    """The central node's link to a worker."""
    dirs = bundles.make_cluster(folder)
    with link_target(open_bundle(dirs[0])) as target:
        yield target, link_messages(open_bundle(dirs[1]).manifest, dice)


# Name, kind, share of the messages.
PARTS = (
    (central_part, "pixels", 0.3),
    (central_part, "profiles", 0.1),
    (central_part, "generation", 0.1),
    (worker_part, "pixels", 0.15),
    (worker_part, "builds", 0.1),
    (worker_part, "profiles", 0.05),
    (worker_part, "generation", 0.05),
    (link_part, "pixels", 0.15),
)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Send the logs of nodes and engines nowhere: what is told outside is looked at. A crash still shows its trace."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    faulthandler.enable(kept)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        faulthandler.disable()
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    dice, started = random.Random(options.seed), time.monotonic()
    # Numbers beyond a vocabulary make engines fail; a breaker would keep the messages after them from being looked at.
    breaker.OPEN_S = 0.0
    measured: dict[str, Any] = {}
    for part, kind, share in PARTS:
        name = f"{part.__name__.partition('_')[0]}, {kind}"
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(silent())
            target, made = stack.enter_context(part(Path(folder), dice, kind))
            found = measured[name] = fuzz(target, made, int(options.messages * share + 0.5))
        found["seconds"] = round(time.monotonic() - began, 1)
        print(f"{name}: {found['messages']} messages, {found['failure_count']} failures, {found['seconds']} s")
        print(f"  {found['replies']}")
        for failure in found["failures"]:
            print(" ", failure[:400])
    figures = {key: sum(found[key] for found in measured.values()) for key in ("messages", "failure_count")}
    print(f"{figures['messages']} messages, {figures['failure_count']} failures")
    result = {"parts": measured, "figures": figures, "seed": options.seed}
    result["seconds"] = round(time.monotonic() - started, 1)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    return 1 if figures["failure_count"] else 0


if __name__ == "__main__":
    sys.exit(main())
