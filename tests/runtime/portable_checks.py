"""Checks that run under any Python from 3.6 on, with nothing but the runtime installed.

Usage: python portable_checks.py BUNDLE CENTRAL_ADDRESS. Prints one line with a digest that must be the same
everywhere: of the manifest written again, of frames, and of protocol messages.
"""

import hashlib
import json
import random
import sys
from pathlib import Path

import numpy
from fake_decoder import fake_decoder, request

from coformer_runtime import wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.client import Client
from coformer_runtime.dtypes import DTYPES
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import manifest_json, parse_manifest
from coformer_runtime.oip import messages, set_parameter
from coformer_runtime.sampling import Sampler, Sampling


def manifest_bytes(bundle_dir: str) -> bytes:
    """Return the manifest as this interpreter writes it, which must be as it was read."""
    bundle = open_bundle(bundle_dir)
    text = manifest_json(bundle.manifest)
    assert parse_manifest(text, "again") == bundle.manifest
    assert Path(bundle.file("manifest.json")).read_text() == text
    for broken in (text.replace('"policy"', '"polcy"'), text[:-3], "[]"):
        try:
            parse_manifest(broken, "broken")
        except CoformerError:
            continue
        raise AssertionError("a broken manifest was read")
    return text.encode("ascii")


def frame_bytes() -> bytes:
    """Return a few hundred frames that survived the round trip; junk must be refused."""
    chance = random.Random(5)
    written = b""
    for _ in range(300):
        dtype = chance.choice(DTYPES)
        shape = tuple(chance.randrange(4) for _ in range(chance.randrange(9)))
        count = int(numpy.prod(shape)) if shape else 1
        array = numpy.array([chance.randrange(100) for _ in range(count)], dtype.name).reshape(shape)
        frame = wire.tensor_frame(wire.REQUEST, chance.getrandbits(64), "ab" * 32, array, chance.getrandbits(32))
        data = wire.encode_frame(frame)
        again = wire.decode_frame(data)
        assert again == frame and numpy.array_equal(wire.frame_tensor(again), array)
        written += data
        try:
            wire.decode_frame(data[: chance.randrange(len(data))])
        except CoformerError:
            continue
        raise AssertionError("a truncated frame was read")
    return written


def message_bytes() -> bytes:
    """Return a protocol message with every kind of field."""
    request = messages()["ModelInferRequest"](model_name="m", id="i", raw_input_contents=[b"raw"])
    tensor = request.inputs.add(name="x", datatype="INT8", shape=[1, -1])
    tensor.contents.int_contents.extend([1, -1])
    tensor.contents.fp32_contents.extend([0.5])
    for value in (True, -3, 0.25, "text"):
        set_parameter(tensor.parameters["p"], value)
    data = request.SerializeToString()
    assert messages()["ModelInferRequest"].FromString(data) == request
    return bytes(data)


def generation_bytes() -> bytes:
    """Return what a decoder of fake graphs sends, and which tokens are drawn."""
    decoder, sampler = fake_decoder(), Sampler(Sampling(0.8, 5, 0.9, 3))
    features = [decoder.run(request(1, 0, [1, 2, 3, 4, 5]))["features"]]
    features += [decoder.run(request(1, 5 + n, [7]))["features"] for n in range(3)]
    logits = numpy.arange(20, dtype="float32") % 7
    drawn = [sampler.choose(logits) for _ in range(40)]
    return b"".join(each.tobytes() for each in features) + bytes(drawn)


def ask(address: str) -> None:
    """Get an answer and an error from a central node that runs elsewhere."""
    pixels = numpy.arange(16, dtype="uint8").reshape(1, 1, 4, 4)
    with Client(address) as client:
        assert client.ready()
        answer = client.infer(pixels)
        assert answer.logits.shape == (1, 5) and numpy.isfinite(answer.logits).all()
        assert answer.members == ("attic", "hall", "desk") and not answer.degraded
        refused = None
        try:
            client.infer(pixels[:, :, :3])
        except CoformerError as error:
            refused = error.what
        assert refused == "the shape is [1, 1, 3, 4]"


if __name__ == "__main__":
    digest = hashlib.sha256(manifest_bytes(sys.argv[1]) + frame_bytes() + message_bytes() + generation_bytes())
    ask(sys.argv[2])
    print(json.dumps({"digest": digest.hexdigest()}))
