"""The section `profiles` of a manifest: read strictly, and held against the rest."""

import json
from typing import Any, Callable, Dict, List

import pytest

from coformer_runtime.bundle import Bundle
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import GenerationSpec, Manifest, manifest_json, parse_manifest
from coformer_runtime.manifest_profiles import batches_of, lengths_of, shapes_of
from tests.runtime import bundles
from tests.runtime.text_bundles import text_manifest


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return text_manifest(0)


def graphs(document: Dict[str, Any]) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = document["profiles"]["graphs"]
    return found


def test_round_trip(manifest: Manifest) -> None:
    text = manifest_json(manifest)
    assert parse_manifest(text, "here") == manifest and manifest_json(parse_manifest(text, "here")) == text
    assert batches_of(manifest) == [1, 2, 4] and lengths_of(manifest) == [4, 8, 16]
    assert shapes_of(manifest)[0] == (1, 4) and len(shapes_of(manifest)) == 9


def test_a_manifest_without_profiles_says_nothing_of_them() -> None:
    plain = bundles.member_manifest(1, bundles.member_files(1))
    assert "profiles" not in json.loads(manifest_json(plain))
    assert shapes_of(plain) == (plain.input.shape,)


def test_padding_alone(manifest: Manifest) -> None:
    """Texts of any length, filled up to the one there is."""
    assert manifest.profiles is not None
    alone = manifest._replace(profiles=manifest.profiles._replace(graphs=()))
    assert parse_manifest(manifest_json(alone), "here") == alone


EDITS = {
    "unknown key": (
        lambda d: d["profiles"].update(pading=0),
        "unknown key 'profiles.pading' (did you mean 'padding'?)",
    ),
    "no graphs": (lambda d: d["profiles"].pop("graphs"), "'profiles.graphs' is missing"),
    "key of a graph": (lambda d: graphs(d)[0].update(recipe="x"), "unknown key 'profiles.graphs[0].recipe'"),
    "no object": (lambda d: d.update(profiles=[]), "'profiles' must be an object, not []"),
    "shape": (lambda d: graphs(d)[0].update(shape=[1, 0]), "'profiles.graphs[0].shape' must be 1 to 8 axis sizes"),
    "rank": (lambda d: graphs(d)[0].update(shape=[1, 2, 4]), "a profile of shape [1, 2, 4] does not go with"),
    "longer": (lambda d: graphs(d)[0].update(shape=[1, 17]), "a profile of shape [1, 17] does not go with the input's"),
    "no padding": (lambda d: d["profiles"].pop("padding"), "is shorter, and 'profiles.padding' is missing"),
    "padding": (lambda d: d["profiles"].update(padding=-1), "'profiles.padding' must be an integer of at least 0"),
    "padded pixels": (lambda d: d["input"].update(dtype="uint8"), "is of token numbers, the input is uint8"),
    "twice": (lambda d: graphs(d).append(graphs(d)[0]), "are not each of 3 batch sizes at each of 3 lengths, once"),
    "a hole": (lambda d: graphs(d).pop(), "are not each of 3 batch sizes at each of 3 lengths, once"),
    "its own": (lambda d: graphs(d)[0].update(shape=[1, 16]), "are not each of 3 batch sizes at each of 3 lengths"),
    "too large": (
        lambda d: graphs(d)[-1].update(shape=[1 << 20, 16]),
        "has 67,108,864 bytes, at most 8,384,512 travel",
    ),
    "shared elsewhere": (
        lambda d: (
            d["profiles"].update(share_weights=True),
            d["engine"].update(kind="tensorrt", recipe="member.onnx"),
        ),
        "'profiles.share_weights' is for ONNX Runtime, the engine is tensorrt",
    ),
    "shared": (
        lambda d: d["profiles"].update(share_weights=1),
        "'profiles.share_weights' must be true or false, not 1",
    ),
    "not listed": (lambda d: d["files"].pop("member.1x4.onnx"), "'member.1x4.onnx' is used but not listed"),
    "golden": (lambda d: graphs(d)[0].update(golden="golden/x.npy"), "'golden/x.npy' is used but not listed"),
    "climbs out": (lambda d: graphs(d)[0].update(file="../x"), "'profiles.graphs[0].file' names the path '../x'"),
    "nothing": (
        lambda d: (d["profiles"].pop("padding"), d["profiles"].update(graphs=[])),
        "'profiles' says nothing",
    ),
}


@pytest.mark.parametrize("name", sorted(EDITS))
def test_refused_with_the_key(manifest: Manifest, name: str) -> None:
    edit: Callable[[Dict[str, Any]], Any]
    edit, message = EDITS[name]
    document = json.loads(manifest_json(manifest))
    edit(document)
    with pytest.raises(CoformerError) as caught:
        parse_manifest(json.dumps(document), "here/manifest.json")
    assert message in caught.value.what and caught.value.mend


def test_sharing_is_said_where_it_is_meant(manifest: Manifest) -> None:
    assert manifest.profiles is not None
    shared = manifest._replace(profiles=manifest.profiles._replace(share_weights=True))
    assert parse_manifest(manifest_json(shared), "here") == shared
    assert "share_weights" not in manifest_json(manifest)


def test_no_generation_beside_profiles(manifest: Manifest) -> None:
    generation = GenerationSpec("member.onnx", "member.onnx", 4, 16, 0)
    with pytest.raises(CoformerError, match="'profiles' and 'generation' exclude each other"):
        manifest_json(manifest._replace(generation=generation))


def test_the_digest_of_a_graph_is_also_that_of_the_shared_weights(manifest: Manifest) -> None:
    """Plans are kept by it, and graphs of other weights of the same shapes are alike."""
    files = tuple(
        spec._replace(sha256="d" * 64) if spec.path == "member.onnx.data" else spec for spec in manifest.files
    )
    ours, theirs = Bundle("", manifest), Bundle("", manifest._replace(files=files))
    for path in ("member.onnx", "member.1x4.onnx"):
        assert ours.sha256(path) == theirs.sha256(path) and ours.graph_sha256(path) != theirs.graph_sha256(path)
    assert ours.graph_sha256("aggregators/0.onnx") == theirs.graph_sha256("aggregators/0.onnx")
