"""The node's log: one JSON object a line on standard error, for journald and whatever collects it.

Failures that nobody outside may see in full are there with their trace; the peer gets an id to ask for.
"""

import json
import sys
import time
import traceback
import uuid
from typing import Dict, Mapping, Union


def log(event: str, fields: Mapping[str, Union[str, int, float]]) -> None:
    """Write one line: the time (UTC), what happened, and what belongs to it."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + ".{:03d}Z".format(int(now % 1 * 1000))
    line: Dict[str, Union[str, int, float]] = {"time": stamp, "event": event}
    line.update(fields)
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def report(what: str, error: BaseException) -> str:
    """Log an error with its trace and return the id that it is found under."""
    incident = uuid.uuid4().hex[:12]
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    log(what, {"incident": incident, "trace": trace})
    return incident
