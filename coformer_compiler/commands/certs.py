"""`coformerc certs`: a certificate authority for one cluster, and a certificate for each node and client."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coformer_runtime.errors import CoformerError
from coformer_runtime.security import CA_FILE, CERTIFICATE_FILE, KEY_FILE, NODE_NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

CA_KEY_FILE = "ca.key"
CA_DAYS = 3650
SLACK = datetime.timedelta(days=1)  # boards without a battery-backed clock start in the past
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def make_certificates(out: Path, nodes: Sequence[str], clients: Sequence[str], days: int) -> dict[str, Any]:
    """Make what is missing in `out`: the authority, and a folder for each node and client.

    Args:
        out: the authority's folder. `ca.key` in it stays where it is made; a node or client gets its own folder.
        nodes: "DEVICE" or "DEVICE=HOST[,HOST…]": the names and addresses by which stock clients reach it.
        clients: names of clients; their certificates open no worker.
        days: how long the certificates hold.

    Returns:
        What was made: "authority" (whether it is new), "made" (folders), "until" (date).

    Raises:
        CoformerError: a name that is none, a folder that is there already, `cryptography` is missing.
    """
    if not nodes and not clients:
        raise CoformerError("nothing to make", "coformerc certs", "give --node DEVICE or --client NAME")
    if not 1 <= days <= CA_DAYS:
        raise CoformerError(f"--days is {days}", "coformerc certs", f"give 1 to {CA_DAYS}")
    wanted = [(*_split(node), True) for node in nodes] + [(*_split(client), False) for client in clients]
    for name, _, _ in wanted:
        if (out / name).exists():
            raise CoformerError("there is one already", f"folder {out / name}", "remove it to make a new one")
        if [other for other, _, _ in wanted].count(name) > 1:
            raise CoformerError(f"'{name}' is given twice", "coformerc certs", "give each name once")
    new = not (out / CA_KEY_FILE).exists()
    key, authority = _new_authority(out) if new else _read_authority(out)
    for name, hosts, is_node in wanted:
        _write_folder(out / name, _issue(key, authority, name, hosts, is_node, days))
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    return {
        "authority": "new" if new else "kept",
        "made": [str(out / name) for name, _, _ in wanted],
        "until": until.date().isoformat(),
    }


def certificates_text(made: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{folder}: copy it whole to its device, and start there with --tls" for folder in made["made"]]
    return "\n".join([*lines, f"authority {made['authority']}; keep {CA_KEY_FILE} to yourself; until {made['until']}"])


def _split(given: str) -> tuple[str, list[str]]:
    name, _, hosts = given.partition("=")
    if not _NAME.fullmatch(name) or name in (NODE_NAME, CA_FILE, CA_KEY_FILE):
        raise CoformerError(f"'{name}' is not a name", "coformerc certs", "use letters, digits, '-', '.' and '_'")
    return name, [host for host in hosts.split(",") if host]


def _new_authority(out: Path) -> tuple[EllipticCurvePrivateKey, Certificate]:
    x509, ec, hashes = _cryptography()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"CoFormer cluster {os.urandom(4).hex()}")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    authority = (
        _certificate(x509, name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    out.mkdir(parents=True, exist_ok=True)
    _write(out / CA_KEY_FILE, _key_pem(key), 0o600)
    _write(out / CA_FILE, _pem(authority), 0o644)
    return key, authority


def _read_authority(out: Path) -> tuple[EllipticCurvePrivateKey, Certificate]:
    x509, ec, _ = _cryptography()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key((out / CA_KEY_FILE).read_bytes(), None)
        authority = x509.load_pem_x509_certificate((out / CA_FILE).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise CoformerError(
            f"the authority cannot be read ({error})", f"folder {out}", "restore it, or start in another folder"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != authority.public_key():
        raise CoformerError(
            f"{CA_KEY_FILE} and {CA_FILE} do not belong together", f"folder {out}", "restore them together"
        )
    return key, authority


def _issue(
    authority_key: EllipticCurvePrivateKey,
    authority: Certificate,
    name: str,
    hosts: Sequence[str],
    is_node: bool,
    days: int,
) -> dict[str, tuple[bytes, int]]:
    """The files of one folder: file name → content and mode."""
    x509, ec, hashes = _cryptography()
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [x509.DNSName(name)]
    if is_node:
        uses.append(x509.ExtendedKeyUsageOID.SERVER_AUTH)
        names = [x509.DNSName(each) for each in (NODE_NAME, name, "localhost")]
        names += [_general_name(x509, host) for host in ("127.0.0.1", "::1", *hosts)]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        _certificate(x509, subject, authority.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return {
        CA_FILE: (_pem(authority), 0o644),
        CERTIFICATE_FILE: (_pem(certificate), 0o644),
        KEY_FILE: (_key_pem(key), 0o600),
    }


def _certificate(x509: Any, subject: Any, issuer: Any, public_key: Any, days: int) -> Any:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLACK)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general_name(x509: Any, host: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _NAME.fullmatch(host):
            raise CoformerError(
                f"'{host}' is neither an address nor a host name", "coformerc certs", "write DEVICE=HOST,HOST"
            ) from None
        return x509.DNSName(host)


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise CoformerError(
            f"the package 'cryptography' cannot be imported ({error})",
            "coformerc certs",
            "pip install 'coformer-compiler[signing]'",
        ) from error
    return x509, ec, hashes


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_folder(folder: Path, files: dict[str, tuple[bytes, int]]) -> None:
    """Write the files into a sibling, which takes the folder's name when they are all there."""
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, (data, mode) in files.items():
            _write(made / name, data, mode)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _write(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(data)
