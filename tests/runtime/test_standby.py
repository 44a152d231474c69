"""The central role moves: a second board that holds the aggregators answers when the first is dead."""

import os
import signal
from pathlib import Path
from typing import List

import grpc
import numpy as np
import pytest

from coformer_runtime.bundle import open_bundle
from coformer_runtime.central_options import CentralOptions, check_options
from coformer_runtime.client import Client
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.manifest import manifest_json, parse_manifest
from coformer_runtime.oip import SERVICE, messages
from tests.runtime import bundles
from tests.runtime.alternatives import make_alternatives, name_of
from tests.runtime.nodes import EVERYONE, PIXELS, settled

WORKERS = ("127.0.0.1:1", "127.0.0.1:2")


@pytest.fixture(scope="module")
def standby_dirs(tmp_path_factory: pytest.TempPathFactory) -> List[str]:
    """A cluster in which hall can stand in for attic."""
    return bundles.make_cluster(tmp_path_factory.mktemp("standby"), standby=("hall",))


def right(logits: np.ndarray, members: List[int]) -> None:
    np.testing.assert_allclose(logits, bundles.answer_of(members, PIXELS), rtol=1e-4, atol=1e-4)


def ask(channel: grpc.Channel) -> np.ndarray:
    """What a stock client does, with nothing of this project but the messages."""
    request = messages()["ModelInferRequest"](model_name="coformer")
    request.inputs.add(name="pixels", datatype="UINT8", shape=PIXELS.shape)
    request.raw_input_contents.append(PIXELS.tobytes())
    call = channel.unary_unary("/{}/ModelInfer".format(SERVICE))
    response = messages()["ModelInferResponse"].FromString(call(request.SerializeToString(), timeout=30))
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(1, -1)


@pytest.mark.slow
def test_clients_go_on_when_the_central_board_dies(standby_dirs: List[str]) -> None:
    cluster = LocalCluster(standby_dirs, min_members=2, deadline_ms=5000, standby=True)
    with cluster, cluster.client() as client, Client(cluster.addresses[1]) as second:
        with grpc.insecure_channel("ipv4:" + ",".join(cluster.addresses)) as stock:
            settled(lambda: not client.infer(PIXELS).degraded)
            settled(lambda: not second.infer(PIXELS).degraded)  # attic works for hall as hall does for attic
            right(second.infer(PIXELS).logits, EVERYONE)
            right(client.infer(PIXELS).logits, EVERYONE)
            right(ask(stock), EVERYONE)
            os.kill(cluster.pids["attic"], signal.SIGKILL)
            answers = [client.infer(PIXELS) for _ in range(20)]  # not one is lost
            cluster.kill("attic")
            right(ask(stock), [1, 2])
        for answer in answers:
            right(answer.logits, [bundles.DEVICES.index(device) for device in answer.members])
            assert answer.degraded == (len(answer.members) < 3)
        assert answers[-1].members == ("hall", "desk")
        assert answers[-1].missing["attic"].startswith("unreachable: ")
        cluster.restart("attic")
        settled(lambda: not client.infer(PIXELS).degraded)


@pytest.mark.slow
def test_a_standby_alone_fails_closed(standby_dirs: List[str]) -> None:
    with LocalCluster(standby_dirs, standby=True) as cluster, cluster.client() as client:
        cluster.kill("attic")
        with pytest.raises(CheckFailed, match=r"all 3 members are needed; missing: attic \(unreachable"):
            client.infer(PIXELS)


ROLES = {
    "standby without being asked": (1, False, "'hall' stands by for the central device 'attic'", "pass --standby"),
    "central": (0, True, "'attic' is the central device, not one on standby", "leave out --standby"),
    "neither": (
        2,
        True,
        "'desk' is not the central device, that is 'attic'",
        "serve this bundle with 'coformer-node serve', or build it with standby = true for 'desk'",
    ),
}


@pytest.mark.parametrize("name", sorted(ROLES))
def test_roles_are_checked(standby_dirs: List[str], name: str) -> None:
    member, standby, what, mend = ROLES[name]
    with pytest.raises(CoformerError) as caught:
        check_options(open_bundle(standby_dirs[member]).manifest, CentralOptions(WORKERS, standby=standby))
    assert (caught.value.what, caught.value.mend) == (what, mend)


def test_standby_travels_in_the_manifest(standby_dirs: List[str], cluster_dirs: List[str]) -> None:
    text = Path(standby_dirs[2], "manifest.json").read_text()
    manifest = parse_manifest(text, "test")
    assert manifest.standby == ("hall",) and manifest_json(manifest) == text and not manifest.can_aggregate
    assert "standby" not in Path(cluster_dirs[0], "manifest.json").read_text()
    for wrong in ("roof", "attic"):
        with pytest.raises(CoformerError, match="'standby' names '{}', which is not another".format(wrong)):
            parse_manifest(text.replace('"hall"\n  ],\n  "target"', '"{}"\n  ],\n  "target"'.format(wrong)), "test")


def test_a_client_asks_the_next_address() -> None:
    with Client(WORKERS, timeout_s=5.0) as client:
        assert not client.ready()
        with pytest.raises(CheckFailed, match="unavailable"):
            client.infer(PIXELS)
    with pytest.raises(CoformerError, match="no address was given"):
        Client([])


@pytest.mark.slow
def test_a_device_stands_by_for_the_alternatives_that_it_takes_part_in(tmp_path: Path) -> None:
    """Hall has no part in the alternative that is begun with; attic works for it nevertheless, and it goes on alone."""
    folders = make_alternatives(tmp_path, start="1mbps", standby=(1,))
    cluster = LocalCluster(folders, min_members=2, deadline_ms=5000, standby=True)
    with cluster, cluster.client() as client, Client(cluster.addresses[1]) as second:
        answer = client.infer(PIXELS)
        assert name_of(answer.build) == "1mbps" and answer.members == ("attic", "desk")
        settled(lambda: second.infer(PIXELS).members == bundles.DEVICES)
        assert name_of(second.infer(PIXELS).build) == "100mbps"
        right(second.infer(PIXELS).logits, EVERYONE)
        cluster.kill("attic")
        settled(lambda: client.infer(PIXELS).members == ("hall", "desk"))
        right(client.infer(PIXELS).logits, [1, 2])
