"""The shape that a request runs in: the smallest that it fits."""

from typing import List, Tuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.errors import CoformerError
from coformer_runtime.fitting import check_numbers, check_shape, fit, open_shape
from coformer_runtime.manifest import GenerationSpec, Manifest, SourceSpec, TensorSpec
from coformer_runtime.manifest_profiles import ProfileSpec, ProfilesSpec, shapes_of
from tests.runtime import bundles
from tests.runtime.text_bundles import BATCHES, LENGTHS, answer_of, text_manifest

MANIFEST = text_manifest(0)
PLAIN = bundles.member_manifest(0, bundles.member_files(0))


def pairs() -> Manifest:
    """Token types in a second row."""
    shapes = [(batch, 2, length) for batch in (1, 2) for length in (4, 8) if (batch, length) != (1, 8)]
    graphs = tuple(ProfileSpec(shape, "x", "y") for shape in shapes)
    return PLAIN._replace(input=TensorSpec("ids", "int32", (1, 2, 8)), profiles=ProfilesSpec(graphs, 9))


def images() -> Manifest:
    shapes = [(batch, *bundles.PIXELS[1:]) for batch in (2, 4)]
    return PLAIN._replace(profiles=ProfilesSpec(tuple(ProfileSpec(shape, "x", "y") for shape in shapes)))


@given(st.lists(st.integers(1, LENGTHS[-1]), min_size=1, max_size=BATCHES[-1]), st.integers(0, 9), st.randoms())
def test_the_smallest_that_fits(tokens: list, more: int, random: object) -> None:
    """Whatever padding the client has sent, and the answers are those at the greatest length."""
    sent = np.zeros((len(tokens), max(tokens) + more), np.int32)
    for row, count in enumerate(tokens):
        sent[row, :count] = [random.randint(1, 49) for _ in range(count)]
    check_shape(MANIFEST, sent.shape, "request")
    fitted = fit(MANIFEST, sent, truncate=False)
    batch, length = fitted.array.shape
    assert length == fitted.length == min(each for each in LENGTHS if each >= max(tokens))
    assert batch == min(each for each in BATCHES if each >= len(tokens)) and fitted.samples == len(tokens)
    assert fitted.cut == 0 and fitted.array.dtype == np.int32 and fitted.array.flags["C_CONTIGUOUS"]
    longest = np.zeros((len(tokens), LENGTHS[-1]), np.int32)
    longest[:, : max(tokens)] = sent[:, : max(tokens)]
    found = answer_of((0, 1, 2), fitted.array)
    np.testing.assert_allclose(found[: len(tokens)], answer_of((0, 1, 2), longest), atol=1e-5)
    np.testing.assert_array_equal(
        fitted.array[len(tokens) :], np.repeat(fitted.array[[len(tokens) - 1]], batch - len(tokens), 0)
    )


def test_token_types_have_numbers_of_their_own() -> None:
    manifest = pairs()._replace(vocabulary=(50, 2))
    ids = np.array([[[3, 49], [0, 1]]], np.int32)
    check_numbers(manifest, ids, "request")
    check_numbers(manifest._replace(vocabulary=()), ids + 100, "request")
    with pytest.raises(CoformerError) as caught:
        check_numbers(manifest, ids + np.array([[[0], [1]]], np.int32), "request")
    assert str(caught.value) == "request: the token types go from 1 to 2; send numbers from 0 to 1"


def test_only_an_answer_is_padded_with_the_number_behind_the_last() -> None:
    source = SourceSpec("source.onnx", 4, 0, 0)
    manifest = PLAIN._replace(
        input=TensorSpec("ids", "int32", (1, 8)),
        vocabulary=(50,),
        generation=GenerationSpec("step.onnx", None, None, 4, 50, 1, source),
    )
    ids = np.array([[1, 2, 49, 0, 7, 50, 50, 50]], np.int32)
    check_numbers(manifest, ids, "request")
    for wrong in (ids[:, ::-1], ids + 1):
        with pytest.raises(CoformerError, match="the token numbers go from"):
            check_numbers(manifest, wrong, "request")


@given(st.lists(st.integers(-2, 40), max_size=4), st.sampled_from((PLAIN, MANIFEST)), st.booleans())
def test_any_shape_fits_or_is_refused(sizes: List[int], manifest: Manifest, truncate: bool) -> None:
    """What passes has one of the bundle's shapes, which every member has a graph for."""
    shape = tuple(sizes)
    try:
        check_shape(manifest, shape, "request")
        fitted = fit(manifest, np.ones(shape, manifest.input.dtype), truncate)
    except CoformerError:
        return
    assert fitted.array.shape in shapes_of(manifest) and fitted.samples == shape[0]


def test_too_long_is_refused_or_cut() -> None:
    ids = np.arange(1, 21, dtype=np.int32)[None]
    with pytest.raises(CoformerError) as caught:
        fit(MANIFEST, ids, truncate=False)
    assert str(caught.value) == (
        "request: the text has 20 tokens, the longest profile takes 16; send at most 16, or start the central node "
        "with --truncate to cut what is longer"
    )
    fitted = fit(MANIFEST, ids, truncate=True)
    assert (fitted.cut, fitted.length) == (4, 16)
    np.testing.assert_array_equal(fitted.array, ids[:, :16])


def test_padding_in_between_is_kept_and_all_padding_is_a_text() -> None:
    ids = np.array([[3, 0, 0, 0, 5, 0, 0]], np.int32)
    np.testing.assert_array_equal(fit(MANIFEST, ids, False).array, [[3, 0, 0, 0, 5, 0, 0, 0]])
    assert fit(MANIFEST, np.zeros((1, 12), np.int32), False).array.shape == (1, 4)


def test_pairs_are_padded_in_the_first_row_alone() -> None:
    ids = np.array([[[3, 4, 5], [0, 1, 1]]], np.int32)
    np.testing.assert_array_equal(fit(pairs(), ids, False).array, [[[3, 4, 5, 9], [0, 1, 1, 0]]])
    filled = np.array([[[3, 4, 5, 9, 9, 9], [0, 1, 1, 1, 1, 1]]], np.int32)
    np.testing.assert_array_equal(fit(pairs(), filled, False).array, [[[3, 4, 5, 9], [0, 1, 1, 1]]])


def test_images_are_filled_up_to_a_batch() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4)
    fitted = fit(images(), pixels, False)
    assert fitted.array.shape == (4, 1, 4, 4) and (fitted.samples, fitted.length) == (3, None)
    np.testing.assert_array_equal(fitted.array, pixels[[0, 1, 2, 2]])


@pytest.mark.parametrize(
    ("manifest", "told"),
    [(PLAIN, (1, 1, 4, 4)), (MANIFEST, (-1, -1)), (pairs(), (-1, 2, -1)), (images(), (-1, 1, 4, 4))],
)
def test_what_clients_are_told(manifest: Manifest, told: Tuple[int, ...]) -> None:
    assert open_shape(manifest) == told
    check_shape(manifest, tuple(1 if size == -1 else size for size in told), "request")


@pytest.mark.parametrize(
    ("manifest", "shape", "message"),
    [
        (PLAIN, (2, 1, 4, 4), "the shape is [2, 1, 4, 4]; send [1, 1, 4, 4]"),
        (MANIFEST, (5, 4), "the request has 5 samples, the largest profile takes 4; send at most 4 at a time"),
        (MANIFEST, (4,), "the shape is [4]; send [1 to 4, up to 16]"),
        (MANIFEST, (1, 0), "the shape is [1, 0]; send [1 to 4, up to 16]"),
        (MANIFEST, (-1, 4), "the shape is [-1, 4]; send [1 to 4, up to 16]"),
        (pairs(), (1, 1, 4), "the shape is [1, 1, 4]; send [1 to 2, 2, up to 8]"),
        (images(), (2, 1, 4, 3), "the shape is [2, 1, 4, 3]; send [1 to 4, 1, 4, 4]"),
    ],
)
def test_shapes_that_fit_in_none(manifest: Manifest, shape: Tuple[int, ...], message: str) -> None:
    with pytest.raises(CoformerError) as caught:
        check_shape(manifest, shape, "request")
    assert str(caught.value) == "request: " + message
