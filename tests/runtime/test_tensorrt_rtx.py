"""Bundles for TensorRT-RTX: the plan for this machine's card is opened, and what the card compiled is kept.

The card is a stand-in (see fakes/fake_tensorrt.py), with the calls of RTX_API added; what of the real library can be
called without a card is called in test_tensorrt_api.py and tests/targets/test_tensorrt_rtx.py.
"""

import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from onnx import TensorProto

from coformer_runtime.bundle import open_bundle
from coformer_runtime.engines import open_member
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.manifest import EngineSpec
from tests.runtime import bundles
from tests.runtime.boards import Board, make_site
from tests.runtime.fakes import fake_tensorrt

CARD = Board("rtx-ada", "1.7.1", "11.0.0", "NVIDIA GeForce RTX 4060", 89, (12, 8))


class Cache:
    """What IRuntimeCache does, on a text."""

    def __init__(self) -> None:
        self.content = b"compiled"

    def serialize(self) -> memoryview:
        return memoryview(self.content)

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(b"compiled"):
            return False
        self.content = content
        return True


class Config:
    def create_runtime_cache(self) -> Cache:
        return Cache()

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.cache = cache
        return True


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., List[Config]]:
    """Make this process believe that it has a card; returns the runtime configurations that were used."""

    def make(version: str = "1.7.1.116", sm: int = 89) -> List[Config]:
        used: List[Config] = []
        made = fake_tensorrt.module(CARD.tensorrt, CARD.gpu, {})
        plain = made.ICudaEngine.create_execution_context

        def create(engine: Any, config: Config) -> Any:
            used.append(config)
            return plain(engine)

        made.ICudaEngine.create_execution_context = create
        made.ICudaEngine.create_runtime_config = lambda engine: Config()
        made.__version__ = version
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", made)
        site = make_site(tmp_path / "site{}".format(sm), CARD._replace(sm=sm))
        for name in ("pycuda", "pycuda.driver"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "path", site + sys.path)
        return used

    yield make
    for name in ("pycuda", "pycuda.driver"):
        sys.modules.pop(name, None)


def rtx_bundle(directory: Path, plans: Dict[str, str]) -> str:
    """A bundle of the stand-in's plans: name → the GPU that it is for."""
    graph = bundles.member_graph(1, element=TensorProto.FLOAT)
    content = bundles.member_files(1, graph=graph)
    for name, gpu in plans.items():
        header = json.dumps({"version": CARD.tensorrt, "gpu": gpu}).encode("ascii")
        content[name] = b"FAKEPLAN" + len(header).to_bytes(4, "little") + header + graph
    engine = EngineSpec("tensorrt-rtx", "1.7.1", "member.onnx", "float32")
    manifest = bundles.member_manifest(1, content)._replace(target="rtx-ada", engine=engine)
    return bundles.write_bundle(directory, manifest, content)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return rtx_bundle(tmp_path / "bundle", {"member.sm89.plan": CARD.gpu})


def test_the_plan_answers_and_what_was_compiled_is_kept(card, directory: str, tmp_path: Path) -> None:
    used = card()
    bundle = open_bundle(directory, engines_dir=str(tmp_path / "engines"))
    pixels = bundles.golden_pixels()[:1]
    with open_member(bundle, 1) as engine:
        found = engine.run({"pixels": pixels})["features"]
    np.testing.assert_allclose(found, bundles.features_of(1, pixels), rtol=1e-5)
    (kept,) = (tmp_path / "engines").iterdir()
    assert kept.name == bundle.sha256("member.sm89.plan") + ".rtx-cache" and kept.read_bytes() == b"compiled"
    kept.write_bytes(b"compiled before")
    open_member(bundle, 1).close()
    assert used[-1].cache.content == b"compiled before"
    kept.write_bytes(b"of another driver")
    open_member(bundle, 1).close()
    assert kept.read_bytes() == b"compiled"


@pytest.mark.parametrize(
    ("version", "sm", "what", "mend"),
    [
        (
            "1.8.0.5",
            89,
            "the plan is of TensorRT-RTX 1.7.1, here is 1.8.0.5",
            "install the version of the bundle, or build the bundle again",
        ),
        (
            "1.7.2.9",
            120,
            "'NVIDIA GeForce RTX 4060' is SM 120, the bundle's plans are for: 89",
            "build the bundle for this card's target ('coformerc targets' lists them)",
        ),
    ],
)
def test_plans_that_do_not_fit(card, directory: str, tmp_path: Path, version: str, sm: int, what: str, mend) -> None:
    card(version, sm)
    with pytest.raises(CoformerError) as caught:
        open_member(open_bundle(directory, engines_dir=str(tmp_path / "engines")), 1)
    assert (caught.value.what, caught.value.mend) == (what, mend)


def test_a_plan_that_the_library_refuses(card, tmp_path: Path) -> None:
    card()
    directory = rtx_bundle(tmp_path / "other", {"member.sm89.plan": "another card"})
    with pytest.raises(CheckFailed, match="cannot load the plan: Version tag does not match"):
        open_member(open_bundle(directory, engines_dir=str(tmp_path / "engines")), 1)


def test_without_the_library(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(CoformerError) as caught:
        open_member(open_bundle(directory), 1)
    assert caught.value.what.startswith("TensorRT-RTX cannot be imported (")
    assert caught.value.mend == "install it: pip install tensorrt-rtx-cu12==1.7.*"
