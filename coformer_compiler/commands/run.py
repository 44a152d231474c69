"""`coformerc run`: one answer from a cluster of local processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coformer_compiler.commands.build_folder import open_builds
from coformer_compiler.data.request import Request
from coformer_compiler.data.resize import fit_image
from coformer_compiler.data.tokenizer import TOKENIZER, Tokenizer
from coformer_compiler.stages.measure import HOST_ENGINE
from coformer_runtime.answer import Answer
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import Manifest, load_manifest


def run_build(
    out: Path,
    file: Path | None,
    *,
    text: str | None = None,
    truncate: bool = False,
    min_members: int | None = None,
    deadline_ms: int = 5000,
) -> dict[str, Any]:
    """Start every bundle as a local process, ask for the answer to each input, and return them as JSON values.

    Args:
        out: output folder of a build.
        file: the inputs, or None where `text` is given.
        text: one text, or a pair of texts with a tab between.
        truncate: cut texts that are too long.
        min_members: answer with at least so many.
        deadline_ms: for the members' features.
    """
    found = open_builds(out)
    build, folders = found.start, [str(folder) for folder in found.device_folders.values()]
    manifests = [load_manifest(str(bundle)) for bundle in build.bundles]
    refuse_foreign_engines(manifests)
    central = next(number for number, manifest in enumerate(manifests) if manifest.is_central)
    manifest, tokenizer = manifests[central], tokenizer_of_bundle(build.bundles[central], manifests[central])
    cut = 0
    if text is not None:
        ids, cut = encode_lines([text], tokenizer, truncate, "--text")
        inputs = with_answers_begun(ids, manifest)
    elif file is not None and file.suffix.lower() == ".txt" and file.is_file():
        ids, cut = encode_lines(read_lines(file), tokenizer, truncate, f"input {file}")
        inputs = with_answers_begun(ids, manifest)
    else:
        assert file is not None
        inputs = read_input(file, manifest)
    with (
        LocalCluster(folders, deadline_ms=deadline_ms, min_members=min_members) as cluster,
        cluster.client() as client,
    ):
        answers = [client.infer(inputs[n : n + 1]) for n in range(len(inputs))]
    told = {"cut_texts": cut} if cut else {}
    name_of = tokenizer.name_of if tokenizer is not None and manifest.generation is not None else None
    return {"build": found.build, "answers": [_described(answer, manifest, name_of) for answer in answers], **told}


def tokenizer_of_bundle(bundle: Path, manifest: Manifest) -> Tokenizer | None:
    """The tokenizer that the central bundle of a build for texts holds."""
    if not any(spec.path == TOKENIZER for spec in manifest.files):
        return None
    path = bundle / TOKENIZER
    return Tokenizer(path.read_text(encoding="utf-8"), len(manifest.input.shape) - 1, f"tokenizer {path}")


def read_lines(path: Path) -> list[str]:
    """One text a line.

    Raises:
        CoformerError: unreadable, or without a text.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CoformerError(f"cannot be read ({error})", f"input {path}", "give a text file in UTF-8") from error
    if not lines:
        raise CoformerError("holds no text", f"input {path}", "write one text a line")
    return lines


def encode_lines(
    lines: Sequence[str], tokenizer: Tokenizer | None, truncate: bool, where: str
) -> tuple[np.ndarray, int]:
    """Token numbers of texts, or of pairs with a tab between, and how many were cut.

    Raises:
        CoformerError: the members read no texts, a pair is none, a text is too long.
    """
    if tokenizer is None:
        raise CoformerError("the members of this build read no texts", where, "give --input an image or a .npy file")
    parts = [line.split("\t") for line in lines]
    sizes = {len(part) for part in parts}
    if sizes not in ([{2}] if tokenizer.rows == 2 else [{1}, {2}]):
        wanted = "pairs" if tokenizer.rows == 2 else "single texts, or all pairs"
        raise CoformerError(f"these are not all {wanted}", where, "write the two texts of a pair with a tab between")
    pairs = sizes == {2}
    encoded = tokenizer.encode(
        [part[0] for part in parts], [part[1] for part in parts] if pairs else None, truncate=truncate
    )
    return encoded.ids, encoded.cut


def with_answers_begun(ids: np.ndarray, manifest: Manifest) -> np.ndarray:
    """Inputs of members that answer texts: the texts, and answers that only begin; of others the texts alone."""
    spec = manifest.generation
    if spec is None or spec.source is None:
        return ids
    answers = np.full((len(ids), spec.context), spec.padding, np.int32)
    answers[:, 0] = spec.source.start
    return np.concatenate([ids, answers], 1)


def refuse_foreign_engines(manifests: Sequence[Manifest]) -> None:
    """Raise a CoformerError where a member's engine does not run on this machine."""
    foreign = [each for each in manifests if each.engine.kind != HOST_ENGINE]
    if foreign:
        boards = ", ".join(f"'{each.device}' ({each.target}: {each.engine.kind})" for each in foreign)
        raise CoformerError(
            f"the engine of {boards} does not run on this machine",
            "cluster of local processes",
            "ship the bundles and start `coformer-node` on the boards, or build for targets that run here to try it",
        )


def read_input(path: Path, manifest: Manifest) -> np.ndarray:
    """What the members take, `(samples, …)`, from a .npy file or, for those that see, an image.

    Raises:
        CoformerError: for an unreadable file, another dtype or shape.
    """
    want = manifest.input.shape[1:]
    shorter = manifest.profiles is not None and manifest.profiles.padding is not None
    dtype = manifest.input.dtype
    sees = dtype == "uint8"
    other = "an image that Pillow can read" if sees else "a .txt file of one text a line"
    where, mend = f"input {path}", f"give a .npy file of {dtype} {'pixels' if sees else 'token numbers'}, or {other}"
    if not path.is_file():
        raise CoformerError("there is no such file", where, mend)
    if path.suffix.lower() != ".npy" and sees:
        return _read_image(path, want, mend)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CoformerError(f"cannot be read ({error})", where, mend) from error
    samples = array[None] if array.ndim == len(want) else array
    fits = samples.ndim > len(want) and samples.shape[1:-1] == want[:-1]
    fits = fits and (0 < samples.shape[-1] <= want[-1] if shorter else samples.shape[-1] == want[-1])
    if array.dtype != np.dtype(dtype) or not fits or not len(samples):
        sizes = ", ".join(map(str, want))
        raise CoformerError(
            f"holds {array.dtype} {list(array.shape)}", where, f"give {dtype} [{sizes}] or [samples, {sizes}]"
        )
    return np.asarray(samples)


def _read_image(path: Path, want: tuple[int, ...], mend: str) -> np.ndarray:
    """Scaled and cropped as the compiler does with the photographs of an image folder."""
    from PIL import Image

    channels, height, width = want
    request = Request(str(path), height, width, channels, crop=1.0, cache_dir=path.parent)
    try:
        with Image.open(path) as image:
            return fit_image(image, request)[None]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise CoformerError(f"cannot be read ({error})", f"input {path}", mend) from error


def _described(answer: Answer, manifest: Manifest, name_of: Callable[[int], str] | None) -> dict[str, Any]:
    return {**_answered(answer.logits[0].astype(np.float64), manifest, name_of), **_circumstances(answer)}


def _answered(logits: np.ndarray, manifest: Manifest, name_of: Callable[[int], str] | None) -> dict[str, Any]:
    """What the numbers say: classes where there are labels, the next word, else one number, else an embedding."""
    if not manifest.answer.labels and manifest.input.name == "ids" and name_of is None:
        return {"value": float(logits[0])} if len(logits) == 1 else {"embedding": [float(each) for each in logits]}
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = [int(n) for n in np.argsort(-shares, kind="stable")[:5]]
    labels = manifest.answer.labels
    names = [labels[n] if labels else name_of(n) if name_of else str(n) for n in best]
    return {
        "label": names[0],
        "top": [{"label": name, "probability": float(shares[n])} for n, name in zip(best, names, strict=True)],
        "logits": [float(number) for number in logits],
    }


def _circumstances(answer: Answer) -> dict[str, Any]:
    taken = answer.shaped
    return {
        **({} if taken is None else {"profile": {"batch": taken.batch, "length": taken.length}}),
        "members": list(answer.members),
        "degraded": answer.degraded,
        "missing": dict(answer.missing),
        "expected_accuracy": answer.expected_accuracy,
        "total_ms": answer.phases.total_ms,
        "compute_ms": dict(answer.phases.compute_ms),
    }
