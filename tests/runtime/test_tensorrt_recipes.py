"""The recipes that the compiler writes are what the runtime reads."""

import json
from pathlib import Path

import pytest

from coformer_runtime.tensorrt.recipe import recipe_from_json
from coformer_targets import load_target, recipe_for, target_names
from tests.runtime import bundles

TENSORRT_TARGETS = [name for name in target_names() if load_target(name).engine == "tensorrt"]


@pytest.mark.parametrize("name", TENSORRT_TARGETS)
def test_recipes_of_the_compiler_are_read(tmp_path: Path, name: str) -> None:
    target = load_target(name)
    graph = tmp_path / "member.onnx"
    graph.write_bytes(bundles.member_graph(1, element=1))
    written = recipe_for(target, graph)
    recipe = recipe_from_json(json.dumps(written), "recipe.json")
    assert (recipe.version, recipe.sm, recipe.precision) == (target.engine_version, target.sm, target.precisions[0])
    assert (recipe.workspace_mb, recipe.needed_mb) == (written["workspace_mb"], written["needed_mb"])
    assert recipe.inputs == (("pixels", bundles.PIXELS),)
