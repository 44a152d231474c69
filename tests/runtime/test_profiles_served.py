"""Texts of several lengths and batches through workers and a central node, over real sockets."""

import contextlib
import json
from pathlib import Path
from typing import Any, Iterator, List, Optional

import numpy as np
import pytest

from coformer_runtime import wire
from coformer_runtime.answer import Shaped
from coformer_runtime.broadcast_client import BroadcastClient
from coformer_runtime.bundle import Bundle, open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions, check_options
from coformer_runtime.client import Client
from coformer_runtime.engines import open_graph, open_member
from coformer_runtime.engines.onnxruntime import OnnxRuntimeEngine
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.front import open_front
from coformer_runtime.golden import check_bundle
from coformer_runtime.manifest import manifest_json
from coformer_runtime.worker import Worker
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, serving, settled
from tests.runtime.test_front import call
from tests.runtime.text_bundles import WORDS, answer_of, features_of, make_text_cluster, text_manifest, texts


@pytest.fixture(scope="module")
def text_dirs(tmp_path_factory: pytest.TempPathFactory) -> List[str]:
    return make_text_cluster(tmp_path_factory.mktemp("texts"))


@contextlib.contextmanager
def asked(text_dirs: List[str], down: int = 0, **options: Any) -> Iterator[str]:
    """The address of a central node with its workers, the last `down` of which are not there."""
    with contextlib.ExitStack() as stack:
        broadcast = bool(options.get("broadcast"))
        workers = [
            stack.enter_context(Worker(open_bundle(each), "127.0.0.1:0", 1, broadcast=broadcast)).address
            for each in text_dirs[1 : len(text_dirs) - down]
        ]
        workers += ["127.0.0.1:9"] * down
        settings = CentralOptions(tuple(workers), 5000, **options)
        central = stack.enter_context(Central(open_bundle(text_dirs[0]), settings))
        settled(central.ready)
        server, address = open_front(central, "127.0.0.1:0")
        try:
            yield ",".join([address, *workers])
        finally:
            server.stop(0).wait()


@pytest.fixture(scope="module")
def client(text_dirs: List[str]) -> Iterator[Client]:
    with asked(text_dirs) as addresses, Client(addresses.split(",")[0]) as client:
        yield client


@pytest.mark.parametrize(("tokens", "length"), [(1, 4), (4, 4), (5, 8), (9, 16), (16, 16)])
def test_a_text_runs_at_the_smallest_length(client: Client, tokens: int, length: int) -> None:
    ids = np.arange(1, tokens + 1, dtype=np.int32)[None]
    answer = client.infer(ids)
    assert answer.shaped == Shaped(1, length, 0)
    np.testing.assert_allclose(answer.logits, answer_of(EVERYONE, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("samples", "batch"), [(1, 1), (2, 2), (3, 4), (4, 4)])
def test_a_batch_is_answered_sample_by_sample(client: Client, samples: int, batch: int) -> None:
    ids = texts(samples, seed=samples)
    answer = client.infer(ids)
    assert answer.shaped is not None and answer.shaped.batch == batch and answer.logits.shape == (samples, 5)
    np.testing.assert_allclose(answer.logits, answer_of(EVERYONE, ids), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused_with_both_numbers(client: Client) -> None:
    with pytest.raises(CoformerError, match="the text has 17 tokens, the longest profile takes 16"):
        client.infer(np.ones((1, 17), np.int32))
    with pytest.raises(CoformerError, match="the request has 5 samples, the largest profile takes 4"):
        client.infer(np.ones((5, 4), np.int32))


@pytest.mark.parametrize(("least", "most"), [(-1, 3), (1, WORDS), (0, 2**31 - 1)])
def test_numbers_of_no_token_are_the_callers_mistake_and_nobody_elses(client: Client, least: int, most: int) -> None:
    """Every member's engine would fail on them: three such requests would open the breakers for everybody."""
    ids = np.array([[least, most]], np.int32)
    for _ in range(4):
        with pytest.raises(CoformerError) as caught:
            client.infer(ids)
        assert caught.value.what == "the token numbers go from {} to {}".format(least, most)
        assert caught.value.mend == "send numbers from 0 to {}".format(WORDS - 1)
    assert client.infer(texts(1)).members == ("attic", "hall", "desk")


def test_clients_are_told_open_shapes(client: Client) -> None:
    metadata = call(client.address, "ModelMetadata", name="coformer")
    assert list(metadata.inputs[0].shape) == [-1, -1] and list(metadata.outputs[0].shape) == [-1, 5]
    config = call(client.address, "ModelConfig", name="coformer").config
    assert config.max_batch_size == 4
    assert list(config.input[0].dims) == [-1] and list(config.output[0].dims) == [5]


def test_long_texts_are_cut_where_that_was_asked_for(text_dirs: List[str]) -> None:
    ids = np.arange(1, 21, dtype=np.int32)[None]
    with asked(text_dirs, truncate=True) as addresses, Client(addresses.split(",")[0]) as client:
        answer = client.infer(ids)
    assert answer.shaped == Shaped(1, 16, 4)
    np.testing.assert_allclose(answer.logits, answer_of(EVERYONE, ids[:, :16]), rtol=1e-4, atol=1e-4)


def test_a_batch_without_a_member(text_dirs: List[str]) -> None:
    ids = texts(3)
    with asked(text_dirs, down=1, min_members=2) as addresses, Client(addresses.split(",")[0]) as client:
        answer = client.infer(ids)
    assert answer.degraded and answer.members == ("attic", "hall")
    np.testing.assert_allclose(answer.logits, answer_of((0, 1), ids), rtol=1e-4, atol=1e-4)


def test_inputs_that_go_to_every_device_have_a_profiles_shape(text_dirs: List[str]) -> None:
    ids = texts(2, longest=8)
    with asked(text_dirs, broadcast=True) as addresses:
        central, *workers = addresses.split(",")
        with BroadcastClient(central, workers) as client:
            answer = client.infer(ids)
            with pytest.raises(CoformerError, match=r"the shape is \[2, 7\]"):
                client.infer(ids[:, :7])
    assert answer.shaped == Shaped(2, 8, 0)
    np.testing.assert_allclose(answer.logits, answer_of(EVERYONE, ids), rtol=1e-4, atol=1e-4)


def hello(**changes: Any) -> Any:
    manifest = text_manifest(1)._replace(**changes)
    return wire.frame_greeting(wire.decode_frame(wire.encode_frame(wire.hello_frame(manifest, "0.1.0"))))


def test_the_hello_tells_of_further_shapes_where_there_are_some() -> None:
    assert hello().shapes[0] == (1, 4) and len(hello().shapes) == 8
    plain = wire.hello_frame(bundles.member_manifest(1, bundles.member_files(1)), "0.1.0")
    assert sorted(json.loads(plain.payload.decode())) == ["device", "input", "output", "runtime"]


def test_a_worker_of_other_profiles_is_refused(text_dirs: List[str], tmp_path: Path) -> None:
    others = make_text_cluster(tmp_path, batches=(1,))
    with serving(text_dirs[1]) as hall, serving(others[2]) as desk:
        settings = CentralOptions(("hall=" + hall, "desk=" + desk), 5000)
        with Central(open_bundle(text_dirs[0]), settings) as central:
            settled(lambda: "profiles" in central.missing().get("desk", ""))
            assert central.missing()["desk"].startswith(desk + " has other profiles than this node: [1, 4], [1, 8]")


def test_every_graph_is_held_against_the_golden_vectors(text_dirs: List[str], tmp_path: Path) -> None:
    checked = check_bundle(open_bundle(text_dirs[1]))
    assert checked.cases == 9 * 3 and checked.worst < 1e-5
    wrong = Path(make_text_cluster(tmp_path)[1])
    np.save(wrong / "golden" / "output.4.npy", features_of(1, texts(3)[:, :4]) + 1)
    with pytest.raises(CheckFailed, match=r"output 'features', profile \[1, 4\]: golden case 0 differs by"):
        check_bundle(open_bundle(resealed(wrong)))


def resealed(directory: Path) -> str:
    """The directory, with a manifest for files that were changed."""
    files = {path: directory.joinpath(path).read_bytes() for path in (spec.path for spec in text_manifest(1).files)}
    return bundles.write_bundle(directory, text_manifest(1, files), files)


def test_a_graph_of_another_shape_is_refused(tmp_path: Path) -> None:
    directory = Path(make_text_cluster(tmp_path)[1])
    (directory / "member.1x4.onnx").write_bytes((directory / "member.1x8.onnx").read_bytes())
    with pytest.raises(CheckFailed, match=r"the graph takes \[1, 8\], the manifest says \[1, 4\]"):
        open_member(open_bundle(resealed(directory)), 1)


def test_an_engine_names_the_shapes_that_it_has(text_dirs: List[str]) -> None:
    with open_member(open_bundle(text_dirs[1]), 1) as engine, pytest.raises(CheckFailed) as caught:
        engine.run({"ids": np.ones((1, 5), np.int32)})
    assert "there is no graph for inputs of shape [1, 5]; send one of [1, 4], [1, 8]" in str(caught.value)


@pytest.mark.parametrize("padding", [None, 0])
def test_truncate_is_for_texts(text_dirs: List[str], padding: Optional[int]) -> None:
    manifest = text_manifest(0)
    plain = manifest._replace(profiles=None if padding is None else manifest.profiles)
    options = CentralOptions(("127.0.0.1:1", "127.0.0.1:2"), truncate=True)
    if padding is not None:
        check_options(plain, options)
        return
    with pytest.raises(CoformerError, match="--truncate is for texts of several lengths"):
        check_options(plain, options)


def test_sessions_can_share_their_weights(tmp_path: Path) -> None:
    """The answers are the same; ONNX Runtime is told to lay out no weights anew."""
    directory = Path(make_text_cluster(tmp_path)[1])
    plain = open_bundle(str(directory))
    assert plain.manifest.profiles is not None and not lays_out_none(plain)
    profiles = plain.manifest.profiles._replace(share_weights=True)
    (directory / "manifest.json").write_text(manifest_json(plain.manifest._replace(profiles=profiles)))
    shared = open_bundle(str(directory))
    assert lays_out_none(shared) and check_bundle(shared).worst < 1e-5


def lays_out_none(bundle: Bundle) -> bool:
    """Whether the sessions of a bundle were told so; a key that was not set is an error of the library's."""
    with open_graph(bundle, "member.1x4.onnx", 1) as engine:
        assert isinstance(engine, OnnxRuntimeEngine)
        try:
            told = engine._session.get_session_options().get_session_config_entry("session.disable_prepacking")
        except RuntimeError:
            return False
    return bool(told == "1")
