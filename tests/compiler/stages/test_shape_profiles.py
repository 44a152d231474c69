"""Which profiles a build may have, and what they cost in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coformer_compiler.config.sections import ProfilesSection
from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.shapes import cost_of_spec, full_shape, member_spec
from coformer_compiler.device import Device
from coformer_compiler.evaluator.memory import memory_mb
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.stages.shape_profiles import (
    Profile,
    check_profiles,
    check_room,
    further_profiles,
    manifest_profiles,
    memory_of_profiles,
)
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target
from tests.compiler.tiny import tiny_decoder, tiny_encoder, tiny_spec

BOTH = ProfilesSection(lengths=[4, 9], batches=[1, 2])


def replace_section(**changes: object) -> ProfilesSection:
    return BOTH.model_copy(update=changes)


def more_on_the_board(spec: TransformerSpec) -> float:
    return memory_of_profiles(spec, device("jetson-nano"), ProfilesSection(lengths=[3, 6, 9]), features=48)


def device(target: str) -> Device:
    found = load_target(target)
    return Device("hall", found, found.gflops, found.memory_mb, None)


@pytest.mark.parametrize(
    ("spec", "section", "message"),
    [
        (tiny_encoder(), BOTH, None),
        (tiny_spec(), ProfilesSection(batches=[1, 8]), None),
        (tiny_decoder(), ProfilesSection(), None),
        (tiny_decoder(), BOTH, "config, [profiles]: the model continues texts, token by token, and has no profiles"),
        (tiny_spec(), BOTH, "config, [profiles], lengths: the model reads no texts; leave it out"),
        (
            tiny_spec(),
            ProfilesSection(share_weights=True),
            "share_weights: there is one graph alone; name several lengths or batches, or leave it out",
        ),
        (
            tiny_encoder(),
            ProfilesSection(lengths=[4, 8]),
            "lengths: the longest is 8 tokens, the model's length is 9; end it with 9, or set model.options.length = 8",
        ),
        (
            tiny_encoder(),
            ProfilesSection(batches=[1, 1 << 20]),
            "batches: a batch of 1048576 has 37,748,736 bytes, at most 8,384,512 travel; name at most 232903",
        ),
    ],
)
def test_what_a_model_can_have(spec: TransformerSpec, section: ProfilesSection, message: str | None) -> None:
    if message is None:
        check_profiles(spec, section)
        return
    with pytest.raises(CoformerError) as caught:
        check_profiles(spec, section)
    assert message in str(caught.value)


def test_profiles_are_all_pairs_but_the_members_own() -> None:
    assert further_profiles(ProfilesSection()) == []
    assert further_profiles(ProfilesSection(batches=[1, 8])) == [Profile(8, None)]
    found = further_profiles(BOTH)
    assert found == [Profile(1, 4), Profile(2, 4), Profile(2, 9)]
    assert [each.file for each in found] == ["member.1x4.onnx", "member.2x4.onnx", "member.2x9.onnx"]


def test_what_the_manifest_is_told() -> None:
    stem = tiny_encoder(types=2).stem
    assert manifest_profiles(stem, ProfilesSection(), "g") is None
    told = manifest_profiles(stem, BOTH, "golden/output.npy")
    assert told is not None and told["padding"] == 0
    assert [each["shape"] for each in told["graphs"]] == [[1, 2, 4], [2, 2, 4], [2, 2, 9]]
    assert [each["golden"] for each in told["graphs"]] == ["golden/output.4.npy"] * 2 + ["golden/output.npy"]
    shared = replace_section(share_weights=True)
    assert manifest_profiles(stem, shared, "g") == {**manifest_profiles(stem, BOTH, "g"), "share_weights": True}
    assert manifest_profiles(stem, shared, "g", "tensorrt") == manifest_profiles(stem, BOTH, "g")
    assert manifest_profiles(stem, ProfilesSection(lengths=[9]), "g") == {"graphs": [], "padding": 0}
    assert manifest_profiles(tiny_spec().stem, ProfilesSection(batches=[1, 4]), "g") == {
        "graphs": [{"shape": [4, 1, 8, 12], "file": "member.4.onnx", "golden": "g"}]
    }


def test_memory_grows_with_every_engine() -> None:
    """By all weights under TensorRT, by those of linears under ONNX Runtime; activations with the batch."""
    spec = tiny_encoder(embed=48)
    spec = replace(spec, stem=replace(spec.stem, vocabulary=30000))
    tables = 30000 * 48 * 4 / 1e6
    one, three, wide = ProfilesSection(), ProfilesSection(lengths=[3, 6, 9]), ProfilesSection(batches=[1, 2, 64])
    for target, again in (("jetson-nano", True), ("cpu", False)):
        first, more, most = (memory_of_profiles(spec, device(target), each, features=48) for each in (one, three, wide))
        assert (more - first > 2 * tables) is again and 0 < more - first < 2 * tables + 1
        assert most > more
        assert first == memory_mb(cost_of_spec(spec), load_target(target))
    shared = ProfilesSection(lengths=[3, 6, 9], share_weights=True)
    found = [memory_of_profiles(spec, device("cpu"), each, features=48) for each in (one, shared)]
    assert found[0] == found[1]
    assert memory_of_profiles(spec, device("jetson-nano"), shared, features=48) == more_on_the_board(spec)


def test_what_has_no_room_is_refused() -> None:
    """Before anything is trained, with what would help."""
    spec = tiny_encoder(embed=48)
    shape = full_shape(teacher_shape(spec))
    board = device("jetson-nano")
    least = memory_of_profiles(member_spec(spec, shape, shortcuts=True), board, BOTH, features=48)
    check_room(spec, [(replace(board, memory_mb=least), shape)], BOTH, shortcuts=True)
    small = replace(board, memory_mb=least - 0.01)
    check_room(spec, [(small, shape)], ProfilesSection(), shortcuts=True)
    with pytest.raises(CoformerError) as caught:
        check_room(spec, [(small, shape)], BOTH, shortcuts=True)
    told = str(caught.value)
    assert (
        told.startswith("device 'hall': C6: with 4 profiles the member needs 1,200 MB") and "short by 0.01 MB" in told
    )
    assert told.endswith("name fewer lengths or batches in [profiles], raise its memory_mb, or give it a smaller share")
