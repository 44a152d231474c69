"""BERT and its kind: the same answers as the library's own models, from every form of folder."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.frontends.hf_encoder import ENCODERS, random_ids
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from coformer_runtime.errors import CoformerError
from tests.compiler.frontends.hf_models import hf_model, save_hf, source_of

TOLERANCE = 1e-4


@torch.no_grad()
def library_logits(model: Any, imported: Transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the library and ours on the same padded texts."""
    stem: Any = imported.stem
    ids = random_ids(stem.spec)
    words, types = (ids, None) if stem.types is None else (ids[:, 0], ids[:, 1])
    given = {"input_ids": words.long(), "attention_mask": stem.mask(ids).long()}
    if types is not None:
        given["token_type_ids"] = types.long()
    return model(**given).logits, imported(ids)


def error(want: torch.Tensor, got: torch.Tensor) -> float:
    return float((want - got).abs().max() / want.abs().max().clamp(min=1))


@pytest.mark.parametrize("kind", ENCODERS)
def test_logits_are_the_librarys(kind: str, tmp_path: Path) -> None:
    model = hf_model(kind)
    imported = import_model(save_hf(model, tmp_path / kind))
    assert imported.stem.spec.input.shape == (38 if kind == "roberta" else 40,)
    want, got = library_logits(model, imported)
    assert want.std() > 0.1
    assert error(want, got) < TOLERANCE


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_pairs_have_token_types(kind: str, tmp_path: Path) -> None:
    model = hf_model(kind)
    save_hf(model, tmp_path / kind)
    imported = import_model(source_of(tmp_path / kind, pairs=True, length=12))
    assert imported.stem.spec.input.shape == (2, 12)
    want, got = library_logits(model, imported)
    assert error(want, got) < TOLERANCE


@pytest.mark.parametrize(
    "form", ["sharded", "torch", "torch, sharded", "torch before 1.6", "base model", "gamma and beta"]
)
def test_every_form_of_folder(form: str, tmp_path: Path) -> None:
    model, folder = hf_model("bert"), tmp_path / "model"
    save_hf(model, folder)
    want = import_model(source_of(folder))
    path, state = folder / "model.safetensors", model.state_dict()
    path.unlink()
    if form == "sharded":
        model.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
    elif form == "torch":
        torch.save(state, folder / "pytorch_model.bin")
    elif form == "torch before 1.6":  # no zip archive, so that it cannot be mapped
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif form == "torch, sharded":
        halves = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
        for number, half in enumerate(halves):
            torch.save(half, folder / f"part-{number}.bin")
        weight_map = {name: f"part-{number}.bin" for number, half in enumerate(halves) for name in half}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    elif form == "base model":
        torch.save({name.removeprefix("bert."): tensor for name, tensor in state.items()}, folder / "pytorch_model.bin")
        with pytest.raises(CoformerError, match=r"'bert\.pooler\.dense\.weight' is missing"):
            import_model(source_of(folder))
        return
    else:
        old = {
            n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for n, t in state.items()
        }
        torch.save(old, folder / "pytorch_model.bin")
    got = import_model(source_of(folder))
    assert all(torch.equal(a, b) for a, b in zip(want.state_dict().values(), got.state_dict().values(), strict=True))


def test_weights_stay_in_the_mapped_file(tmp_path: Path) -> None:
    """Nothing but queries, keys and values, which become one linear, is copied."""
    save_hf(hf_model("bert"), tmp_path / "model")
    imported = import_model(source_of(tmp_path / "model"))
    stem: Any = imported.stem
    (attention, *_), (mlp, *_) = imported.residuals[:1], imported.residuals[1:2]
    mapped = [stem.words, attention.branch.writer.weight, mlp.branch.reader.weight, mlp.branch.writer.weight]
    assert [each.untyped_storage().resizable() for each in mapped] == [False] * 4
    assert attention.branch.reader.weight.untyped_storage().resizable()


def test_an_embedding_is_the_pooled_stream(tmp_path: Path) -> None:
    """Without a classifier the answer is the embedding, normalised where sentence-transformers says so."""
    model = hf_model("bert")
    save_hf(model.bert, tmp_path / "model")
    (tmp_path / "model" / "1_Pooling").mkdir()
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (tmp_path / "model" / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    imported = import_model(source_of(tmp_path / "model"))
    stem: Any = imported.stem
    ids = random_ids(stem.spec)
    mask = stem.mask(ids)
    with torch.no_grad():
        hidden = model.bert(input_ids=ids.long(), attention_mask=mask.long()).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(imported(ids), torch.nn.functional.normalize(mean, dim=-1), atol=1e-5, rtol=0)


def test_random_weights_need_only_a_config(tmp_path: Path) -> None:
    save_hf(hf_model("distilbert"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    once, twice = (import_model(ModelSource("hf:model", "random", tmp_path / "model", seed=4)) for _ in range(2))
    assert once.spec.classes == 5
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def refused(source: ModelSource) -> str:
    with pytest.raises(CoformerError) as caught:
        import_model(source)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "rorberta"}, "model_type 'rorberta' is not supported; did you mean the model type 'roberta'?"),
        ({"model_type": None}, "model_type 'None' is not supported; known model types: bert, distilbert"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "its architecture is code of its own (auto_map)"),
        ({"hidden_act": "gelux"}, "activation 'gelux' is not supported; did you mean the activation 'gelu'?"),
        ({"position_embedding_type": "relative_key"}, "its positions are 'relative_key'"),
        ({"num_attention_heads": 5}, "24 channels are no multiple of 5 heads"),
        ({"intermediate_size": 48}, "intermediate.dense.weight' is [40, 24], config.json says [48, 24]"),
    ],
)
def test_a_config_that_does_not_fit(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refused(save_hf(hf_model("bert"), tmp_path / "model", **change))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lenght": 5}, "unknown option 'lenght'; did you mean the option 'length'?"),
        ({"length": 41}, "length = 41, and the model has positions for 2 to 40 tokens"),
        ({"length": "5"}, "length = '5' is not a whole number"),
        ({"pool": "max"}, "pool = 'max'; give 'cls' or 'mean'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_hf(hf_model("bert"), tmp_path / "model")
    assert said in refused(source_of(tmp_path / "model", **options))


class Bomb:
    """Runs code when it is unpickled the plain way."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    "case", ["missing", "left over", "code", "truncated", "no weights", "a lost shard", "no config"]
)
def test_weights_that_do_not_fit(case: str, tmp_path: Path) -> None:
    model, folder = hf_model("bert"), tmp_path / "model"
    source = save_hf(model, folder)
    state, path, trace = model.state_dict(), folder / "pytorch_model.bin", tmp_path / "ran"
    weights = folder / "model.safetensors"
    if case == "truncated":
        weights.write_bytes(weights.read_bytes()[:-50])
        assert "unreadable or truncated (" in refused(source)
        return
    weights.unlink()
    if case == "missing":
        torch.save({n: t for n, t in state.items() if n != "bert.encoder.layer.1.output.dense.weight"}, path)
        said = "the tensor 'bert.encoder.layer.1.output.dense.weight' is missing; the nearest is "
    elif case == "left over":
        torch.save({**state, "bert.encoder.layer.2.output.dense.weight": torch.zeros(2, 2)}, path)
        said = "1 tensors belong to no part of a 'bert': bert.encoder.layer.2.output.dense.weight"
    elif case == "code":
        path.write_bytes(pickle.dumps({**state, "head": Bomb(trace)}, protocol=2))
        said = "unreadable or truncated ("
    elif case == "a lost shard":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
        said = "1 of 1 shards are missing, the first is 'one.safetensors'"
    elif case == "no config":
        (folder / "config.json").unlink()
        said = "no readable config.json ("
    else:
        said = "no weight file; put model.safetensors or pytorch_model.bin there, or its shards"
    assert said in refused(source)
    assert not trace.exists()


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
REAL: dict[str, dict[str, Any]] = {
    "bert-base": {"model_type": "bert"},
    "bert-large": {"model_type": "bert", **LARGE},
    "roberta-base": {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514}
    | {"type_vocab_size": 1, "pad_token_id": 1},
    "distilbert": {"model_type": "distilbert"},
    "electra-small": {"model_type": "electra"},
    "electra-base": {"model_type": "electra", "embedding_size": 768, "hidden_size": 768, "intermediate_size": 3072}
    | {"num_attention_heads": 12},
}
"""Configurations as they are published; what is left out is the library's default."""


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_shapes(name: str, tmp_path: Path) -> None:
    """The import compares hidden states with the library's own model; the logits are compared here."""
    (tmp_path / "config.json").write_text(json.dumps(REAL[name]))
    imported = import_model(ModelSource(f"hf:{name}", "random", tmp_path, (("length", 16),)))
    ensure_torchvision_operators()
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tmp_path)
    want, got = library_logits(AutoModelForSequenceClassification.from_config(config).eval(), imported)
    assert error(want, got) < TOLERANCE
