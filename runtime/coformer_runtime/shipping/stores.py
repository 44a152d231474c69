"""Which store a reference names."""

from .http import HttpOptions
from .layout import Layout
from .login import find_credentials
from .reference import LAYOUT, Reference
from .registry import Registry
from .store import Store


def open_store(reference: Reference, options: HttpOptions = HttpOptions(), write: bool = False) -> Store:  # noqa: B008
    """Return the registry or folder of a reference; `write`: to push into."""
    if reference.kind == LAYOUT:
        return Layout(reference, write)
    return Registry(reference, options, find_credentials(reference.place), write)
