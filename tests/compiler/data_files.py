"""Small data on disk, and what tests ask of what is loaded of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coformer_compiler.data import DataSet, Split
from coformer_runtime.errors import CoformerError

Load = Callable[..., DataSet]


def refusal(load: Load, source: str, **options: Any) -> CoformerError:
    with pytest.raises(CoformerError) as caught:
        load(source, **options)
    assert caught.value.where
    assert caught.value.mend
    assert caught.value.exit_code == 2
    return caught.value


def splits(data: DataSet) -> tuple[Split, ...]:
    return data.train, data.validation, data.calibration, data.test


def write_npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def pictures(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def can_become_tensors(data: DataSet) -> bool:
    """Whether three-colour images of 32 by 32 pixels and their labels do, without a warning."""
    parts = [(torch.from_numpy(split.inputs[1:3]), torch.from_numpy(split.labels[1:3])) for split in splits(data)]
    return all(images.shape == (2, 3, 32, 32) and labels.dtype == torch.int64 for images, labels in parts)
