"""Requests to one registry: redirects, logging in, and another try where that may help."""

import http.client
import json
import socket
import ssl
import time
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, NoReturn, Optional
from urllib.parse import urlencode, urljoin, urlsplit

from .. import __version__
from ..errors import CoformerError
from ..security import is_loopback
from .login import HOW, Challenge, Credentials, parse_challenges
from .store import BROKEN, read_within

MAX_REPLY_BYTES = 4 << 20
AGAIN = (408, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_MOST_PAUSE_S = 30.0


class Unavailable(CoformerError):
    """The registry did not answer, or not now: another try may succeed."""


class HttpOptions(NamedTuple):
    """How to talk to a registry.

    Attributes:
        plain_http: no TLS, also beyond loopback.
        ca_file: certificates to trust in place of the system's.
        timeout_s: for connecting, and for each wait for data.
        tries: requests before giving up.
        pause_s: before the second; doubled for each after it.
        sleep: what waits.
    """

    plain_http: bool = False
    ca_file: Optional[str] = None
    timeout_s: float = 30.0
    tries: int = 5
    pause_s: float = 0.5
    sleep: Callable[[float], None] = time.sleep


class Reply(NamedTuple):
    """A whole response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Body(NamedTuple):
    """What a request sends: `size_bytes` from `start` of something that can seek."""

    content: Any
    start: int
    size_bytes: int


class _Section:
    """A part of a file, as http.client reads it."""

    def __init__(self, body: Body) -> None:
        body.content.seek(body.start)
        self._content, self._left = body.content, body.size_bytes

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._content.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


class Http:
    """Requests to one registry.

    Args:
        host: HOST or HOST:PORT.
        options: see there.
        credentials: to log in with, where the registry asks.
        scope: what a token has to allow, such as "repository:NAME:pull,push".
    """

    def __init__(self, host: str, options: HttpOptions, credentials: Optional[Credentials], scope: str) -> None:
        self.where = "registry {}".format(host)
        self._host, self._options, self._credentials, self._scope = host, options, credentials, scope
        self._loopback = is_loopback(_bare_host(host))
        plain = options.plain_http or (self._loopback and options.ca_file is None)
        self.base = "{}://{}".format("http" if plain else "https", host)
        self._tls = None if plain else self._context()
        self._authorization = ""

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._options.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise CoformerError(
                "the certificates cannot be read ({})".format(error), str(self._options.ca_file), "name a PEM file"
            ) from error

    def ask(
        self,
        method: str,
        url: str,
        wanted: Iterable[int],
        headers: Optional[Dict[str, str]] = None,
        body: Optional[Body] = None,
        tries: Optional[int] = None,
    ) -> Reply:
        """Return the whole response; raise a CoformerError if its status is not among `wanted`."""
        for attempt in self._attempts(url, tries):
            try:
                response = self._send(method, url, headers or {}, body)
                with response:
                    content = read_within(response, MAX_REPLY_BYTES)
            except BROKEN as error:
                attempt.failed(error)
                continue
            if len(content) > MAX_REPLY_BYTES:
                raise CoformerError(
                    "a response of more than {:,} bytes".format(MAX_REPLY_BYTES), self.where, "push the release again"
                )
            reply = Reply(response.status, response.headers, content)
            if reply.status in wanted:
                return reply
            if reply.status in AGAIN:
                attempt.refused(reply)
                continue
            self.refuse(reply, url)
        raise AssertionError("the last attempt raises")

    def stream(self, url: str, wanted: Iterable[int], headers: Dict[str, str]) -> http.client.HTTPResponse:
        """Return a response whose body is still to be read; raise a CoformerError if its status is not wanted."""
        for attempt in self._attempts(url, None):
            try:
                response = self._send("GET", url, headers, None)
                if response.status in wanted:
                    return response
                with response:
                    reply = Reply(response.status, response.headers, read_within(response, MAX_REPLY_BYTES))
            except BROKEN as error:
                attempt.failed(error)
                continue
            if reply.status not in AGAIN:
                self.refuse(reply, url)
            attempt.refused(reply)
        raise AssertionError("the last attempt raises")

    def absolute(self, location: str) -> str:
        """Return the URL that a Location header names."""
        return urljoin(self.base, location)

    def _attempts(self, url: str, tries: Optional[int]) -> "Iterable[_Attempt]":
        count = tries or self._options.tries
        return (_Attempt(self, url, number, number + 1 == count) for number in range(count))

    def pause(self, number: int, wanted_s: float = 0.0) -> None:
        """Wait before another try; `number` counts from 0."""
        self._options.sleep(min(_MOST_PAUSE_S, max(wanted_s, self._options.pause_s * 2**number)))

    def _send(self, method: str, url: str, headers: Dict[str, str], body: Optional[Body]) -> http.client.HTTPResponse:
        """Return the response's head, after redirects and, where asked for, after logging in."""
        logged_in = False
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._once(method, url, headers, body)
            if response.status == 401 and not logged_in and self._is_registry(url):
                with response:
                    read_within(response, MAX_REPLY_BYTES)
                self._log_in(parse_challenges(response.headers.get_all("WWW-Authenticate") or []))
                logged_in = True
                continue
            if method not in ("GET", "HEAD") or response.status not in _REDIRECTS:
                return response
            with response:
                url = urljoin(url, response.headers.get("Location", ""))
        raise CoformerError("more than {} redirects".format(_MOST_REDIRECTS), self.where, "check the registry")

    def _once(self, method: str, url: str, headers: Dict[str, str], body: Optional[Body]) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CoformerError("the registry names '{}'".format(_printable(url)), self.where, "check the registry")
        if parts.scheme == "http" and self._tls is not None:
            raise CoformerError(
                "the registry leads to '{}', without encryption".format(_printable(url)),
                self.where,
                "check the registry, or pass --plain-http on a network that you trust",
            )
        sent = {"User-Agent": "coformer/{}".format(__version__), "Accept-Encoding": "identity", "Connection": "close"}
        sent.update(headers)
        if self._authorization and self._is_registry(url):
            sent["Authorization"] = self._authorization
        if body is not None:
            sent["Content-Length"] = str(body.size_bytes)
        elif method in ("POST", "PUT", "PATCH"):
            sent["Content-Length"] = "0"
        timeout_s = self._options.timeout_s
        connection = (
            http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=self._tls or None)
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        )
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        try:
            connection.request(method, target, body=None if body is None else _Section(body), headers=sent)
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        if not response.will_close:
            connection.sock.close()  # the response holds on to the descriptor until it is closed
        return response

    def _is_registry(self, url: str) -> bool:
        return url.startswith(self.base + "/")

    def _log_in(self, challenges: List[Challenge]) -> None:
        for challenge in challenges:
            if challenge.scheme == "bearer":
                self._authorization = "Bearer " + self._token(challenge)
                return
            if self._credentials is not None:
                self._refuse_in_the_clear(self.base)
                self._authorization = self._credentials.basic()
                return
        raise CoformerError("it wants a user and a password", self.where, HOW)

    def _token(self, challenge: Challenge) -> str:
        """Return a token by the flow of the distribution project's "Token Authentication"."""
        realm = challenge.parameters.get("realm", "")
        query = {"service": challenge.parameters.get("service", ""), "scope": self._scope}
        headers = {}
        if self._credentials is not None:
            self._refuse_in_the_clear(realm)
            headers["Authorization"] = self._credentials.basic()
        with self._once("GET", "{}?{}".format(realm, urlencode(query)), headers, None) as response:
            content = read_within(response, MAX_REPLY_BYTES)
        if response.status in AGAIN:
            raise http.client.HTTPException("the token service answers {}".format(response.status))
        try:
            document = json.loads(content.decode("utf-8")) if response.status == 200 else {}
            return str(document.get("token") or document["access_token"])
        except (ValueError, KeyError, AttributeError):
            refused = "refuses the login" if self._credentials is not None else "wants a user and a password"
            raise CoformerError("its token service {}".format(refused), self.where, HOW) from None

    def _refuse_in_the_clear(self, url: str) -> None:
        if urlsplit(url).scheme != "https" and not is_loopback(urlsplit(url).hostname or ""):
            raise CoformerError("the password would travel without encryption", self.where, "use a registry with TLS")

    def unreachable(self, error: Exception) -> Unavailable:
        """Return what to raise when a connection failed for the last time."""
        if isinstance(error, ssl.SSLError):
            mend = "give the registry's certificate authority with --ca, or --plain-http if it speaks no TLS"
        else:
            mend = "check address and network, then run the same command again"
        return Unavailable("it does not answer ({})".format(_reason(error)), self.where, mend)

    def refuse(self, reply: Reply, url: str) -> NoReturn:
        """Raise what a status means that was not wanted."""
        path = urlsplit(url).path
        detail = _error_detail(reply.body)
        if reply.status in (401, 403):
            raise CoformerError(
                "it refuses {}{}".format(path, detail), self.where, "check the rights of the user: " + HOW
            )
        if reply.status == 404:
            raise CoformerError("it has no {}{}".format(path, detail), self.where, "check the name and the tag")
        if reply.status == 429:
            raise Unavailable("too many requests{}".format(detail), self.where, "wait, then run the same command again")
        what = "it answers {} for {}{}".format(reply.status, path, detail)
        if reply.status in AGAIN:
            raise Unavailable(what, self.where, "wait, then run the same command again")
        raise CoformerError(what, self.where, "check that it is an OCI registry")


class _Attempt:
    """One of several tries; says so when it was the last."""

    def __init__(self, http: Http, url: str, number: int, last: bool) -> None:
        self._http, self._url, self._number, self._last = http, url, number, last

    def failed(self, error: Exception) -> None:
        if self._last or isinstance(error, ssl.SSLError):
            raise self._http.unreachable(error) from error
        self._http.pause(self._number)

    def refused(self, reply: Reply) -> None:
        if self._last:
            self._http.refuse(reply, self._url)
        wanted = reply.headers.get("Retry-After", "")
        self._http.pause(self._number, float(wanted) if wanted.isdigit() else 0.0)


def _bare_host(host: str) -> str:
    return urlsplit("//" + host).hostname or ""


def _reason(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _printable(str(error)) or type(error).__name__


def _error_detail(body: bytes) -> str:
    """The specification's error code and message, from a body that may be anything."""
    try:
        first = json.loads(body.decode("utf-8"))["errors"][0]
        return " ({})".format(_printable("{}: {}".format(first["code"], first.get("message", ""))).strip(": "))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""


def _printable(text: str) -> str:
    """What a stranger sent, short and without control characters."""
    return "".join(each if each.isprintable() else "?" for each in text)[:200]
