"""The recipe in a bundle: how the board builds its plans."""

import os
from typing import NamedTuple, Optional, Tuple

from ..bundle import Bundle
from ..errors import CoformerError
from ..manifest import MAX_RANK, REBUILD
from ..manifest_fields import Fields, parse_json
from .api import version_of
from .board import Board

FORMAT = "coformer-recipe/1"
PRECISIONS = ("float32", "float16", "int8")


class Recipe(NamedTuple):
    """How plans are built; the member's and the aggregators' alike.

    Attributes:
        version: the TensorRT that the graphs were made legal for.
        sm: the compute capability times ten that they were made for; None: any.
        graph: path of the member's graph in the bundle.
        precision: what the engine computes in.
        inputs, outputs: name → shape of the member's graph.
        workspace_mb: what the builder may take as workspace; None: its own default.
        needed_mb: memory that must be available before a build starts.
        timing_cache: name of the timing cache.
        strongly_typed: whether the graph's types are what is computed in.
    """

    version: str
    sm: Optional[int]
    graph: str
    precision: str
    inputs: Tuple[Tuple[str, Tuple[int, ...]], ...]
    outputs: Tuple[Tuple[str, Tuple[int, ...]], ...]
    workspace_mb: Optional[int]
    needed_mb: int
    timing_cache: str
    strongly_typed: bool


def load_recipe(bundle: Bundle) -> Recipe:
    """Return the recipe of a verified bundle for TensorRT.

    Raises:
        CoformerError: the bundle is for another engine, or the recipe is not one or contradicts the manifest.
    """
    engine = bundle.manifest.engine
    if engine.recipe is None:
        raise CoformerError(
            "its engine is {}, which runs the graph as it is".format(engine.kind),
            bundle.directory,
            "start it with 'coformer-node serve' or 'central'; nothing has to be built",
        )
    where = bundle.file(engine.recipe)
    with open(where, "rb") as stream:
        recipe = recipe_from_json(stream.read().decode("utf-8", "replace"), where)
    for key, ours, theirs in (
        ("graph", recipe.graph, engine.file),
        ("engine.version", recipe.version, engine.version),
        ("precision", recipe.precision, engine.precision),
    ):
        if ours != theirs:
            raise CoformerError("'{}' is '{}', the manifest says '{}'".format(key, ours, theirs), where, REBUILD)
    return recipe


def recipe_from_json(text: str, where: str) -> Recipe:
    """Return the recipe that a JSON text holds; raise a CoformerError that names the key at fault."""
    top = Fields(parse_json(text, where), where, "", REBUILD)
    found = top.text("format")
    if found != FORMAT:
        raise CoformerError(
            "the format is '{}', this runtime reads '{}'".format(found, FORMAT),
            where,
            "install the coformer-runtime that fits, or build the bundle again",
        )
    engine = top.section("engine")
    if engine.text("kind") != "tensorrt":
        raise CoformerError("'engine.kind' is not 'tensorrt'", where, REBUILD)
    recipe = Recipe(
        version=engine.text("version"),
        sm=engine.optional_integer("sm", 1),
        graph=top.path("graph"),
        precision=top.text("precision"),
        inputs=_shapes(top.section("inputs")),
        outputs=_shapes(top.section("outputs")),
        workspace_mb=top.optional_integer("workspace_mb", 1),
        needed_mb=top.integer("needed_mb", 0),
        timing_cache=top.path("timing_cache"),
        strongly_typed=top.boolean("strongly_typed"),
    )
    engine.finish()
    top.finish()
    if recipe.precision not in PRECISIONS:
        raise CoformerError(
            "'precision' is '{}', known are {}".format(recipe.precision, ", ".join(PRECISIONS)), where, REBUILD
        )
    try:
        version_of(recipe.version)
    except ValueError:
        raise CoformerError("'engine.version' is '{}', no version".format(recipe.version), where, REBUILD) from None
    return recipe


def _shapes(fields: Fields) -> Tuple[Tuple[str, Tuple[int, ...]], ...]:
    return tuple((name, fields.shape(name, MAX_RANK)) for name in sorted(fields.keys()))


def check_board(recipe: Recipe, board: Board, where: str) -> None:
    """Raise a CoformerError where the graphs were made for another TensorRT or GPU than this board's.

    TensorRT is compared by major and minor: these decide which operators are legal.
    """
    mend = "build the bundle for this board's target ('coformerc targets' lists them) and copy it here"
    if version_of(recipe.version) != version_of(board.tensorrt):
        raise CoformerError(
            "the graphs were made for TensorRT {}, here is {}".format(recipe.version, board.tensorrt), where, mend
        )
    if recipe.sm is not None and recipe.sm != board.sm:
        raise CoformerError(
            "the graphs were made for SM {:g}, the GPU '{}' is SM {:g}".format(
                recipe.sm / 10, board.device, board.sm / 10
            ),
            where,
            mend,
        )


def graph_files(bundle: Bundle) -> Tuple[str, ...]:
    """Return the paths in the bundle of all graphs that need a plan, the member's first."""
    manifest = bundle.manifest
    generation = manifest.generation
    decoders = () if generation is None else generation.graphs
    profiles = () if manifest.profiles is None else tuple(spec.file for spec in manifest.profiles.graphs)
    return (manifest.engine.file,) + decoders + profiles + tuple(spec.file for spec in manifest.aggregators)


def timing_cache_path(recipe: Recipe, board: Board, cache_dir: str) -> str:
    """Return where this board's timing cache is kept."""
    name = os.path.basename(recipe.timing_cache)
    return os.path.join(cache_dir, "{}-{}".format(board.digest(), name))
