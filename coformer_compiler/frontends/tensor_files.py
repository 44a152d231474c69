"""The tensors of a Hugging Face folder, mapped and read one by one: safetensors or torch files, in shards or not."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from coformer_compiler.frontends.weights import first_line
from coformer_compiler.model.mapped import MappedTensors
from coformer_runtime.errors import CoformerError

FILES = ("model.safetensors", "pytorch_model.bin")
MEND = "give safetensors files, or .bin files that hold only tensors"


class TensorFolder(Mapping[str, torch.Tensor]):
    """Tensors by name, mapped: what is read of one is in memory, and nothing else."""

    def __init__(self, folder: Path) -> None:
        """Open every weight file of the folder.

        Raises:
            CoformerError: no weights, a missing shard, a file that is truncated or that needs code to be read.
        """
        self.folder = folder
        self._readers: dict[str, Mapping[str, torch.Tensor]] = {}
        for path in _weight_files(folder):
            found = _opened(path)
            twice = sorted(self._readers.keys() & found.keys())
            if twice:
                raise CoformerError(f"'{twice[0]}' is in two files", f"checkpoint {folder}", "remove one of the files")
            self._readers |= dict.fromkeys(found, found)

    def __getitem__(self, name: str) -> torch.Tensor:
        """One tensor in its own dtype."""
        return self._readers[name][name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._readers)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._readers)


def _weight_files(folder: Path) -> list[Path]:
    for name in FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return _shards(index)
    raise CoformerError("no weight file", f"checkpoint {folder}", f"put {' or '.join(FILES)} there, or its shards")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CoformerError(f"not an index of shards ({error})", str(index), "copy the checkpoint again") from error
    shards = [index.parent / str(name) for name in names]
    missing = [path.name for path in shards if path.parent != index.parent or not path.is_file()]
    if missing:
        raise CoformerError(
            f"{len(missing)} of {len(shards)} shards are missing, the first is '{missing[0]}'",
            f"checkpoint {index.parent}",
            "copy the whole checkpoint",
        )
    return shards


def _opened(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return MappedTensors(path)
        # Files older than torch 1.6 are no zip archives, which alone can be mapped.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # each library raises kinds of its own for broken files
        raise CoformerError(f"unreadable or truncated ({first_line(error)})", f"checkpoint {path}", MEND) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CoformerError("holds no state dict", f"checkpoint {path}", MEND)
    return loaded
