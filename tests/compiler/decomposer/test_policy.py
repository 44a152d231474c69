"""Policies as text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.decomposer.policy import (
    LayerShare,
    MemberPolicy,
    Policy,
    TeacherShape,
    policy_from_json,
    policy_json,
    read_policy,
    teacher_shape,
)
from coformer_runtime.errors import CoformerError
from tests.compiler.tiny import tiny_spec

NUMBERS = st.integers(0, 5000)
INDICES = st.lists(NUMBERS, max_size=5).map(tuple)
POLICIES = st.builds(
    Policy,
    st.text(max_size=8),
    st.builds(TeacherShape, NUMBERS, NUMBERS, INDICES, INDICES),
    st.lists(
        st.builds(
            MemberPolicy,
            st.text(max_size=8),
            NUMBERS,
            st.lists(st.builds(LayerShare, NUMBERS, INDICES, INDICES), max_size=3).map(tuple),
            st.none() | st.lists(INDICES, min_size=1, max_size=3).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
)

TWO = Policy(
    "uniform",
    TeacherShape(2, 12, (3, 3), (20, 20)),
    (
        MemberPolicy("attic", 8, (LayerShare(0, (0, 2), (1, 5, 7)), LayerShare(1, (1,), (0, 19)))),
        MemberPolicy("hall", 4, (LayerShare(1, (0,), (3,)),), ((0, 2, 5, 11),)),
    ),
)

TEXT = """\
{
 "format": "coformer-policy/1",
 "strategy": "uniform",
 "teacher": {"layers": 2, "embed": 12, "heads": [3, 3], "neurons": [20, 20]},
 "members": [
  {"device": "attic", "embed": 8, "layers": [
   {"layer": 0, "heads": [0, 2], "neurons": [1, 5, 7]},
   {"layer": 1, "heads": [1], "neurons": [0, 19]}
  ]},
  {"device": "hall", "embed": 4, "channels": [0, 2, 5, 11], "layers": [
   {"layer": 1, "heads": [0], "neurons": [3]}
  ]}
 ]
}
"""


@given(POLICIES)
def test_round_trip(policy: Policy) -> None:
    text = policy_json(policy)
    assert policy_from_json(text, "here") == policy
    assert policy_json(policy_from_json(text, "here")) == text
    assert json.loads(text)["format"] == "coformer-policy/1"


def test_canonical_text() -> None:
    """What builds have written stays readable, and its digest stays the same."""
    assert policy_json(TWO) == TEXT
    assert TWO.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


def test_any_layout_is_read() -> None:
    assert policy_from_json(json.dumps(json.loads(TEXT), indent=7, sort_keys=True), "here") == TWO


def assert_refuses(text: str, what: str) -> None:
    with pytest.raises(CoformerError) as caught:
        policy_from_json(text, "policy x.json")
    assert (caught.value.what, caught.value.where, caught.value.mend) == (
        f"not a policy: {what}",
        "policy x.json",
        "compare it with a policy.json that a build wrote",
    )


def changed(*path: str | int, to: object) -> str:
    data = json.loads(TEXT)
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (("stragety",), "stragety"),
        (("teacher", "width"), "width"),
        (("members", 0, "chanels"), "chanels"),
        (("members", 1, "layers", 0, "head"), "head"),
    ],
)
def test_an_unknown_key(path: tuple[str | int, ...], key: str) -> None:
    assert_refuses(changed(*path, to=1), f"unknown key '{key}'")


@pytest.mark.parametrize(
    "path",
    [
        ("format",),
        ("strategy",),
        ("teacher",),
        ("members",),
        ("teacher", "heads"),
        ("members", 0, "device"),
        ("members", 1, "embed"),
        ("members", 1, "layers"),
        ("members", 1, "layers", 0, "neurons"),
    ],
)
def test_a_missing_key(path: tuple[str | int, ...]) -> None:
    data = json.loads(TEXT)
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    assert_refuses(json.dumps(data), f"no key '{path[-1]}'")


def test_another_format() -> None:
    assert_refuses(
        changed("format", to="coformer-policy/2"), "format is 'coformer-policy/2', wanted 'coformer-policy/1'"
    )


@pytest.mark.parametrize("indices", [[0, 1.0], [True], ["0"], [None], [[1]]])
def test_indices_are_integers(indices: list[object]) -> None:
    assert_refuses(
        changed("members", 0, "layers", 0, "heads", to=indices), f"indices must be integers, not {indices!r}"
    )
    if indices != [[1]]:
        assert_refuses(changed("members", 0, "channels", to=indices), f"indices must be integers, not {indices!r}")
    assert_refuses(changed("teacher", "heads", to=indices), f"indices must be integers, not {indices!r}")


@pytest.mark.parametrize("number", [1.5, "8", True, None, [8]])
@pytest.mark.parametrize(
    "path", [("teacher", "layers"), ("teacher", "embed"), ("members", 0, "embed"), ("members", 0, "layers", 1, "layer")]
)
def test_numbers_are_integers(path: tuple[str | int, ...], number: object) -> None:
    assert_refuses(changed(*path, to=number), f"'{path[-1]}' must be an integer, not {number!r}")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"text"', '{"format": "coformer-policy/1", "members": 3}']
)
def test_text_that_is_no_policy(text: str) -> None:
    with pytest.raises(CoformerError, match=r"^here: not a policy: .+; compare it with a policy"):
        policy_from_json(text, "here")


@pytest.mark.parametrize(
    ("path", "value"),
    [(("members",), "attic"), (("members", 0), "attic"), (("members", 0, "layers"), 3), (("teacher",), [1, 2])],
)
def test_wrong_kinds(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(CoformerError, match="not a policy: "):
        policy_from_json(changed(*path, to=value), "here")


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    with pytest.raises(CoformerError) as caught:
        read_policy(path)
    assert str(caught.value) == f"policy {path}: cannot be read; check policy.file"
    path.write_text(TEXT, encoding="utf-8")
    assert read_policy(path) == TWO
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CoformerError, match="not a policy") as caught:
        read_policy(path)
    assert caught.value.where == str(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CoformerError, match="cannot be read"):
        read_policy(path)


def test_teacher_shape() -> None:
    assert teacher_shape(tiny_spec(layers=3)) == TeacherShape(3, 12, (3, 3, 3), (20, 20, 20))
