"""OpenTelemetry traces of a central node's requests: OTLP over HTTP as JSON, without OpenTelemetry's library.

A request's trace goes on where the caller sends W3C `traceparent`, and begins here otherwise. What the members did is
told by the central node: their replies hold how long their engines ran, and clocks of other boards need not agree with
its own.
"""

import collections
import json
import random
import re
import threading
import time
from typing import Any, Deque, Dict, Iterable, List, NamedTuple, Optional, Tuple
from urllib.request import ProxyHandler, Request, build_opener

from .answer import Answer
from .errors import CoformerError
from .failures import log

HEADER = "traceparent"
MAX_WAITING = 2048  # spans; what a collector that is away does not take is dropped
PERIOD_S = 1.0
TIMEOUT_S = 5.0
SERVER, INTERNAL, CLIENT = 2, 1, 3  # OTLP's SpanKind
ERROR = 2  # OTLP's StatusCode
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Parent(NamedTuple):
    """Where a request's trace comes from: 32 and 16 hex digits, and whether it is recorded."""

    trace: str
    span: str
    sampled: bool


class Span(NamedTuple):
    """One piece of a request: start and end in seconds since 1970."""

    name: str
    trace: str
    span: str
    parent: str
    kind: int
    start: float
    end: float
    attributes: Dict[str, Any]
    error: str = ""


def parent_of(metadata: Iterable[Tuple[str, Any]]) -> Optional[Parent]:
    """Return what a call's metadata says in `traceparent`, None where it says nothing or nonsense."""
    for key, value in metadata:
        found = _TRACEPARENT.fullmatch(value) if key == HEADER and isinstance(value, str) else None
        if found and not value.startswith("ff") and int(found.group(1), 16) and int(found.group(2), 16):
            return Parent(found.group(1), found.group(2), bool(int(found.group(3), 16) & 1))
    return None


def spans_of(parent: Optional[Parent], request_id: str, answer: Answer, ended: float) -> List[Span]:
    """Return a request's spans: the whole, gathering with one span per member and its engine in it, aggregation."""
    phases = answer.phases
    trace, began = parent.trace if parent else _hex(32), ended - phases.total_ms / 1e3
    gathered = began + phases.gather_ms / 1e3
    root, gather = _hex(16), _hex(16)
    about = {
        "coformer.request_id": request_id,
        "coformer.build": answer.build,
        "coformer.members": ",".join(answer.members),
        "coformer.degraded": answer.degraded,
    }
    spans = [
        Span("ModelInfer", trace, root, parent.span if parent else "", SERVER, began, ended, about),
        Span("gather", trace, gather, root, INTERNAL, began, gathered, {"coformer.missing": ",".join(answer.missing)}),
    ]
    for device, compute_ms in sorted(phases.compute_ms.items()):
        arrived = began + (phases.transfer_ms[device] + compute_ms) / 1e3
        member, named = _hex(16), {"coformer.device": device}
        spans.append(Span("member " + device, trace, member, gather, CLIENT, began, arrived, named))
        # When the engine began is not known here: it is drawn at the end, as if all the waiting had come first.
        started = arrived - compute_ms / 1e3
        spans.append(Span("engine " + device, trace, _hex(16), member, INTERNAL, started, arrived, named))
    spans.append(Span("aggregate", trace, _hex(16), root, INTERNAL, gathered, ended, {}))
    return spans


def failed_span(parent: Optional[Parent], request_id: str, status: str, began: float, ended: float) -> Span:
    """Return the only span of a request that ended with this gRPC status."""
    trace = parent.trace if parent else _hex(32)
    about = {"coformer.request_id": request_id, "rpc.grpc.status": status}
    return Span("ModelInfer", trace, _hex(16), parent.span if parent else "", SERVER, began, ended, about, status)


class Tracer:
    """Sends spans to a collector, a second's worth at a time. A context manager.

    Args:
        url: of the collector, such as http://127.0.0.1:4318/v1/traces.
        device: this node's.

    Raises:
        CoformerError: for anything but an HTTP address.
    """

    def __init__(self, url: str, device: str) -> None:
        if not re.match(r"https?://[^/]", url):
            raise CoformerError(
                "'{}' is no address of a collector".format(url), "--traces", "write http://HOST:4318/v1/traces"
            )
        self._url, self._device = url, device
        self._opener = build_opener(ProxyHandler({}))
        self._waiting: Deque[Span] = collections.deque(maxlen=MAX_WAITING)
        self._over, self._failing = threading.Event(), False
        self._thread = threading.Thread(target=self._send_all, name="traces", daemon=True)

    def __enter__(self) -> "Tracer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def answered(self, metadata: Iterable[Tuple[str, Any]], request_id: str, answer: Answer) -> None:
        """Trace a request that was answered now."""
        parent = parent_of(metadata)
        if parent is None or parent.sampled:
            self._waiting.extend(spans_of(parent, request_id, answer, time.time()))

    def refused(self, metadata: Iterable[Tuple[str, Any]], request_id: str, status: str, took_s: float) -> None:
        """Trace a request that ended now with this status, so long after it came."""
        parent, now = parent_of(metadata), time.time()
        if parent is None or parent.sampled:
            self._waiting.append(failed_span(parent, request_id, status, now - took_s, now))

    def _send_all(self) -> None:
        over = False
        while not over:
            over = self._over.wait(PERIOD_S)
            spans = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if spans:
                self._send(spans)

    def _send(self, spans: List[Span]) -> None:
        data = json.dumps(document(spans, self._device)).encode("ascii")
        try:
            self._opener.open(Request(self._url, data, {"Content-Type": "application/json"}), timeout=TIMEOUT_S).close()
        except (OSError, ValueError) as error:
            if not self._failing:  # once, until it works again
                log("traces lost", {"collector": self._url, "reason": str(error)})
            self._failing = True
        else:
            self._failing = False


def document(spans: List[Span], device: str) -> Dict[str, Any]:
    """Return OTLP's ExportTraceServiceRequest in its JSON form."""
    resource = {"service.name": "coformer-central", "host.name": device}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": {"name": "coformer_runtime"}, "spans": [_plain(span) for span in spans]}],
            }
        ]
    }


def _plain(span: Span) -> Dict[str, Any]:
    found: Dict[str, Any] = {
        "traceId": span.trace,
        "spanId": span.span,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(int(span.start * 1e9)),
        "endTimeUnixNano": str(int(span.end * 1e9)),
        "attributes": _attributes(span.attributes),
    }
    if span.parent:
        found["parentSpanId"] = span.parent
    if span.error:
        found["status"] = {"code": ERROR, "message": span.error}
    return found


def _attributes(given: Dict[str, Any]) -> List[Dict[str, Any]]:
    return [
        {"key": key, "value": {"boolValue" if isinstance(value, bool) else "stringValue": value}}
        for key, value in sorted(given.items())
    ]


def _hex(digits: int) -> str:
    return "{:0{}x}".format(random.getrandbits(4 * digits - 1) + 1, digits)
