"""Sessions of a decoder: pieces of prompts, tokens one by one, expiry, and what is refused."""

import numpy as np
import pytest

from coformer_runtime.decoder import IDLE_S, SESSIONS, Decoder, SessionGone
from coformer_runtime.errors import CheckFailed, CoformerError
from tests.runtime.fake_decoder import (
    CONTEXT,
    PADDING,
    READ,
    START,
    FakeGraph,
    FakeSource,
    answering_decoder,
    answering_manifest,
    fake_decoder,
    request,
)


def test_a_prompt_in_pieces_then_tokens() -> None:
    decoder = fake_decoder()
    text = list(range(1, 8))
    assert decoder.run(request(5, 0, text))["features"].tolist() == [[28.0, 6.0]]
    assert decoder.run(request(5, 7, [10]))["features"].tolist() == [[38.0, 7.0]]
    assert decoder.run(request(5, 8, [1]))["features"].tolist() == [[39.0, 8.0]]
    step, prefill = decoder._graphs[1], decoder._graphs[4]
    assert (step.runs, prefill.runs) == (2, 2)


def test_sessions_do_not_mix_and_asking_again_does_no_harm() -> None:
    decoder = fake_decoder()
    decoder.run(request(1, 0, [3, 4]))
    decoder.run(request(2, 0, [30, 40]))
    first = decoder.run(request(1, 2, [5]))["features"]
    np.testing.assert_array_equal(decoder.run(request(1, 2, [5]))["features"], first)
    assert first.tolist() == [[12.0, 2.0]]
    assert decoder.run(request(2, 2, [5]))["features"].tolist() == [[75.0, 2.0]]


def test_sessions_expire() -> None:
    now = [0.0]
    decoder = fake_decoder(lambda: now[0])
    decoder.run(request(1, 0, [3, 4]))
    now[0] = IDLE_S
    decoder.run(request(1, 2, [5]))
    now[0] += IDLE_S + 1
    with pytest.raises(SessionGone, match="the session has expired"):
        decoder.run(request(1, 3, [6]))


def test_the_session_of_longest_ago_gives_way() -> None:
    decoder = fake_decoder()
    for session in range(SESSIONS):
        decoder.run(request(session, 0, [1, 2]))
    decoder.run(request(0, 2, [3]))
    decoder.run(request(99, 0, [1, 2]))
    assert decoder.sessions() == SESSIONS
    decoder.run(request(0, 3, [4]))
    with pytest.raises(SessionGone):
        decoder.run(request(1, 2, [3]))


@pytest.mark.parametrize(("length", "tokens"), [(0, []), (-1, [1]), (CONTEXT, [1]), (0, [1] * (CONTEXT + 1))])
def test_what_is_refused(length: int, tokens: "list[int]") -> None:
    with pytest.raises(CoformerError, match="the context holds 12"):
        fake_decoder().run(request(1, length, tokens))


def test_closing_closes_all_graphs() -> None:
    decoder = fake_decoder()
    decoder.close()
    assert all(graph.closed for graph in decoder._graphs.values())


def test_an_answer_begins_behind_the_text_that_is_read() -> None:
    """The first request holds the text; the session has then the token that answers begin with."""
    decoder = answering_decoder()
    assert decoder.run(request(5, 0, [10, 20, 30]))["features"].tolist() == [[67.0, 0.0]]
    assert decoder.run(request(5, 1, [2]))["features"].tolist() == [[69.0, 1.0]]
    decoder.run(request(6, 0, [1]))
    assert decoder.run(request(5, 2, [3]))["features"].tolist() == [[72.0, 2.0]]
    assert decoder.run(request(6, 1, [3]))["features"].tolist() == [[11.0, 1.0]]
    assert decoder._source is not None and decoder._source.runs == 2  # type: ignore[attr-defined]
    decoder.run(request(5, 0, [10, 20, 30]))
    assert decoder.run(request(5, 1, [2]))["features"].tolist() == [[69.0, 1.0]], "asking again does no harm"


@pytest.mark.parametrize(
    ("length", "tokens", "said"),
    [
        (0, [1] * (READ + 1), "the context holds 5"),
        (CONTEXT, [1], "the context holds 12"),
        (0, [], "the context holds"),
    ],
)
def test_what_a_member_that_answers_refuses(length: int, tokens: "list[int]", said: str) -> None:
    with pytest.raises(CoformerError, match=said):
        answering_decoder().run(request(1, length, tokens))


def whole(text: "list[int]") -> "dict[str, np.ndarray]":
    """A whole input."""
    return {"ids": np.array([text], np.int32)}


def test_whole_inputs_are_taken_in_pieces() -> None:
    decoder = fake_decoder()
    assert decoder.run(whole([1, 2, 3, 4, 5, PADDING, PADDING]))["features"].tolist() == [[15.0, 4.0]]
    assert decoder.run(whole([1]))["features"].tolist() == [[1.0, 0.0]]
    answering = answering_decoder()
    pair = [10, 20, PADDING, PADDING, PADDING, START, 2, 3, PADDING]
    assert answering.run(whole(pair))["features"].tolist() == [[42.0, 2.0]]
    assert decoder.sessions() == answering.sessions() == 0
    with pytest.raises(CoformerError, match="the input holds no token"):
        decoder.run(whole([PADDING, PADDING]))


def test_a_step_that_does_not_take_what_was_read_is_refused() -> None:
    with pytest.raises(CheckFailed, match=r"the text that is read gives \['read'\]"):
        Decoder(FakeGraph(1), None, answering_manifest(), lambda: 0.0, FakeSource(READ))
