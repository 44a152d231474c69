"""Plans on disk: found by what they are bound to, seen only when they are whole.

A description (JSON) names a plan by its SHA-256 and says what it was built by. The plan is written, synced and
renamed first, then the description: whoever reads a description finds the whole plan, and a plan without a
description is never opened. Both are outside the bundle, whose files are hashed.
"""

import hashlib
import json
import os
import re
from typing import List, NamedTuple, Optional

from ..bundle import file_sha256
from ..durable import replace_file, sync_file
from ..errors import CoformerError
from ..manifest_fields import Fields, parse_json
from .board import Board
from .recipe import Recipe

FORMAT = "coformer-engine/1"
BUILD_AGAIN = "run 'coformer-node build' on this board"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORDS = {
    "tensorrt": "TensorRT",
    "device": "the GPU",
    "sm": "SM",
    "cuda": "CUDA",
    "graph_sha256": "graph",
    "options": "options",
}


class Key(NamedTuple):
    """What a plan is bound to.

    Attributes:
        tensorrt, device, sm, cuda: see `Board`.
        graph_sha256: SHA-256 of the ONNX file.
        options: what the recipe says about building, as canonical JSON.
    """

    tensorrt: str
    device: str
    sm: int
    cuda: str
    graph_sha256: str
    options: str

    def file_name(self) -> str:
        """Return the description's name: half by the graph, half by everything."""
        everything = hashlib.sha256(repr(tuple(self)).encode("utf-8")).hexdigest()
        return "{}-{}.json".format(self.graph_sha256[:16], everything[:16])


class Cached(NamedTuple):
    """One plan in the cache: its description's path, what it is bound to, and the plan's file."""

    description: str
    key: Key
    plan: str
    sha256: str
    size_bytes: int


def key_of(board: Board, graph_sha256: str, recipe: Recipe) -> Key:
    """Return what a plan that is built here from this graph is bound to."""
    options = {
        "precision": recipe.precision,
        "strongly_typed": recipe.strongly_typed,
        "workspace_mb": recipe.workspace_mb,
    }
    return Key(board.tensorrt, board.device, board.sm, board.cuda, graph_sha256, json.dumps(options, sort_keys=True))


def find_plan(cache_dir: str, key: Key, graph_path: str) -> Cached:
    """Return the plan for `key`.

    Raises:
        CoformerError: there is none, only one that was built elsewhere or otherwise (says in what they differ), or
            its file is not what was written.
    """
    path = os.path.join(cache_dir, key.file_name())
    if os.path.exists(path):
        cached = read_description(path)
        if cached.key == key:
            _verify(cached)
            return cached
        raise _mismatch(cached, key)
    others = [_readable(other) for other in descriptions(cache_dir) if _is_of_graph(other, key.graph_sha256)]
    known = [other for other in others if other is not None]
    if known:
        raise _mismatch(min(known, key=lambda other: len(_differences(other.key, key))), key)
    raise _none_built(cache_dir, graph_path)


def any_built(cache_dir: str, graph_sha256: str) -> bool:
    """Whether there is any plan from this graph, for whatever board."""
    return any(_is_of_graph(path, graph_sha256) for path in descriptions(cache_dir))


def check_built(cache_dir: str, graph_sha256: str, graph_path: str) -> None:
    """Raise a CoformerError where there is no plan from this graph at all; the library is not needed to say so."""
    if not any_built(cache_dir, graph_sha256):
        raise _none_built(cache_dir, graph_path)


def _none_built(cache_dir: str, graph_path: str) -> CoformerError:
    return CoformerError(
        "the bundle holds a graph and a recipe for TensorRT, and no plan was built from them",
        graph_path,
        "{} (plans are looked for in '{}')".format(BUILD_AGAIN, cache_dir),
    )


def descriptions(cache_dir: str) -> List[str]:
    """Return the paths of all descriptions of a cache; none where there is no cache."""
    if not os.path.isdir(cache_dir):
        return []
    return [os.path.join(cache_dir, name) for name in sorted(os.listdir(cache_dir)) if name.endswith(".json")]


def _is_of_graph(path: str, graph_sha256: str) -> bool:
    return os.path.basename(path).startswith(graph_sha256[:16])


def _differences(found: Key, wanted: Key) -> List[str]:
    pairs = zip(Key._fields, found, wanted)
    return ["{} {}, here is {}".format(_WORDS[name], old, new) for name, old, new in pairs if old != new]


def _mismatch(cached: Cached, key: Key) -> CoformerError:
    return CoformerError(
        "the plan was made elsewhere or otherwise: for {}".format("; ".join(_differences(cached.key, key))),
        cached.description,
        BUILD_AGAIN,
    )


def read_description(path: str) -> Cached:
    """Return what a description says; raise a CoformerError for one that is damaged."""
    mend = "{} with --rebuild".format(BUILD_AGAIN)
    try:
        with open(path, "rb") as stream:
            text = stream.read().decode("utf-8", "replace")
    except OSError as error:
        raise CoformerError("cannot be read ({})".format(error.strerror), path, mend) from error
    top = Fields(parse_json(text, path), path, "", mend)
    if top.text("format") != FORMAT:
        raise CoformerError("is of another format than '{}'".format(FORMAT), path, mend)
    bound = top.section("key")
    key = Key(
        bound.text("tensorrt"),
        bound.text("device"),
        bound.integer("sm", 1),
        bound.text("cuda"),
        bound.matching("graph_sha256", _SHA256, "a SHA-256 in lower-case hex"),
        bound.text("options"),
    )
    sha256 = top.matching("plan_sha256", _SHA256, "a SHA-256 in lower-case hex")
    cached = Cached(path, key, plan_path(os.path.dirname(path), sha256), sha256, top.integer("plan_bytes", 1))
    bound.finish()
    top.finish()
    return cached


def _readable(path: str) -> Optional[Cached]:
    """Return what a description says, None for a damaged one."""
    try:
        return read_description(path)
    except CoformerError:
        return None


def plan_path(cache_dir: str, sha256: str) -> str:
    """Return where a plan of this content is."""
    return os.path.join(cache_dir, sha256 + ".plan")


def _verify(cached: Cached) -> None:
    try:
        size = os.path.getsize(cached.plan)
        digest = file_sha256(cached.plan) if size == cached.size_bytes else ""
    except OSError as error:
        what = "its plan cannot be read ({})".format(error.strerror)
    else:
        if digest == cached.sha256:
            return
        what = "its plan is damaged: {:,} bytes of {:,}, or another SHA-256".format(size, cached.size_bytes)
    raise CoformerError(what, cached.description, BUILD_AGAIN)


def publish(cache_dir: str, key: Key, built_plan: str) -> Cached:
    """Move a built plan, in the same file system, into the cache and make it visible.

    Raises:
        OSError: the disk is full or fails; the description that was there, and its plan, are as they were.
    """
    sha256, size_bytes = file_sha256(built_plan), os.path.getsize(built_plan)
    path = os.path.join(cache_dir, key.file_name())
    sync_file(built_plan)
    os.rename(built_plan, plan_path(cache_dir, sha256))
    sync_file(cache_dir)
    document = {"format": FORMAT, "key": dict(key._asdict()), "plan_sha256": sha256, "plan_bytes": size_bytes}
    replace_file(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("utf-8"))
    return Cached(path, key, plan_path(cache_dir, sha256), sha256, size_bytes)


def remove_leftovers(cache_dir: str) -> None:
    """Remove damaged descriptions, and plans that none names: what a rebuild or a kill has left."""
    named = set()
    for path in descriptions(cache_dir):
        cached = _readable(path)
        if cached is None:
            os.unlink(path)
        else:
            named.add(os.path.basename(cached.plan))
    for name in os.listdir(cache_dir):
        if name.endswith(".part") or (name.endswith(".plan") and name not in named):
            os.unlink(os.path.join(cache_dir, name))


def read_or_empty(path: str) -> bytes:
    """Return a file's content, b"" where there is none."""
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as stream:
        return stream.read()
