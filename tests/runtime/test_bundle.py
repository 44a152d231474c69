"""A bundle is opened only when every byte of it is what the manifest says."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coformer_runtime.bundle import open_bundle, verify_files
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import FileSpec, load_manifest


def test_opens(bundle_dir: Path) -> None:
    bundle = open_bundle(str(bundle_dir), "cpu")
    assert bundle.manifest == load_manifest(str(bundle_dir))
    assert Path(bundle.file("golden/input.npy")).is_file()


def test_a_graph_with_weights_beside_it_is_told_from_one_with_others(bundle_dir: Path) -> None:
    bundle = open_bundle(str(bundle_dir))
    assert bundle.graph_sha256("member.onnx") == bundle.sha256("member.onnx")
    found = set()
    for weights in "ab":
        beside = FileSpec("member.onnx.data", weights * 64, 8)
        manifest = bundle.manifest._replace(files=(*bundle.manifest.files, beside))
        found.add(bundle._replace(manifest=manifest).graph_sha256("member.onnx"))
    assert len(found | {bundle.sha256("member.onnx")}) == 3 and {len(digest) for digest in found} == {64}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.data())
def test_any_flipped_bit_is_refused(bundle_dir: Path, data: st.DataObject) -> None:
    manifest = load_manifest(str(bundle_dir))
    spec = data.draw(st.sampled_from(manifest.files))
    path = bundle_dir / spec.path
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(damaged))
    try:
        with pytest.raises(CoformerError) as caught:
            open_bundle(str(bundle_dir))
    finally:
        path.write_bytes(whole)
    assert "'{}' has the SHA-256 ".format(spec.path) in caught.value.what
    assert caught.value.where == str(bundle_dir)
    assert caught.value.mend == "copy the bundle to the device again, or build it again"


def test_truncated_missing_unlisted(bundle_dir: Path) -> None:
    graph = bundle_dir / "member.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    with pytest.raises(CoformerError, match=r"'member.onnx' has [\d,]+ bytes, the manifest says [\d,]+"):
        open_bundle(str(bundle_dir))
    graph.unlink()
    with pytest.raises(CoformerError, match=r"'member\.onnx' is missing"):
        open_bundle(str(bundle_dir))
    graph.write_bytes(whole)
    (bundle_dir / "golden" / "extra.npy").write_bytes(b"")
    with pytest.raises(CoformerError, match=r"'golden/extra\.npy' is not listed in the manifest"):
        open_bundle(str(bundle_dir))


def test_links_are_refused(bundle_dir: Path, tmp_path: Path) -> None:
    graph = bundle_dir / "member.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(CoformerError, match=r"'member\.onnx' is a link or a special file"):
        verify_files(str(bundle_dir), load_manifest(str(bundle_dir)))


def test_another_target(bundle_dir: Path) -> None:
    with pytest.raises(CoformerError) as caught:
        open_bundle(str(bundle_dir), "jetson-nano")
    assert caught.value.what == "the bundle is for target 'cpu', not 'jetson-nano'"
    assert caught.value.mend == "ship the bundle that was built for 'jetson-nano', or leave --target away"
