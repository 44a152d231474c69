"""The port for operators: /metrics for Prometheus, /status.json for programs, / for people."""

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple, Type

from .errors import CoformerError
from .failures import report
from .security import Security, is_loopback, parse_address

PATIENCE_S = 2.0  # for all of a request and its answer, however the caller doles them out
CALLERS = 16  # at a time; one more takes the place of the one who has been there for longest
PLACE_S = 0.5  # for him to leave
LOOK_S = 0.25  # between looks at who has been there for too long
POLICY = "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>CoFormer cluster</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.up{color:#1a7f37}.away{color:#b42318}
#state{font-weight:600}
</style></head><body>
<h1>CoFormer cluster</h1>
<p><span id="state">…</span> <span id="about"></span></p>
<p id="counts"></p>
<table><thead><tr><th>member</th><th>state</th><th>breaker</th><th class="n">engine ms</th>
<th class="n">network and waiting ms</th>
<th class="n">sent MB</th><th class="n">received MB</th></tr></thead>
<tbody id="members"></tbody></table>
<p id="alternatives"></p>
<p id="phases"></p>
<script>
"use strict";
const put = (id, text) => { document.getElementById(id).textContent = text; };
function row(member) {
  const line = document.createElement("tr");
  const cells = [[member.device, ""], [member.up ? "up" : "away: " + member.reason, member.up ? "up" : "away"],
    [member.breaker, ""], [member.compute_ms.toFixed(2), "n"], [member.transfer_ms.toFixed(2), "n"],
    [(member.sent_bytes / 1e6).toFixed(2), "n"], [(member.received_bytes / 1e6).toFixed(2), "n"]];
  for (const [text, kind] of cells) {
    const cell = line.insertCell();
    cell.textContent = text;
    cell.className = kind;
  }
  return line;
}
async function look() {
  try {
    const status = await (await fetch("status.json")).json(), requests = status.requests;
    put("state", status.ready ? "ready" : "not ready");
    document.getElementById("state").className = status.ready ? "up" : "away";
    put("about", "central node " + status.device + ", build " + status.build.slice(0, 12) +
      ", up for " + Math.round(status.uptime_s) + " s");
    put("counts", requests.answered + " answered, " + requests.degraded + " of them degraded, " +
      requests.failed + " failed, " + requests.in_progress + " in progress. " + (status.ready ?
      "Expected accuracy now: " + (100 * status.expected_accuracy).toFixed(1) + " % (" +
      status.expected_of.join(", ") + ")." : ""));
    document.getElementById("members").replaceChildren(...status.members.map(row));
    const told = status.alternatives;
    put("alternatives", told ? "Alternative " + told.active + " of " + told.held.map((each) => each.name).join(", ") +
      ", changed " + told.switches + " times; links " + (told.measured_mbps === null ? "not measured" :
      "measured at " + told.measured_mbps.toPrecision(3) + " Mbit/s or more") + "." : "");
    put("phases", "Mean of all answers: " + Object.entries(status.mean_ms).map(
      ([phase, ms]) => phase + " " + ms.toFixed(2) + " ms").join(", ") + ".");
  } catch (error) {
    put("state", "no contact");
    document.getElementById("state").className = "away";
  }
  setTimeout(look, 1000);
}
look();
</script></body></html>
"""


class Caller(NamedTuple):
    """One connection: since when (time.monotonic() seconds), and the thread that answers it."""

    since: float
    thread: threading.Thread


class Server(HTTPServer):
    """Answers each caller on a thread of his own, and hangs up on whoever takes longer than `PATIENCE_S`.

    A time limit of the socket would be one for each read: a caller that sends a byte now and then would never meet it.
    """

    request_queue_size = 2 * CALLERS

    def __init__(self, address: Tuple[str, int], handler: Type[BaseHTTPRequestHandler]) -> None:
        self._lock = threading.Lock()
        self._callers: Dict[socket.socket, Caller] = {}  # in the order in which they came
        self._places = threading.BoundedSemaphore(CALLERS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin to answer."""
        if not self._places.acquire(blocking=False):
            with self._lock:
                for oldest in list(self._callers)[:1]:
                    _hang_up(oldest)
            if not self._places.acquire(timeout=PLACE_S):
                self.shutdown_request(request)
                return
        words = (request, client_address)
        thread = threading.Thread(target=self._answer, args=words, name="operator", daemon=True)
        with self._lock:
            self._callers[request] = Caller(time.monotonic(), thread)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread to give
            report("operator port", error)
            self._leave(request)

    def service_actions(self) -> None:
        """Hang up on those who have been there for too long; called every `LOOK_S`."""
        now = time.monotonic()
        with self._lock:
            for request, caller in self._callers.items():
                if now - caller.since > PATIENCE_S:
                    _hang_up(request)

    def server_close(self) -> None:
        """Stop listening, and hang up on everybody."""
        super().server_close()
        with self._lock:
            left = dict(self._callers)
            for request in left:
                _hang_up(request)
        for caller in left.values():
            caller.thread.join(PLACE_S)

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the caller hung up, or was hung up on
        except Exception as error:  # noqa: BLE001 - the port goes on, the log has the trace
            report("operator port", error)
        finally:
            self._leave(request)

    def _leave(self, request: Any) -> None:
        with self._lock:
            del self._callers[request]
        self.shutdown_request(request)
        self._places.release()


def _hang_up(request: socket.socket) -> None:
    """End what a thread reads or writes there; the thread then closes it."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class OperatorPort:
    """Serves these paths on threads of its own. A context manager.

    Args:
        listen: HOST:PORT; loopback unless `insecure`, since it is plain HTTP: certificates do not open it further.
        insecure: allow other addresses.
        metrics: the text for Prometheus.
        status: the JSON values; None: neither those nor the page.

    Attributes:
        address: where it listens, once entered.
    """

    def __init__(
        self,
        listen: str,
        insecure: bool,
        metrics: Callable[[], str],
        status: Optional[Callable[[], Dict[str, Any]]] = None,
    ) -> None:
        host, port = parse_address(listen, Security(insecure=True), "--metrics")
        if not insecure and not is_loopback(host):
            raise CoformerError(
                "'{}' can be reached from other machines, and plain HTTP tells anyone there how the cluster is".format(
                    listen
                ),
                "--metrics",
                "use a loopback address such as 127.0.0.1 and lead there by a proxy that speaks TLS, or an SSH tunnel; "
                "or pass --insecure, in place of --tls, on a network that you trust",
            )
        answers: Dict[str, Tuple[str, Callable[[], str]]] = {
            "/metrics": ("text/plain; version=0.0.4; charset=utf-8", metrics),
        }
        if status is not None:
            told = status
            answers["/"] = ("text/html; charset=utf-8", lambda: PAGE)
            answers["/status.json"] = ("application/json", lambda: json.dumps(told()))

        class Handler(BaseHTTPRequestHandler):
            """Answers GET of these paths."""

            def do_GET(self) -> None:
                """Answer, or say that there is no such page."""
                kind, make = answers.get(self.path.split("?")[0], ("", None))
                if make is None:
                    self.send_error(404)
                    return
                try:
                    body = make().encode("utf-8")
                except Exception as error:  # noqa: BLE001 - no exception text leaves the node
                    self.send_error(500, "internal error {}".format(report("operator port", error)))
                    return
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("Content-Security-Policy", POLICY)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: scrapes come every few seconds."""

            def version_string(self) -> str:
                """Name the program, not the interpreter's version."""
                return "coformer-node"

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            raise CoformerError(
                "'{}' cannot be listened on ({})".format(listen, error.strerror), "--metrics", "choose a free port"
            ) from error
        self.address = "{}:{}".format(host, self._server.server_port)
        self._thread = threading.Thread(target=self._serve, name="operators", daemon=True)

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=LOOK_S)

    def __enter__(self) -> "OperatorPort":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
