"""From logits to a token: the likeliest one, or one drawn."""

import random
from typing import NamedTuple, Optional

from .arrays import Array
from .errors import CoformerError


class Sampling(NamedTuple):
    """How tokens are chosen.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: draw among the k likeliest; 0: among all.
        top_p: draw among the fewest likeliest whose chances add up to it.
        seed: of the draws; the same seed draws the same text. None: another one each time.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: Optional[int] = None


GREEDY = Sampling()


class Sampler:
    """Chooses one token after the other.

    Raises:
        CoformerError: options out of their range.
    """

    def __init__(self, options: Sampling) -> None:
        rules = (
            ("temperature", options.temperature, 0 <= options.temperature < float("inf"), "0 or more"),
            ("top_k", options.top_k, options.top_k >= 0, "0 or more"),
            ("top_p", options.top_p, 0 < options.top_p <= 1, "above 0, up to 1"),
        )
        for name, value, fits, wanted in rules:
            if not fits:
                raise CoformerError("{} is {}".format(name, value), "request, parameter '{}'".format(name), wanted)
        self._options = options
        self._random = random.Random(options.seed)

    def choose(self, logits: Array) -> int:
        """Return the number of a token for logits `(words,)`; of equally likely ones the first."""
        import numpy

        options = self._options
        if options.temperature == 0:
            return int(numpy.argmax(logits))
        scaled = logits.astype(numpy.float64) / options.temperature
        order = numpy.argsort(-scaled, kind="stable")
        if options.top_k:
            order = order[: options.top_k]
        chances = numpy.exp(scaled[order] - scaled[order[0]])
        sums = numpy.cumsum(chances / chances.sum())
        # The token that crosses top_p still belongs to them.
        kept = min(int(numpy.searchsorted(sums, options.top_p)) + 1, len(order))
        drawn = self._random.random() * float(sums[kept - 1])
        return int(order[min(int(numpy.searchsorted(sums[:kept], drawn, side="right")), kept - 1)])
