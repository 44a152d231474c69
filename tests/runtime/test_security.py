"""Mutual TLS with `coformerc certs`, tokens, and what they keep out."""

from pathlib import Path
from typing import Iterator, List

import grpc
import pytest

from coformer_compiler.commands.certs import make_certificates
from coformer_runtime import wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.client import Client
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.front import open_front
from coformer_runtime.listen import CHANNEL_OPTIONS
from coformer_runtime.security import Security, open_channel, read_security
from coformer_runtime.worker import Worker
from tests.runtime import bundles
from tests.runtime.nodes import PIXELS, settled

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("certs")
    make_certificates(out, ["attic=127.0.0.1,cluster.example", "hall", "desk"], ["phone"], 30)
    return out


def security(certs: Path, name: str, token: str = TOKEN) -> Security:
    return read_security(False, str(certs / name), None)._replace(token=token)


@pytest.fixture(scope="module")
def secured(certs: Path, cluster_dirs: List[str]) -> Iterator[List[str]]:
    """Addresses of the central node and of one worker of a cluster with TLS and a token."""
    with Worker(open_bundle(cluster_dirs[1]), "127.0.0.1:0", 1, security(certs, "hall")) as hall, Worker(
        open_bundle(cluster_dirs[2]), "127.0.0.1:0", 1, security(certs, "desk")
    ) as desk, Central(
        open_bundle(cluster_dirs[0]),
        CentralOptions(("hall=" + hall.address, desk.address), 5000, None, 1, security(certs, "attic")),
    ) as central:
        server, address = open_front(central, "127.0.0.1:0")
        settled(central.ready)
        yield [address, hall.address]
        server.stop(0).wait()


def test_cluster_with_tls_and_token(certs: Path, secured: List[str]) -> None:
    with Client(secured[0], security(certs, "phone")) as client:
        assert client.ready()
        assert client.infer(PIXELS).members == bundles.DEVICES


@pytest.mark.parametrize("token", ["", "wrong-horse-battery"])
def test_wrong_token(certs: Path, secured: List[str], token: str) -> None:
    with Client(secured[0], security(certs, "phone", token)) as client:
        with pytest.raises(CheckFailed, match="unauthenticated: the token is missing or wrong"):
            client.infer(PIXELS)
        check = client._nodes[0].channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=5) == b"\x08\x01"  # for probes, which have none


def test_other_clusters_and_plain_callers_are_kept_out(certs: Path, secured: List[str], tmp_path: Path) -> None:
    make_certificates(tmp_path, ["attic"], ["phone"], 30)
    for stranger in (security(tmp_path, "phone"), Security(token=TOKEN)):
        with Client(secured[0], stranger, timeout_s=5) as client:
            assert not client.ready()


def test_clients_certificate_opens_no_worker_and_serves_nothing(certs: Path, secured: List[str]) -> None:
    phone = security(certs, "phone")
    with open_channel(secured[1], phone, CHANNEL_OPTIONS, "hall") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(wire.METHOD)(iter([b""]), timeout=5, metadata=phone.metadata()))
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == "the certificate is not that of a node"


def test_device_must_be_the_one_that_is_named(certs: Path, secured: List[str]) -> None:
    attic = security(certs, "attic")
    with open_channel(secured[1], attic, CHANNEL_OPTIONS, "desk") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(wire.METHOD)(iter([b""]), timeout=5, metadata=attic.metadata()))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_files_that_are_refused(certs: Path, tmp_path: Path) -> None:
    def refused(insecure: bool, tls: object, token: object) -> CoformerError:
        with pytest.raises(CoformerError) as caught:
            read_security(insecure, str(tls) if tls else None, str(token) if token else None)
        return caught.value

    assert refused(True, certs / "hall", None).what == "--insecure and --tls contradict each other"
    error = refused(False, tmp_path, None)
    assert error.what.startswith("cannot be read (No such file") and "coformerc certs" in error.mend
    token = tmp_path / "token"
    token.write_text("short")
    assert refused(False, None, token).what == "other users may read or change it"
    assert refused(False, None, token).mend == "chmod 600 {}".format(token)
    token.chmod(0o600)
    assert refused(False, None, token).what.startswith("the token must be 16 or more printable ASCII")
    token.write_text(TOKEN + "\n")
    assert read_security(False, None, str(token)).token == TOKEN
    copied = tmp_path / "hall"
    copied.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (copied / name).write_bytes((certs / "hall" / name).read_bytes())
    (copied / "key.pem").chmod(0o640)
    assert refused(False, copied, None).what == "other users may read or change it"


def test_certs_command(certs: Path, tmp_path: Path) -> None:
    from tests.end_to_end.tiny import coformerc

    assert (certs / "ca.key").stat().st_mode & 0o777 == (certs / "hall" / "key.pem").stat().st_mode & 0o777 == 0o600
    out = tmp_path / "made"
    outcome = coformerc("certs", str(out), "--node", "hall=10.0.0.7,board.example")
    assert outcome.code == 0 and "authority new; keep ca.key to yourself" in outcome.out
    before = (out / "ca.pem").read_bytes()
    assert "authority kept" in coformerc("certs", str(out), "--client", "phone").out
    assert (out / "ca.pem").read_bytes() == before == (out / "phone" / "ca.pem").read_bytes()
    for words, told in (
        ([], "nothing to make"),
        (["--node", "hall"], "there is one already"),
        (["--node", "a/b"], "'a/b' is not a name"),
        (["--node", "x=ho st"], "'ho st' is neither an address nor a host name"),
        (["--node", "x", "--client", "x"], "'x' is given twice"),
        (["--client", "x", "--days", "0"], "--days is 0"),
    ):
        outcome = coformerc("certs", str(out), *words)
        assert outcome.code == 2 and told in outcome.err
    assert sorted(path.name for path in out.iterdir()) == ["ca.key", "ca.pem", "hall", "phone"]
