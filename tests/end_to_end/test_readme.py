"""Every command of the README and of the user guide runs; links lead somewhere; examples of configuration are read.

The blocks marked bash are run as they stand, in a folder that holds what they name. Ports are the only thing that is
changed, as the machine that tests may use those already.
"""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coformer_compiler.config import Overrides, read_config
from tests.end_to_end.tiny import ROOT, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "user-guide.md").read_text(encoding="utf-8")
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def block(language: str, holding: str) -> str:
    found = [each for each in blocks(language) if holding in each]
    assert len(found) == 1, f"one {language} block of the README should hold '{holding}'"
    return found[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the commands on its path and the repository's examples."""
    (tmp_path / "bin").mkdir()
    modules = {"coformerc": "coformer_compiler", "coformer-node": "coformer_runtime"}
    for name, module in modules.items():
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        script.chmod(0o755)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def run_bash(text: str, folder: Path) -> str:
    variables = environment()
    variables["PATH"] = f"{folder / 'bin'}:{variables['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_block_is_run_below() -> None:
    known = ("coformerc targets", "coformerc build examples", "coformer-node serve")
    assert len(blocks("bash")) == len(known)
    assert all(block("bash", start).startswith(start) for start in known)
    assert len(blocks("python")) == len(blocks("toml")) == 1


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_targets_of_make(target: str) -> None:
    """Both are what CI runs; here they would install everything once more."""
    assert re.search(rf"^    make {target} +# ", README, re.MULTILINE)
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("coformerc build examples/digits" if target == "demo" else "pytest") in done.stdout


@pytest.mark.slow
def test_planning_a_model_of_ones_own(folder: Path) -> None:
    """deit_tiny.pth and flowers/ are stand-ins: random weights, random pictures."""
    import torch

    from coformer_compiler.frontends import ModelSource
    from coformer_compiler.frontends.timm_source import timm_from_source

    source = ModelSource("timm:deit_tiny_patch16_224", "random", options=(("num_classes", 3),))
    torch.save(timm_from_source(source).state_dict(), folder / "deit_tiny.pth")
    random = np.random.default_rng(0)
    for name in ("aster", "dahlia", "lily"):
        (folder / "flowers" / name).mkdir(parents=True)
        for n in range(4):
            Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(
                folder / "flowers" / name / f"{n}.png"
            )
    printed = run_bash(block("bash", "coformerc targets"), folder)
    assert "stages in build/flowers: 9 of 9 to build" in printed
    assert not (folder / "build").exists()


def test_the_example_of_a_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "flowers.toml").write_text(block("toml", "[model]"), encoding="utf-8")
    config = read_config(tmp_path / "flowers.toml", Overrides())
    assert [(device.name, device.target.name) for device in config.devices] == [
        ("gate", "jetson-nano"),
        ("porch", "raspberry-pi-5"),
    ]
    assert config.devices[0].memory_mb == 3000


@pytest.fixture
def ports() -> dict[str, str]:
    """Free ports in place of the README's."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        free = {}
        for named, each in zip(("9000", "9001", "9002"), (one, two, three), strict=True):
            each.bind(("127.0.0.1", 0))
            free[named] = str(each.getsockname()[1])
    return free


@pytest.mark.slow
def test_building_checking_and_serving_the_example(folder: Path, ports: dict[str, str]) -> None:
    printed = run_bash(block("bash", "coformerc build examples"), folder)
    assert "bundles: build/digits/bundles\n" in printed
    assert " 0 skipped, 0 failed\n" in printed
    assert "all together" in printed
    assert (folder / "build" / "digits.xml").is_file()

    serving, asking = block("bash", "coformer-node serve"), block("python", "import")
    serving = serving.replace(" --listen", " --allow-root --listen")  # tests may run as root
    for named, free in ports.items():
        serving, asking = (text.replace(f"127.0.0.1:{named}", f"127.0.0.1:{free}") for text in (serving, asking))
    (folder / "ask.py").write_text(asking)
    script = f"""
trap 'kill $(jobs -p)' EXIT
{serving}
for attempt in $(seq 60); do
    {shlex.quote(sys.executable)} ask.py 2>/dev/null && exit 0
    sleep 0.5
done
exit 1
"""
    began = time.monotonic()
    answer = run_bash(script, folder).splitlines()[-1]
    assert re.fullmatch(r"\d \('attic', 'hall', 'desk'\) [\d.]+", answer), answer
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    text = DOCUMENTS[name].read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif "://" not in link:
            assert (DOCUMENTS[name].parent / link.partition("#")[0]).exists(), link


def test_the_guide_names_every_command_as_it_is() -> None:
    commands = [line for line in blocks("bash", GUIDE)[0].splitlines() if line]
    assert {line.split()[1] for line in commands} == {
        "build", "search", "targets", "inspect", "validate", "run", "bench", "certs", "keygen", "push", "rollout",
    }  # fmt: skip
    for line in commands:
        words = line.split()
        done = subprocess.run(
            [sys.executable, "-m", "coformer_compiler", words[1], "--help"],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        for option in re.findall(r"--[\w-]+", line):
            assert option in done.stdout, (line, option)
