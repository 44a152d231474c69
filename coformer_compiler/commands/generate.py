"""`coformerc run --max-tokens`: a text that local processes continue, or answer, one round for each token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from coformer_compiler.commands.build_folder import open_builds
from coformer_compiler.commands.run import encode_lines, refuse_foreign_engines, tokenizer_of_bundle
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CoformerError
from coformer_runtime.generation import check_prompt
from coformer_runtime.manifest import load_manifest
from coformer_runtime.sampling import Sampling


def generate_text(
    out: Path,
    text: str,
    max_tokens: int,
    sampling: Sampling,
    say: Callable[[str], None],
    *,
    truncate: bool = False,
    min_members: int | None = None,
    deadline_ms: int = 5000,
) -> dict[str, Any]:
    """Start every bundle as a local process, continue or answer the text, and return what came as JSON values.

    Args:
        out: output folder of a build.
        text: the prompt.
        max_tokens: tokens of the text that is generated, at most.
        sampling: how they are chosen.
        say: told each piece of text as it comes.
        truncate: cut a text that is too long to be answered.
        min_members: go on with at least so many.
        deadline_ms: for the members' features of one token.

    Raises:
        CoformerError: the build continues and answers no texts; the prompt is empty or too long.
        CheckFailed: a member was lost, and nobody has asked to go on without it.
    """
    found = open_builds(out)
    build, folders = found.start, [str(folder) for folder in found.device_folders.values()]
    manifests = [load_manifest(str(bundle)) for bundle in build.bundles]
    refuse_foreign_engines(manifests)
    central = next(number for number, manifest in enumerate(manifests) if manifest.is_central)
    manifest, tokenizer = manifests[central], tokenizer_of_bundle(build.bundles[central], manifests[central])
    if tokenizer is None or manifest.generation is None:
        raise CoformerError(
            "the members of this build continue no texts", "--max-tokens", "leave it out, or build from a GPT-2 or T5"
        )
    if not text.strip():
        raise CoformerError("the prompt is empty", "--text", "write at least one word")
    cut = 0
    if manifest.generation.source is None:
        prompt = np.array(tokenizer.running(text), np.int32)
    else:
        ids, cut = encode_lines([text], tokenizer, truncate, "--text")
        prompt = ids[ids != manifest.generation.source.padding]
    check_prompt(manifest.generation, manifest.answer.shape[-1], prompt, max_tokens)
    numbers: list[int] = []
    told, members, degraded, times = "", [*manifest.members], False, []
    with (
        LocalCluster(folders, deadline_ms=deadline_ms, min_members=min_members) as cluster,
        cluster.client() as client,
    ):
        for token in client.generate(prompt, max_tokens, sampling):
            members, degraded = list(token.members), degraded or token.degraded
            times.append(token.total_ms)
            if token.number == manifest.generation.end:
                break
            numbers.append(token.number)
            # Bytes of one letter may come in several tokens: what is whole is told.
            whole = tokenizer.text_of(numbers)
            if not whole.endswith("\N{REPLACEMENT CHARACTER}"):
                say(whole[len(told) :])
                told = whole
    return {
        **({"cut_texts": cut} if cut else {}),
        "build": found.build,
        "text": tokenizer.text_of(numbers),
        "tokens": numbers,
        "members": members,
        "degraded": degraded,
        "token_ms": times,
    }
