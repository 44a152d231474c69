"""A member that continues texts: its own keys and values stay here, between one token and the next.

A request of a generation is int64 `(2 + n,)`: a session's number, how many tokens it has so far, and n new ones; what
goes back are the features behind the last of them. A session begins with its first request, and ends when others need
its place (the one that was used longest ago goes first) or when it has not been used for `IDLE_S`.
"""

import collections
import threading
import time
from typing import Callable, Dict, NamedTuple

from .arrays import Array
from .engines import Engine
from .errors import CheckFailed, CoformerError
from .manifest import GenerationSpec, Manifest

SESSIONS = 4
IDLE_S = 60.0
PLACES, NEXT = "places", "_next"
HEAD = 2  # numbers in front of the tokens
DTYPE = "int64"


class Session(NamedTuple):
    """One text so far: how many tokens, the caches by name, time.monotonic() of the last use."""

    length: int
    caches: Dict[str, Array]
    used: float


class SessionGone(CoformerError):
    """A session is asked to go on that is not here, or not so long."""


class Decoder(Engine):
    """A member's graph for whole inputs, and its two graphs for tokens that come one after another.

    Args:
        whole: the member's graph.
        step, prefill: graphs for one token, and for `spec.chunk` tokens.
        manifest: of the bundle.
        clock: time in seconds.
    """

    def __init__(
        self,
        whole: Engine,
        step: Engine,
        prefill: Engine,
        manifest: Manifest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert manifest.generation is not None
        self.inputs, self.outputs = whole.inputs, whole.outputs
        self._whole, self._manifest, self._clock = whole, manifest, clock
        self._spec: GenerationSpec = manifest.generation
        self._graphs = {1: step, self._spec.chunk: prefill}
        given = (manifest.input.name, PLACES)
        self._caches = {spec.name: spec for spec in step.inputs if spec.name not in given}
        self._sessions: "collections.OrderedDict[int, Session]" = collections.OrderedDict()
        self._lock = threading.Lock()
        outputs = {spec.name for spec in step.outputs}
        if not self._caches or {name + NEXT for name in self._caches} | {manifest.output.name} != outputs:
            self.close()
            raise CheckFailed(
                "the caches {} do not become {}".format(sorted(self._caches), sorted(outputs)),
                "file '{}'".format(self._spec.step),
                "build the bundle again with coformerc",
            )

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        """Run the whole graph, or, for a request of a generation, go on with its session."""
        array = feeds[self._manifest.input.name]
        if array.dtype.name != DTYPE:
            return self._whole.run(feeds)
        return {self._manifest.output.name: self._go_on(array)}

    def close(self) -> None:
        """Free the graphs and forget the sessions."""
        self._sessions.clear()
        for engine in (self._whole,) + tuple(self._graphs.values()):
            engine.close()

    def sessions(self) -> int:
        """Return how many sessions are kept."""
        return len(self._sessions)

    def _go_on(self, array: Array) -> Array:
        number, length, tokens = int(array[0]), int(array[1]), array[HEAD:]
        if not len(tokens) or length < 0 or length + len(tokens) > self._spec.context:
            raise CoformerError(
                "{} tokens behind {}, the context holds {}".format(len(tokens), length, self._spec.context),
                self._manifest.device,
                "send a shorter text",
            )
        with self._lock:
            caches = self._caches_of(number, length)
            features = None
            for first in range(0, len(tokens), self._spec.chunk):
                features = self._run_part(caches, length + first, tokens[first : first + self._spec.chunk])
            self._sessions[number] = Session(length + len(tokens), caches, self._clock())
            self._sessions.move_to_end(number)
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        assert features is not None
        return features

    def _caches_of(self, number: int, length: int) -> Dict[str, Array]:
        """Return the caches of a session; what is behind `length` is written over: asking again does no harm."""
        import numpy

        now = self._clock()
        for other in [each for each, session in self._sessions.items() if now - session.used > IDLE_S]:
            del self._sessions[other]
        if length == 0:
            return {name: numpy.zeros(spec.shape, spec.dtype) for name, spec in self._caches.items()}
        found = self._sessions.get(number)
        if found is None or found.length < length:
            raise SessionGone(
                "the session has expired or has other tokens", self._manifest.device, "begin again with the whole text"
            )
        return found.caches

    def _run_part(self, caches: Dict[str, Array], first: int, tokens: Array) -> Array:
        """Write tokens into the caches and return the features behind the last of them."""
        import numpy

        size = 1 if len(tokens) == 1 else self._spec.chunk
        ids = numpy.full((1, size), self._spec.padding, numpy.int32)
        places = numpy.full((1, size), self._spec.context, numpy.int32)
        ids[0, : len(tokens)] = tokens
        places[0, : len(tokens)] = numpy.arange(first, first + len(tokens))
        feeds = dict(caches)
        feeds[self._manifest.input.name], feeds[PLACES] = ids, places
        found = self._graphs[size].run(feeds)
        for name in caches:
            caches[name] = found[name + NEXT]
        return found[self._manifest.output.name]
