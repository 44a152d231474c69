"""Bundles and clusters that several test modules share."""

from pathlib import Path
from typing import List

import pytest

from tests.runtime import boards, bundles


@pytest.fixture(scope="session")
def cluster_dirs(tmp_path_factory: pytest.TempPathFactory) -> List[str]:
    """The bundles of a three-device cluster, the central one first; not to be changed."""
    return bundles.make_cluster(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    """A central bundle of its own, to be damaged."""
    return Path(bundles.make_bundle(tmp_path / "attic", 0))


@pytest.fixture
def nano_site(tmp_path: Path) -> List[str]:
    """A Jetson Nano's libraries, stood in for."""
    return boards.make_site(tmp_path / "site", boards.NANO)
