"""The glyphs example: its configuration is read, its checkpoint is the teacher that it describes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coformer_compiler.config import Overrides, read_config
from coformer_compiler.data import load_data
from coformer_compiler.frontends import import_model
from tests.compiler.test_data_glyphs import FAMILIES, write_font
from tests.end_to_end.tiny import environment

EXAMPLE = Path(__file__).parents[2] / "examples" / "glyphs"


def test_the_teacher_reads_a_font_that_it_has_not_seen(tmp_path: Path) -> None:
    """Pillow's own font (Aileron) is in none of the packages."""
    config = read_config(EXAMPLE / "glyphs.toml", Overrides())
    teacher = import_model(config.model)
    for family in FAMILIES:
        write_font(tmp_path, family)
    data = load_data(f"glyphs:{tmp_path}", image_size=24, channels=1, cache_dir=tmp_path / "cache")
    with torch.inference_mode():
        guess = teacher(torch.from_numpy(data.train.inputs)).argmax(1)
    assert float((guess == torch.from_numpy(data.train.labels)).float().mean()) > 0.95


def test_the_script_asks_for_every_package_once() -> None:
    packages = (EXAMPLE / "fonts.txt").read_text(encoding="utf-8").split()
    assert len(set(packages)) == len(packages) > 100
    assert all(package.startswith("fonts-") for package in packages)
    assert "fonts.txt" in (EXAMPLE / "get_fonts.sh").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_training_script_runs(tmp_path: Path) -> None:
    fonts = tmp_path / "fonts"
    fonts.mkdir()
    for family in FAMILIES:
        write_font(fonts, family)
    made = tmp_path / "teacher.safetensors"
    command = [sys.executable, str(EXAMPLE / "train_teacher.py"), str(fonts), "--steps", "2", "--output", str(made)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {n: t.shape for n, t in load_file(made).items()} == {
        n: t.shape for n, t in load_file(EXAMPLE / "teacher.safetensors").items()
    }
