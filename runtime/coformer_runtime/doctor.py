"""`coformer-node doctor`: what this machine has and lacks for running members, and how to mend it.

One function per matter, each returning findings; they read the files and run the tools that `Machine` names, so that
tests put a board's own files in their place. What may crash (a numpy built for another CPU, a CUDA that does not fit)
is asked for in a process of its own.
"""

import json
import os
import platform
import re
import subprocess
import sys
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .jetpack import JETPACKS, JetPack
from .tensorrt.memory import read_meminfo

Run = Callable[[Sequence[str]], Tuple[int, str]]

LOW_MEMORY_MB, SWAP_BELOW_MB, SWAP_MB, LOW_DISK_MB = 1500, 5000, 3500, 1024
_TIMEOUT_S = 60
_MEND_SWAP = (
    "sudo systemctl disable nvzramconfig; sudo fallocate -l 4G /swapfile; sudo chmod 600 /swapfile; "
    "sudo mkswap /swapfile; sudo swapon /swapfile; then reboot"
)


class Finding(NamedTuple):
    """One line: what was looked at, what was found, and how to mend it; `mend` is "" where nothing lacks."""

    matter: str
    found: str
    mend: str = ""

    @property
    def lacking(self) -> bool:
        """Whether something has to be mended."""
        return bool(self.mend)


class Machine(NamedTuple):
    """Where to look.

    Attributes:
        root: prefix of the system's files, "" for this machine's.
        run: runs a command and returns its exit code and what it printed; 127 where there is none.
        arch: the processor's architecture.
        python: Python's version.
        disk: returns the free bytes at a path.
    """

    root: str
    run: Run
    arch: str
    python: Tuple[int, int]
    disk: Callable[[str], int]

    def text(self, path: str) -> str:
        """Return a file's content, "" where there is none."""
        full = self.root + path
        if not os.path.isfile(full):
            return ""
        with open(full, "rb") as stream:
            return stream.read().decode("utf-8", "replace")


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    return Machine("", _run, platform.machine(), sys.version_info[:2], _free_bytes)


def _run(words: Sequence[str]) -> Tuple[int, str]:
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        return 127, str(error)
    except subprocess.TimeoutExpired:
        return 124, "no answer within {} s".format(_TIMEOUT_S)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def _free_bytes(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def examine(machine: Optional[Machine] = None) -> List[Finding]:
    """Return what is found, in the order of the lines."""
    at = this_machine() if machine is None else machine
    release = l4t_release(at)
    jetpack = jetpack_of(release) if release else None
    findings = [_system(at, release, jetpack), _python(at, jetpack)]
    if release:
        findings += [_tensorrt(at, jetpack), _cuda(at, jetpack), _pycuda(at)]
    findings += [_memory(at), _swap(at), _disk(at)]
    if release:
        findings.append(_power(at))
    return findings + _packages(at, bool(release))


def l4t_release(at: Machine) -> str:
    """Return L4T's version, "32.7.1"; "" where this is no Jetson.

    /etc/nv_tegra_release says "# R32 (release), REVISION: 7.1, GCID: ..."; where it is missing, the package does.
    """
    said = re.search(r"^# R(\d+) \(release\), REVISION: ([\d.]+)", at.text("/etc/nv_tegra_release"), re.MULTILINE)
    if said:
        return "{}.{}".format(said.group(1), said.group(2))
    version = _package(at, "nvidia-l4t-core")
    return version.split("-")[0] if version else ""


def jetpack_of(release: str) -> Optional[JetPack]:
    """Return the JetPack that an L4T release belongs to, None for an unknown one."""
    number = _numbers(release)
    fitting = [each for each in JETPACKS if each.first <= number <= each.last]
    return fitting[0] if fitting else None


def _numbers(version: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _package(at: Machine, name: str) -> str:
    """Return the installed version of a Debian package, "" where it is not installed."""
    code, said = at.run(["dpkg-query", "-W", "-f", "${Status}|${Version}", name])
    status, _, version = said.partition("|")
    return version if code == 0 and status.endswith(" installed") else ""


def _system(at: Machine, release: str, jetpack: Optional[JetPack]) -> Finding:
    model = at.text("/proc/device-tree/model").strip("\0\n ") or at.arch
    if not release:
        return Finding("system", "{}, no Jetson: bundles for ONNX Runtime targets run here".format(model))
    if jetpack is None:
        return Finding(
            "system",
            "{}, L4T {}, of no JetPack that is known".format(model, release),
            "install one of JetPack {}".format(", ".join(each.name for each in JETPACKS)),
        )
    return Finding("system", "{}, JetPack {} (L4T {})".format(model, jetpack.name, release))


def _python(at: Machine, jetpack: Optional[JetPack]) -> Finding:
    found = "{}.{}".format(*at.python)
    if jetpack is not None and found != jetpack.python:
        return Finding(
            "Python",
            found,
            "use the system's Python {}: TensorRT's module is made for it alone".format(jetpack.python),
        )
    return Finding("Python", found)


def _tensorrt(at: Machine, jetpack: Optional[JetPack]) -> Finding:
    code, said = _ask_python(at, "import tensorrt; print(tensorrt.__version__)")
    if code != 0:
        library = next((name for name in ("libnvinfer10", "libnvinfer8") if _package(at, name)), "")
        there = "{} {} is installed, but Python says: ".format(library, _package(at, library)) if library else ""
        return Finding(
            "TensorRT",
            there + _last_line(said),
            "sudo apt install python3-libnvinfer; in a virtual environment, make it with --system-site-packages",
        )
    if jetpack is not None and not said.startswith(jetpack.tensorrt + "."):
        return Finding(
            "TensorRT",
            "{}, not the {} of JetPack {}".format(said, jetpack.tensorrt, jetpack.name),
            "build bundles for a target with TensorRT {}, or install JetPack's own".format(said),
        )
    return Finding("TensorRT", said)


def _cuda(at: Machine, jetpack: Optional[JetPack]) -> Finding:
    code, said = _ask_python(
        at,
        "from coformer_runtime.tensorrt.cuda import open_cuda; c = open_cuda('doctor'); d = c.device(); "
        "print('{} through {}: {}, SM {:g}'.format(d.cuda, c.through, d.name, d.sm / 10))",
    )
    if code == 0:
        return Finding("CUDA", said)
    version = toolkit_version(at)
    there = "{} is installed, but: ".format(version) if version else ""
    return Finding(
        "CUDA",
        there + _last_line(said),
        "sudo apt install nvidia-jetpack; put /usr/local/cuda/lib64 into LD_LIBRARY_PATH; join the group video",
    )


def toolkit_version(at: Machine) -> str:
    """Return the CUDA version that the toolkit's own file tells, "" without one."""
    told = at.text("/usr/local/cuda/version.json")
    if told:
        return str(json.loads(told).get("cuda", {}).get("version", ""))
    said = re.search(r"CUDA Version ([\d.]+)", at.text("/usr/local/cuda/version.txt"))
    return said.group(1) if said else ""


def _pycuda(at: Machine) -> Finding:
    code, said = _ask_python(at, "import pycuda; print(pycuda.VERSION_TEXT)")
    if code == 0:
        return Finding("pycuda", said)
    return Finding("pycuda", "not there; libcudart is used in its place")


def _memory(at: Machine) -> Finding:
    figures = read_meminfo(at.root + "/proc/meminfo")
    total_mb, available_mb = figures.get("MemTotal", 0) >> 20, figures.get("MemAvailable", 0) >> 20
    found = "{:,} MB available of {:,}".format(available_mb, total_mb)
    if available_mb < LOW_MEMORY_MB:
        return Finding(
            "memory",
            found,
            "stop other programs, the desktop first: sudo systemctl isolate multi-user.target (for good: set-default)",
        )
    return Finding("memory", found)


def _swap(at: Machine) -> Finding:
    """Swap on the disk, and zram, which takes the memory that it gives (/proc/swaps)."""
    disk_mb, zram_mb = 0, 0
    for line in at.text("/proc/swaps").splitlines()[1:]:
        words = line.split()
        if "zram" in words[0]:
            zram_mb += int(words[2]) >> 10
        else:
            disk_mb += int(words[2]) >> 10
    found = "{:,} MB on disk, {:,} MB zram".format(disk_mb, zram_mb)
    total_mb = read_meminfo(at.root + "/proc/meminfo").get("MemTotal", 0) >> 20
    if total_mb < SWAP_BELOW_MB and disk_mb < SWAP_MB and l4t_release(at):
        return Finding("swap", found, _MEND_SWAP)
    return Finding("swap", found)


def _disk(at: Machine) -> Finding:
    free_mb = at.disk(os.getcwd()) >> 20
    found = "{:,} MB free in {}".format(free_mb, os.getcwd())
    if free_mb < LOW_DISK_MB:
        return Finding("disk", found, "free some space: sudo apt clean; remove old plans from .coformer-engines")
    return Finding("disk", found)


def _power(at: Machine) -> Finding:
    """The power mode: `nvpmodel -q` prints "NV Power Mode: MAXN" and its number on the next line."""
    code, said = at.run(["nvpmodel", "-q"])
    current = re.search(r"NV Power Mode: (\S+)\s+(\d+)", said)
    if code != 0 or current is None:
        return Finding("power mode", _last_line(said), "ask as root: sudo nvpmodel -q")
    modes = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", at.text("/etc/nvpmodel.conf"), re.MULTILINE)
    best = [(number, name) for number, name in modes if name.startswith("MAXN")]
    if best and current.group(2) not in [number for number, _ in best]:
        number, name = best[-1]
        return Finding(
            "power mode",
            current.group(1),
            "for the greatest speed ({}): sudo nvpmodel -m {}; sudo jetson_clocks".format(name, number),
        )
    return Finding("power mode", current.group(1))


def _packages(at: Machine, jetson: bool) -> List[Finding]:
    findings = []
    for name, module in (("numpy", "numpy"), ("grpcio", "grpc"), ("protobuf", "google.protobuf")):
        findings.append(_distribution(at, name, module, "pip install coformer-runtime"))
    onnxruntime = _distribution(at, "onnxruntime", "onnxruntime", "pip install 'coformer-runtime[onnxruntime]'")
    if jetson and onnxruntime.lacking:
        onnxruntime = onnxruntime._replace(found="not there; TensorRT is used", mend="")
    return findings + [onnxruntime]


def _distribution(at: Machine, name: str, module: str, mend: str) -> Finding:
    code, said = _ask_python(at, "import {0}; print({0}.__version__)".format(module))
    if code == 0:
        return Finding(name, said)
    if code in (-4, 132):  # SIGILL: OpenBLAS takes an old ARM core for a newer one
        return Finding(name, "it ends with 'illegal instruction'", "export OPENBLAS_CORETYPE=ARMV8 (in ~/.profile)")
    return Finding(name, _last_line(said), mend)


def _ask_python(at: Machine, code: str) -> Tuple[int, str]:
    return at.run([sys.executable, "-c", code])


def _last_line(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else "it says nothing"


def findings_text(findings: List[Finding]) -> str:
    """Return the findings as lines for people."""
    width = max(len(each.matter) for each in findings)
    lines = []
    for each in findings:
        state = "lacking" if each.lacking else "ok"
        lines.append("{:<7}  {:<{width}}  {}".format(state, each.matter, each.found, width=width))
        if each.lacking:
            lines.append("{:<7}  {:<{width}}  mend: {}".format("", "", each.mend, width=width))
    return "\n".join(lines) + "\n"


def findings_json(findings: List[Finding]) -> str:
    """Return the findings as JSON: {"ok": ..., "findings": [{"matter", "state", "found", "mend"}, ...]}."""
    listed: List[Dict[str, str]] = [
        {
            "matter": each.matter,
            "state": "lacking" if each.lacking else "ok",
            "found": each.found,
            "mend": each.mend,
        }
        for each in findings
    ]
    document = {"ok": not any(each.lacking for each in findings), "findings": listed}
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
