"""`coformerc keygen`: the pair of keys that releases are signed and believed with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from coformer_runtime.errors import CoformerError
from coformer_runtime.shipping.dsse import keyid_of

ALGORITHMS = ("ed25519", "ecdsa-p256")


def generate_keys(stem: Path, algorithm: str = ALGORITHMS[0]) -> dict[str, Any]:
    """Write `STEM.key` (private, readable by the owner alone) and `STEM.pub`; describe them as JSON values.

    Raises:
        CoformerError: one of the files exists, or cryptography is not installed.
    """
    private, public = stem.with_name(stem.name + ".key"), stem.with_name(stem.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise CoformerError("it exists", f"key {path}", "choose another name; keys are never overwritten")
    try:
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
    except ImportError as error:
        mend = "install it: pip install 'coformer-compiler[signing]'"
        raise CoformerError("signatures need the package cryptography", f"key {private}", mend) from error
    key = ec.generate_private_key(ec.SECP256R1()) if algorithm == "ecdsa-p256" else ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    opened = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.write(secret)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return {
        "private": str(private),
        "public": str(public),
        "keyid": keyid_of(key.public_key()),
        "algorithm": algorithm,
    }


def keys_text(found: dict[str, Any]) -> str:
    """What was made, and what to do with it."""
    return (
        f"{found['private']}: sign with it, and keep it to yourself\n"
        f"{found['public']}: give it to the boards, as ROOT/keys/*.pub\n"
        f"id {found['keyid'][:12]}..., {found['algorithm']}"
    )
