"""Manifests are read strictly and written canonically."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import FileSpec, Manifest, TensorSpec, load_manifest, manifest_json, parse_manifest
from tests.runtime import bundles


@pytest.fixture
def manifest() -> Manifest:
    return bundles.member_manifest(0, bundles.member_files(0))


def edited(manifest: Manifest, edit: Callable[[Dict[str, Any]], Any]) -> str:
    document = json.loads(manifest_json(manifest))
    edit(document)
    return json.dumps(document)


@pytest.mark.parametrize("member", [0, 1, 2])
def test_round_trip(member: int) -> None:
    manifest = bundles.member_manifest(member, bundles.member_files(member))
    text = manifest_json(manifest)
    assert parse_manifest(text, "here") == manifest
    assert manifest_json(parse_manifest(text, "here")) == text
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2) + "\n"


def test_round_trip_of_a_vocabulary(manifest: Manifest) -> None:
    for shape, vocabulary in (((1, 8), (50,)), ((1, 2, 8), (50, 2))):
        told = manifest._replace(input=TensorSpec("ids", "int32", shape), vocabulary=vocabulary)
        assert parse_manifest(manifest_json(told), "here") == told


def test_central_is_known(manifest: Manifest) -> None:
    assert manifest.is_central
    assert not bundles.member_manifest(1, bundles.member_files(1)).is_central


EDITS = {
    "unknown key": (lambda d: d.update(colour=1), "unknown key 'colour'"),
    "near key": (lambda d: d["engine"].update(versions="1"), "unknown key 'engine.versions' (did you mean 'version'?)"),
    "missing": (lambda d: d.pop("policy"), "'policy' is missing"),
    "misspelt": (lambda d: d.update(polcy=d.pop("policy")), "'policy' is missing (found 'polcy')"),
    "format": (lambda d: d.update(format="coformer-bundle/2"), "the format is 'coformer-bundle/2', this runtime reads"),
    "digest": (lambda d: d.update(build="B" * 64), "'build' must be a SHA-256 in lower-case hex"),
    "bool is no int": (lambda d: d.update(member=True), "'member' must be an integer of at least 0, not true"),
    "device": (lambda d: d.update(device="a,b"), "'device' must be a device name"),
    "other device": (lambda d: d.update(device="hall"), "member 0 of 'members' is not the device 'hall'"),
    "member twice": (lambda d: d.update(members=["attic", "hall", "hall"]), "'members' names 'hall' twice"),
    "central": (lambda d: d.update(central="roof"), "'central' names 'roof'"),
    "kind": (
        lambda d: d["engine"].update(kind="tvm"),
        "'engine.kind' is 'tvm', known are onnxruntime, ten",
    ),
    "recipe": (lambda d: d["engine"].update(recipe="member.onnx"), "'engine.recipe' belongs to"),
    "dtype": (lambda d: d["input"].update(dtype="float64"), "element type 'float64' is not supported"),
    "vocabulary of pixels": (
        lambda d: d.update(vocabulary=[256]),
        "'vocabulary' has 1 entries, the input is uint8 of shape [1, 1, 4, 4]",
    ),
    "vocabulary of types": (
        lambda d: d.update(vocabulary=[9, 2], input={"name": "ids", "dtype": "int32", "shape": [1, 8]}),
        "'vocabulary' has 2 entries, the input is int32 of shape [1, 8]",
    ),
    "no vocabulary": (
        lambda d: d.update(vocabulary=[0], input={"name": "ids", "dtype": "int32", "shape": [1, 8]}),
        "'vocabulary' has an entry below 1",
    ),
    "shape": (lambda d: d["input"].update(shape=[1, 0]), "'input.shape' must be 1 to 8 axis sizes"),
    "batch": (lambda d: d["output"].update(shape=[2, 2]), "'output.shape' has a batch axis of 2, not 1"),
    "too large": (lambda d: d["input"].update(shape=[1, 3, 2000, 2000]), "'input' has 12,000,000 bytes, at most"),
    "labels": (lambda d: d["answer"].update(labels=["a"]), "'answer.labels' has 1 names for 5 classes"),
    "wire": (lambda d: d.update(wire_bytes=17), "'wire_bytes' is 17, the output tensor has 16"),
    "tolerance": (lambda d: d["golden"].update(tolerance=-1), "'golden.tolerance' must be a number from 0 to 1"),
    "accuracy": (lambda d: d["aggregators"][0].update(expected_accuracy="high"), "'aggregators[0].expected_accuracy'"),
    "subset": (lambda d: d["aggregators"][3].update(members=[1, 0]), "are not ascending member indices"),
    "subset twice": (lambda d: d["aggregators"][3].update(members=[0]), "two aggregators for the members [0]"),
    "no full set": (lambda d: d["aggregators"].pop(), "the device aggregates, and has no aggregator for all members"),
    "no answer": (lambda d: d["golden"].pop("answer"), "the device aggregates, and has no golden answer"),
    "not central": (lambda d: d.update(central="hall"), "belong to the central device and those on standby only"),
    "not listed": (lambda d: d["files"].pop("member.onnx"), "'member.onnx' is used but not listed in 'files'"),
    "climbs out": (
        lambda d: d["engine"].update(file="../member.onnx"),
        "'engine.file' names the path '../member.onnx'",
    ),
    "absolute": (
        lambda d: d["files"].update({"/etc/passwd": d["files"]["member.onnx"]}),
        "names the path '/etc/passwd'",
    ),
    "itself": (
        lambda d: d["files"].update({"manifest.json": d["files"]["member.onnx"]}),
        "may not name 'manifest.json'",
    ),
    "size": (lambda d: d["files"]["member.onnx"].update(bytes=-1), "'files['member.onnx'].bytes' must be an integer"),
    "no object": (lambda d: d.update(engine=[]), "'engine' must be an object, not []"),
}


@pytest.mark.parametrize("name", sorted(EDITS))
def test_refused_with_the_key(manifest: Manifest, name: str) -> None:
    edit, message = EDITS[name]
    with pytest.raises(CoformerError) as caught:
        parse_manifest(edited(manifest, edit), "here/manifest.json")
    assert message in caught.value.what
    assert caught.value.where.startswith("here/manifest.json")
    assert caught.value.mend


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ('{"a": 1, "a": 2}', "a key appears twice"),
        ('{"a": NaN}', "NaN is not a number of JSON"),
        ("[]", "'the document' must be an object"),
        ("[" * 100000, "not readable as JSON"),
    ],
)
def test_refused_as_json(text: str, message: str) -> None:
    with pytest.raises(CoformerError, match="manifest") as caught:
        parse_manifest(text, "manifest.json")
    assert message in caught.value.what


def test_refused_on_disk(tmp_path: Path) -> None:
    with pytest.raises(CoformerError, match="the manifest cannot be read"):
        load_manifest(str(tmp_path))
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CoformerError, match="is not UTF-8 text"):
        load_manifest(str(tmp_path))
    (tmp_path / "manifest.json").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(CoformerError, match="larger than 1,048,576 bytes"):
        load_manifest(str(tmp_path))


def test_writer_checks_too(manifest: Manifest) -> None:
    unsorted = manifest._replace(files=tuple(reversed(manifest.files)))
    with pytest.raises(CoformerError, match="'files' is not sorted by path"):
        manifest_json(unsorted)
    outside = manifest._replace(files=(FileSpec("../a", "c" * 64, 1), *manifest.files))
    with pytest.raises(CoformerError, match=r"'files' may not name '\.\./a'"):
        manifest_json(outside)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.data())
def test_any_value_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    document = json.loads(manifest_json(bundles.member_manifest(1, bundles.member_files(1))))
    holder = data.draw(
        st.sampled_from(
            [document, document["engine"], document["input"], document["files"], document["golden"], document["answer"]]
        )
    )
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(JSON)
    refused, manifest = None, None
    try:
        manifest = parse_manifest(json.dumps(document), "here")
    except CoformerError as error:
        refused = error
    if manifest is None:
        assert refused is not None and refused.what and refused.mend
    else:
        assert parse_manifest(manifest_json(manifest), "here") == manifest


ANSWERING = {"step": "s", "context": 64, "padding": 50, "end": 1}
SOURCE = {"graph": "g", "length": 20, "padding": 0, "start": 0}


def generating(manifest: Manifest, generation: Dict[str, Any], source: Optional[Dict[str, Any]] = None) -> str:
    """The manifest with graphs for single tokens, all of which are the member's."""
    file = manifest.engine.file
    spec = dict(generation, **{key: file for key in ("step", "prefill") if key in generation})
    if source is not None:
        spec["source"] = dict(source, graph=file)
    return edited(manifest, lambda document: document.update(generation=spec))


def test_a_member_that_answers_texts_survives_the_round_trip(manifest: Manifest) -> None:
    found = parse_manifest(generating(manifest, ANSWERING, SOURCE), "here")
    assert found.generation is not None and found.generation.source is not None
    assert (found.generation.prefill, found.generation.chunk, found.generation.end) == (None, None, 1)
    assert found.generation.source.length == found.generation.longest_prompt == 20
    assert parse_manifest(manifest_json(found), "here") == found


@pytest.mark.parametrize(
    "spec",
    [
        (ANSWERING, None),
        (dict(ANSWERING, prefill="p", chunk=4), SOURCE),
        (dict(ANSWERING, prefill="p"), None),
        (dict(ANSWERING, chunk=4), SOURCE),
    ],
)
def test_prompts_are_continued_or_read(spec: Any, manifest: Manifest) -> None:
    with pytest.raises(CoformerError, match="'generation' has either 'prefill' with 'chunk', or 'source'"):
        parse_manifest(generating(manifest, *spec), "here")
