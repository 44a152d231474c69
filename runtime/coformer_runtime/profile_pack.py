"""A pack of member graphs to be measured on a board: what `coformerc profile pack` writes.

It holds pack.json, which says what is measured and names the SHA-256 of every file; recipe.json for TensorRT; and
graphs/ with one ONNX file per point beside the random weights that all of them point into.
"""

import hashlib
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .bundle import file_sha256
from .errors import CoformerError
from .manifest import MAX_RANK
from .manifest_fields import Fields, parse_json
from .profile_points import Shape

FORMAT = "coformer-profile-pack/1"
PACK_NAME = "pack.json"
WRITE_AGAIN = "copy the pack again, or write it again with 'coformerc profile pack'"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Point(NamedTuple):
    """One graph of a pack: its path in the pack, and the member's shape."""

    graph: str
    shape: Shape


class Pack(NamedTuple):
    """A verified pack.

    Attributes:
        directory: where it is.
        sha256: of pack.json, which names the SHA-256 of everything else.
        target: name of the target that the graphs were made legal for.
        engine: kind of engine, "onnxruntime" or "tensorrt".
        engine_version: the version that the target states.
        precision: what the engine computes in.
        model: name of the teacher.
        model_sha256: digest of its shapes.
        spec: the teacher's shapes, as the compiler wrote them; nothing here reads them.
        input_name, input_dtype, input_shape: of every graph's input.
        input_below: its elements are whole numbers smaller than that.
        recipe: path of the recipe, None where the engine needs none.
        points: what is to be measured.
        sha256s: path → SHA-256 of every file.
    """

    directory: str
    sha256: str
    target: str
    engine: str
    engine_version: str
    precision: str
    model: str
    model_sha256: str
    spec: Dict[str, Any]
    input_name: str
    input_dtype: str
    input_shape: Tuple[int, ...]
    input_below: int
    recipe: Optional[str]
    points: Tuple[Point, ...]
    sha256s: Dict[str, str]

    def file(self, path: str) -> str:
        """Return the file system path of a file of the pack."""
        return os.path.join(self.directory, *path.split("/"))


def open_pack(directory: str) -> Pack:
    """Read pack.json and verify every file that it names.

    Raises:
        CoformerError: no pack, of another format, or a file is missing or differs.
    """
    path = os.path.join(directory, PACK_NAME)
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except OSError as error:
        raise CoformerError(
            "is no pack: {} cannot be read ({})".format(PACK_NAME, error.strerror),
            directory,
            "give the directory that 'coformerc profile pack' wrote",
        ) from error
    pack = _pack_from_json(content.decode("utf-8", "replace"), directory, hashlib.sha256(content).hexdigest())
    for name, sha256 in sorted(pack.sha256s.items()):
        _verify(pack.file(name), name, sha256, directory)
    return pack


def _verify(path: str, name: str, sha256: str, directory: str) -> None:
    if not os.path.isfile(path):
        raise CoformerError("'{}' is missing".format(name), directory, WRITE_AGAIN)
    found = file_sha256(path)
    if found != sha256:
        raise CoformerError(
            "'{}' has the SHA-256 {}..., the pack says {}...".format(name, found[:12], sha256[:12]),
            directory,
            WRITE_AGAIN,
        )


def _pack_from_json(text: str, directory: str, sha256: str) -> Pack:
    where = os.path.join(directory, PACK_NAME)
    top = Fields(parse_json(text, where), where, "", WRITE_AGAIN)
    found = top.text("format")
    if found != FORMAT:
        raise CoformerError(
            "the format is '{}', this runtime reads '{}'".format(found, FORMAT),
            where,
            "install the coformer-runtime that fits, or write the pack again",
        )
    engine, model, given = top.section("engine"), top.section("model"), top.section("input")
    files = top.section("files")
    top.integer("seed", 0)
    pack = Pack(
        directory,
        sha256,
        top.text("target"),
        engine.text("kind"),
        engine.text("version"),
        engine.text("precision"),
        model.text("name"),
        model.matching("sha256", _SHA256, "a SHA-256 in lower-case hex"),
        model.take("spec"),
        given.text("name"),
        given.dtype("dtype"),
        given.shape("shape", MAX_RANK),
        given.integer("below", 1),
        top.path("recipe") if top.has("recipe") else None,
        tuple(_point(each) for each in top.sections("points")),
        _sha256s(files),
    )
    for part in (engine, model, given, files, top):
        part.finish()
    named = [point.graph for point in pack.points] + ([] if pack.recipe is None else [pack.recipe])
    for path in named:
        if path not in pack.sha256s:
            raise CoformerError("'{}' is not among its files".format(path), where, WRITE_AGAIN)
    if not pack.points:
        raise CoformerError("it has no points", where, WRITE_AGAIN)
    return pack


def _sha256s(files: Fields) -> Dict[str, str]:
    found = {}
    for path in files.keys():  # noqa: SIM118 (not a dict)
        entry = files.entry(path)
        found[path] = entry.matching("sha256", _SHA256, "a SHA-256 in lower-case hex")
        entry.finish()
    return found


def _point(fields: Fields) -> Point:
    graph, embed, shortcuts = fields.path("graph"), fields.integer("embed", 1), fields.boolean("shortcuts")
    layers, heads, neurons = (_numbers(fields, key) for key in ("layers", "heads", "neurons"))
    fields.finish()
    return Point(graph, Shape(embed, layers, heads, neurons, shortcuts))


def _numbers(fields: Fields, key: str) -> Tuple[int, ...]:
    numbers: List[int] = fields.integers(key)
    return tuple(numbers)
