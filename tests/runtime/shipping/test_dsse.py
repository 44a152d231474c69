"""Envelopes and keys: what is signed, who is believed, and what is said otherwise."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.shipping import dsse
from coformer_runtime.shipping.dsse import Envelope, envelope_json, load_private_key, load_public_key, parse_envelope
from tests.runtime.shipping.releases import make_keys


@pytest.fixture(scope="module", params=["ed25519", "ecdsa-p256"])
def key(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys"), "k", request.param)


def test_what_is_signed() -> None:
    # the example of the specification's protocol.md, with our payload type
    assert dsse.pae(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"


def test_round_trip(key: Path) -> None:
    envelope = dsse.sign(b'{"a":1}', load_private_key(str(key)))
    again = parse_envelope(envelope_json(envelope), "here")
    assert again == envelope
    public = load_public_key(str(key.with_suffix(".pub")))
    assert dsse.verify(again, [public], "here") == public.keyid == envelope.signatures[0].keyid
    assert key.stat().st_mode & 0o777 == 0o600


@given(st.data())
def test_any_change_is_noticed(key: Path, data: st.DataObject) -> None:
    envelope = dsse.sign(b'{"a":1}', load_private_key(str(key)))
    public = load_public_key(str(key.with_suffix(".pub")))
    signature = envelope.signatures[0]
    changed = bytearray(envelope.payload if data.draw(st.booleans()) else signature.signature)
    which = "payload" if bytes(changed) == envelope.payload else "signature"
    changed[data.draw(st.integers(0, 1000)) % len(changed)] ^= 1 << data.draw(st.integers(0, 7))
    if which == "payload":
        spoilt = envelope._replace(payload=bytes(changed))
    else:
        spoilt = envelope._replace(signatures=(signature._replace(signature=bytes(changed)),))
    with pytest.raises(CheckFailed, match="the signature does not fit the content: one of them was changed"):
        dsse.verify(spoilt, [public], "here")


def test_the_key_id_is_no_reason_to_trust(key: Path, tmp_path: Path) -> None:
    public = load_public_key(str(key.with_suffix(".pub")))
    forged = dsse.sign(b"{}", load_private_key(str(make_keys(tmp_path))))
    lying = forged._replace(signatures=(forged.signatures[0]._replace(keyid=public.keyid),))
    with pytest.raises(CheckFailed):
        dsse.verify(lying, [public], "here")
    nameless = dsse.sign(b"{}", load_private_key(str(key)))
    nameless = nameless._replace(signatures=(nameless.signatures[0]._replace(keyid=""),))
    assert dsse.verify(nameless, [public], "here") == public.keyid


def test_unreadable_envelopes() -> None:
    good = json.loads(envelope_json(Envelope(b"{}", ())))
    for change, words in (
        ({"payloadType": "text/plain"}, "the envelope holds 'text/plain'"),
        ({"payload": "%%%"}, "the envelope is not readable"),
        ({"signatures": [{}]}, r"'signatures\[0\].sig' is missing"),
        ({"signatures": [{"sig": "a"}]}, "the envelope is not readable"),
    ):
        with pytest.raises(CoformerError, match=words):
            parse_envelope(json.dumps({**good, **change}).encode(), "here")
    extra = {**good, "more": 1, "payload": base64.b64encode(b"x").decode()}
    assert parse_envelope(json.dumps(extra).encode(), "here").payload == b"x"  # the specification asks for it


def test_unreadable_keys(key: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    with pytest.raises(CoformerError, match=r"it cannot be read \(No such file.*`coformerc keygen NAME`"):
        load_public_key(str(tmp_path / "none.pub"))
    with pytest.raises(CoformerError, match=r"not a public key in PEM; name the NAME\.pub of"):
        load_public_key(str(key))
    with pytest.raises(CoformerError, match=r"not a private key in PEM; name the NAME\.key of"):
        load_private_key(str(key.with_suffix(".pub")))
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    (tmp_path / "p384.pub").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(CoformerError, match="neither Ed25519 nor ECDSA on P-256"):
        load_public_key(str(tmp_path / "p384.pub"))


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    make_keys(tmp_path)
    with pytest.raises(CoformerError, match="it exists; choose another name; keys are never overwritten"):
        make_keys(tmp_path)


def test_without_cryptography(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(
        CoformerError, match=r"need the package cryptography; install it: pip install 'coformer-runtime\["
    ):
        load_public_key(str(key.with_suffix(".pub")))
