"""Which JetPack an L4T release belongs to, and what it carries.

Sources: the package lists of NVIDIA's archive as kept by anduril/jetpack-nixos (sourceinfo/r35.x to r39.2-debs.json);
rbonghi/jetson_stats, jtop/core/jetson_variables.py (L4T to JetPack); for JetPack 4 the versions that jtop reports.
"""

from typing import NamedTuple, Tuple


class JetPack(NamedTuple):
    """The releases `first` to `last` of L4T, and the versions of Python, CUDA and TensorRT that come with them."""

    name: str
    first: Tuple[int, ...]
    last: Tuple[int, ...]
    python: str
    cuda: str
    tensorrt: str


JETPACKS: Tuple[JetPack, ...] = (
    JetPack("4.6.1 to 4.6.6", (32, 7, 1), (32, 7, 6), "3.6", "10.2", "8.2.1"),
    JetPack("5.1 to 5.1.6", (35, 2, 1), (35, 6, 4), "3.8", "11.4", "8.5.2"),
    JetPack("6.0", (36, 3), (36, 3, 99), "3.10", "12.2", "8.6.2"),
    JetPack("6.1 to 6.2.2", (36, 4), (36, 5, 99), "3.10", "12.6", "10.3.0"),
    JetPack("7.0 to 7.1", (38, 2), (38, 4, 99), "3.12", "13.0", "10.13.3"),
    JetPack("7.2", (39, 2), (39, 2, 99), "3.12", "13.2", "10.16.2"),
)
