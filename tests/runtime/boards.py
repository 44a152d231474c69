"""Boards for the tests: a stand-in for TensorRT of one version and for CUDA, and bundles for TensorRT.

See fakes/fake_tensorrt.py for what the stand-ins show and what not.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from onnx import TensorProto

import coformer_runtime
from coformer_runtime.manifest import EngineSpec
from coformer_runtime.manifest_profiles import ProfileSpec, ProfilesSpec
from tests.runtime import bundles

FAKES = Path(__file__).with_name("fakes")
SOURCES = Path(coformer_runtime.__file__).parents[1]


class Board(NamedTuple):
    """A board: TensorRT's version, the GPU's name and SM, CUDA's version; `target` has the recipe's version."""

    target: str
    recipe_version: str
    tensorrt: str
    gpu: str
    sm: int
    cuda: Tuple[int, int]


NANO = Board("jetson-nano", "8.2.1", "8.2.1.8", "NVIDIA Tegra X1", 53, (10, 2))
XAVIER = Board("jetson-xavier-nx", "8.5.2", "8.5.2.2", "Xavier", 72, (11, 4))
ORIN_6_0 = Board("jetson-orin-nano@jp6.0", "8.6.2", "8.6.2.3", "Orin", 87, (12, 2))
ORIN = Board("jetson-orin-nano@jp6.2", "10.3.0", "10.3.0.30", "Orin", 87, (12, 6))
THOR = Board("jetson-thor", "10.16.2", "10.16.2.10", "NVIDIA Thor", 110, (13, 2))
FUTURE = Board("future", "11.0.0", "11.0.0.114", "NVIDIA Thor", 110, (13, 2))
BOARDS = (NANO, XAVIER, ORIN_6_0, ORIN, THOR, FUTURE)


def make_site(
    directory: Path, board: Board, behaviour: Optional[Dict[str, Any]] = None, pycuda: bool = True
) -> List[str]:
    """Write what makes a Python process believe that it runs on the board; return the paths for PYTHONPATH."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tensorrt.py").write_text(
        "import sys\nfrom fake_tensorrt import module\nsys.modules[__name__] = module({!r}, {!r}, {!r})\n".format(
            board.tensorrt, board.gpu, behaviour or {}
        )
    )
    shutil.copy(str(FAKES / "fake_tensorrt.py"), str(directory))
    shutil.rmtree(str(directory / "pycuda"), ignore_errors=True)
    if pycuda:
        shutil.copytree(str(FAKES / "pycuda"), str(directory / "pycuda"))
        with (directory / "pycuda" / "driver.py").open("a") as stream:
            stream.write("\nGPU = ({!r}, {!r}, {!r})\n".format(board.gpu, divmod(board.sm, 10), (*board.cuda, 0)))
    return [str(directory)]


def make_cudart(directory: Path, board: Board, name: str, free_bytes: int = 1 << 30) -> Optional[Path]:
    """Compile a libcudart of that name on host memory; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    version = 1000 * board.cuda[0] + 10 * board.cuda[1]
    defines = ['-DGPU_NAME="{}"'.format(board.gpu), "-DSM_MAJOR={}".format(board.sm // 10),
               "-DSM_MINOR={}".format(board.sm % 10), "-DVERSION={}".format(version),
               "-DFREE_BYTES={}".format(free_bytes)]  # fmt: skip
    defines += ["-DHAS_V2"] if board.cuda[0] == 12 else []
    words = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", *defines, "-o", str(directory / name)]
    subprocess.run([*words, str(FAKES / "libcudart.c")], check=True)
    return directory / name


def recipe_for(board: Board, **changes: Any) -> Dict[str, Any]:
    """Return a recipe of the form that the compiler writes."""
    major = int(board.recipe_version.split(".")[0])
    recipe = {
        "format": "coformer-recipe/1",
        "engine": {"kind": "tensorrt", "version": board.recipe_version, "sm": board.sm},
        "graph": "member.onnx",
        "precision": "float32",
        "inputs": {"pixels": list(bundles.PIXELS)},
        "outputs": {"features": [1, 3]},
        "workspace_mb": 64 if board is NANO else None,
        "needed_mb": 1,
        "timing_cache": "timing.cache",
        "strongly_typed": major >= 11,
    }
    recipe.update(changes)
    return recipe


def make_bundle(
    directory: Path,
    board: Board,
    member: int = 1,
    member_onnx: Optional[bytes] = None,
    files: Optional[Dict[str, bytes]] = None,
    batches: Sequence[int] = (),
    **recipe: Any,
) -> str:
    """Write a device's bundle for TensorRT on `board`, with graphs for further `batches`; `recipe` changes its keys."""
    graph = member_onnx or bundles.member_graph(member, element=TensorProto.FLOAT)
    content = bundles.member_files(member, graph=graph)
    wanted = recipe_for(board, **recipe)
    content["recipe.json"] = (json.dumps(wanted, indent=2, sort_keys=True) + "\n").encode("ascii")
    shapes = [(batch, *bundles.PIXELS[1:]) for batch in batches]
    for shape in shapes:
        content["member.{}.onnx".format(shape[0])] = bundles.member_graph(member, shape, element=TensorProto.FLOAT)
    graphs = tuple(ProfileSpec(each, "member.{}.onnx".format(each[0]), "golden/output.npy") for each in shapes)
    content.update(files or {})
    engine = EngineSpec("tensorrt", board.recipe_version, "member.onnx", str(wanted["precision"]), "recipe.json")
    manifest = bundles.member_manifest(member, content)._replace(
        target=board.target, engine=engine, profiles=ProfilesSpec(graphs) if graphs else None
    )
    return bundles.write_bundle(directory, manifest, content)


def environment(site: List[str], sources: bool = True, **more: str) -> Dict[str, str]:
    """Return the environment of a process on a board."""
    paths = site + ([str(SOURCES)] if sources else [])
    return dict(os.environ, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS="1", **more)


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def node(site: List[str], *words: str, **more: str) -> Done:
    """Run `coformer-node` on a board."""
    done = subprocess.run(
        [sys.executable, "-m", "coformer_runtime", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(site, **more),
        check=False,
        timeout=120,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def plan_header(path: str) -> Dict[str, Any]:
    """Return what the stand-in noted in a plan."""
    content = Path(path).read_bytes()
    size = int.from_bytes(content[8:12], "little")
    header: Dict[str, Any] = json.loads(content[12 : 12 + size].decode("ascii"))
    return header


def cache_of(bundle: str) -> Path:
    """Return where the plans of a bundle lie if no place is named."""
    return Path(bundle).parent / ".coformer-engines"


def files_of(directory: Path) -> Dict[str, bytes]:
    """Return path -> content of all files."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def plans_of(bundle: str) -> List[Path]:
    """Return the plans that lie there."""
    return sorted(cache_of(bundle).glob("*.plan"))


def ledger_of(bundle: str) -> List[Dict[str, Any]]:
    """Return the lines of the ledger there, one for each plan that was built."""
    return [json.loads(line) for line in (cache_of(bundle) / "ledger.jsonl").read_text().splitlines()]
