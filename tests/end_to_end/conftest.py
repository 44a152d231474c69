"""One tiny build for all tests of a process; see tiny.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.end_to_end.tiny import built, inputs


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="session")
def tiny() -> Path:
    """Folder with teacher.safetensors, tiny.toml and mixed.toml; not to be changed."""
    return inputs()


@pytest.fixture(scope="session")
def out() -> Path:
    """A finished build for three devices that run here; not to be changed."""
    return built()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the finished build, to be spoilt."""
    return Path(shutil.copytree(built(), tmp_path / "copied"))
