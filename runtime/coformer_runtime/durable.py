"""Changes of the file system that survive a power cut whole: there is always all of the old or all of the new."""

import os
import shutil
from typing import Any


def replace_file(path: str, content: Any) -> None:
    """Write a file so that there is always the whole old one or the whole new one; `content` is a buffer."""
    part = path + ".part"
    try:
        with open(part, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise
    sync_file(os.path.dirname(path))


def replace_link(path: str, target: str) -> None:
    """Point a symbolic link elsewhere; whoever looks finds the old target or the new one."""
    part = path + ".part"
    remove_file(part)
    os.symlink(target, part)
    os.rename(part, path)
    sync_file(os.path.dirname(path))


def move(source: str, target: str) -> None:
    """Rename a directory or file within its file system."""
    os.rename(source, target)
    sync_file(os.path.dirname(target))
    sync_file(os.path.dirname(source))


def remove_file(path: str) -> None:
    """Remove a file or link, if it is there."""
    if os.path.lexists(path):
        os.unlink(path)
        sync_file(os.path.dirname(path))


def remove_folder(path: str) -> None:
    """Remove a directory with all that is in it, if it is there; not at once, so move away first what others see."""
    if os.path.lexists(path):
        shutil.rmtree(path)


def sync_tree(folder: str) -> None:
    """Have all files and directories below `folder` written to the disk, and itself."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_file(os.path.join(parent, name))
        sync_file(parent)


def sync_file(path: str) -> None:
    """Have a file or a directory written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
