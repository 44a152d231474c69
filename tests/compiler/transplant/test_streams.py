"""Streams in memory and in a mapped file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coformer_compiler.transplant.streams import Streams

CPU = torch.device("cpu")


@pytest.mark.parametrize("memory_bytes", [0, 2**30])
def test_what_is_written_is_read(memory_bytes: int) -> None:
    with Streams((7, 3), [5, 2], 4, memory_bytes, CPU) as streams:
        parts = list(streams.parts())
        assert parts == [slice(0, 4), slice(4, 7)]
        teacher, member = torch.randn(7, 3, 5), torch.randn(7, 3, 2)
        for part in parts:
            streams.write(0, part, teacher[part])
            streams.write(1, part, member[part])
        for part in parts:
            assert torch.equal(streams.read(0, part), teacher[part])
            assert torch.equal(streams.read(1, part), member[part])


def test_the_limit_counts_bytes_of_all_streams() -> None:
    needed = 4 * 7 * 3 * (5 + 2)
    with Streams((7, 3), [5, 2], 4, needed, CPU) as streams:
        assert streams.folder is None
    with Streams((7, 3), [5, 2], 4, needed - 1, CPU) as streams:
        assert streams.folder is not None


def test_the_file_is_gone_afterwards() -> None:
    with Streams((7, 3), [5, 2], 4, 0, CPU) as streams:
        assert streams.folder is not None
        folder = Path(streams.folder.name)
        assert sorted(path.stat().st_size for path in folder.iterdir()) == [4 * 7 * 3 * 2, 4 * 7 * 3 * 5]
    assert not folder.exists()


def test_the_file_is_gone_after_an_error() -> None:
    streams = Streams((7, 3), [5], 4, 0, CPU)
    assert streams.folder is not None
    with pytest.raises(KeyboardInterrupt), streams:
        raise KeyboardInterrupt
    assert not Path(streams.folder.name).exists()
