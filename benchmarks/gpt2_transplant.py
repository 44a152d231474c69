"""Untrained members of a tiny GPT-2 that has really been trained: index selection against transplanting.

    python examples/docstrings/train_teacher.py build/docstrings
    python benchmarks/gpt2_transplant.py build/docstrings

Three members of a third and two of a half of every width of the docstrings teacher (four layers, width 96), fitted on
256 blocks of 64 tokens; losses in nats a token and perplexities on the held-out blocks. Writes
results/gpt2_transplant.json.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.data import load_running_text
from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.shapes import MemberShape
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.stages.transplant import selection_of
from coformer_compiler.tasks import LANGUAGE
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import statistics_from_batches
from coformer_compiler.transplant.transplant import transplant

RESULT = Path(__file__).parent / "results" / "gpt2_transplant.json"
LENGTH, CALIBRATION, JUDGED = 64, 256, 512
PARTS = {"thirds": 3, "halves": 2}
METHODS = {
    "index selection": None,
    "transplant, one basis for the stream": "global",
    "transplant, one basis per norm": "per-norm",
}


def figures(answers: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Loss and next-token accuracy of `(blocks, tokens, words)`."""
    loss = float(LANGUAGE.loss(answers, labels).mean())
    right = 100 * LANGUAGE.scored(answers, labels)
    return {"loss": round(loss, 4), "perplexity": round(math.exp(loss), 2), "accuracy": round(right, 2)}


@torch.no_grad()
def main() -> None:
    """Import, transplant, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what train_teacher.py has written")
    folder: Path = parser.parse_args().folder
    teacher = import_model(ModelSource("hf:teacher", "file", folder / "teacher", (("length", LENGTH),)))
    assert isinstance(teacher.stem, TokenStem)
    tokenizer = read_tokenizer(folder / "teacher", teacher.stem.spec)
    data = load_running_text(f"corpus:{folder / 'corpus.txt'}", tokenizer, calibration=CALIBRATION)
    held_out = [*batches_of(data.test)]
    unseen = torch.cat([inputs for inputs, _ in held_out])[:JUDGED]
    labels = torch.cat([each for _, each in held_out])[:JUDGED]
    result: dict[str, object] = {"calibration": CALIBRATION, "blocks": len(unseen)}
    result["teacher"] = figures(teacher(unseen), labels)
    print("teacher", result["teacher"], flush=True)
    found = statistics_from_batches(teacher, batches_of(data.calibration), task=LANGUAGE)
    scores = {(block.kind, block.layer): s for block, s in zip(teacher.residuals, found.scores, strict=True)}
    lessons = [(inputs, teacher.features(inputs)) for inputs, _ in batches_of(data.calibration)]
    inputs = torch.from_numpy(np.asarray(data.calibration.inputs))
    for size, count in PARTS.items():
        units = {key: len(each) // count for key, each in scores.items()}
        shape = MemberShape(
            teacher.spec.embed // count,
            {layer: n for (kind, layer), n in units.items() if kind == "attention"},
            {layer: n for (kind, layer), n in units.items() if kind == "mlp"},
        )
        names, rows = [str(n) for n in range(count)], {}
        for method, basis in METHODS.items():
            channels = found.channel_scores if basis is None else None
            policies = members_from_shapes(names, [shape] * count, scores, channels)
            priors = None
            if basis is None:
                members = [teacher.take(selection_of(policy)) for policy in policies]
            else:
                made = transplant(teacher, found, policies, inputs, basis=basis)
                members, priors = made.members, made.priors
            aggregator = fit_readouts(members, teacher.head, lessons, priors)
            features = [member.features(unseen) for member in members]
            alone = [figures(member.head(each), labels) for member, each in zip(members, features, strict=True)]
            rows[method] = {"aggregated": figures(aggregator(dict(enumerate(features))), labels), "members": alone}
            print(f"{size:7} {method:38} {rows[method]['aggregated']}", flush=True)
        result[size] = rows
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
