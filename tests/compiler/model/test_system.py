"""Members and aggregator on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.head import Head
from coformer_compiler.model.spec import HeadSpec
from coformer_compiler.model.system import load_system, save_system
from coformer_compiler.model.transformer import Transformer
from tests.compiler.tiny import random_inputs, random_model, tiny_spec


def random_system(count: int = 3) -> tuple[list[Transformer], Aggregator]:
    members = [random_model(tiny_spec(embed=4 + n % 5, neurons=6 + n), seed=n) for n in range(count)]
    torch.manual_seed(9)
    return members, Aggregator([member.spec.features for member in members], Head(9, HeadSpec(5))).eval()


@torch.no_grad()
def test_round_trip(tmp_path: Path) -> None:
    members, aggregator = random_system()
    save_system(tmp_path, members, aggregator)
    system = load_system(tmp_path)
    pixels = random_inputs(members[0].spec, 3)
    features = system.features(pixels)
    for n, member in enumerate(members):
        assert system.members[n].spec == member.spec
        assert torch.equal(features[n], member.features(pixels))
    assert (system.aggregator.widths, system.aggregator.subsets) == (aggregator.widths, aggregator.subsets)
    for subset in aggregator.subsets:
        part = {n: features[n] for n in subset}
        assert torch.equal(system.aggregator(part), aggregator(part))


def test_more_than_ten_members_keep_their_order(tmp_path: Path) -> None:
    members, _ = random_system(11)
    aggregator = Aggregator([member.spec.features for member in members], Head(9, HeadSpec(5)), [tuple(range(11))])
    save_system(tmp_path, members, aggregator)
    assert [member.spec for member in load_system(tmp_path).members] == [member.spec for member in members]


def test_equal_systems_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_system(tmp_path / name, *random_system())
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["aggregator.safetensors", *(f"member-{n}.safetensors" for n in range(3))]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
