"""`coformer-node status`: what a central node's operator port says, as a table."""

import json
from typing import Any, Dict, List
from urllib.request import ProxyHandler, build_opener

from .errors import CheckFailed, CoformerError

TIMEOUT_S = 5.0
LARGEST = 1 << 20


def ask_status(address: str) -> Dict[str, Any]:
    """Return the status of the central node whose `--metrics` are at HOST:PORT.

    Raises:
        CoformerError: nobody answers there, or not so.
    """
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open("http://{}/status.json".format(address), timeout=TIMEOUT_S) as answer:
            status = json.loads(answer.read(LARGEST).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckFailed(
            "no status ({})".format(error), address, "start the central node with --metrics {}".format(address)
        ) from error
    if not isinstance(status, dict) or not {"ready", "members", "requests"} <= set(status):
        raise CoformerError("that is not a status", address, "give the address of a central node's --metrics")
    return status


def status_text(status: Dict[str, Any]) -> str:
    """Return the same for people."""
    requests = status["requests"]
    lines = [
        "{}: central node '{}', build {}, up for {:.0f} s".format(
            "ready" if status["ready"] else "NOT READY", status["device"], status["build"][:12], status["uptime_s"]
        ),
        "{answered} answered ({degraded} degraded), {failed} failed, {in_progress} in progress".format(**requests),
    ]
    if status["ready"]:
        lines.append(
            "expected accuracy {:.1f} % ({})".format(
                100 * status["expected_accuracy"], " + ".join(status["expected_of"])
            )
        )
    if "alternatives" in status:
        lines += _alternatives_text(status["alternatives"])
    for member in status["members"]:
        lines.append(
            "  {:<16} {:<5} breaker {:<9} engine {:8.2f} ms  network {:8.2f} ms  {:8.2f} MB out {:8.2f} in  {}".format(
                member["device"],
                "up" if member["up"] else "away",
                member["breaker"],
                member["compute_ms"],
                member["transfer_ms"],
                member["sent_bytes"] / 1e6,
                member["received_bytes"] / 1e6,
                member["reason"],
            ).rstrip()
        )
    return "\n".join(lines) + "\n"


def _alternatives_text(told: Dict[str, Any]) -> List[str]:
    """Return a line on the link, and one for each alternative."""
    measured = told["measured_mbps"]
    lines = [
        "alternative {}, changed {} times; links {}".format(
            told["active"],
            told["switches"],
            "not measured" if measured is None else "measured at {:.3g} Mbit/s or more".format(measured),
        )
    ]
    for held in told["held"]:
        ranges = [
            "from {:.3g}{} Mbit/s".format(each["from_mbps"], "" if each["to_mbps"] is None else _up_to(each["to_mbps"]))
            for each in told["ranges"]
            if each["alternative"] == held["name"]
        ]
        away = ", ".join("{} is away".format(device) for device in sorted(held["missing"]))
        lines.append(
            "  {:<16} {:<26} {}  {}".format(
                held["name"], " and ".join(ranges), " + ".join(held["members"]), away
            ).rstrip()
        )
    return lines


def _up_to(mbps: float) -> str:
    return " to {:.3g}".format(mbps)
