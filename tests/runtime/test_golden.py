"""Golden vectors that are not what the manifest says are refused by name."""

from pathlib import Path

import numpy as np
import pytest

from coformer_runtime.bundle import open_bundle
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.golden import check_bundle
from tests.runtime import bundles


def bundle_with(directory: Path, path: str, content: bytes) -> str:
    files = bundles.member_files(1)
    files[path] = content
    return bundles.write_bundle(directory, bundles.member_manifest(1, files), files)


def test_fine(bundle_dir: Path) -> None:
    checked = check_bundle(open_bundle(str(bundle_dir)))
    assert (checked.files, checked.cases, checked.aggregators) == (11, 3, 7)
    assert 0 <= checked.worst <= checked.tolerance == 1e-4


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("golden/output.npy", b"junk", "'golden/output.npy' is not readable as an array"),
        ("golden/output.npy", bundles.npy(np.zeros((2, 3), np.float32)), "3 golden inputs and 2 outputs"),
        ("golden/output.npy", bundles.npy(np.zeros((3, 3))), "'golden/output.npy' holds float64 of shape"),
        ("golden/input.npy", bundles.npy(np.zeros((3, 1, 4, 5), np.uint8)), "'golden/input.npy' holds uint8 of shape"),
        ("golden/input.npy", bundles.npy(np.array([{}], object)), "'golden/input.npy' is not readable as an array"),
    ],
)
def test_refused(tmp_path: Path, path: str, content: bytes, message: str) -> None:
    directory = bundle_with(tmp_path, path, content)
    with pytest.raises(CoformerError) as caught:
        check_bundle(open_bundle(directory))
    assert caught.value.what.startswith(message)
    assert caught.value.where == directory


def test_nan_is_a_difference(tmp_path: Path) -> None:
    golden = bundles.features_of(1, bundles.golden_pixels())
    golden[1, 2] = np.nan
    directory = bundle_with(tmp_path, "golden/output.npy", bundles.npy(golden))
    with pytest.raises(CheckFailed, match="golden case 1 differs by nan, the tolerance is 0"):
        check_bundle(open_bundle(directory))
