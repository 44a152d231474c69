"""`coformerc profile`: the two verbs, what they print, and what a configuration refuses."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from coformer_compiler.cli import main, parser
from coformer_compiler.config import Overrides, read_config
from coformer_compiler.profiling import mlp
from coformer_compiler.profiling.predictor import load_predictor
from coformer_runtime.errors import CoformerError
from coformer_runtime.profile_pack import open_pack
from coformer_targets import load_target
from tests.compiler.profiling.test_fit import TEACHER, csv, made
from tests.end_to_end.tiny import ROOT

DIGITS = {"img_size": 8, "patch_size": 2, "embed_dim": 96, "depth": 6, "num_heads": 6, "in_chans": 1, "num_classes": 10}


def test_a_pack_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [word for key, value in DIGITS.items() for word in ("--model-option", f"{key}={value}")]
    command = ["profile", "pack", "--model", "timm:vit_tiny_patch16_224", *options, "--target", "cpu", "-n", "3"]
    assert main([*command, "-o", str(tmp_path / "pack")]) == 0
    assert f"{tmp_path / 'pack'}: 3 graphs for cpu, " in capsys.readouterr().out
    pack = open_pack(str(tmp_path / "pack"))
    assert len(pack.points) == 3 and pack.model.startswith("timm:vit_tiny_patch16_224 depth=6 embed_dim=96 ")
    assert main([*command, "-o", str(tmp_path / "pack")]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.fixture
def fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.setattr(mlp, "EPOCHS", 2)
    engine_version = load_target("cpu").engine_version
    points = csv(tmp_path / "points.csv", made(TEACHER, 60), engine_version=engine_version)
    assert main(["profile", "fit", str(points), "-o", str(tmp_path / "cpu.safetensors"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "roofline" and told["points"] == 58 and set(told["held_out_errors"]) == {"mlp", "roofline"}
    return tmp_path / "cpu.safetensors"


def test_a_predictor_is_fitted_and_carried_over(
    tmp_path: Path, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = csv(tmp_path / "few.csv", made(TEACHER, 9, factor=2.0), board="slow board",
              engine_version=load_target("cpu").engine_version)  # fmt: skip
    out = tmp_path / "slow.safetensors"
    assert main(["profile", "fit", str(few), "-o", str(out), "--from", str(fitted)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"board +slow board\n", printed) and "(in use)" in printed
    assert re.search(r"from a board +by 8 points on this board: times 2", printed)
    assert load_predictor(out).board == "slow board"


def test_too_few_points_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = csv(tmp_path / "points.csv", made(TEACHER, 10))
    assert main(["profile", "fit", str(points), "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "measure a larger pack with nothing else running" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def config(folder: Path, target: str) -> Path:
    path = folder / "config.toml"
    path.write_text(
        '[model]\nname = "timm:x"\nweights = "random"\n[data]\nsource = "digits"\n'
        f'[[devices]]\nname = "attic"\ntarget = "{target}"\npredictor = "cpu.safetensors"\n'
    )
    return path


def test_a_configuration_names_a_predictor(tmp_path: Path, fitted: Path) -> None:
    found = read_config(config(tmp_path, "cpu"), Overrides()).devices[0].predictor
    assert found is not None and found == load_predictor(fitted)


def test_a_predictor_of_another_target_is_refused(tmp_path: Path, fitted: Path) -> None:
    with pytest.raises(
        CoformerError,
        match=r"config config.toml, device 'attic': the predictor 'cpu.safetensors' does not fit: it was measured for "
        r"the target 'cpu', the device's is 'raspberry-pi-5'; measure a pack for this target",
    ):
        read_config(config(tmp_path, "raspberry-pi-5"), Overrides())


def test_the_guides_commands_are_commands() -> None:
    guide = (ROOT / "docs" / "user-guide.md").read_text(encoding="utf-8")
    block = re.search(r"```bash\n(coformerc profile pack .*?)```", guide, re.DOTALL)
    assert block is not None
    lines = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    assert [words[:2] for words in lines] == [
        ["coformerc", "profile"], ["coformer-node", "profile"], ["coformerc", "profile"],
    ]  # fmt: skip
    for words in lines:
        if words[0] == "coformerc":
            assert parser().parse_args(words[1:]).command == "profile"
