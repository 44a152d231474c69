"""The glyphs example against its goals: work per member, and accuracy on unseen fonts before and after training.

Run: sh examples/glyphs/get_fonts.sh build/fonts; python benchmarks/glyphs.py. Builds the example (or takes what is
cached in build/glyphs) and writes benchmarks/results/glyphs.json. Accuracies are in per cent, on the test split.
"""

from __future__ import annotations

import json
from pathlib import Path

from coformer_compiler.compile import build
from coformer_compiler.config import Overrides, read_config
from coformer_compiler.progress import SilentProgress

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "glyphs.json"
MOST_WORK, MOST_LOST, MOST_LOST_UNTRAINED = 12.0, 0.5, 5.0


def main() -> None:
    """Build, print and write the figures."""
    config = read_config(ROOT / "examples" / "glyphs" / "glyphs.toml", Overrides())
    report = build(config, ROOT / "build" / "glyphs", SilentProgress()).report
    accuracy, cost = report.accuracy, report.cost
    work = [round(100 * member.flops / cost.teacher.flops, 2) for member in cost.members]
    teacher, untrained, trained = (
        round(100 * share, 2) for share in (accuracy.teacher, accuracy.aggregated_untrained, accuracy.aggregated)
    )
    result = {
        "work_per_member": work,
        "teacher": teacher,
        "untrained": untrained,
        "trained": trained,
        "samples": accuracy.samples,
        "reached": {
            "work": max(work) <= MOST_WORK,
            "untrained": untrained >= teacher - MOST_LOST_UNTRAINED,
            "trained": trained >= teacher - MOST_LOST,
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
