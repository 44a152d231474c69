"""Memory that a build needs, before it starts: a board that runs out of it kills what it likes."""

from typing import Dict

from ..errors import CoformerError

MEMINFO = "/proc/meminfo"


def read_meminfo(path: str = MEMINFO) -> Dict[str, int]:
    """Return the kernel's figures by name, in bytes: MemTotal, MemAvailable, SwapTotal and so on."""
    figures: Dict[str, int] = {}
    with open(path) as stream:
        for line in stream:
            name, _, value = line.partition(":")
            words = value.split()
            if len(words) == 2 and words[1] == "kB":
                figures[name] = int(words[0]) << 10
    return figures


def available_mb(meminfo: str = MEMINFO) -> int:
    """Return what can be had without swapping; swap does not help a build, since the GPU cannot use it."""
    return read_meminfo(meminfo).get("MemAvailable", 0) >> 20


def check_memory(needed_mb: int, available_mb: int, where: str) -> None:
    """Raise a CoformerError where less memory is available than a build needs."""
    if available_mb < needed_mb:
        raise CoformerError(
            "{:,} MB of memory are needed to build, {:,} MB are available".format(needed_mb, available_mb),
            where,
            "stop other programs, the desktop first (sudo systemctl isolate multi-user.target); "
            "'coformer-node doctor' tells more",
        )
