"""Who may talk to a node: loopback by default, mutual TLS or a stated risk for the rest, and a token on top.

A cluster has a certificate authority of its own (`coformerc certs`). A node's certificate names the device and
`NODE_NAME`, a client's neither: it opens the central node's face but not the device edge.
"""

import hmac
import ipaddress
import os
import stat
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from .errors import CoformerError

NODE_NAME = "coformer-node"
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "cert.pem", "key.pem"
TOKEN_HEADER = "authorization"
LEAST_TOKEN = 16
_CERTS = "make one with 'coformerc certs' and copy it whole"


class Certificates(NamedTuple):
    """One node's or client's part of the cluster's certificates, PEM.

    Attributes:
        authority: whom it trusts.
        certificate: who it is.
        key: the private key to that.
    """

    authority: bytes
    certificate: bytes
    key: bytes


class Security(NamedTuple):
    """How a node or client is protected.

    Attributes:
        insecure: allow addresses other than loopback without TLS.
        certificates: for mutual TLS on every connection; None: no TLS.
        token: what clients and central nodes must present; "": nothing.
    """

    insecure: bool = False
    certificates: Optional[Certificates] = None
    token: str = ""

    def metadata(self) -> Sequence[Tuple[str, str]]:
        """Return the metadata that a call has to carry."""
        return ((TOKEN_HEADER, "Bearer " + self.token),) if self.token else ()


LOOPBACK = Security()


def parse_address(address: str, security: Security, where: str) -> Tuple[str, int]:
    """Return host and port of "HOST:PORT" ("[::1]:0" for IPv6).

    Raises:
        CoformerError: it is not an address, or it leaves this machine and is neither protected nor asked for.
    """
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise CoformerError("'{}' is not an address".format(address), where, "write HOST:PORT")
    if security.certificates is None and not security.insecure and not is_loopback(host):
        raise CoformerError(
            "'{}' can be reached from other machines, and the connection is neither encrypted nor authenticated".format(
                address
            ),
            where,
            "use a loopback address such as 127.0.0.1, or certificates (--tls DIR, from 'coformerc certs'), "
            "or pass --insecure on a network that you trust",
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_security(insecure: bool, tls_dir: Optional[str], token_file: Optional[str]) -> Security:
    """Return what the options of a command say.

    Args:
        insecure: --insecure.
        tls_dir: a folder with ca.pem, cert.pem and key.pem.
        token_file: a file with the token on its only line.

    Raises:
        CoformerError: a file is missing, or others may read a secret, or the options contradict each other.
    """
    if insecure and tls_dir is not None:
        raise CoformerError("--insecure and --tls contradict each other", "coformer-node", "give one of them")
    certificates = None
    if tls_dir is not None:
        certificates = Certificates(
            _read(os.path.join(tls_dir, CA_FILE), _CERTS),
            _read(os.path.join(tls_dir, CERTIFICATE_FILE), _CERTS),
            _read(os.path.join(tls_dir, KEY_FILE), _CERTS, secret=True),
        )
    token = ""
    if token_file is not None:
        data = _read(token_file, "write the token into it", secret=True)
        token = data.decode("ascii", "replace").strip()
        if len(token) < LEAST_TOKEN or not all("!" <= letter <= "~" for letter in token):
            raise CoformerError(
                "the token must be {} or more printable ASCII characters, without spaces".format(LEAST_TOKEN),
                token_file,
                "make one: head -c 24 /dev/urandom | base64",
            )
    return Security(insecure, certificates, token)


def _read(path: str, mend: str, secret: bool = False) -> bytes:
    try:
        mode = os.stat(path).st_mode
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise CoformerError("cannot be read ({})".format(error.strerror), path, mend) from error
    if secret and stat.S_IMODE(mode) & 0o077:
        raise CoformerError("other users may read or change it", path, "chmod 600 {}".format(path))
    return data


def open_channel(address: str, security: Security, options: List[Tuple[str, Any]], name: str = NODE_NAME) -> Any:
    """Return a gRPC channel to a node; under TLS it must prove that it is called `name`, whatever its address."""
    import grpc

    if security.certificates is None:
        return grpc.insecure_channel(address, options=options)
    authority, certificate, key = security.certificates
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.secure_channel(address, credentials, options=options + [("grpc.ssl_target_name_override", name)])


def add_port(server: Any, address: str, security: Security) -> int:
    """Let a gRPC server listen at an address and return its port; 0 or a RuntimeError where it cannot."""
    import grpc

    if security.certificates is None:
        return int(server.add_insecure_port(address))
    authority, certificate, key = security.certificates
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    return int(server.add_secure_port(address, credentials))


def token_checks(security: Security, exempt: str) -> Tuple[Any, ...]:
    """Return the interceptors of a server: none, or one that wants the token for all but the service `exempt`."""
    if not security.token:
        return ()
    import grpc

    wanted = security.metadata()[0][1].encode("ascii")

    def refuse(data: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
        raise AssertionError("abort returns")

    class TokenCheck(grpc.ServerInterceptor):  # type: ignore[misc]
        """Compares in constant time."""

        def intercept_service(self, continuation: Any, details: Any) -> Any:
            given = b""
            for key, value in details.invocation_metadata:
                if key == TOKEN_HEADER:
                    given = value if isinstance(value, bytes) else value.encode("utf-8")
            if hmac.compare_digest(given, wanted) or details.method.startswith("/{}/".format(exempt)):
                return continuation(details)
            return grpc.unary_unary_rpc_method_handler(refuse)

    return (TokenCheck(),)


def is_node(context: Any) -> bool:
    """Whether the caller is a node of the cluster; without TLS nobody can tell, and everybody passes."""
    identity = context.auth_context()
    if identity.get("transport_security_type", [b""])[0] != b"ssl":
        return True
    return NODE_NAME.encode("ascii") in identity.get("x509_subject_alternative_name", [])
