"""Traces as a collector gets them: whose they are, what is in them, and that nobody waits for a collector."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Dict, Iterator, List, Tuple

import grpc
import pytest

from coformer_runtime import trace
from coformer_runtime.errors import CoformerError
from coformer_runtime.front import open_front
from coformer_runtime.oip import SERVICE, messages
from coformer_runtime.trace import Parent, Tracer, parent_of
from tests.runtime.nodes import PIXELS, gathering, serving, settled

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextlib.contextmanager
def collecting() -> Iterator[Tuple[str, List[Dict[str, Any]]]]:
    """A collector's address, and the spans that it has got."""
    spans: List[Dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/json")
            found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            resource = found["resourceSpans"][0]
            assert {"key": "host.name", "value": {"stringValue": "attic"}} in resource["resource"]["attributes"]
            spans.extend(resource["scopeSpans"][0]["spans"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield "http://127.0.0.1:{}/v1/traces".format(server.server_port), spans
    server.shutdown()
    thread.join()
    server.server_close()


def ask(address: str, metadata: Tuple[Tuple[str, str], ...] = (), shape: Any = PIXELS.shape) -> None:
    request = messages()["ModelInferRequest"](model_name="coformer", id="seven")
    request.inputs.add(name="pixels", datatype="UINT8", shape=shape)
    request.raw_input_contents.append(PIXELS.tobytes())
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/{}/ModelInfer".format(SERVICE))
        call(request.SerializeToString(), timeout=10, metadata=metadata)


def test_a_request_is_one_tree(cluster_dirs: List[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "PERIOD_S", 0.05)
    with collecting() as (url, spans), serving(cluster_dirs[1]) as hall, gathering(
        cluster_dirs[0], ["hall=" + hall], min_members=2
    ) as central, Tracer(url, "attic") as tracer:
        settled(lambda: set(central.missing()) == {"desk"})
        server, address = open_front(central, "127.0.0.1:0", tracer)
        ask(address, (("traceparent", "00-{}-{}-01".format(TRACE, SPAN)),))
        settled(lambda: len(spans) >= 7)
        ask(address, (("traceparent", "00-{}-{}-00".format("1" * 32, SPAN)),))  # the caller does not record it
        with pytest.raises(grpc.RpcError):
            ask(address, shape=(1, 1))
        settled(lambda: len(spans) >= 8)
        server.stop(0).wait()
    named = {span["name"]: span for span in spans[:7]}
    assert {span["traceId"] for span in spans[:7]} == {TRACE} and len({span["spanId"] for span in spans}) == 8
    parents = {name: span.get("parentSpanId") for name, span in named.items()}
    assert parents == {
        "ModelInfer": SPAN,
        "gather": named["ModelInfer"]["spanId"],
        "member attic": named["gather"]["spanId"],
        "engine attic": named["member attic"]["spanId"],
        "member hall": named["gather"]["spanId"],
        "engine hall": named["member hall"]["spanId"],
        "aggregate": named["ModelInfer"]["spanId"],
    }
    whole = named["ModelInfer"]
    for span in named.values():
        start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        assert int(whole["startTimeUnixNano"]) - 1000 <= start <= end <= int(whole["endTimeUnixNano"]) + 1000
    attributes = {each["key"]: each["value"] for each in whole["attributes"]}
    assert attributes["coformer.degraded"] == {"boolValue": True}
    assert attributes["coformer.request_id"] == {"stringValue": "seven"}
    assert spans[7]["status"] == {"code": 2, "message": "INVALID_ARGUMENT"} and "parentSpanId" not in spans[7]


def test_nobody_waits_for_a_collector(
    cluster_dirs: List[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(trace, "PERIOD_S", 0.01)
    with gathering(cluster_dirs[0], [], min_members=1) as central, Tracer("http://127.0.0.1:9/x", "attic") as tracer:
        server, address = open_front(central, "127.0.0.1:0", tracer)
        for _ in range(5):
            ask(address)
        settled(lambda: tracer._failing)
        ask(address)
        server.stop(0).wait()
    assert capsys.readouterr().err.count('"event": "traces lost"') == 1


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("00-{}-{}-01".format(TRACE, SPAN), Parent(TRACE, SPAN, True)),
        ("01-{}-{}-02-more".format(TRACE, SPAN), Parent(TRACE, SPAN, False)),
        ("ff-{}-{}-01".format(TRACE, SPAN), None),
        ("00-{}-{}-01".format("0" * 32, SPAN), None),
        ("00-{}-{}-01".format(TRACE, "0" * 16), None),
        ("junk", None),
        (b"00", None),
    ],
)
def test_parents(value: Any, found: Any) -> None:
    assert parent_of([("other", "x"), ("traceparent", value)]) == found
    assert parent_of([]) is None


def test_an_address_that_is_none() -> None:
    with pytest.raises(CoformerError, match="'localhost:4318' is no address of a collector"):
        Tracer("localhost:4318", "attic")
