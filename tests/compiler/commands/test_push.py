"""`coformerc push` and `coformerc keygen`: what they print, and what is said of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coformer_compiler.commands.push import PushOptions, push_build
from coformer_runtime.errors import CoformerError
from tests.end_to_end.tiny import coformerc
from tests.runtime.shipping.releases import make_build


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "flowers")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    made = coformerc("keygen", tmp_path / "me")
    assert made.code == 0
    assert made.out.startswith(f"{tmp_path / 'me.key'}: sign with it") and "ed25519" in made.out
    return tmp_path / "me.key"


def test_push(build: Path, key: Path, tmp_path: Path) -> None:
    reference = f"oci-layout:{tmp_path / 'usb'}:stable"
    made = coformerc("push", build, reference, "--key", key, "--json")
    assert made.code == 0, made.err
    found = json.loads(made.out)
    assert found["name"] == "flowers" and found["pinned"].startswith(reference + "@sha256:")
    assert found["version"] > 20260101000000  # the time
    assert found["devices"] == {"attic": "cpu", "desk": "cpu", "hall": "cpu"}
    assert made.err.startswith("attic: 12 files, ")
    again = coformerc("push", build, reference, "--key", key)
    assert f"signed by {found['signed_by'][:12]}..." in again.out and " were there" in again.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("docker://r/x", "--unsigned"),
            "reference 'docker://r/x': unknown scheme 'docker'; write oci://HOST/NAME:TAG",
        ),
        (("oci://127.0.0.1:1/x", "--unsigned"), "registry 127.0.0.1:1: it does not answer (Connection refused); check"),
        (("oci-layout:usb",), "coformerc push: nothing to sign with; give --key FILE (`coformerc keygen` makes one)"),
        (("oci-layout:usb", "--unsigned", "--days", "0"), "coformerc push: --days and --version begin at 1; give a"),
        (("oci-layout:usb", "--unsigned", "--name", "a b"), "'predicate.name' must be a name of letters"),
        (("oci-layout:usb@sha256:" + "0" * 64, "--unsigned"), "a digest cannot be pushed to; leave the @sha256: away"),
        (("oci-layout:flowers", "--unsigned"), "folder flowers: it holds something else; name a new or empty folder"),
        (("oci://r.example/x", "--unsigned", "--ca", "none.pem"), "none.pem: the certificates cannot be read"),
    ],
)
def test_mistakes(
    build: Path, words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("coformer_runtime.shipping.http.Http.pause", lambda *words: None)
    made = coformerc("push", build, *words)
    assert made.code == 2 and made.out == ""
    assert told in made.err.splitlines()[-1]


def test_a_damaged_build_is_not_pushed(build: Path, tmp_path: Path) -> None:
    reference, options = f"oci-layout:{tmp_path / 'usb'}", PushOptions(unsigned=True)
    path = build / "bundles" / "desk" / "manifest.json"
    path.write_text(path.read_text().replace('"cpu"', '"gpu"'))
    with pytest.raises(CoformerError, match="it is not the manifest that the build wrote; run `coformerc validate`"):
        push_build(build, reference, options, print)
    (build / "bundles" / "desk" / "member.onnx").write_bytes(b"")
    with pytest.raises(CoformerError, match=r"'member.onnx' has 0 bytes, the manifest says"):
        push_build(build, reference, options, print)
    assert not (tmp_path / "usb").exists()
    with pytest.raises(CoformerError, match="there is no such folder"):
        push_build(tmp_path / "none", reference, options, print)


def test_no_key_is_overwritten(key: Path) -> None:
    told = coformerc("keygen", key.with_suffix(""))
    assert (
        told.code == 2 and told.err == f"error: key {key}: it exists; choose another name; keys are never overwritten\n"
    )
