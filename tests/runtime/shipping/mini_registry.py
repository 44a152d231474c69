"""A registry inside the test's process, as large as the distribution specification demands, that can misbehave."""

import base64
import hashlib
import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, List, Optional
from urllib.parse import parse_qs, urlsplit

Fault = Callable[["Handler"], bool]
"""Called before a request is served; True: it has answered, or not, in its own way."""


class MiniRegistry:
    """A context manager; `host` is where it listens.

    Attributes:
        blobs, manifests: what it holds, by digest, and manifests also by tag.
        log: "METHOD /path" of all requests.
        fault: see `Fault`.
        ranges: whether it serves them.
        users: user → password; none: everybody may.
        tokens: whether it wants a bearer token.
    """

    def __init__(self, certificate: Optional[str] = None) -> None:
        """With a PEM file of key and certificate it speaks TLS."""
        self.blobs: Dict[str, bytes] = {}
        self.manifests: Dict[str, bytes] = {}
        self.uploads: Dict[str, bytes] = {}
        self.log: List[str] = []
        self.fault: Optional[Fault] = None
        self.ranges = True
        self.users: Dict[str, str] = {}
        self.tokens = False
        self.scopes: List[str] = []
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.registry = self  # type: ignore[attr-defined]
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = "127.0.0.1:{}".format(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "MiniRegistry":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, line) is not None for line in self.log)


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that goes away in the middle is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def registry(self) -> MiniRegistry:
        found: MiniRegistry = self.server.registry  # type: ignore[attr-defined]
        return found

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

    def _serve(self) -> None:
        registry, path = self.registry, urlsplit(self.path).path
        registry.log.append("{} {}".format(self.command, self.path))
        if registry.fault is not None and registry.fault(self):
            return
        if path == "/token":
            self._token()
        elif self._let_in():
            name = {"blobs": self._blob, "manifests": self._manifest}.get(path.split("/")[-2], self._upload)
            name(path)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def drop(self) -> None:
        """Close the connection without a word."""
        self.close_connection = True

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _token(self) -> None:
        if self._user() is None:
            self.answer(401, b"{}")
        else:
            self.registry.scopes += parse_qs(urlsplit(self.path).query)["scope"]
            self.answer(200, json.dumps({"token": "let-me-in"}).encode())

    def _user(self) -> Optional[str]:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        user, _, password = base64.b64decode(value).decode().partition(":") if kind == "Basic" else ("", "", "")
        return user if self.registry.users.get(user) == password else None

    def _let_in(self) -> bool:
        registry = self.registry
        if not registry.users:
            return True
        if registry.tokens:
            fine = self.headers.get("Authorization") == "Bearer let-me-in"
            challenge = 'Bearer realm="http://{}/token",service="mini",scope="ignored"'.format(registry.host)
        else:
            fine, challenge = self._user() is not None, 'Basic realm="mini"'
        if not fine:
            self.body()
            self.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', WWW_Authenticate=challenge)
        return fine

    def _blob(self, path: str) -> None:
        content = self.registry.blobs.get(path.split("/")[-1])
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if content is None:
            self.answer(404)
        elif wanted and self.registry.ranges:
            start = int(wanted.group(1))
            if start >= len(content):
                self.answer(416)
            else:
                served = "bytes {}-{}/{}".format(start, len(content) - 1, len(content))
                self.answer(206, content[start:], Content_Range=served)
        else:
            self.answer(200, content)

    def _manifest(self, path: str) -> None:
        key = path.split("/")[-1]
        if self.command == "PUT":
            content = self.body()
            digest = "sha256:" + hashlib.sha256(content).hexdigest()
            self.registry.manifests[key] = self.registry.manifests[digest] = content
            self.answer(201)
        elif key in self.registry.manifests:
            self.answer(200, self.registry.manifests[key])
        else:
            self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')

    def _upload(self, path: str) -> None:
        uploads, key = self.registry.uploads, path.split("/")[-1]
        if self.command == "POST":
            key = "upload-{}".format(len(self.registry.log))
            uploads[key] = b""
            self.answer(202, Location=path + key)
        elif key not in uploads:
            self.body()
            self.answer(404)
        elif self.command == "PUT":
            content = uploads.pop(key) + self.body()
            digest = parse_qs(urlsplit(self.path).query)["digest"][0]
            if digest != "sha256:" + hashlib.sha256(content).hexdigest():
                self.answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            else:
                self.registry.blobs[digest] = content
                self.answer(201)
        else:
            if self.command == "PATCH":
                uploads[key] += self.body()
            last = max(0, len(uploads[key]) - 1)
            self.answer(202 if self.command == "PATCH" else 204, Location=path, Range="0-{}".format(last))
