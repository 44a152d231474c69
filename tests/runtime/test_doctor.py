"""`coformer-node doctor`, on files and outputs in the forms that boards have."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import pytest

from coformer_runtime.cli import main
from coformer_runtime.doctor import Finding, Machine, examine, findings_json, findings_text, this_machine
from coformer_runtime.jetpack import JETPACKS
from tests.runtime.boards import NANO, environment, make_cudart, make_site

NANO_FILES = {
    "/etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, "
    "DATE: Sat Feb 19 17:05:08 UTC 2022\n",
    "/proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
    "/proc/meminfo": "MemTotal:        4059472 kB\nMemFree:         2171120 kB\nMemAvailable:    2994012 kB\n"
    "SwapTotal:       4194300 kB\nSwapFree:        4194300 kB\n",
    "/proc/swaps": "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n/swapfile                               file    "
    "\t4194300\t0\t-1\n",
    "/etc/nvpmodel.conf": "# this file is comment\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/cpu0/online\n\n"
    "# MAXN is the NONE power model to release all constraints\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n"
    "< POWER_MODEL ID=1 NAME=5W >\nCPU_ONLINE CORE_0 1\n< PM_CONFIG DEFAULT=0 >\n",
    "/usr/local/cuda/version.txt": "CUDA Version 10.2.300\n",
}
NANO_SAYS = {
    "nvpmodel": (0, "NV Fan Mode:quiet\nNV Power Mode: MAXN\n0"),
    "tensorrt": (0, "8.2.1.8"),
    "open_cuda": (0, "10.2 through libcudart.so.10.2: NVIDIA Tegra X1, SM 5.3"),
    "pycuda.VERSION_TEXT": (1, "Traceback (most recent call last):\nModuleNotFoundError: No module named 'pycuda'"),
    "numpy": (0, "1.19.5"),
    "grpc": (0, "1.48.2"),
    "google.protobuf": (0, "3.19.6"),
    "onnxruntime": (1, "ModuleNotFoundError: No module named 'onnxruntime'"),
}


def board(
    directory: Path,
    files: Dict[str, str],
    says: Dict[str, Tuple[int, str]],
    python: Tuple[int, int] = (3, 6),
    free: int = 20 << 30,
) -> Machine:
    for path, content in files.items():
        place = directory / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)

    def run(words: Sequence[str]) -> Tuple[int, str]:
        asked = " ".join(words)
        found = [(key, answer) for key, answer in says.items() if key in asked]
        return max(found, key=lambda pair: len(pair[0]))[1] if found else (1, "no packages found matching it")

    return Machine(str(directory), run, "aarch64", python, lambda path: free)


def lacking(findings: List[Finding]) -> Dict[str, Tuple[str, str]]:
    return {each.matter: (each.found, each.mend) for each in findings if each.lacking}


def test_nano_that_lacks_nothing(tmp_path: Path) -> None:
    findings = examine(board(tmp_path, NANO_FILES, NANO_SAYS))
    assert lacking(findings) == {}
    assert [(each.matter, each.found) for each in findings if each.matter != "disk"] == [
        ("system", "NVIDIA Jetson Nano Developer Kit, JetPack 4.6.1 to 4.6.6 (L4T 32.7.1)"),
        ("Python", "3.6"),
        ("TensorRT", "8.2.1.8"),
        ("CUDA", "10.2 through libcudart.so.10.2: NVIDIA Tegra X1, SM 5.3"),
        ("pycuda", "not there; libcudart is used in its place"),
        ("memory", "2,923 MB available of 3,964"),
        ("swap", "4,095 MB on disk, 0 MB zram"),
        ("power mode", "MAXN"),
        ("numpy", "1.19.5"),
        ("grpcio", "1.48.2"),
        ("protobuf", "3.19.6"),
        ("onnxruntime", "not there; TensorRT is used"),
    ]


ZRAM = "Filename Type Size Used Priority\n" + "".join(
    "/dev/zram{} partition\t507432\t0\t5\n".format(number) for number in range(4)
)


LACKS: List[Tuple[Dict[str, str], Dict[str, Tuple[int, str]], str, str, str]] = [
    ({"/proc/swaps": ZRAM}, {}, "swap", "0 MB on disk, 1,980 MB zram", "sudo systemctl disable nvzramconfig; sudo"),
    (
        {"/proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 900000 kB\n"},
        {},
        "memory",
        "878 MB available of 7,812",
        "stop other programs, the desktop first: sudo systemctl isolate",
    ),
    ({}, {"nvpmodel": (0, "NV Power Mode: 5W\n1")}, "power mode", "5W", "for the greatest speed (MAXN): sudo nvpmodel"),
    (
        {},
        {"nvpmodel": (1, "NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13\nNVPM ERROR: permission denied")},
        "power mode",
        "NVPM ERROR: permission denied",
        "ask as root: sudo nvpmodel -q",
    ),
    ({}, {"tensorrt": (0, "8.0.1.6")}, "TensorRT", "8.0.1.6, not the 8.2.1 of JetPack", "build bundles for a"),
    (
        {},
        {
            "tensorrt;": (1, "ModuleNotFoundError: No module named 'tensorrt'"),
            "libnvinfer8": (0, "install ok installed|8.2.1-1+cuda10.2"),
        },
        "TensorRT",
        "libnvinfer8 8.2.1-1+cuda10.2 is installed, but Python says: ModuleNotFoundError: No module",
        "sudo apt install python3-libnvinfer",
    ),
    (
        {},
        {"open_cuda": (1, "coformer_runtime.errors.CheckFailed: doctor: cudaSetDevice failed with error 100")},
        "CUDA",
        "10.2.300 is installed, but: coformer_runtime.errors.CheckFailed",
        "sudo apt install nvidia-jetpack; put",
    ),
    ({}, {"numpy": (-4, "")}, "numpy", "it ends with 'illegal instruction'", "export OPENBLAS_CORETYPE=ARMV8"),
    ({}, {"grpc": (1, "ImportError: no grpc")}, "grpcio", "ImportError: no grpc", "pip install coformer-runtime"),
    (
        {"/etc/nv_tegra_release": "# R21 (release), REVISION: 3.0, GCID: 5, BOARD: ardbeg, EABI: hard\n"},
        {},
        "system",
        "NVIDIA Jetson Nano Developer Kit, L4T 21.3.0, of no JetPack that is known",
        "install one of JetPack 4.6.1",
    ),
]


@pytest.mark.parametrize(("files", "says", "matter", "start", "mend"), LACKS)
def test_what_lacks_is_named_with_its_cure(
    tmp_path: Path, files: Dict[str, str], says: Dict[str, Tuple[int, str]], matter: str, start: str, mend: str
) -> None:
    found = lacking(examine(board(tmp_path, {**NANO_FILES, **files}, {**NANO_SAYS, **says})))
    assert set(found) == {matter}
    assert found[matter][0].startswith(start) and found[matter][1].startswith(mend), found


def test_python_that_tensorrt_is_not_made_for(tmp_path: Path) -> None:
    found = lacking(examine(board(tmp_path, NANO_FILES, NANO_SAYS, (3, 8))))
    assert found == {"Python": ("3.8", "use the system's Python 3.6: TensorRT's module is made for it alone")}


def test_orin_that_knows_its_release_by_its_packages(tmp_path: Path) -> None:
    files = {
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "/proc/meminfo": "MemTotal:        7802092 kB\nMemAvailable:    6094012 kB\n",
        "/proc/swaps": ZRAM,
        "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        "/usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
    }
    says = {
        **NANO_SAYS,
        "nvidia-l4t-core": (0, "install ok installed|36.4.3-20250107174145"),
        "tensorrt": (0, "10.3.0.30"),
        "nvpmodel": (0, "NV Power Mode: 25W\n1"),
        "open_cuda": (1, ""),
    }
    findings = examine(board(tmp_path, files, says, (3, 10)))
    assert findings[0].found.endswith("Super, JetPack 6.1 to 6.2.2 (L4T 36.4.3)")
    assert lacking(findings) == {
        "CUDA": (
            "12.6.11 is installed, but: it says nothing",
            "sudo apt install nvidia-jetpack; put /usr/local/cuda/lib64 into LD_LIBRARY_PATH; join the group video",
        ),
        "power mode": ("25W", "for the greatest speed (MAXN_SUPER): sudo nvpmodel -m 2; sudo jetson_clocks"),
    }


def test_removed_package_is_not_there(tmp_path: Path) -> None:
    says = {"nvidia-l4t-core": (0, "deinstall ok config-files|36.4.3-20250107174145")}
    machine = board(tmp_path, {"/proc/meminfo": "MemAvailable: 9000000 kB\n"}, {**NANO_SAYS, **says}, (3, 11))
    assert examine(machine)[0] == Finding("system", "aarch64, no Jetson: bundles for ONNX Runtime targets run here")


def test_machine_without_a_gpu(tmp_path: Path) -> None:
    """It needs ONNX Runtime, and is not asked about TensorRT, CUDA and power modes."""
    files = {"/proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n"}
    findings = examine(board(tmp_path, files, NANO_SAYS, (3, 13), free=100 << 20))
    assert [each.matter for each in findings] == [
        "system", "Python", "memory", "swap", "disk", "numpy", "grpcio", "protobuf", "onnxruntime",
    ]  # fmt: skip
    found = lacking(findings)
    assert found["onnxruntime"][1] == "pip install 'coformer-runtime[onnxruntime]'"
    assert found["disk"][0].startswith("100 MB free in ") and "sudo apt clean" in found["disk"][1]
    assert set(found) == {"onnxruntime", "disk"}


def test_texts() -> None:
    findings = [Finding("Python", "3.6"), Finding("memory", "1 MB", "buy some")]
    assert findings_text(findings) == ("ok       Python  3.6\nlacking  memory  1 MB\n                 mend: buy some\n")
    assert json.loads(findings_json(findings)) == {
        "ok": False,
        "findings": [
            {"matter": "Python", "state": "ok", "found": "3.6", "mend": ""},
            {"matter": "memory", "state": "lacking", "found": "1 MB", "mend": "buy some"},
        ],
    }


def test_every_release_belongs_to_one_jetpack() -> None:
    for one, other in zip(JETPACKS, JETPACKS[1:]):
        assert one.first <= one.last < other.first


def test_jetpacks_carry_what_the_compiler_thinks() -> None:
    targets = pytest.importorskip("coformer_targets")  # not for the Pythons of old boards
    for name in targets.target_names():
        for variant in targets.load_target(name).jetpacks:
            target = targets.load_target("{}@jp{}".format(name, variant))
            carried = [(each.tensorrt, each.cuda, each.python) for each in JETPACKS if _is_among(variant, each.name)]
            assert carried == [(target.engine_version, target.cuda, target.python)], target.name


def _is_among(variant: str, name: str) -> bool:
    """Whether "6.2" is in "6.1 to 6.2.2"."""
    ends = [tuple(int(part) for part in end.split(".")) for end in name.split(" to ")]
    number = tuple(int(part) for part in variant.split("."))
    return ends[0][: len(number)] <= number <= ends[-1]


def test_command(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    code = main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == (0 if document["ok"] else 1)
    assert {"system", "Python", "memory", "numpy"} <= {each["matter"] for each in document["findings"]}
    main(["doctor"])
    assert capsys.readouterr().out.startswith(("ok ", "lacking "))
    monkeypatch.setattr("coformer_runtime.doctor.examine", lambda: [Finding("memory", "1 MB", "buy some")])
    assert main(["doctor"]) == 1


def test_tools_that_are_missing_or_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    run = this_machine().run
    assert run(["no-such-tool", "-q"])[0] == 127
    monkeypatch.setattr("coformer_runtime.doctor._TIMEOUT_S", 0.1)
    assert run([sys.executable, "-c", "import time; time.sleep(9)"]) == (124, "no answer within 0.1 s")


def test_the_questions_run_on_a_board(tmp_path: Path) -> None:
    """TensorRT and CUDA asked for real, in processes of their own, on the stand-ins."""
    if make_cudart(tmp_path / "lib", NANO, "libcudart.so.10.2") is None:
        pytest.skip("no C compiler for a libcudart of the test's own")
    site = make_site(tmp_path / "site", NANO, pycuda=False)
    code = "import sys; from coformer_runtime.doctor import *; from coformer_runtime.doctor import _cuda, _tensorrt\n"
    code += "m = this_machine(); print(_tensorrt(m, None).found); print(_cuda(m, None).found)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=environment(site, LD_LIBRARY_PATH=str(tmp_path / "lib")),
        check=True,
    )
    assert done.stdout.decode().splitlines() == [
        "8.2.1.8",
        "10.2 through libcudart.so.10.2: NVIDIA Tegra X1, SM 5.3",
    ]
