"""The CI examples are files of their kind, and their commands, run as they stand, build and validate."""

from __future__ import annotations

import json
import shlex
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.end_to_end.tiny import ROOT, coformerc, inputs

EXAMPLES = ROOT / "examples" / "ci"


KEPT = ["build/model/bundles", "build/model/report.html", "validate.json", "validate.xml"]


def commands(name: str) -> list[str]:
    """The lines of `coformerc`, those that run whether or not a check failed last."""
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    if name == "github.yml":
        steps = content["jobs"]["validate"]["steps"]
        lines = [step["run"] for step in steps if "run" in step]
        assert [step["run"] for step in steps if "run" in step and step.get("if") == "always()"] == lines[-1:]
        assert next(step["uses"].partition("@")[0] for step in steps if "uses" in step) == "actions/checkout"
        (upload,) = (step for step in steps if step.get("uses", "").startswith("actions/upload-artifact"))
        assert (upload["if"], sorted(upload["with"]["path"].split())) == ("always()", KEPT)
    else:
        job = content["validate"]
        assert len(job["after_script"]) == 1
        lines = job["script"] + job["after_script"]
        artifacts = job["artifacts"]
        assert (artifacts["when"], sorted(artifacts["paths"])) == ("always", KEPT)
        assert artifacts["reports"] == {"junit": "validate.xml"}
    assert lines[0].startswith("pip install 'coformer-compiler[rtx]'")
    return [line for line in lines if line.startswith("coformerc ")]


def test_both_examples_run_the_same_commands_and_keep_the_same_files() -> None:
    assert commands("github.yml") == commands("gitlab.yml")


@pytest.mark.slow
def test_the_commands_build_and_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(inputs() / "tiny.toml", tmp_path / "model.toml")
    shutil.copy(inputs() / "teacher.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("github.yml", "gitlab.yml"):
        found = [line.partition(" > ") for line in commands(name)]
        assert [line.split()[1] for line, _, _ in found] == ["build", "validate", "validate"]
        for kept in ("validate.xml", "validate.json"):
            (tmp_path / kept).unlink(missing_ok=True)
        for line, _, output in found:
            outcome = coformerc(*shlex.split(line, comments=True)[1:])
            assert outcome.code == 0, outcome.err
            if output:
                (tmp_path / output.strip()).write_text(outcome.out)
        assert json.loads((tmp_path / "validate.json").read_text())["ok"] is True
        suite = ET.parse(tmp_path / "validate.xml").getroot()
        assert int(suite.get("tests", "0")) > 10 and suite.get("failures") == "0"
        assert (tmp_path / "build" / "model" / "report.html").is_file()
