"""The central node's side of a generation: one round of communication per token."""

import random
from typing import Callable, Iterator, Optional, Set

from .answer import Token
from .arrays import Array
from .central import Central
from .decoder import DTYPE, HEAD
from .errors import CoformerError
from .manifest import GenerationSpec
from .sampling import Sampler, Sampling

LARGEST_SESSION = (1 << 62) - 1


def check_prompt(spec: Optional[GenerationSpec], words: int, prompt: Array, max_tokens: int) -> GenerationSpec:
    """Return what the members can do, or raise a CoformerError for a request that they cannot fulfil."""
    where = "request"
    if spec is None:
        raise CoformerError("the members do not continue texts", where, "send ModelInfer requests")
    if len(prompt) == 0:
        raise CoformerError("the prompt is empty", where, "send at least one token")
    if int(prompt.min()) < 0 or int(prompt.max()) >= words:
        raise CoformerError(
            "the prompt has tokens from {} to {}".format(int(prompt.min()), int(prompt.max())),
            where,
            "send numbers from 0 to {}".format(words - 1),
        )
    if max_tokens < 1:
        raise CoformerError("max_tokens is {}".format(max_tokens), where, "ask for at least one")
    if spec.source is not None:
        return _check_answer(spec, len(prompt), max_tokens)
    # The last token that is told is not read by the members.
    if len(prompt) + max_tokens - 1 > spec.context:
        raise CoformerError(
            "{} tokens of the prompt and {} new ones, the members' context holds {}".format(
                len(prompt), max_tokens, spec.context
            ),
            where,
            "send a shorter prompt, or ask for at most {} tokens".format(max(0, spec.context + 1 - len(prompt)))
            if len(prompt) <= spec.context
            else "send at most {} tokens, or build with a larger model.options.length".format(spec.context),
        )
    return spec


def _check_answer(spec: GenerationSpec, tokens: int, max_tokens: int) -> GenerationSpec:
    """Return the spec, or raise a CoformerError where a text of so many tokens, or its answer, is too long."""
    if tokens > spec.longest_prompt:
        raise CoformerError(
            "the text has {} tokens, the members read {}".format(tokens, spec.longest_prompt),
            "request",
            "send a shorter text, or build with a larger model.options.length",
        )
    if max_tokens > spec.context:
        raise CoformerError(
            "max_tokens is {}, the members write {}".format(max_tokens, spec.context),
            "request",
            "ask for at most {} tokens, or build with a larger model.options.target_length".format(spec.context),
        )
    return spec


def generate(
    central: Central,
    prompt: Array,
    max_tokens: int,
    sampling: Sampling,
    on_gone: Optional[Callable[[Callable[[], None]], bool]] = None,
) -> Iterator[Token]:
    """Yield the tokens that follow or answer `prompt` `(tokens,)`, each when it is chosen.

    A member that is lost while a text is generated has lost its keys and values: it does not come back into this text.

    Raises:
        CoformerError: the request is wrong.
        Unanswered: too few members are left.
    """
    import numpy

    manifest = central.manifest
    spec = check_prompt(manifest.generation, manifest.answer.shape[-1], prompt, max_tokens)
    sampler = Sampler(sampling)
    session, length, tokens = random.SystemRandom().randint(1, LARGEST_SESSION), 0, prompt
    lost: Set[str] = set()
    for count in range(1, max_tokens + 1):
        array = numpy.empty(HEAD + len(tokens), DTYPE)
        array[:HEAD], array[HEAD:] = (session, length), tokens
        answer = central.answer(array, None, on_gone, without=frozenset(lost))
        lost.update(answer.missing)
        number = sampler.choose(answer.logits[0])
        last = count == max_tokens or number == spec.end
        yield Token(number, last, answer.members, answer.degraded, answer.phases.total_ms)
        if last:
            return
        # Of an answer, the members have the token that it begins with.
        length += len(tokens) if length or spec.source is None else 1
        tokens = numpy.array([number], DTYPE)
