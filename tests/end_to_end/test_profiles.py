"""Builds with profiles: graphs for several lengths and batch sizes, from the configuration to answers over sockets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coformer_runtime.bundle import Bundle, open_bundle
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.engines import feature_name, open_aggregator, open_member
from coformer_runtime.manifest_profiles import lengths_of, shapes_of
from tests.compiler.frontends.hf_models import hf_model, save_hf
from tests.compiler.texts import manifest_of, write_config
from tests.end_to_end.tiny import TINY, coformerc, write_inputs

pytestmark = pytest.mark.slow
DEVICES = ("attic", "hall", "desk")
PROFILES = "[profiles]\nlengths = [4, 6, 10]\nbatches = [1, 4]\n\n[booster]"


def write_profiles(folder: Path, board: str = "cpu", **changes: str) -> Path:
    config = write_config(folder, **changes)
    config.write_text(config.read_text().replace("[booster]", PROFILES).replace("jetson-nano", board))
    return config


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profiles")
    outcome = coformerc("build", write_profiles(folder), "-o", folder / "out")
    assert outcome.code == 0, outcome.err
    return folder / "out"


@pytest.fixture(scope="module")
def bundles(out: Path) -> list[Bundle]:
    return [open_bundle(str(out / "bundles" / device)) for device in DEVICES]


def test_every_member_has_every_graph_and_the_weights_once(out: Path, bundles: list[Bundle]) -> None:
    wanted = tuple((batch, length) for batch in (1, 4) for length in (4, 6, 10))
    for bundle in bundles:
        assert shapes_of(bundle.manifest) == wanted
        sizes = {spec.path: spec.size_bytes for spec in bundle.manifest.files}
        assert sizes["member.onnx.data"] > 1000
        assert [path for path in sizes if path.startswith("member.")] == [
            "member.1x4.onnx", "member.1x6.onnx", "member.4x10.onnx", "member.4x4.onnx", "member.4x6.onnx",
            "member.onnx", "member.onnx.data",
        ]  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    assert [tuple(each["shape"]) for each in report["profiles"]] == list(wanted)
    assert all(timing["median"] > 0 for each in report["profiles"] for timing in each["members"])
    assert "4 × 10" in (out / "report.html").read_text()
    assert "[1, 4], [1, 6], [1, 10], [4, 4]" in coformerc("inspect", out / "bundles" / "hall").out


def test_validate_checks_every_profile(out: Path, tmp_path: Path) -> None:
    outcome = coformerc("validate", out)
    assert outcome.code == 0, outcome.out + outcome.err
    assert outcome.out.count("profiles on golden vectors") == 3


def test_the_length_changes_no_answer(bundles: list[Bundle]) -> None:
    """Accuracy is the same in every profile that a text fits: it is the same answer, to rounding."""
    manifest = bundles[0].manifest
    random = np.random.default_rng(3)
    lengths = lengths_of(manifest)
    everyone = next(spec for spec in manifest.aggregators if len(spec.members) == 3)
    engines = [open_member(bundle, 1) for bundle in bundles]
    aggregator = open_aggregator(bundles[0], everyone)

    def answers(ids: np.ndarray) -> np.ndarray:
        found = [engine.run({"ids": ids})["features"] for engine in engines]
        rows = [{feature_name(n): each[row : row + 1] for n, each in enumerate(found)} for row in range(len(ids))]
        return np.concatenate([aggregator.run(feeds)["logits"] for feeds in rows])

    for tokens in range(2, lengths[-1] + 1):
        ids = np.zeros((4, lengths[-1]), np.int32)
        ids[:, :tokens] = random.integers(4, 17, (4, tokens))
        wanted = np.concatenate([answers(row[None]) for row in ids])
        for length in (each for each in lengths if each >= tokens):
            cut = np.ascontiguousarray(ids[:, :length])
            np.testing.assert_allclose(answers(cut), wanted, atol=1e-4)
            np.testing.assert_allclose(answers(cut[:1]), wanted[:1], atol=1e-4)
    for engine in [*engines, aggregator]:
        engine.close()


def test_a_cluster_tells_which_profile_it_took(out: Path, tmp_path: Path) -> None:
    found = json.loads(coformerc("run", out, "--json", "--text", "mail server").out)["answers"][0]
    assert found["profile"] == {"batch": 1, "length": 4}
    np.save(tmp_path / "short.npy", np.array([[2, 4, 5, 6, 3]], np.int32))
    found = json.loads(coformerc("run", out, "--json", "--input", tmp_path / "short.npy").out)["answers"][0]
    assert found["profile"]["length"] == 6
    bundles = [str(out / "bundles" / device) for device in DEVICES]
    with LocalCluster(bundles, deadline_ms=5000) as cluster, cluster.client() as client:
        ids = np.array([[2, 4, 5, 3], [2, 6, 3, 0], [2, 7, 8, 3]], np.int32)
        answer = client.infer(ids)
        alone = [client.infer(row[None]).logits[0] for row in ids]
    assert answer.logits.shape == (3, 3) and answer.shaped is not None and answer.shaped.batch == 4
    np.testing.assert_allclose(answer.logits, alone, atol=1e-4)


@pytest.mark.parametrize("board", ["jetson-nano", "jetson-orin-nano"])
def test_every_profile_is_legal_on_boards(board: str, tmp_path: Path) -> None:
    """Each graph against the operator table of the board's TensorRT; pairs of texts with their types."""
    config = write_profiles(tmp_path, board, options="pairs = true" if board == "jetson-orin-nano" else "")
    if board == "jetson-orin-nano":
        from tests.compiler.texts import rows, write_tsv

        write_tsv(tmp_path / "topics.tsv", ("text", "text2", "label"), rows(120, pairs=True))
        config.write_text(config.read_text().replace("length = 10", "length = 20").replace("6, 10", "6, 20"))
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    outcome = coformerc("validate", tmp_path / "out")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "recipe.json" in manifest_of(tmp_path / "out" / "bundles" / "desk")["files"]


def test_relative_positions_and_half_precision(tmp_path: Path) -> None:
    """T5's encoder: the table of relative positions ends earlier; and float16 on the board."""
    config = write_profiles(tmp_path, "jetson-nano")
    wide = {"d_model": 48, "num_heads": 6, "d_kv": 8, "d_ff": 96, "feed_forward_proj": "gated-gelu"}
    save_hf(hf_model("t5", num_labels=3, **wide), tmp_path / "teacher")
    text = config.read_text().replace('target = "jetson-nano"', 'target = "jetson-nano"\nprecision = "float16"')
    config.write_text(text)
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    outcome = coformerc("validate", tmp_path / "out")
    assert outcome.code == 0, outcome.out + outcome.err


def test_integers(tmp_path: Path) -> None:
    """Scales hang on the padding, so that each profile's graph has features of its own, and is held to them."""
    config = write_profiles(tmp_path)
    config.write_text(
        'precision = "int8"\n' + config.read_text().replace("[booster]\nsteps = 2", "[booster]\nsteps = 0")
    )
    wide = {"hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 384}
    save_hf(hf_model("bert", num_labels=3, **wide), tmp_path / "teacher")
    text = config.read_text().replace("[booster]", '[policy]\nmethod = "index"\n\n[booster]')
    config.write_text(text.replace("joint_steps = 2", "joint_steps = 0"))
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    outcome = coformerc("validate", tmp_path / "out")
    assert outcome.code == 0, outcome.out + outcome.err


def test_images_in_batches(tmp_path: Path) -> None:
    config = write_inputs(tmp_path)
    config.write_text(TINY.replace("[booster]", "[profiles]\nbatches = [1, 2]\n\n[booster]"))
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    outcome = coformerc("validate", tmp_path / "out")
    assert outcome.code == 0, outcome.out + outcome.err
    manifest = manifest_of(tmp_path / "out" / "bundles" / "attic")
    assert [each["file"] for each in manifest["profiles"]["graphs"]] == ["member.2.onnx"]
    assert "padding" not in manifest["profiles"] and "batch of 2" in (tmp_path / "out" / "report.html").read_text()
    config.write_text(TINY.replace("[booster]", "[profiles]\nlengths = [2, 4]\n\n[booster]"))
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 2 and "the model reads no texts" in outcome.err
