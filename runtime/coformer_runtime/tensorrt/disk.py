"""Writes that fail, told as what they are: what was written, where, and how much room there is."""

import contextlib
import errno
import os
from typing import Iterator

from ..errors import CoformerError

LEFT = "what was built before is as it was"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writing(what: str, folder: str, left: str = LEFT) -> Iterator[None]:
    """Do what writes `what` below `folder`; `left` says what is there should it fail.

    Raises:
        CoformerError: in place of the OSError; with the reason, the free space, and what to do about it.
    """
    try:
        yield
    except OSError as error:
        place = "another directory (build: --cache, profile: -o)"
        mend = "free some space, or name {}" if error.errno in _FULL else "make it writable, or name {}"
        raise CoformerError(
            "{} cannot be written ({}; {})".format(what, error.strerror, _free(folder)),
            folder,
            "{}; {}".format(mend.format(place), left),
        ) from error


def _free(folder: str) -> str:
    """How much space this process may still take in the file system of a folder, or of the nearest one above it."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return "its free space is not known: {}".format(error.strerror)
    return "{:,} bytes are free there".format(found.f_bavail * found.f_frsize)
