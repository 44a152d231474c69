"""From a reference to a tested release: what is taken, what is refused and with which words."""

import json
import shutil
import time
from pathlib import Path

import pytest

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.shipping.activate import activate
from coformer_runtime.shipping.root import NEXT, Root
from tests.runtime.shipping.conftest import Shipped
from tests.runtime.shipping.releases import NOW, assert_valid, make_keys, node, pulled, pushed


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path / "board"))


def test_pull_and_pull_again(shipped: Shipped, root: Root) -> None:
    first = pulled(shipped.layout + ":one", root, shipped.key)
    assert not first.present and first.reused_bytes == 0
    assert first.record.name == "flowers" and first.record.version == 1 and first.record.device == "hall"
    assert root.link(NEXT) == first.record.id and root.served() is None
    again = pulled(shipped.layout + ":one", root, shipped.key)
    assert again.present and again.travelled_bytes == 0 and again.record == first.record
    activate(root)
    assert_valid(root, 1)


def test_a_file_that_is_here_does_not_travel_again(shipped: Shipped, root: Root) -> None:
    first = pulled(shipped.layout + ":one", root, shipped.key)
    second = pulled(shipped.layout + ":two", root, shipped.key)  # the same graphs, another build
    assert second.travelled_bytes == 0 and second.reused_bytes == first.travelled_bytes > 0


def refused(shipped: Shipped, root: Root, tag: str = "one", key: "Path | None" = None, **more: object) -> CoformerError:
    with pytest.raises(CoformerError) as caught:
        pulled("{}:{}".format(shipped.layout, tag), root, key or shipped.key, **more)
    assert root.releases() == [] or root.served() is not None
    return caught.value


def test_no_such_tag(shipped: Shipped, root: Root) -> None:
    assert refused(shipped, root, "three").what == "there is no 'three' (there: one, two)"


def test_a_key_that_is_not_trusted(shipped: Shipped, root: Root) -> None:
    error = refused(shipped, root, key=shipped.other_key)
    assert isinstance(error, CheckFailed)
    assert error.what.startswith("signed by the key ") and ", trusted is " in error.what
    assert error.mend == "give the signer's public key with --key, or sign with a trusted one"


def test_no_key_at_all(shipped: Shipped, root: Root) -> None:
    with pytest.raises(CoformerError, match="no key is trusted; name one with --key, or pass --allow-unsigned"):
        pulled(shipped.layout + ":one", root, None)


def test_unsigned(shipped: Shipped, root: Root, tmp_path: Path) -> None:
    reference = "oci-layout:{}:plain".format(tmp_path / "usb")
    pushed(shipped.one, reference, None, 1)
    with pytest.raises(CheckFailed, match="the release is not signed; sign it: coformerc push --key; or pass"):
        pulled(reference, root, shipped.key)
    assert pulled(reference, root, shipped.key, allow_unsigned=True).record.signed_by is None


def test_a_wrong_signature_is_refused_even_where_none_is_asked_for(shipped: Shipped, root: Root) -> None:
    error = refused(shipped, root, key=shipped.other_key, allow_unsigned=True)
    assert error.what.startswith("signed by the key ")


def test_expired_and_a_clock_that_was_reset(shipped: Shipped, root: Root) -> None:
    error = refused(shipped, root, now=NOW + 366 * 86400)
    assert error.what == "version 1 expired at 2028-01-15T08:00:00Z, it is 2028-01-16T08:00:00Z"
    error = refused(shipped, root, now=0.0)
    assert error.what == "version 1 was made at 2027-01-15T08:00:00Z, the clock says 1970-01-01T00:00:00Z"
    assert error.mend == "set the board's clock"


def test_too_old(shipped: Shipped, root: Root) -> None:
    pulled(shipped.layout + ":two", root, shipped.key)
    activate(root)
    error = refused(shipped, root)
    assert error.what == "version 1 is older than 2, which is served"
    assert error.mend == "pass --allow-downgrade if that is meant"
    pulled(shipped.layout + ":one", root, shipped.key, allow_downgrade=True)
    activate(root)
    assert_valid(root, 1)


def test_the_same_version_with_other_content(shipped: Shipped, root: Root, tmp_path: Path) -> None:
    pulled(shipped.layout + ":one", root, shipped.key)
    activate(root)
    reference = "oci-layout:{}".format(tmp_path / "usb")
    pushed(shipped.two, reference, shipped.key, 1)
    with pytest.raises(CheckFailed, match="version 1 has another content than the version 1 that is served"):
        pulled(reference, root, shipped.key)


def test_wrong_device_and_target(shipped: Shipped, root: Root) -> None:
    error = refused(shipped, root, device="porch")
    assert error.what == "it has no bundle for 'porch' (devices: attic, desk, hall)"
    error = refused(shipped, root, target="jetson-nano")
    assert error.what == "its bundle for 'hall' is for target 'cpu', not 'jetson-nano'"
    pulled(shipped.layout + ":one", root, shipped.key)
    activate(root)
    assert refused(shipped, root, "two", device="desk").what == "it serves device 'hall', not 'desk'"


def test_another_release_line(shipped: Shipped, root: Root, tmp_path: Path) -> None:
    from coformer_compiler.commands.push import PushOptions, push_build

    pulled(shipped.layout + ":one", root, shipped.key)
    activate(root)
    reference = "oci-layout:{}".format(tmp_path / "usb")
    push_build(shipped.two, reference, PushOptions("doors", 9, key=shipped.key), lambda text: None, NOW)
    with pytest.raises(CoformerError, match="it serves release 'flowers', not 'doors'"):
        pulled(reference, root, shipped.key)


def test_too_large_and_no_room(shipped: Shipped, root: Root) -> None:
    assert refused(shipped, root, max_bytes=100).what.endswith(" bytes, at most 100 are taken")
    error = refused(shipped, root, reserve_bytes=1 << 60)
    assert " bytes are free, 1,152,921,504,60" in error.what and error.what.endswith(" are needed")
    assert error.mend.startswith("make room on the disk: `coformer-node release collect`")


def test_a_layout_that_rotted(shipped: Shipped, root: Root, tmp_path: Path) -> None:
    usb = tmp_path / "usb"
    pushed(shipped.one, "oci-layout:{}".format(usb), shipped.key, 1)
    manifest = json.loads((shipped.one / "bundles" / "hall" / "manifest.json").read_text())
    blob = usb / "blobs" / "sha256" / manifest["files"]["member.onnx"]["sha256"]
    whole = blob.read_bytes()
    for damaged, words in ((bytes([whole[0] ^ 1]) + whole[1:], "came with the SHA-256"), (whole[:-3], "breaks off at")):
        blob.write_bytes(damaged)
        with pytest.raises(CoformerError, match="'member.onnx' " + words):
            pulled("oci-layout:{}".format(usb), root, shipped.key)
        assert root.releases() == []
    blob.write_bytes(whole)
    pulled("oci-layout:{}".format(usb), root, shipped.key)


def test_any_changed_document_is_refused(shipped: Shipped, root: Root, tmp_path: Path) -> None:
    usb = tmp_path / "usb"
    pushed(shipped.one, "oci-layout:{}".format(usb), shipped.key, 1)
    documents = [path for path in (usb / "blobs" / "sha256").iterdir() if path.read_bytes().startswith(b'{"')]
    assert len(documents) >= 6  # index, statement, envelope, three image manifests
    taken = 0
    for number, path in enumerate(documents):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"a", b"b", 1))
        board = Root(str(tmp_path / "board{}".format(number)))
        try:
            pulled("oci-layout:{}".format(usb), board, shipped.key)
            taken += 1
        except CoformerError:
            assert board.releases() == []
        finally:
            path.write_bytes(content)
    assert taken == 2  # nobody reads the other two devices' image manifests


def test_a_bundle_that_does_not_work_here(shipped: Shipped, root: Root, tmp_path: Path) -> None:
    from coformer_compiler.artifact import file_digest
    from tests.runtime import bundles
    from tests.runtime.shipping.releases import make_build

    out = make_build(tmp_path / "wrong")
    weight = bundles.member_weight(1)
    weight[0] += 1
    shutil.rmtree(out / "bundles" / "hall")
    bundles.make_bundle(out / "bundles" / "hall", 1, graph=bundles.member_graph(1, weight=weight))
    index = json.loads((out / "build.json").read_text())
    index["manifests"]["hall"] = file_digest(out / "bundles" / "hall" / "manifest.json")
    (out / "build.json").write_text(json.dumps(index))
    pushed(out, "oci-layout:{}".format(tmp_path / "usb"), shipped.key, 1)
    with pytest.raises(CheckFailed) as caught:
        pulled("oci-layout:{}".format(tmp_path / "usb"), root, shipped.key)
    assert caught.value.what.startswith("it failed: error: ") and "golden case 0 differs by" in caught.value.what
    assert root.releases() == [] and root.link(NEXT) is None


def test_somebody_else_is_at_it(shipped: Shipped, root: Root) -> None:
    with root.locked(), pytest.raises(CoformerError, match="another command is at work here; wait until it ends"):
        pulled(shipped.layout + ":one", root, shipped.key)


def test_the_commands(shipped: Shipped, tmp_path: Path) -> None:
    reference, board = "oci-layout:{}".format(tmp_path / "usb"), tmp_path / "board"
    key = make_keys(tmp_path)
    pushed(shipped.one, reference, key, 1, now=time.time())
    (board / "keys").mkdir(parents=True)
    shutil.copy(key.with_suffix(".pub"), board / "keys")
    done = node("pull", reference, "--device", "hall", "--root", board, "--check", "true", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["served"] is True
    listed = node("release", "list", "--root", board)
    assert "flowers for 'hall' (cpu), signed by " in listed.stdout and "[current, next]" in listed.stdout
    assert node("validate", board / "current").returncode == 0
    failed = node("pull", "docker://x", "--device", "hall", "--root", board)
    assert failed.returncode == 2 and failed.stderr.startswith("error: reference 'docker://x': unknown scheme 'docker'")
