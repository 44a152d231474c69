"""A member that continues texts, or answers them: its keys and values stay here, between one token and the next.

A request of a generation is int64 `(2 + n,)`: a session's number, how many tokens it has so far, and n new ones; what
goes back are the features behind the last of them. A session begins with its first request, and ends when others need
its place (the one that was used longest ago goes first) or when it has not been used for `IDLE_S`.

The first request to a member that answers texts holds the text to be answered. The session then has one token, the one
that answers begin with.
"""

import collections
import threading
import time
from typing import Callable, Dict, NamedTuple, Optional, Tuple

from .arrays import Array
from .bundle import Bundle
from .engines import Engine, open_graph
from .errors import CheckFailed, CoformerError
from .manifest import GenerationSpec, Manifest

SESSIONS = 4
IDLE_S = 60.0
PLACES, NEXT = "places", "_next"
HEAD = 2  # numbers in front of the tokens
OWN = -1  # the session of whole inputs; those of generations have other numbers
DTYPE = "int64"


class Session(NamedTuple):
    """One text so far.

    Attributes:
        length: how many tokens.
        caches: by name.
        read: by name, what is known of the text that is answered.
        used: time.monotonic() of the last use.
    """

    length: int
    caches: Dict[str, Array]
    read: Dict[str, Array]
    used: float


class SessionGone(CoformerError):
    """A session is asked to go on that is not here, or not so long."""


def open_decoder(bundle: Bundle, threads: int) -> "Decoder":
    """Open the graphs of a bundle that takes tokens one after another."""
    spec = bundle.manifest.generation
    assert spec is not None
    step = open_graph(bundle, spec.step, threads)
    prefill = None if spec.prefill is None else open_graph(bundle, spec.prefill, threads)
    source = None if spec.source is None else open_graph(bundle, spec.source.graph, threads)
    return Decoder(step, prefill, bundle.manifest, source=source)


class Decoder(Engine):
    """A member's graphs for tokens that come one after another.

    The graph for whole inputs would be the same weights once more; these are taken in pieces instead.

    Args:
        step, prefill: graphs for one token, and for `spec.chunk` tokens of a prompt.
        manifest: of the bundle.
        clock: time in seconds.
        source: the graph for a text that is answered.
    """

    def __init__(
        self,
        step: Engine,
        prefill: Optional[Engine],
        manifest: Manifest,
        clock: Callable[[], float] = time.monotonic,
        source: Optional[Engine] = None,
    ) -> None:
        assert manifest.generation is not None
        self.inputs, self.outputs = (manifest.input,), (manifest.output,)
        self._source, self._manifest, self._clock = source, manifest, clock
        self._spec: GenerationSpec = manifest.generation
        self._chunk = self._spec.chunk or 1
        self._graphs = {1: step}
        if prefill is not None:
            self._graphs[self._chunk] = prefill
        read = set() if source is None else {spec.name for spec in source.outputs}
        given = {manifest.input.name, PLACES} | read
        self._caches = {spec.name: spec for spec in step.inputs if spec.name not in given}
        self._sessions: "collections.OrderedDict[int, Session]" = collections.OrderedDict()
        self._lock = threading.Lock()
        outputs, names = {spec.name for spec in step.outputs}, {spec.name for spec in step.inputs}
        becomes = {name + NEXT for name in self._caches} | {manifest.output.name}
        if not self._caches or becomes != outputs or not read <= names or manifest.output not in step.outputs:
            self.close()
            raise CheckFailed(
                "the caches {} do not become {}".format(sorted(self._caches), sorted(outputs))
                if read <= names
                else "the step takes {}, the text that is read gives {}".format(sorted(names), sorted(read)),
                "file '{}'".format(self._spec.step),
                "build the bundle again with coformerc",
            )

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        """Run a whole input, or, for a request of a generation, go on with its session."""
        array = feeds[self._manifest.input.name]
        features = self._go_on(array) if array.dtype.name == DTYPE else self._in_pieces(array[0])
        return {self._manifest.output.name: features}

    def close(self) -> None:
        """Free the graphs and forget the sessions."""
        self._sessions.clear()
        for engine in (self._source,) + tuple(self._graphs.values()):
            if engine is not None:
                engine.close()

    def sessions(self) -> int:
        """Return how many sessions are kept."""
        return len(self._sessions)

    def _in_pieces(self, array: Array) -> Array:
        """Return the features behind a whole input `(numbers,)`, which is taken as a generation takes it."""
        import numpy

        source = self._spec.source
        first = 0 if source is None else source.length
        text = array[first:][array[first:] != self._spec.padding]
        if source is None:
            pieces = [text[:-1], text[-1:]]
        else:
            read = array[:first]
            pieces = [read[read != source.padding]] + [text[n : n + 1] for n in range(1, len(text))]
        length, features = 0, None
        for piece in pieces:
            if len(piece):
                head = numpy.array([OWN, length], DTYPE)
                features = self._go_on(numpy.concatenate([head, piece.astype(DTYPE)]))
                length = self._sessions[OWN].length
        self._sessions.pop(OWN, None)
        if features is None:
            raise CoformerError("the input holds no token", self._manifest.device, "give one that does")
        return features

    def _go_on(self, array: Array) -> Array:
        number, length, tokens = int(array[0]), int(array[1]), array[HEAD:]
        reads = self._spec.source is not None and length == 0
        limit = self._spec.longest_prompt if reads else self._spec.context
        if not len(tokens) or length < 0 or length + len(tokens) > limit:
            raise CoformerError(
                "{} tokens behind {}, the context holds {}".format(len(tokens), length, limit),
                self._manifest.device,
                "send a shorter text",
            )
        with self._lock:
            caches, read = self._session(number, length)
            if reads:
                read, tokens = self._read(tokens)
            features = None
            for first in range(0, len(tokens), self._chunk):
                features = self._run_part(caches, read, length + first, tokens[first : first + self._chunk])
            self._sessions[number] = Session(length + len(tokens), caches, read, self._clock())
            self._sessions.move_to_end(number)
            while len(self._sessions) > SESSIONS + (OWN in self._sessions):
                self._sessions.popitem(last=False)
        assert features is not None
        return features

    def _session(self, number: int, length: int) -> Tuple[Dict[str, Array], Dict[str, Array]]:
        """Return a session's caches and what it has read.

        What is behind `length` is written over: asking again does no harm.
        """
        import numpy

        now = self._clock()
        for other in [each for each, session in self._sessions.items() if now - session.used > IDLE_S]:
            del self._sessions[other]
        if length == 0:
            return {name: numpy.zeros(spec.shape, spec.dtype) for name, spec in self._caches.items()}, {}
        found = self._sessions.get(number)
        if found is None or found.length < length:
            raise SessionGone(
                "the session has expired or has other tokens", self._manifest.device, "begin again with the whole text"
            )
        return found.caches, found.read

    def _read(self, tokens: Array) -> Tuple[Dict[str, Array], Array]:
        """Return what is known of a text that is to be answered, and the tokens that the answer begins with."""
        import numpy

        spec = self._spec.source
        assert spec is not None and self._source is not None
        ids = numpy.full((1, spec.length), spec.padding, numpy.int32)
        ids[0, : len(tokens)] = tokens
        return self._source.run({self._manifest.input.name: ids}), numpy.array([spec.start], DTYPE)

    def _run_part(self, caches: Dict[str, Array], read: Dict[str, Array], first: int, tokens: Array) -> Array:
        """Write tokens into the caches and return the features behind the last of them."""
        import numpy

        size = 1 if len(tokens) == 1 else self._chunk
        ids = numpy.full((1, size), self._spec.padding, numpy.int32)
        places = numpy.full((1, size), self._spec.context, numpy.int32)
        ids[0, : len(tokens)] = tokens
        places[0, : len(tokens)] = numpy.arange(first, first + len(tokens))
        feeds = dict(caches, **read)
        feeds[self._manifest.input.name], feeds[PLACES] = ids, places
        found = self._graphs[size].run(feeds)
        for name in caches:
            caches[name] = found[name + NEXT]
        return found[self._manifest.output.name]
