"""The port for operators: /metrics for Prometheus, /status.json for programs, / for people."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Callable, Dict, Optional, Tuple

from .errors import CoformerError
from .failures import report
from .security import Security, parse_address

PATIENCE_S = 2.0  # one caller at a time, and none may dawdle
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


class OperatorPort:
    """Serves these paths on a thread of its own. A context manager.

    Args:
        listen: HOST:PORT; loopback unless `insecure`, since it is plain HTTP.
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
        host, port = parse_address(listen, Security(insecure), "--metrics")
        answers: Dict[str, Tuple[str, Callable[[], str]]] = {
            "/metrics": ("text/plain; version=0.0.4; charset=utf-8", metrics),
        }
        if status is not None:
            told = status
            answers["/"] = ("text/html; charset=utf-8", lambda: PAGE)
            answers["/status.json"] = ("application/json", lambda: json.dumps(told()))

        class Handler(BaseHTTPRequestHandler):
            """Answers GET of these paths."""

            timeout = PATIENCE_S

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
                self.send_header(
                    "Content-Security-Policy", "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
                )
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: scrapes come every few seconds."""

            def version_string(self) -> str:
                """Name the program, not the interpreter's version."""
                return "coformer-node"

        class Server(HTTPServer):
            """Does not print what broke with a caller that hung up."""

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Go on."""

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            raise CoformerError(
                "'{}' cannot be listened on ({})".format(listen, error.strerror), "--metrics", "choose a free port"
            ) from error
        self.address = "{}:{}".format(host, self._server.server_port)
        self._thread = threading.Thread(target=self._serve, name="operators", daemon=True)

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.5)

    def __enter__(self) -> "OperatorPort":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
