"""What the runtime touches of TensorRT's module is what coformer_runtime/tensorrt/api.py lists, and guarded by version.

The table is held to the code (by its syntax tree), to the stand-in that the other tests run on, and, where they are
at hand, to NVIDIA's own bindings and to tensorrt_rtx.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, List, Optional, Tuple

import pytest

import coformer_runtime
from coformer_runtime.tensorrt.api import API, OLDEST, RTX_API, VERSIONS, Since, Version, version_of
from tests.runtime import real_bindings
from tests.runtime.boards import BOARDS
from tests.runtime.fakes.fake_tensorrt import module

PACKAGE = Path(coformer_runtime.__file__).parent
TOUCHING = [PACKAGE / "tensorrt" / name for name in ("board.py", "library.py", "plan.py")]
TOUCHING.append(PACKAGE / "engines" / "tensorrt.py")
CLASSES = {
    "builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition", "parser": "OnnxParser",
    "error": "ParserError", "layer": "ILayer", "tensor": "ITensor", "runtime": "Runtime", "engine": "ICudaEngine",
    "context": "IExecutionContext", "cache": "ITimingCache", "trt": "",
}  # fmt: skip
RETURNED = {"ILayer.get_input": "ITensor", "ILayer.get_output": "ITensor"}
OTHERS = {"spec.dtype", "recipe.precision"}  # a TensorSpec's, a Recipe's
Versions = FrozenSet[Version]
EVERY: Versions = frozenset(VERSIONS)
Touch = Tuple[str, Versions, int]


def path_of(node: ast.expr) -> Optional[str]:
    """Return what of the API an expression is: "" for the module, "ICudaEngine" for an object of that class."""
    if isinstance(node, ast.Name):
        return CLASSES.get(node.id)
    if isinstance(node, ast.Call):
        return RETURNED.get(path_of(node.func) or "?")
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return CLASSES.get(node.attr.lstrip("_"))
        owner = path_of(node.value)
        return None if owner is None else "{}.{}".format(owner, node.attr).lstrip(".")
    return None


def having(path: str) -> Versions:
    return frozenset(version for version in VERSIONS if API[path].covers(version))


class Walk:
    """Collects what a module touches, each with the versions that can get there.

    `hasattr(x, "name")` parts the versions between the two arms of an `if`; after an arm that returns or raises, only
    the other's go on. A private function is reached by the versions of its calls.
    """

    def __init__(self, tree: ast.Module) -> None:
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        public = [each.name for each in functions if not each.name.startswith("_") or each.name.startswith("__")]
        self.reached: Dict[str, Versions] = {each.name: frozenset() for each in functions}
        self.reached.update(dict.fromkeys(public, EVERY))
        self.touched: List[Touch] = []
        for _ in functions:  # as often as the longest chain of calls may need
            self.touched = []
            for function in functions:
                self.block(function.body, self.reached[function.name])

    def block(self, statements: List[ast.stmt], versions: Versions) -> Versions:
        """Walk statements and return the versions that reach their end."""
        for statement in statements:
            if isinstance(statement, ast.If):
                inside, outside = self.parted(statement.test, versions)
                self.expression(statement.test, versions)
                ends = [self.block(statement.body, inside), self.block(statement.orelse, outside)]
                versions = ends[0] | ends[1]
            elif isinstance(statement, (ast.Return, ast.Raise)):
                self.expression(statement, versions)
                return frozenset()
            elif isinstance(statement, (ast.For, ast.With, ast.Try, ast.While)):
                for field in ("iter", "test", "target"):
                    self.expression(getattr(statement, field, None), versions)
                for item in getattr(statement, "items", []):
                    self.expression(item.context_expr, versions)
                for arm in ("body", "orelse", "finalbody"):
                    self.block(getattr(statement, arm, []), versions)
                for handler in getattr(statement, "handlers", []):
                    self.block(handler.body, versions)
            elif not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                self.expression(statement, versions)
        return versions

    def parted(self, test: ast.expr, versions: Versions) -> Tuple[Versions, Versions]:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inside, outside = self.parted(test.operand, versions)
            return outside, inside
        if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "hasattr":
            owner, name = path_of(test.args[0]), ast.literal_eval(test.args[1])
            assert owner is not None and isinstance(name, str), ast.dump(test)
            path = "{}.{}".format(owner, name).lstrip(".")
            self.touched.append((path, having(path), test.lineno))
            return versions & having(path), versions - having(path)
        return versions, versions

    def expression(self, node: Optional[ast.AST], versions: Versions) -> None:
        if node is None:
            return
        if isinstance(node, ast.IfExp):
            inside, outside = self.parted(node.test, versions)
            self.expression(node.test, versions)
            self.expression(node.body, inside)
            self.expression(node.orelse, outside)
            return
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in self.reached:
                self.reached[called] |= versions
        if isinstance(node, ast.Attribute):
            self.attribute(node, versions)
        for child in ast.iter_child_nodes(node):
            self.expression(child, versions)

    def attribute(self, node: ast.Attribute, versions: Versions) -> None:
        path = path_of(node)
        names = {path.rpartition(".")[2] for path in API if "." in path}
        if path is not None and (("." not in path and path in CLASSES.values()) or path.endswith("__init__")):
            return  # self._engine and the like: the object itself
        if path is not None:
            self.touched.append((path, versions, node.lineno))
        elif node.attr in names and getattr(node.value, "id", "") != "self":
            known = "{}.{}".format(getattr(node.value, "id", "?"), node.attr)
            assert known in OTHERS, "line {}: whose is '{}'?".format(node.lineno, known)


def touches() -> Iterator[Tuple[str, Touch]]:
    for path in TOUCHING:
        for touch in Walk(ast.parse(path.read_text())).touched:
            yield path.name, touch


def unguarded(source: str) -> List[str]:
    found = Walk(ast.parse(source)).touched
    return [path for path, versions, _ in found if not all(API[path].covers(version) for version in versions)]


def test_every_attribute_is_in_the_table_and_within_its_versions() -> None:
    for name, (path, versions, line) in touches():
        assert path in API, "{}:{}: '{}' is not in the table".format(name, line, path)
        wrong = sorted(version for version in versions if not API[path].covers(version))
        assert not wrong, "{}:{}: '{}' is reached by {}, which have it not".format(name, line, path, wrong)


def test_every_row_of_the_table_is_used() -> None:
    used = {path for _, (path, _, _) in touches()}
    classes = {path.partition(".")[0] for path in used if "." in path}
    assert set(API) - used - classes == set()


def test_the_check_finds_what_it_should() -> None:
    assert unguarded("def f(config):\n    config.max_workspace_size = 1") == ["IBuilderConfig.max_workspace_size"]
    assert unguarded("def f(engine):\n    return engine.num_io_tensors") == ["ICudaEngine.num_io_tensors"]
    guarded = "def f(config):\n    if hasattr(config, 'set_memory_pool_limit'):\n        {}\n    else:\n        {}"
    new, old = "config.set_memory_pool_limit(1)", "config.max_workspace_size = 1"
    assert unguarded(guarded.format(new, old)) == []
    assert unguarded(guarded.format(old, new)) == [
        "IBuilderConfig.max_workspace_size", "IBuilderConfig.set_memory_pool_limit",
    ]  # fmt: skip
    early = (
        "def f(engine):\n    if hasattr(engine, 'num_io_tensors'):\n        return 1\n    return engine.num_bindings"
    )
    assert unguarded(early) == []
    called = "def f(engine):\n    return _g(engine){}\ndef _g(engine):\n    return engine.num_bindings"
    assert unguarded(called.format("")) == ["ICudaEngine.num_bindings"]
    assert unguarded(called.format(" if not hasattr(engine, 'num_io_tensors') else 0")) == []
    with pytest.raises(AssertionError, match="whose is"):
        unguarded("def f(thing):\n    return thing.num_bindings")


def test_no_other_module_touches_the_library() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path in TOUCHING:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert path_of(node.value) != "", "{}:{}".format(path, node.lineno)
            if isinstance(node, ast.Import):
                assert "tensorrt" not in [alias.name for alias in node.names], path


def test_versions() -> None:
    assert version_of("8.2.1.8") == (8, 2) and version_of("10.16.2.10") == (10, 16)
    assert VERSIONS[0] == OLDEST and list(VERSIONS) == sorted(VERSIONS)
    assert Since((8, 4)).covers((11, 4)) and not Since((8, 4)).covers((8, 2))
    assert Since((8, 0), (9, 3)).covers((9, 3)) and not Since((8, 0), (9, 3)).covers((10, 0))


def in_module(path: str, made: object) -> bool:
    for part in path.split("."):
        if not hasattr(made, part):
            return False
        made = getattr(made, part)
    return True


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.tensorrt)
def test_stand_in_has_what_the_table_says(board) -> None:
    made = module(board.tensorrt, board.gpu, {})
    for path, since in API.items():
        assert in_module(path, made) == since.covers(version_of(board.tensorrt)), path


def disagreements(found: Dict[str, bool], version: Version) -> List[str]:
    return [path for path, since in API.items() if found[path] != since.covers(version)]


@pytest.mark.parametrize("bindings", real_bindings.present() or [None], ids=str)
def test_table_against_the_bindings_of_nvidia(bindings: Optional[Path], tmp_path: Path) -> None:
    if bindings is None:
        pytest.skip(real_bindings.HOW_TO_GET)
    if not real_bindings.can_load():
        pytest.skip("no C compiler, or no nm and readelf, to stand in for the libraries below the bindings")
    found = real_bindings.attributes(bindings, list(API), tmp_path)
    version = version_of(bindings.name.partition("-")[2])
    assert disagreements(found, version) == []


def test_table_against_tensorrt_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (pip install tensorrt-rtx-cu12)")
    code = "import json, sys, tensorrt_rtx as t\nfrom tests.runtime.test_tensorrt_api import in_module\n"
    code += "print(json.dumps({path: in_module(path, t) for path in sys.argv[1:]}))"
    done = subprocess.run([sys.executable, "-c", code, *API], stdout=subprocess.PIPE, check=True)
    assert disagreements(json.loads(done.stdout.decode()), (11, 0)) == []


def test_what_is_touched_of_tensorrt_rtx_besides() -> None:
    """By the names that engines/tensorrt_rtx.py gives its objects, and on the real module."""
    classes = {"engine": "ICudaEngine", "config": "IRuntimeConfig", "_cache": "IRuntimeCache"}
    tree = ast.parse((PACKAGE / "engines" / "tensorrt_rtx.py").read_text())
    calls = [
        node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    owners = [(getattr(call.value, "id", None) or getattr(call.value, "attr", ""), call.attr) for call in calls]
    touched = {"{}.{}".format(classes[owner], name) for owner, name in owners if owner in classes}
    assert touched == set(RTX_API)
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (pip install tensorrt-rtx-cu12)")
    assert [path for path in RTX_API if not in_module(path, rtx)] == []
