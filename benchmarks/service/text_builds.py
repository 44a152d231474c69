"""Builds that read texts, for measurements: MiniLM-L6's shape with random weights, three members of a third of it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from coformer_compiler.cli import main
from tests.compiler.frontends.hf_models import hf_model, save_hf
from tests.compiler.texts import rows, tokenizer_json, write_tsv

DEVICES = ("attic", "hall", "desk")
WORDS = 30522
SHAPE = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 6}
CONFIG = """\
[model]
name = "hf:teacher"

[model.options]
length = {length}

[data]
source = "text:topics.tsv"
calibration = 32

[policy]
method = "index"

[profiles]
lengths = {lengths}
batches = {batches}
share_weights = {share}

[booster]
steps = 0
joint_steps = 0
device = "cpu"
"""


def build(folder: Path, lengths: list[int], batches: list[int], *, share_weights: bool = False) -> list[str]:
    """Build for three devices of this machine's kind; returns the bundles, the central one first.

    Raises:
        RuntimeError: the build failed, with what it said.
    """
    folder.mkdir(parents=True)
    teacher = hf_model("bert", num_labels=3, vocab_size=WORDS, max_position_embeddings=lengths[-1] + 2, **SHAPE)
    save_hf(teacher, folder / "teacher")
    (folder / "teacher" / "tokenizer.json").write_text(tokenizer_json(size=WORDS))
    write_tsv(folder / "topics.tsv", ("text", "label"), rows(90))
    devices = "".join(f'\n[[devices]]\nname = "{name}"\ntarget = "cpu"\n' for name in DEVICES)
    share = "true" if share_weights else "false"
    text = CONFIG.format(length=lengths[-1], lengths=lengths, batches=batches, share=share) + devices
    (folder / "texts.toml").write_text(text)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(["build", str(folder / "texts.toml"), "-o", str(folder / "out")])
    if code:
        raise RuntimeError(said.getvalue())
    return [str(folder / "out" / "bundles" / device) for device in DEVICES]
