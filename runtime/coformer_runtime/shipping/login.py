"""Who we are to a registry: user and password from the environment or docker's configuration, and the token flow."""

import base64
import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..errors import CoformerError

USER, PASSWORD, DOCKER_CONFIG = "COFORMER_REGISTRY_USER", "COFORMER_REGISTRY_PASSWORD", "DOCKER_CONFIG"
HOW = "set {} and {}, or run `docker login`".format(USER, PASSWORD)

_PARAMETER = re.compile(r'([A-Za-z_]+)=(?:"([^"]*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,\s*)(Bearer|Basic)\b", re.IGNORECASE)


class Credentials(NamedTuple):
    """A user name and a password or access token."""

    user: str
    password: str

    def basic(self) -> str:
        """Return the value of an Authorization header (RFC 7617)."""
        both = "{}:{}".format(self.user, self.password).encode("utf-8")
        return "Basic " + base64.b64encode(both).decode("ascii")


class Challenge(NamedTuple):
    """What a registry answered 401 with (RFC 9110, 11.6.1): the scheme in lower case, and its parameters."""

    scheme: str
    parameters: Dict[str, str]


def find_credentials(host: str) -> Optional[Credentials]:
    """Return what the environment or docker's config.json has for a registry, or None.

    Raises:
        CoformerError: one of the two variables is missing, or config.json is unreadable or keeps its passwords in a
            helper program.
    """
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if user and password:
        return Credentials(user, password)
    if user or password:
        missing = PASSWORD if user else USER
        raise CoformerError("{} is not set".format(missing), "registry {}".format(host), "set both or none of the two")
    folder = os.environ.get(DOCKER_CONFIG) or os.path.join(os.path.expanduser("~"), ".docker")
    path = os.path.join(folder, "config.json")
    return _from_docker(path, host) if os.path.isfile(path) else None


def _from_docker(path: str, host: str) -> Optional[Credentials]:
    try:
        with open(path, encoding="utf-8") as stream:
            config: Dict[str, Any] = json.load(stream)
        entry = config.get("auths", {}).get(host)
        if entry is None:
            return None
        if not entry.get("auth"):
            helper = config.get("credHelpers", {}).get(host) or config.get("credsStore")
            raise CoformerError(
                "the password of {} is in the helper program '{}', which is not asked".format(host, helper),
                path,
                "set {} and {}".format(USER, PASSWORD),
            )
        user, _, password = base64.b64decode(entry["auth"]).decode("utf-8").partition(":")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CoformerError("not readable as docker's configuration ({})".format(error), path, HOW) from error
    return Credentials(user, password)


def parse_challenges(headers: List[str]) -> List[Challenge]:
    """Return the Bearer and Basic challenges of all WWW-Authenticate headers, Bearer first."""
    found = []
    for header in headers:
        starts: List[Tuple[int, str]] = [(match.end(), match.group(1).lower()) for match in _SCHEME.finditer(header)]
        ends = [match.start() for match in _SCHEME.finditer(header)][1:] + [len(header)]
        for (start, scheme), end in zip(starts, ends):
            pairs = _PARAMETER.findall(header[start:end])
            found.append(Challenge(scheme, {key.lower(): quoted or plain for key, quoted, plain in pairs}))
    return sorted(found, key=lambda challenge: challenge.scheme != "bearer")
