"""The tiny build of the end-to-end tests."""

from tests.end_to_end.conftest import out

__all__ = ["out"]
