"""Which of a bundle's shapes a request runs in: the first length that its text fits, the first batch that it fits."""

from typing import NamedTuple, Optional, Tuple

from .answer import Shaped
from .arrays import Array
from .errors import CoformerError
from .manifest import Manifest
from .manifest_profiles import batches_of, lengths_of

TRUNCATE = "start the central node with --truncate to cut what is longer"


class Fitted(NamedTuple):
    """An input in one of the bundle's shapes.

    Attributes:
        array: the input, filled up with padding and, behind its own samples, with copies of the last one.
        samples: how many of them are the request's own.
        length: tokens that it was filled up or cut to; None where lengths are fixed.
        cut: tokens of its longest text that were cut off.
    """

    array: Array
    samples: int
    length: Optional[int] = None
    cut: int = 0


def shaped_by(manifest: Manifest, fitted: Fitted) -> Optional[Shaped]:
    """Return what an answer tells of the profile; None where the bundle has the one shape alone."""
    if manifest.profiles is None:
        return None
    return Shaped(len(fitted.array), fitted.length or 0, fitted.cut)


def open_shape(manifest: Manifest) -> Tuple[int, ...]:
    """Return the shape of a request's input as clients are told it: -1 for an axis that may have several sizes."""
    shape = list(manifest.input.shape)
    if len(batches_of(manifest)) > 1:
        shape[0] = -1
    if _padding(manifest) is not None:
        shape[-1] = -1
    return tuple(shape)


def check_shape(manifest: Manifest, shape: Tuple[int, ...], where: str) -> None:
    """Raise a CoformerError for the shape of an input that fits in none of the bundle's."""
    wanted, most = open_shape(manifest), batches_of(manifest)[-1]
    fits = len(shape) == len(wanted) and all(
        size > 0 and (size == each or each == -1) for size, each in zip(shape, wanted)
    )
    if not fits:
        raise CoformerError("the shape is {}".format(list(shape)), where, "send {}".format(_words(manifest)))
    if shape[0] > most:
        raise CoformerError(
            "the request has {} samples, the largest profile takes {}".format(shape[0], most),
            where,
            "send at most {} at a time".format(most),
        )


def check_numbers(manifest: Manifest, array: Array, where: str) -> None:
    """Raise a CoformerError for token numbers that no table has, before every member's engine fails on them."""
    for row, count in enumerate(manifest.vocabulary):
        numbers = _without_padding(manifest, array) if len(manifest.vocabulary) == 1 else array[:, row]
        least, most = int(numbers.min()), int(numbers.max())
        if least < 0 or most >= count:
            raise CoformerError(
                "the {} go from {} to {}".format("token types" if row else "token numbers", least, most),
                where,
                "send numbers from 0 to {}".format(count - 1),
            )


def _without_padding(manifest: Manifest, array: Array) -> Array:
    """Return the numbers with zeros for the padding of an answer, a number of its own that a text before it lacks."""
    import numpy

    generation = manifest.generation
    if generation is None or generation.source is None:
        return array
    answer = numpy.arange(array.shape[-1]) >= generation.source.length
    return numpy.where(answer & (array == generation.padding), 0, array)


def fit(manifest: Manifest, array: Array, truncate: bool, where: str = "request") -> Fitted:
    """Return an input of a shape that `check_shape` lets pass in the smallest of the bundle's shapes that it fits.

    Args:
        manifest: of the central node's bundle.
        array: token numbers, with or without padding behind them, or an input of fixed shape.
        truncate: cut texts that are longer than the longest profile.
        where: for messages.

    Raises:
        CoformerError: a text is longer than the longest profile, and is not to be cut.
    """
    samples, padding = len(array), _padding(manifest)
    if padding is None:
        return Fitted(filled(array, manifest), samples)
    lengths = lengths_of(manifest)
    tokens = _tokens(array, padding)
    cut = max(0, tokens - lengths[-1])
    if cut and not truncate:
        raise CoformerError(
            "the text has {} tokens, the longest profile takes {}".format(tokens, lengths[-1]),
            where,
            "send at most {}, or {}".format(lengths[-1], TRUNCATE),
        )
    length = next((each for each in lengths if each >= tokens), lengths[-1])
    return Fitted(filled(_of_length(array, length, padding), manifest), samples, length, cut)


def _padding(manifest: Manifest) -> Optional[int]:
    return None if manifest.profiles is None else manifest.profiles.padding


def _tokens(array: Array, padding: int) -> int:
    """Return the tokens of the longest text; of `(batch, 2, tokens)` the second row holds their types."""
    words = array if array.ndim == 2 else array[:, 0]
    real = (words != padding).any(axis=0).nonzero()[0]
    return int(real[-1]) + 1 if len(real) else 0


def _of_length(array: Array, length: int, padding: int) -> Array:
    import numpy

    kept = array[..., :length]
    if kept.shape[-1] == length:
        return numpy.ascontiguousarray(kept)
    made: Array = numpy.zeros(array.shape[:-1] + (length,), array.dtype)
    words = made if made.ndim == 2 else made[:, 0]
    words[...] = padding
    made[..., : kept.shape[-1]] = kept
    return made


def filled(array: Array, manifest: Manifest) -> Array:
    """Return an array with copies of its last sample behind it, up to the next batch size."""
    import numpy

    batch = next(each for each in batches_of(manifest) if each >= len(array))
    if batch == len(array):
        return array
    return numpy.concatenate([array, numpy.repeat(array[-1:], batch - len(array), axis=0)])


def _words(manifest: Manifest) -> str:
    """Return what may be sent, such as "[1 to 4, up to 128]"."""
    shape, told = list(manifest.input.shape), open_shape(manifest)
    words = [str(size) for size in shape]
    if told[0] == -1:
        words[0] = "1 to {}".format(batches_of(manifest)[-1])
    if told[-1] == -1:
        words[-1] = "up to {}".format(shape[-1])
    return "[{}]".format(", ".join(words))
