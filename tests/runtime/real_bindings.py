"""NVIDIA's own Python bindings of TensorRT, to be asked which attributes they have.

The wheels of the bindings are small; the libraries that they need are gigabytes and want a GPU. Classes and their
attributes are made when the bindings are loaded, before any of the libraries' functions is called, so empty libraries
of the same names will do.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

TAG = "cp{}{}".format(*sys.version_info)
CACHE = Path(__file__).parents[2] / "build" / "tensorrt-bindings"
HOW_TO_GET = (
    "no bindings for {0}: pip download --no-deps tensorrt-cu12-bindings==VERSION, "
    "and unzip the wheel into build/tensorrt-bindings/{0}-VERSION".format(TAG)
)
_LOAD = """
import ctypes, importlib.machinery, importlib.util, json, sys
bindings, libraries, paths = json.loads(sys.argv[1])
for library in libraries:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
loader = importlib.machinery.ExtensionFileLoader("tensorrt", bindings)
made = importlib.util.module_from_spec(importlib.util.spec_from_loader("tensorrt", loader))
loader.exec_module(made)

def has(path):
    owner = made
    for part in path.split("."):
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True

print(json.dumps({path: path == "__version__" or has(path) for path in paths}))
"""


def present() -> List[Path]:
    """Return the unpacked wheels for this interpreter."""
    return sorted(CACHE.glob(TAG + "-*"))


def can_load() -> bool:
    """Return whether the tools are there."""
    return all(shutil.which(tool) for tool in ("cc", "nm", "readelf"))


def attributes(wheel: Path, paths: List[str], work: Path) -> Dict[str, bool]:
    """Return which attributes the bindings have; `__version__` is the package's own and taken as there."""
    extension = str(wheel / "tensorrt_bindings" / "tensorrt.so")
    needed = re.findall(r"\[(libnv\S+)\]", _output(["readelf", "-d", extension]))
    undefined = re.findall(r"^\s+U (\w+)$", _output(["nm", "-D", "--undefined-only", extension]), re.MULTILINE)
    wanted = [name for name in undefined if re.search("INTERNAL|PluginRegistry|OnnxParserVersion|Plugins|parser", name)]
    source = work / "empty.c"
    source.write_text("".join("void *{}(void) {{ return 0; }}\n".format(name) for name in wanted))
    for name in needed:
        words = ["cc", "-shared", "-fPIC", "-Wl,-soname," + name, "-o", str(work / name), str(source)]
        subprocess.run(words, check=True)
    request = json.dumps([extension, [str(work / name) for name in needed], paths])
    found: Dict[str, bool] = json.loads(_output([sys.executable, "-c", _LOAD, request]))
    return found


def _output(words: List[str]) -> str:
    return subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.decode()
