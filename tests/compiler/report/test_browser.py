"""The page in a real browser, where there is one: no complaint in the console, nothing wider than a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from coformer_compiler.report.html import html_from_report
from coformer_compiler.report.markup import escaped

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium"),
]


def browse(page: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open the page from a file; what the page logs is in stderr."""
    assert BROWSER is not None
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", *options, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("name", ["digits_report", "compared_report", "big_report", "bare_report"])
def test_the_console_stays_empty(name, request, tmp_path):
    shot = tmp_path / "shot.png"
    done = browse(
        html_from_report(request.getfixturevalue(name)), tmp_path, f"--screenshot={shot}", "--window-size=1200,3000"
    )
    assert "CONSOLE" not in done.stderr
    assert shot.read_bytes().startswith(b"\x89PNG") and shot.stat().st_size > 20_000


def test_that_the_console_would_be_seen(tmp_path):
    done = browse("<script>console.error('seen')</script>", tmp_path, "--dump-dom")
    assert "CONSOLE" in done.stderr


@pytest.mark.parametrize("width", [420, 1200])
@pytest.mark.parametrize("name", ["digits_report", "compared_report", "big_report", "bare_report"])
def test_the_page_never_scrolls_sideways(name, width, request, tmp_path):
    page = html_from_report(request.getfixturevalue(name))
    frame = (
        f'<iframe id="f" style="border:0;width:{width}px;height:3000px" srcdoc="{escaped(page)}"></iframe>'
        '<pre id="w"></pre>'
        '<script>f.onload = () => w.textContent = "wide=" + f.contentDocument.documentElement.scrollWidth</script>'
    )
    done = browse(frame, tmp_path, "--dump-dom", "--window-size=1400,3000")
    found = re.search(r"wide=(\d+)", done.stdout)
    assert found, done.stderr
    assert int(found[1]) <= width


def test_pointing_at_a_device_dims_the_others(digits_report, tmp_path):
    script = """
    <script>
      document.querySelector('[data-lights="1"]').dispatchEvent(new PointerEvent("pointerenter"));
      const lit = new Set([...document.querySelectorAll(".lit")].map((part) => part.dataset.device));
      document.title = "hush=" + document.body.classList.contains("hush") + " lit=" + [...lit];
    </script></body>"""
    page = html_from_report(digits_report).replace("</body>", script)
    assert "hush=true lit=1</title>" in browse(page, tmp_path, "--dump-dom").stdout
