"""report.json and report.html in a folder, each appearing whole."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from coformer_compiler.report.check import MEND, check_report, report_from_json
from coformer_compiler.report.html import html_from_report
from coformer_compiler.report.schema import Report
from coformer_runtime.errors import CoformerError

JSON_NAME = "report.json"
HTML_NAME = "report.html"


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write both files by rename and return their paths; the folder must exist.

    Raises:
        CoformerError: the parts of the report disagree, or the folder cannot be written.
    """
    check_report(report)
    text = json.dumps(report.to_json(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    html = html_from_report(report)
    try:
        return _replace(folder / JSON_NAME, text), _replace(folder / HTML_NAME, html)
    except OSError as error:
        raise CoformerError(
            f"cannot be written ({error.strerror})",
            f"report in {folder}",
            "choose another output folder with -o",
        ) from error


def read_report(path: Path) -> Report:
    """The report in a report.json.

    Raises:
        CoformerError: the file cannot be read or is no report.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CoformerError(f"cannot be read ({error})", str(path), MEND) from error
    return report_from_json(value, str(path))


def _replace(path: Path, text: str) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
