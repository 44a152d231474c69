"""CIFAR-100 from the pickles of its archive, none of which is executed."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.data.plain_pickle import plain_data_from_pickle
from coformer_runtime.errors import CoformerError
from tests.compiler.data_files import Load, can_become_tensors, pictures, refusal, splits


def python_2_string(content: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(content)) + content


def python_2_array(shape: tuple[int, int], content: bytes) -> bytes:
    """An array of uint8 as Python 2 and NumPy 1 have pickled it in the files of CIFAR, opcode by opcode."""
    sizes = b"".join(b"M" + struct.pack("<H", size) for size in shape)
    element = b"cnumpy\ndtype\n" + python_2_string(b"u1") + b"K\x00K\x01\x87R"
    element += b"(K\x03" + python_2_string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python_2_string(b"b") + b"\x87R"
    return empty + b"(K\x01" + sizes + b"\x86" + element + b"\x89" + python_2_string(content) + b"tb"


def python_2_split(images: np.ndarray, labels: list[int]) -> bytes:
    flat = images.reshape(len(images), -1)
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    pairs = python_2_string(b"data") + python_2_array(flat.shape, flat.tobytes())
    return b"\x80\x02}(" + pairs + python_2_string(b"fine_labels") + numbers + b"u."


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    root = tmp_path / "cifar-100-python"
    root.mkdir()
    for i, (name, count) in enumerate((("train", 40), ("test", 10))):
        (root / name).write_bytes(python_2_split(pictures(count, 3, 32, 32, seed=i), [k % 4 for k in range(count)]))
    names = [b"apple", b"baby", b"bear", b"bed"]
    (root / "meta").write_bytes(pickle.dumps({b"fine_label_names": names, b"coarse_label_names": [b"x"]}, protocol=3))
    return root


def test_cifar100_reads_the_pickles_of_python_2(load: Load, cifar: Path) -> None:
    data = load(f"cifar100:{cifar}", image_size=32, channels=3)
    assert data.class_names == ("apple", "baby", "bear", "bed")
    assert [len(split) for split in splits(data)] == [36, 4, 36, 10]
    np.testing.assert_array_equal(data.test.inputs, pictures(10, 3, 32, 32, seed=1))
    assert data.test.labels.tolist() == [k % 4 for k in range(10)]


def test_cifar100_reads_the_pickles_of_this_numpy(load: Load, cifar: Path) -> None:
    images = pictures(10, 3, 32, 32, seed=1)
    content = {b"data": images.reshape(10, -1), b"fine_labels": [k % 4 for k in range(10)]}
    before = load(f"cifar100:{cifar}", image_size=32, channels=3)
    (cifar / "test").write_bytes(pickle.dumps(content, protocol=3))
    assert load(f"cifar100:{cifar}", image_size=32, channels=3).sha256 == before.sha256


def test_cifar100_in_another_shape_is_resized_once(load: Load, cifar: Path) -> None:
    data = load(f"cifar100:{cifar}", image_size=16, channels=3)
    assert data.train.inputs.shape == (36, 3, 16, 16)
    assert isinstance(data.train.inputs, np.memmap)
    assert load(f"cifar100:{cifar}", image_size=16, channels=3).sha256 == data.sha256


def test_cifar100_arrays_can_become_tensors(load: Load, cifar: Path) -> None:
    """PyTorch warns of read-only arrays, and warnings are errors here."""
    assert can_become_tensors(load(f"cifar100:{cifar}", image_size=32, channels=3))


class Malicious:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", [os.mkdir, eval, np.load, np.memmap], ids=["os", "eval", "load", "memmap"])
def test_cifar100_never_executes_a_pickle(
    load: Load, cifar: Path, tmp_path: Path, protocol: int, call: Callable[..., Any]
) -> None:
    trace = tmp_path / "executed"
    argument = f"__import__('os').mkdir({str(trace)!r})" if call is eval else str(trace)
    (cifar / "train").write_bytes(pickle.dumps({b"data": Malicious(call, argument)}, protocol=protocol))
    error = refusal(load, f"cifar100:{cifar}", image_size=32, channels=3)
    assert not trace.exists()
    assert "the pickle cannot be read as plain data (it asks for '" in error.what
    assert error.where == f"file '{cifar / 'train'}'"
    assert error.mend == "download the data set again, from its authors"


@pytest.mark.parametrize(
    "value",
    [np.array([None]), np.array([1.5]), np.asfortranarray(pictures(2, 3)), np.dtype("u1"), {1, 2}, 1j, object()],
    ids=["objects", "float", "fortran", "dtype", "set", "complex", "object"],
)
def test_pickles_of_other_things_are_refused(value: Any) -> None:
    with pytest.raises(CoformerError, match="file 'x': the pickle cannot be read as plain data"):
        plain_data_from_pickle(pickle.dumps(value, protocol=3), "file 'x'")


@given(st.data())
def test_damaged_pickles_are_refused_or_plain(data: st.DataObject) -> None:
    content = bytearray(python_2_split(pictures(1, 3, 2, 2), [0]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    outcome = outcome_of(bytes(content))
    refused = isinstance(outcome, CoformerError) and outcome.where == "file 'x'"
    assert refused or outcome is None or isinstance(outcome, (bool, int, float, str, bytes, list, dict, np.ndarray))


def outcome_of(content: bytes) -> Any:
    """What reading gives: a value, or the error that a user would see."""
    try:
        return plain_data_from_pickle(content, "file 'x'")
    except CoformerError as error:
        return error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train", {b"fine_labels": [0]}, "'data' is missing or not uint8[samples, 3072]"),
        ("train", {b"data": pictures(2, 7), b"fine_labels": [0, 1]}, "'data' is missing or not uint8[samples, 3072]"),
        ("train", {b"data": pictures(2, 3072)}, "'fine_labels' is missing or no list of whole numbers"),
        ("test", {b"data": pictures(2, 3072), b"fine_labels": [0]}, "1 labels for 2 images"),
        ("test", [1, 2], "it holds a list and no dictionary"),
        ("meta", {}, "'fine_label_names' is missing or no list of names"),
    ],
)
def test_cifar100_refusals(load: Load, cifar: Path, name: str, content: Any, message: str) -> None:
    (cifar / name).write_bytes(pickle.dumps(content, protocol=3))
    error = refusal(load, f"cifar100:{cifar}", image_size=32, channels=3)
    assert str(error) == f"file '{cifar / name}': {message}; use the files of the python version of CIFAR-100"


def test_cifar100_without_its_files(load: Load, cifar: Path) -> None:
    (cifar / "test").unlink()
    error = refusal(load, f"cifar100:{cifar}", image_size=32, channels=3)
    assert "the file 'test' of CIFAR-100 cannot be read from" in error.what
    content = (cifar / "train").read_bytes()
    (cifar / "test").write_bytes(content[: len(content) // 2])
    assert "cannot be read as plain data" in refusal(load, f"cifar100:{cifar}", image_size=32, channels=3).what
