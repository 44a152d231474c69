"""Which operator table a version of an engine goes by.

A table stands for its major.minor: parsers change from one minor version to the next, and patches of one mend them. So
8.6.1 goes by the table of 8.6.2. A version of no table's major.minor is refused; a near one is no substitute.
"""

from __future__ import annotations

from pathlib import Path

from coformer_runtime.errors import CoformerError

FOLDER = Path(__file__).parent / "operators"


def table_name(engine: str, version: str, where: str) -> str | None:
    """The stem of the table's file, "tensorrt-8.6.2"; None for ONNX Runtime, which needs none.

    Args:
        engine: "onnxruntime", "tensorrt" or "tensorrt-rtx".
        version: the engine's version, "8.6.1".
        where: named in the error.

    Raises:
        CoformerError: there is no table of that major.minor; the versions that there are are named.
    """
    if engine == "onnxruntime":
        return None
    known = table_versions(engine)
    wanted = _numbers(version)
    found = next((each for each in known if _numbers(each)[:2] == wanted[:2] and len(wanted) >= 2), None)
    if found is None:
        title = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[engine]
        series = ", ".join(".".join(each.split(".")[:2]) for each in known)
        raise CoformerError(
            f"which operators {title} {version} takes is not known",
            f"{where}, engine_version",
            f"take one of {series}: any patch of them will do",
        )
    return f"{engine}-{found}"


def table_versions(engine: str) -> list[str]:
    """The versions that there is a table of, ascending."""
    stems = (path.stem for path in FOLDER.glob(f"{engine}-*.toml"))
    versions = (stem[len(engine) + 1 :] for stem in stems)
    return sorted((each for each in versions if each[0].isdigit()), key=_numbers)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
