"""The CI examples are files of their kind, and their commands, run as they stand, build and validate."""

from __future__ import annotations

import shlex
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.end_to_end.tiny import ROOT, coformerc, inputs

EXAMPLES = ROOT / "examples" / "ci"


def commands(name: str) -> list[list[str]]:
    """The lines of `coformerc`, as words, without what a shell adds."""
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    if name == "github.yml":
        steps = content["jobs"]["validate"]["steps"]
        lines = [step["run"] for step in steps if "run" in step]
        assert next(step["uses"].partition("@")[0] for step in steps if "uses" in step) == "actions/checkout"
        (upload,) = (step for step in steps if step.get("uses", "").startswith("actions/upload-artifact"))
        assert "validate.xml" in upload["with"]["path"]
    else:
        lines = content["validate"]["script"]
        assert content["validate"]["artifacts"]["reports"] == {"junit": "validate.xml"}
    assert lines[0].startswith("pip install 'coformer-compiler[rtx]'")
    return [shlex.split(line.partition(" > ")[0], comments=True) for line in lines if line.startswith("coformerc ")]


@pytest.mark.slow
def test_the_commands_build_and_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(inputs() / "tiny.toml", tmp_path / "model.toml")
    shutil.copy(inputs() / "teacher.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("github.yml", "gitlab.yml"):
        found = commands(name)
        assert [words[1] for words in found][:2] == ["build", "validate"]
        (tmp_path / "validate.xml").unlink(missing_ok=True)
        for words in found:
            outcome = coformerc(*words[1:])
            assert outcome.code == 0, outcome.err
        suite = ET.parse(tmp_path / "validate.xml").getroot()
        assert int(suite.get("tests", "0")) > 10 and suite.get("failures") == "0"
        assert (tmp_path / "build" / "model" / "report.html").is_file()
