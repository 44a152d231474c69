"""A decoder whose graphs are three lines of numpy: what it sends is the sum of the caches up to the last token."""

from typing import Callable, Dict, List

import numpy

from coformer_runtime.decoder import NEXT, PLACES, Decoder
from coformer_runtime.engines import Engine
from coformer_runtime.manifest import (
    AnswerSpec,
    EngineSpec,
    GenerationSpec,
    GoldenSpec,
    Manifest,
    SourceSpec,
    TensorSpec,
)

CONTEXT, PADDING, CHUNK = 12, 99, 4


class FakeGraph(Engine):
    """Writes each token into the cache at its place; counts its runs."""

    def __init__(self, tokens: int) -> None:
        caches = (TensorSpec("keys_0", "float32", (1, CONTEXT)),)
        self.inputs = (TensorSpec("ids", "int32", (1, tokens)), TensorSpec(PLACES, "int32", (1, tokens)), *caches)
        self.outputs = (TensorSpec("features", "float32", (1, 2)), TensorSpec("keys_0" + NEXT, "float32", (1, CONTEXT)))
        self.runs = 0
        self.closed = False

    def run(self, feeds: Dict[str, numpy.ndarray]) -> Dict[str, numpy.ndarray]:
        """Return features (sum of the cache up to the last token's place, that place)."""
        self.runs += 1
        keys, last = feeds["keys_0"].copy(), 0
        for n, place in enumerate(feeds[PLACES][0]):
            if place < CONTEXT:
                keys[0, place], last = feeds["ids"][0, n], place
        features = numpy.array([[keys[0, : last + 1].sum(), last]], numpy.float32)
        return {"features": features, "keys_0" + NEXT: keys}

    def close(self) -> None:
        """Remember it."""
        self.closed = True


def fake_manifest() -> Manifest:
    """The manifest of a bundle of one device with these graphs."""
    return Manifest(
        build="ab" * 32,
        policy="cd" * 32,
        device="attic",
        target="cpu",
        member=0,
        members=("attic",),
        central="attic",
        engine=EngineSpec("onnxruntime", "1", "member.onnx", "float32"),
        input=TensorSpec("ids", "int32", (1, CONTEXT)),
        output=TensorSpec("features", "float32", (1, 2)),
        answer=AnswerSpec("logits", "float32", (1, 50), ()),
        golden=GoldenSpec("i", "o", 1e-4, "a"),
        aggregators=(),
        wire_bytes=8,
        files=(),
        generation=GenerationSpec("step.onnx", "prefill.onnx", CHUNK, CONTEXT, PADDING),
    )


def fake_decoder(clock: Callable[[], float] = lambda: 0.0) -> Decoder:
    """A decoder of fake graphs."""
    return Decoder(FakeGraph(1), FakeGraph(CHUNK), fake_manifest(), clock)


class FakeSource(FakeGraph):
    """Gives the sum of a text that is read."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.inputs, self.outputs = (self.inputs[0],), (TensorSpec("read", "float32", (1, 1)),)

    def run(self, feeds: Dict[str, numpy.ndarray]) -> Dict[str, numpy.ndarray]:
        """Return what is known of the text."""
        self.runs += 1
        ids = feeds["ids"]
        return {"read": numpy.array([[ids[ids != PADDING].sum()]], numpy.float32)}


class FakeAnswering(FakeGraph):
    """Adds what is known of the text to what is sent."""

    def __init__(self) -> None:
        super().__init__(1)
        self.inputs = (*self.inputs, TensorSpec("read", "float32", (1, 1)))

    def run(self, feeds: Dict[str, numpy.ndarray]) -> Dict[str, numpy.ndarray]:
        """Return features (sum of the text and of the cache, place)."""
        found = super().run(feeds)
        found["features"] = found["features"] + numpy.array([[feeds["read"][0, 0], 0]], numpy.float32)
        return found


READ, START = 5, 7


def answering_manifest() -> Manifest:
    """The manifest of a member that answers texts of up to `READ` tokens, its answers beginning with `START`."""
    source = SourceSpec("source.onnx", READ, PADDING, START)
    spec = GenerationSpec("step.onnx", None, None, CONTEXT, PADDING, None, source)
    shape = TensorSpec("ids", "int32", (1, READ + CONTEXT))
    return fake_manifest()._replace(generation=spec, input=shape)


def answering_decoder() -> Decoder:
    """A decoder that answers texts."""
    manifest = answering_manifest()
    return Decoder(FakeAnswering(), None, manifest, lambda: 0.0, FakeSource(READ))


def request(session: int, length: int, tokens: List[int]) -> Dict[str, numpy.ndarray]:
    """One request of a generation."""
    return {"ids": numpy.array([session, length, *tokens], "int64")}
