"""On which held-out texts do the embeddings of the Debian example miss their teacher's?

Run after `python benchmarks/topics.py embeddings`: python benchmarks/rare_words.py [--out BUILD] [--sentences FOLDER].
Sorts the test texts by their rarest word part, by how often it stands in the texts that were learned from, and prints
of each group its share, its mean distance (1 - cosine) and its share of all distance; writes
benchmarks/results/rare_words.json. A minute.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.model.spec import TokenStemSpec
from coformer_compiler.model.system import load_system

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "build" / "debian-topics"
RESULT = ROOT / "benchmarks" / "results" / "rare_words.json"
LENGTH = 32
EDGES = (0, 1, 5, 20, 60, 200, math.inf)
"""Of the groups: how often the rarest word part has been seen."""


def texts_of(folder: Path, split: str) -> list[str]:
    """One column, with its name above."""
    return (folder / f"{split}.tsv").read_text(encoding="utf-8").split("\n")[1:-1]


@torch.no_grad()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=EXAMPLE / "embeddings", help="the build")
    parser.add_argument("--sentences", type=Path, default=EXAMPLE / "sentences", help="what it learned from")
    options = parser.parse_args()
    teacher = import_model(ModelSource("hf:minilm", "file", EXAMPLE / "minilm", (("length", LENGTH), ("pool", "mean"))))
    words = teacher.stem.spec
    assert isinstance(words, TokenStemSpec), "MiniLM reads texts"
    tokenizer = read_tokenizer(EXAMPLE / "minilm", words)
    train, test = (
        tokenizer.encode(texts_of(options.sentences, split), truncate=True).ids for split in ("train", "test")
    )
    boosted = [path for path in (options.out / "cache" / "boost").iterdir() if not path.suffix]
    system = load_system(max(boosted, key=lambda path: path.stat().st_mtime))
    distances = []
    for ids in torch.from_numpy(test).split(256):
        answers = system.aggregator({n: member.features(ids) for n, member in enumerate(system.members)})
        distances.append(1 - torch.cosine_similarity(answers, teacher.features(ids)))
    distance = torch.cat(distances).double().numpy()
    seen = np.bincount(train[train != words.pad], minlength=words.vocabulary)
    rarest = np.array([seen[row[row != words.pad]].min() for row in test])
    groups = []
    for least, end in pairwise(EDGES):
        inside = (rarest >= least) & (rarest < end)
        groups.append(
            {
                "seen": [least, None if end == math.inf else int(end) - 1],
                "share": round(float(inside.mean()), 3),
                "mean_distance": round(float(distance[inside].mean()), 4) if inside.any() else None,
                "share_of_distance": round(float(distance[inside].sum() / distance.sum()), 3),
            }
        )
        print(groups[-1], flush=True)
    found = {"learned_from": len(train), "mean_distance": round(float(distance.mean()), 4), "groups": groups}
    print({name: found[name] for name in ("learned_from", "mean_distance")})
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
