"""The tiny build of the end-to-end tests."""

from tests.end_to_end.conftest import _eighty_columns, copied, out, tiny

__all__ = ["_eighty_columns", "copied", "out", "tiny"]
