"""Python 3.6, 3.8, 3.10, 3.12 and 3.13, each with the versions in runtime/constraints.

The runtime's own tests under each, and any mix of them at the two ends.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple
from xml.etree import ElementTree

import numpy as np
import pytest

from coformer_compiler.commands.certs import make_certificates
from coformer_runtime.answer import Shaped
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.profile_points import read_points, write_csv
from coformer_runtime.security import read_security
from tests.runtime import alternatives, bundles
from tests.runtime.boards import FUTURE, NANO, ORIN, THOR, XAVIER, make_bundle, make_site
from tests.runtime.boards import environment as board_environment
from tests.runtime.interpreters import ROOT, TEST_PACKAGES, VERSIONS, environment, interpreter
from tests.runtime.nodes import EVERYONE, PIXELS, settled
from tests.runtime.packs import make_pack
from tests.runtime.shipping.conftest import Shipped, shipped
from tests.runtime.shipping.test_interrupted import interrupted
from tests.runtime.text_bundles import answer_of, make_text_cluster, texts

__all__ = ["shipped"]

pytestmark = [pytest.mark.slow, pytest.mark.interpreters]
HERE = Path(__file__).parent
CHECKS = HERE / "portable_checks.py"


def base_of(version: str) -> str:
    base = interpreter(version)
    if base is None:
        pytest.skip("no Python {} on this machine, neither under pyenv nor on PATH".format(version))
    return base


@pytest.fixture(scope="module")
def python() -> Callable[[str], str]:
    """Version -> interpreter of an environment with the runtime; skips where the version is absent."""
    made: Dict[str, str] = {}

    def provide(version: str) -> str:
        if version not in made:
            made[version] = environment(version, base_of(version))
        return made[version]

    return provide


def clean_environment() -> Dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(command: List[str], env: Optional[Dict[str, str]] = None) -> str:
    env = clean_environment() if env is None else env
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout.decode("utf-8")


OF_THE_COMPILER = re.compile(r"^(?:from|import) (?:benchmarks|coformer_(?:compiler|passes|targets))\b", re.MULTILINE)
LEFT_OUT = {
    "test_stock_client": "it brings a client of its own, for this Python",
    "test_tensorrt_types": "it runs mypy",
}
AT_LEAST, MAY_FAIL_ONCE = 600, 5
# pytest 7.0, the last for Python 3.6, puts empty modules in the place of packages that are not imported yet.
RUN_TESTS = "import sys, pytest, tests.runtime.fakes; sys.exit(pytest.main(sys.argv[1:]))"


def portable_modules() -> List[Path]:
    """The test modules beside this one that import neither the compiler nor benchmarks, but for those left out."""
    assert all((HERE / (name + ".py")).is_file() for name in LEFT_OUT)
    found = [path for path in sorted(HERE.glob("test_*.py")) if path.stem not in LEFT_OUT]
    return [path for path in found if not OF_THE_COMPILER.search(path.read_text(encoding="utf-8"))]


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_tests_of_the_runtime(tmp_path: Path, version: str) -> None:
    """All that are portable and not slow, against the installed runtime.

    What fails is run once more, by itself: some of these tests measure deadlines of 100 ms, and several interpreters
    may run at once on this machine. What is wrong with an interpreter fails twice.

    Those below shipping/ push releases with the compiler: test_an_upgrade_killed_at_every_step stands for them, as
    test_tls_and_token does for test_security.
    """
    python = environment(version, base_of(version), TEST_PACKAGES[version])
    modules = [str(path) for path in portable_modules()]
    words = ["-q", "-c", str(HERE / "interpreters.ini"), "--rootdir", str(ROOT), "--confcutdir", str(ROOT),
             "--basetemp", str(tmp_path / "work"), "-o", "cache_dir=" + str(tmp_path / "cache"),
             "-m", "not slow and not interpreters"]  # fmt: skip

    def run_tests(name: str, *more: str) -> Tuple[Tuple[int, int, int], str]:
        """How many ran, were skipped and failed, and what pytest said."""
        report = tmp_path / (name + ".xml")
        done = subprocess.run(
            [python, "-c", RUN_TESTS, *words, "--junitxml", str(report), *more, *modules],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=str(ROOT),
            env=dict(clean_environment(), PYTHONDONTWRITEBYTECODE="1"),
            check=False,
        )
        said = done.stdout.decode("utf-8", "replace")[-20_000:]
        assert done.returncode in (0, 1), said
        (suite,) = ElementTree.parse(str(report)).getroot().iter("testsuite")
        ran, skipped, failed, broken = (int(suite.get(key)) for key in ("tests", "skipped", "failures", "errors"))
        return (ran, skipped, failed + broken), said

    (ran, skipped, failed), said = run_tests("all")
    assert ran - skipped >= AT_LEAST and failed <= MAY_FAIL_ONCE, said
    if failed:
        (ran, _, failed_again), said = run_tests("again", "--last-failed", "--last-failed-no-failures", "none")
        assert ran >= failed and failed_again == 0, said


@pytest.mark.parametrize("version", VERSIONS)
def test_installed_command(python: Callable[[str], str], cluster_dirs: List[str], version: str) -> None:
    node = str(Path(python(version)).with_name("coformer-node"))
    assert run([node, "version"]) == "coformer-node 0.1.0\n"
    assert run([node, "validate", cluster_dirs[0]]).endswith("7 aggregators: fine\n")


BOARD_OF = {"3.6": NANO, "3.8": XAVIER, "3.10": ORIN, "3.12": THOR, "3.13": FUTURE}


@pytest.mark.parametrize("version", VERSIONS)
def test_plan_on_a_board(python: Callable[[str], str], tmp_path: Path, version: str) -> None:
    """Each JetPack's Python with its TensorRT, as a stand-in: build, build again, load, refuse on another board."""
    board = BOARD_OF[version]
    node = str(Path(python(version)).with_name("coformer-node"))
    bundle = make_bundle(tmp_path / "hall", board)
    clean = board_environment(make_site(tmp_path / "site", board), sources=False)
    assert run([node, "build", bundle], clean).startswith("member.onnx: built in ")
    assert run([node, "build", bundle], clean).startswith("member.onnx: was built already, 3 golden cases, ")
    assert run([node, "validate", bundle], clean).endswith(", 0 aggregators: fine\n")
    other = board_environment(make_site(tmp_path / "other", board._replace(gpu="another")), sources=False)
    done = subprocess.run([node, "validate", bundle], stderr=subprocess.PIPE, env=other, check=False)
    assert done.returncode == 2 and b"made elsewhere or otherwise: for the GPU " in done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_profile(python: Callable[[str], str], tmp_path: Path, version: str) -> None:
    """A pack measured under one Python is read, and refused where it is gone on with under another's engine."""
    node = str(Path(python(version)).with_name("coformer-node"))
    pack, csv = make_pack(tmp_path / "pack", 2), tmp_path / "points.csv"
    command = [node, "profile", pack, "-o", str(csv), "--threads", "1"]
    assert run(command).startswith("{}: 2 points, ".format(csv))
    found = read_points(str(csv))
    assert [point.graph for point in found.points] == ["graphs/00000.onnx", "graphs/00001.onnx"]
    write_csv(str(csv), found.provenance._replace(engine_version="0.9"), found.points[:1])
    done = subprocess.run(command, stderr=subprocess.PIPE, env=clean_environment(), check=False)
    assert done.returncode == 2 and b"the engine's version was '0.9', here it is '" in done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upgrade_killed_at_every_step(
    python: Callable[[str], str], shipped: Shipped, tmp_path: Path, version: str
) -> None:
    words = ("kill", "steps", "upgrade", "self-test")
    assert interrupted(shipped, tmp_path, *words, python=python(version), env=clean_environment())["valid"] == 18


@pytest.mark.parametrize("version", VERSIONS)
def test_doctor(python: Callable[[str], str], version: str) -> None:
    node = str(Path(python(version)).with_name("coformer-node"))
    done = subprocess.run([node, "doctor", "--json"], stdout=subprocess.PIPE, env=clean_environment(), check=False)
    findings = {each["matter"]: each for each in json.loads(done.stdout.decode())["findings"]}
    assert findings["Python"]["found"] == version
    assert [findings[name]["state"] for name in ("numpy", "grpcio", "protobuf", "onnxruntime")] == ["ok"] * 4


@pytest.mark.parametrize("version", VERSIONS)
def test_import_time(python: Callable[[str], str], version: str) -> None:
    def best(code: str) -> float:
        times = []
        for _ in range(5):
            started = time.monotonic()
            run([python(version), "-c", code])
            times.append(time.monotonic() - started)
        return min(times)

    assert best("import coformer_runtime") - best("pass") < 0.15


@pytest.fixture(scope="module")
def digest_here(cluster_dirs: List[str]) -> str:
    with LocalCluster(cluster_dirs) as cluster:
        source = Path(sys.modules["coformer_runtime"].__file__).parents[1]
        done = subprocess.run([sys.executable, str(CHECKS), cluster_dirs[0], cluster.address], stdout=subprocess.PIPE,
                              env=dict(os.environ, PYTHONPATH=str(source)), check=True)  # fmt: skip
    digest: str = json.loads(done.stdout.decode())["digest"]
    return digest


@pytest.mark.parametrize("version", VERSIONS)
def test_client_formats_and_bytes(
    python: Callable[[str], str], cluster_dirs: List[str], digest_here: str, version: str
) -> None:
    with LocalCluster(cluster_dirs) as cluster:
        said = run([python(version), str(CHECKS), cluster_dirs[0], cluster.address])
    assert json.loads(said)["digest"] == digest_here


MIXES = [(central, *pair) for central in VERSIONS
         for pair in [*itertools.zip_longest(VERSIONS[::2], VERSIONS[1::2], fillvalue=central)]]  # fmt: skip


def test_every_pair_is_mixed() -> None:
    met = {(central, worker) for central, *workers in MIXES for worker in workers}
    assert met == set(itertools.product(VERSIONS, VERSIONS))


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
def test_mixed_cluster(python: Callable[[str], str], cluster_dirs: List[str], mix: List[str]) -> None:
    pythons = {device: python(version) for device, version in zip(bundles.DEVICES, mix, strict=True)}
    with LocalCluster(cluster_dirs, python=pythons, deadline_ms=5000) as cluster, cluster.client() as client:
        for _ in range(5):
            answer = client.infer(PIXELS)
        np.testing.assert_allclose(answer.logits, bundles.answer_of(EVERYONE, PIXELS), rtol=1e-4, atol=1e-4)
        assert answer.members == bundles.DEVICES


@pytest.mark.parametrize("version", VERSIONS)
def test_profiles_and_batches(python: Callable[[str], str], tmp_path: Path, version: str) -> None:
    """Texts of several lengths, joined into batches, by nodes under each Python; weights beside the graphs."""
    pythons = dict.fromkeys(bundles.DEVICES, python(version))
    given = [texts(1 + number % 3, seed=number, longest=4 + number) for number in range(12)]
    words = ["--batch-wait-ms", "20", "--truncate"]
    dirs = make_text_cluster(tmp_path)
    with LocalCluster(
        dirs, python=pythons, deadline_ms=5000, options=words
    ) as cluster, cluster.client() as client, ThreadPoolExecutor(12) as pool:
        for ids, answer in zip(given, pool.map(client.infer, given), strict=True):
            np.testing.assert_allclose(answer.logits, answer_of(EVERYONE, ids), rtol=1e-4, atol=1e-4)
            assert answer.shaped is not None and answer.shaped.length in (4, 8, 16)
        assert client.infer(np.ones((1, 20), np.int32)).shaped._replace(queue_ms=0) == Shaped(1, 16, 4)
    node = str(Path(python(version)).with_name("coformer-node"))
    assert "27 golden cases" in run([node, "validate", dirs[1]])


@pytest.mark.parametrize("version", VERSIONS)
def test_alternatives(python: Callable[[str], str], tmp_path: Path, version: str) -> None:
    """A central node and a worker of several builds under each Python, beside a worker under this one."""
    folders = alternatives.make_alternatives(tmp_path)
    pythons = {device: python(version) for device in ("attic", "desk")}
    with LocalCluster(folders, python=pythons, deadline_ms=5000) as cluster, cluster.client() as client:
        for _ in range(5):
            answer = client.infer(PIXELS)
            name = alternatives.name_of(answer.build)
            np.testing.assert_allclose(answer.logits, alternatives.answer_of(name, PIXELS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_tls_and_token(python: Callable[[str], str], cluster_dirs: List[str], tmp_path: Path, version: str) -> None:
    """A worker under each Python with certificates and a token, asked by a central node under this one."""
    make_certificates(tmp_path, ["attic", "hall"], [], 10)
    token = tmp_path / "token"
    token.write_text("correct-horse-battery\n")
    token.chmod(0o600)
    words = [str(Path(python(version)).with_name("coformer-node")), "serve", cluster_dirs[1], "--exit-with-stdin",
             "--tls", str(tmp_path / "hall"), "--token-file", str(token), "--allow-root"]  # fmt: skip
    security = read_security(False, str(tmp_path / "attic"), str(token))
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment())
    assert worker.stdin is not None and worker.stdout is not None
    with worker:
        address = "hall=" + worker.stdout.readline().decode().split()[1]
        with Central(open_bundle(cluster_dirs[0]), CentralOptions((address,), 5000, 2, 1, security)) as central:
            settled(central.ready)
            assert central.answer(PIXELS).members == ("attic", "hall")
        worker.stdin.close()
