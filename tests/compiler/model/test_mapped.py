"""Tensors that stay on disk."""

from __future__ import annotations

import copy
import mmap
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from coformer_compiler.model.checkpoint import load_transformer, save_transformer
from coformer_compiler.model.mapped import DTYPES, MappedTensors, write_tensors
from tests.compiler.tiny import random_inputs, random_model, tiny_spec

PAGES = 64
EACH = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in DTYPES.items()}
WEIGHT = torch.arange(PAGES * mmap.PAGESIZE // 4, dtype=torch.float32).reshape(PAGES, -1)


def resident_pages(tensor: torch.Tensor) -> int:
    """How many pages of the tensor this process has in memory, of those that it shares with no other tensor."""
    first, entry = tensor.data_ptr(), 8
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(-(-first // mmap.PAGESIZE) * entry)
        content = file.read((PAGES - 1) * entry)
    return sum(content[place + 7] >> 7 for place in range(0, len(content), entry))


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.dtype == wanted.dtype and torch.equal(found, wanted)


def test_what_is_written_is_read_by_the_library_and_by_us(tmp_path: Path) -> None:
    tensors = {**EACH, "none": torch.zeros(0, 4), "scalar": torch.tensor(2.5), "turned": WEIGHT.T}
    write_tensors(tmp_path / "a", tensors, {"about": "ä"})
    theirs, ours = load_file(tmp_path / "a"), MappedTensors(tmp_path / "a")
    assert theirs.keys() == set(ours) == set(tensors) and len(ours) == len(tensors)
    assert ours.metadata == {"about": "ä"}
    assert all(same(theirs[name], tensor) and same(ours[name], tensor) for name, tensor in tensors.items())


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    save_file(EACH, tmp_path / "a")
    ours = MappedTensors(tmp_path / "a")
    assert ours.metadata == {} and all(same(ours[name], tensor) for name, tensor in EACH.items())


def test_all_tensors_are_aligned(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", EACH, {})
    ours = MappedTensors(tmp_path / "a")
    assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in ours.values())


@pytest.mark.parametrize("kept", [0, 7, 60, -1])
def test_a_truncated_file(tmp_path: Path, kept: int) -> None:
    write_tensors(tmp_path / "a", EACH, {})
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:kept])
    with pytest.raises(SafetensorError):
        MappedTensors(tmp_path / "a")


def test_a_type_that_torch_has_not(tmp_path: Path) -> None:
    save_file({"odd": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "a")
    with pytest.raises(ValueError, match="'odd' is of type C64, which is none of F64, F32"):
        MappedTensors(tmp_path / "a")


def test_released_memory_is_given_back_and_read_again(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", {"weight": WEIGHT}, {})
    mapped = MappedTensors(tmp_path / "a")
    weight = mapped["weight"]
    assert weight.sum() == WEIGHT.sum() and resident_pages(weight) > 0
    mapped.release([weight.T])
    assert resident_pages(weight) == 0
    assert torch.equal(weight, WEIGHT)


def test_what_was_written_into_a_tensor_stays_and_never_reaches_the_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", {"weight": WEIGHT}, {})
    mapped = MappedTensors(tmp_path / "a")
    weight = mapped["weight"]
    weight += 1
    mapped.release([weight, torch.zeros(8)])
    assert torch.equal(weight, WEIGHT + 1)
    assert torch.equal(MappedTensors(tmp_path / "a")["weight"], WEIGHT)


def test_a_model_is_the_same_after_its_release_and_a_trained_copy_is_left_alone(tmp_path: Path) -> None:
    model = random_model(tiny_spec())
    save_transformer(tmp_path / "a", model)
    loaded, inputs = load_transformer(tmp_path / "a"), random_inputs(model.spec, 2)
    trained = copy.deepcopy(loaded)
    with torch.no_grad():
        trained.head.linear.weight.zero_()
        loaded.release()
        trained.release()
        assert torch.equal(loaded(inputs), model(inputs))
        assert not trained.head.linear.weight.any()
