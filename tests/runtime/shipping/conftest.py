"""Two builds, a pair of keys, a layout folder with two signed releases; not to be changed."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.runtime.shipping.releases import make_build, make_keys, pushed


class Shipped(NamedTuple):
    """Where everything is; `layout` holds version 1 as tag "one" and version 2 as tag "two"."""

    one: Path
    two: Path
    key: Path
    other_key: Path
    layout: str


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    folder = tmp_path_factory.mktemp("shipped")
    one, two = make_build(folder / "one", "1" * 64), make_build(folder / "two", "2" * 64)
    key, other = make_keys(folder / "keys"), make_keys(folder / "keys", "other", "ecdsa-p256")
    layout = "oci-layout:{}".format(folder / "layout")
    for out, tag, version in ((one, "one", 1), (two, "two", 2)):
        pushed(out, "{}:{}".format(layout, tag), key, version)
    return Shipped(one, two, key, other, layout)
