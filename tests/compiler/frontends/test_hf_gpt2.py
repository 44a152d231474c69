"""GPT-2: the same answers as the library's own models, from every form of folder; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.frontends.hf_encoder import random_ids
from coformer_compiler.model.spec import TokenStemSpec
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError
from tests.compiler.frontends.hf_models import hf_model, save_hf, source_of

TOLERANCE = 1e-4


@torch.no_grad()
def difference(model: Any, imported: Transformer) -> float:
    """Largest difference of the logits behind every token, relative to the largest."""
    stem = imported.stem.spec
    assert isinstance(stem, TokenStemSpec)
    ids = random_ids(stem)
    mask = imported.stem.mask(ids)
    assert mask is not None
    want = model(input_ids=ids.clamp(max=stem.pad - 1).long(), attention_mask=mask.long()).logits
    got = imported(ids)
    assert got.shape == want.shape and want[mask].std() > 0.1
    return float((got - want)[mask].abs().max() / want[mask].abs().max().clamp(min=1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_word_embeddings": False},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True, "n_inner": None},
        {"activation_function": "relu"},
    ],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_logits_are_the_librarys(options: dict[str, Any], tmp_path: Path) -> None:
    model = hf_model("gpt2", **options)
    imported = import_model(save_hf(model, tmp_path / "model"))
    assert imported.stem.spec.input.shape == (40,) and imported.spec.classes == 50
    assert difference(model, imported) < TOLERANCE


@pytest.mark.parametrize("form", ["sharded", "base model"])
def test_every_form_of_folder(form: str, tmp_path: Path) -> None:
    model, folder = hf_model("gpt2"), tmp_path / "model"
    save_hf(model.transformer if form == "base model" else model, folder)
    if form == "sharded":
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="8KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
    assert difference(model, import_model(source_of(folder, length=12))) < TOLERANCE


def test_what_is_sent_is_the_last_tokens(tmp_path: Path) -> None:
    imported = import_model(save_hf(hf_model("gpt2"), tmp_path / "model"))
    stem: Any = imported.stem
    ids = random_ids(stem.spec)
    features = imported.features(ids)
    torch.testing.assert_close(imported.sent(ids), torch.stack([features[0, -1], features[1, 19]]))


def test_later_tokens_change_nothing(tmp_path: Path) -> None:
    imported = import_model(save_hf(hf_model("gpt2"), tmp_path / "model"))
    stem: Any = imported.stem
    ids = random_ids(stem.spec)
    other = ids.clone()
    other[:, 20:] = 7
    torch.testing.assert_close(imported(other)[:, :20], imported(ids)[:, :20], atol=1e-5, rtol=1e-5)
    assert (imported(other)[0, 20:] - imported(ids)[0, 20:]).abs().max() > 0.1


def refused(source: ModelSource) -> str:
    with pytest.raises(CoformerError) as caught:
        import_model(source)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt3"}, "model_type 'gpt3' is not supported; did you mean the model type 'gpt2'?"),
        ({"add_cross_attention": True}, "it has cross-attention"),
        ({"n_head": 5}, "24 channels are no multiple of 5 heads"),
        ({"n_inner": 48}, "mlp.c_fc.weight' is [24, 40], config.json says [24, 48]"),
        ({"n_layer": 3}, "the tensor 'transformer.h.2.attn.c_attn.weight' is missing"),
        ({"n_layer": 1}, "12 tensors belong to no part of a 'gpt2': transformer.h.1."),
        ({"tie_word_embeddings": False}, "its head is not tied to the words, and 'lm_head.weight' is missing"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refused(save_hf(hf_model("gpt2"), tmp_path / "model", **change))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 41}, "length = 41, and the model has positions for 2 to 40 tokens"),
        ({"pool": "mean"}, "unknown option 'pool'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_hf(hf_model("gpt2"), tmp_path / "model")
    assert said in refused(source_of(tmp_path / "model", **options))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(768, 12, 12), (1024, 24, 16)], ids=["small", "medium"])
def test_the_real_shapes(size: tuple[int, int, int], tmp_path: Path) -> None:
    """Import proves itself against the library's hidden states; half of every width still runs."""
    from tests.compiler.frontends.families import sliced
    from tests.compiler.tiny import random_inputs

    (tmp_path / "config.json").write_text(
        f'{{"model_type": "gpt2", "n_embd": {size[0]}, "n_layer": {size[1]}, "n_head": {size[2]}}}'
    )
    imported = import_model(ModelSource("hf:gpt2", "random", tmp_path, (("length", 32),)))
    assert imported.spec.classes == 50257
    assert sliced(imported, 2).sent(random_inputs(imported.spec, 1)).isfinite().all()
