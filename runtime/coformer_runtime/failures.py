"""Failures that nobody outside may see in full: the log has the trace, the peer gets an id to ask for."""

import sys
import traceback
import uuid


def report(what: str, error: BaseException) -> str:
    """Write an error with its trace to the log (standard error) and return the id it is found under."""
    incident = uuid.uuid4().hex[:12]
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    sys.stderr.write("{} [{}]\n{}".format(what, incident, trace))
    sys.stderr.flush()
    return incident
