"""Data with a cache of its own; and one thread, which tiny tensors gain nothing from leaving.

The number of threads is part of what makes a run repeatable.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from coformer_compiler.data import DataSet, load_data
from tests.compiler.data_files import Load


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def with_cache(source: str, **options: Any) -> DataSet:
        options = {"image_size": 8, "channels": 1, "cache_dir": tmp_path / "cache"} | options
        return load_data(source, **options)

    return with_cache
