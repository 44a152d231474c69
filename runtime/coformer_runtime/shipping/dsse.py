"""Signatures: the DSSE envelope 1.0 (github.com/secure-systems-lab/dsse), with Ed25519 or ECDSA on P-256.

The primitives are those of the package `cryptography`; nothing of the sort is written here. ECDSA signatures are
DER over SHA-256. A key's id is the SHA-256 of its public half (SubjectPublicKeyInfo, DER): a hint for error
messages, never a reason to trust.
"""

import base64
import binascii
import hashlib
import warnings
from typing import Any, NamedTuple, Sequence, Tuple

from ..errors import CheckFailed, CoformerError
from ..manifest_fields import Fields, parse_json
from .store import canonical_json

PAYLOAD_TYPE = "application/vnd.in-toto+json"
INSTALL = "install it: pip install 'coformer-runtime[signing]'"


class Signature(NamedTuple):
    """One signature of an envelope."""

    keyid: str
    signature: bytes


class Envelope(NamedTuple):
    """A payload and who signed it."""

    payload: bytes
    signatures: Tuple[Signature, ...]


class PublicKey(NamedTuple):
    """A key that is trusted: `key` is one of cryptography's objects."""

    keyid: str
    key: Any


def pae(payload: bytes) -> bytes:
    """Return what is signed: the pre-authentication encoding of the payload and its type."""
    kind = PAYLOAD_TYPE.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def envelope_json(envelope: Envelope) -> bytes:
    """Return the envelope's bytes."""
    signatures = [{"keyid": each.keyid, "sig": _base64(each.signature)} for each in envelope.signatures]
    return canonical_json({"payloadType": PAYLOAD_TYPE, "payload": _base64(envelope.payload), "signatures": signatures})


def parse_envelope(content: bytes, where: str) -> Envelope:
    """Return the envelope that some bytes hold; nothing of it is verified yet."""
    mend = "push the release again with `coformerc push`"
    try:
        fields = Fields(parse_json(content.decode("utf-8"), where), where, "", mend)
        kind = fields.text("payloadType")
        if kind != PAYLOAD_TYPE:
            raise CoformerError("the envelope holds '{}', not '{}'".format(kind, PAYLOAD_TYPE), where, mend)
        payload = base64.b64decode(fields.text("payload"), validate=True)
        signatures = tuple(
            Signature(
                each.text("keyid") if each.has("keyid") else "", base64.b64decode(each.text("sig"), validate=True)
            )
            for each in fields.sections("signatures")
        )
    except (UnicodeDecodeError, binascii.Error) as error:
        raise CoformerError("the envelope is not readable ({})".format(error), where, mend) from error
    return Envelope(payload, signatures)


def sign(payload: bytes, private_key: Any) -> Envelope:
    """Return the payload with one signature."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey

    data = pae(payload)
    if isinstance(private_key, EllipticCurvePrivateKey):
        signature = private_key.sign(data, ECDSA(hashes.SHA256()))
    else:
        signature = private_key.sign(data)
    return Envelope(payload, (Signature(keyid_of(private_key.public_key()), signature),))


def verify(envelope: Envelope, keys: Sequence[PublicKey], where: str) -> str:
    """Return the id of a trusted key that signed the envelope; raise a CheckFailed if none did."""
    if not envelope.signatures:
        raise CheckFailed("the release is not signed", where, "sign it: coformerc push --key; or pass --allow-unsigned")
    for key in keys:
        if any(_fits(key.key, each.signature, pae(envelope.payload)) for each in envelope.signatures):
            return key.keyid
    trusted = [key.keyid for key in keys]
    if any(each.keyid in trusted for each in envelope.signatures):
        raise CheckFailed(
            "the signature does not fit the content: one of them was changed", where, "push the release again"
        )
    raise CheckFailed(
        "signed by the key {}, trusted {}".format(
            _short([each.keyid for each in envelope.signatures]),
            "are " + _short(trusted) if len(trusted) > 1 else "is " + _short(trusted),
        ),
        where,
        "give the signer's public key with --key, or sign with a trusted one",
    )


def _fits(key: Any, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

    try:
        if isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, data, ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def load_public_key(path: str) -> PublicKey:
    """Return the public key of a PEM file; raise a CoformerError if it holds none of a kind that is used here."""
    key = _load(path, False)
    return PublicKey(keyid_of(key), key)


def load_private_key(path: str) -> Any:
    """Return the private key of a PEM file; raise a CoformerError if it holds none of a kind that is used here."""
    return _load(path, True)


def _load(path: str, private: bool) -> Any:
    wanted = "private" if private else "public"
    mend = "name the {} of `coformerc keygen NAME`".format("NAME.key" if private else "NAME.pub")
    try:
        with warnings.catch_warnings():  # its last versions for an old Python say at every start that they are the last
            warnings.simplefilter("ignore")
            from cryptography.hazmat.backends import default_backend
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    except ImportError as error:
        raise CoformerError("signatures need the package cryptography", "key {}".format(path), INSTALL) from error
    kinds: Tuple[Any, ...] = (ed25519.Ed25519PublicKey, ec.EllipticCurvePublicKey)
    if private:
        kinds = (ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey)
    try:
        with open(path, "rb") as stream:
            content = stream.read(1 << 16)
        if private:
            key: Any = serialization.load_pem_private_key(content, None, default_backend())
        else:
            key = serialization.load_pem_public_key(content, default_backend())
    except OSError as error:
        raise CoformerError("it cannot be read ({})".format(error.strerror), "key {}".format(path), mend) from error
    except (ValueError, TypeError) as error:
        raise CoformerError("not a {} key in PEM".format(wanted), "key {}".format(path), mend) from error
    if not isinstance(key, kinds) or (hasattr(key, "curve") and key.curve.name != "secp256r1"):
        raise CoformerError("neither Ed25519 nor ECDSA on P-256", "key {}".format(path), mend)
    return key


def keyid_of(public_key: Any) -> str:
    """Return the SHA-256 of the key's SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _short(keyids: Sequence[str]) -> str:
    return ", ".join((keyid[:12] + "..." if keyid else "without id") for keyid in keyids) or "none"
