"""A registry that behaves, and one that does not: dropped connections, ignored ranges, wrong bytes, 401, 429, 500."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Callable, Iterator

import pytest

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.shipping.login import Credentials, parse_challenges
from coformer_runtime.shipping.reference import parse_reference
from coformer_runtime.shipping.registry import Registry
from coformer_runtime.shipping.root import Root
from coformer_runtime.shipping.store import Descriptor, digest_of
from tests.runtime.shipping.conftest import Shipped
from tests.runtime.shipping.mini_registry import Handler, MiniRegistry
from tests.runtime.shipping.releases import HTTP, pulled, pushed

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MiniRegistry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with MiniRegistry() as registry:
        yield registry


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path / "board"))


def reference(mini: MiniRegistry, tag: str = "one") -> str:
    return "oci://{}/team/flowers:{}".format(mini.host, tag)


def store(mini: MiniRegistry, chunk_bytes: int = 1 << 20) -> Registry:
    return Registry(parse_reference(reference(mini)), HTTP, None, True, chunk_bytes)


def write(registry: Registry, content: bytes = CONTENT) -> None:
    registry.write_blob(Descriptor("x", digest_of(content), len(content)), io.BytesIO(content))


def faults(times: int, pattern: str, act: Callable[[Handler], None]) -> Callable[[Handler], bool]:
    """Misbehave the first `times` times that "METHOD /path" matches."""
    left = [times]

    def fault(handler: Handler) -> bool:
        line = "{} {}".format(handler.command, handler.path)
        if not left[0] or re.search(pattern, line) is None:
            return False
        left[0] -= 1
        act(handler)
        return True

    return fault


def test_push_and_pull(shipped: Shipped, mini: MiniRegistry, root: Root) -> None:
    first = pushed(shipped.one, reference(mini), shipped.key, 1)
    assert first["sent_bytes"] > 0
    again = pushed(shipped.one, reference(mini), shipped.key, 2)
    assert again["sent_bytes"] < 2000 and again["present_bytes"] > first["sent_bytes"] - 2000
    assert pulled(reference(mini), root, shipped.key).record.version == 2
    assert pulled(first["pinned"], root, shipped.key).record.version == 1


def test_what_is_in_the_registry(shipped: Shipped, mini: MiniRegistry) -> None:
    pushed(shipped.one, reference(mini), shipped.key, 1)
    index = json.loads(mini.manifests["one"])
    assert index["artifactType"] == "application/vnd.coformer.release.v1"
    assert [e.get("annotations", {}).get("org.coformer.device") for e in index["manifests"]] == [
        "attic", "hall", "desk", None,
    ]  # fmt: skip
    image = json.loads(mini.manifests[index["manifests"][1]["digest"]])
    assert image["config"]["mediaType"] == "application/vnd.coformer.manifest.v1+json"
    files = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in image["layers"]}
    hall = shipped.one / "bundles" / "hall"
    assert {name: mini.blobs[layer["digest"]] for name, layer in files.items()} == {
        name: (hall / name).read_bytes() for name in ("member.onnx", "golden/input.npy", "golden/output.npy")
    }
    statement = json.loads(mini.manifests[index["manifests"][3]["digest"]])
    envelope = json.loads(mini.blobs[statement["layers"][0]["digest"]])
    payload = json.loads(base64.b64decode(envelope["payload"]))
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert {each["name"]: each["digest"]["sha256"] for each in payload["subject"]}["hall"] == index["manifests"][1][
        "digest"
    ][7:]


def test_the_same_build_gives_the_same_images(shipped: Shipped, mini: MiniRegistry) -> None:
    pushed(shipped.one, reference(mini, "a"), shipped.key, 1)
    pushed(shipped.one, reference(mini, "b"), shipped.key, 2, now=2e9)
    a, b = (json.loads(mini.manifests[tag])["manifests"][:3] for tag in "ab")
    assert a == b


@pytest.mark.parametrize("tokens", [False, True])
def test_login(shipped: Shipped, mini: MiniRegistry, root: Root, monkeypatch: pytest.MonkeyPatch, tokens: bool) -> None:
    mini.users, mini.tokens = {"gardener": "s3cret:x"}, tokens
    with pytest.raises(CoformerError, match="wants a user and a password; set COFORMER_REGISTRY_USER and COFORMER_REG"):
        pushed(shipped.one, reference(mini), shipped.key, 1)
    monkeypatch.setenv("COFORMER_REGISTRY_USER", "gardener")
    with pytest.raises(CoformerError, match="COFORMER_REGISTRY_PASSWORD is not set; set both or none"):
        pushed(shipped.one, reference(mini), shipped.key, 1)
    monkeypatch.setenv("COFORMER_REGISTRY_PASSWORD", "wrong")
    with pytest.raises(CoformerError, match="refuses"):
        pushed(shipped.one, reference(mini), shipped.key, 1)
    monkeypatch.setenv("COFORMER_REGISTRY_PASSWORD", "s3cret:x")
    pushed(shipped.one, reference(mini), shipped.key, 1)
    assert pulled(reference(mini), root, shipped.key).travelled_bytes > 0
    wanted = {"repository:team/flowers:pull,push", "repository:team/flowers:pull"}
    assert set(mini.scopes) == (wanted if tokens else set())


def test_login_of_docker(mini: MiniRegistry, tmp_path: Path) -> None:
    mini.users = {"gardener": "s3cret"}
    (tmp_path / "docker").mkdir()
    config = tmp_path / "docker" / "config.json"
    config.write_text(json.dumps({"auths": {mini.host: {"auth": Credentials("gardener", "s3cret").basic()[6:]}}}))
    from coformer_runtime.shipping.stores import open_store

    with open_store(parse_reference(reference(mini)), HTTP) as opened:
        assert not opened.has_blob("sha256:" + "0" * 64)
        config.write_text(json.dumps({"auths": {mini.host: {}}, "credsStore": "desktop"}))
        with pytest.raises(CoformerError, match="in the helper program 'desktop', which is not asked"):
            open_store(parse_reference(reference(mini)), HTTP)


def test_challenges() -> None:
    found = parse_challenges(['Basic realm="a, b", Bearer realm="https://t/x",service=s', "Negotiate"])
    assert [(each.scheme, each.parameters["realm"]) for each in found] == [("bearer", "https://t/x"), ("basic", "a, b")]


def test_a_large_blob_goes_in_pieces(mini: MiniRegistry) -> None:
    write(store(mini, 10_000))
    assert mini.blobs[digest_of(CONTENT)] == CONTENT
    assert mini.count("^PATCH ") == 11 and mini.count("^PUT ") == 1


@pytest.mark.parametrize("arrives", [False, True])
def test_a_piece_is_lost(mini: MiniRegistry, arrives: bool) -> None:
    def act(handler: Handler) -> None:
        if arrives:  # the registry has it, only its answer is lost
            mini.uploads[handler.path.split("/")[-1]] += handler.body()
        handler.drop()

    mini.fault = faults(2, "^PATCH ", act)
    write(store(mini, 50_000))
    assert mini.blobs[digest_of(CONTENT)] == CONTENT
    assert mini.count("^POST ") == 1


def test_an_upload_is_forgotten(mini: MiniRegistry) -> None:
    def act(handler: Handler) -> None:
        mini.uploads.clear()
        handler.drop()

    mini.fault = faults(1, "^PATCH ", act)
    write(store(mini, 50_000))
    assert mini.blobs[digest_of(CONTENT)] == CONTENT and mini.count("^POST ") == 2


def test_the_last_answer_is_lost(mini: MiniRegistry) -> None:
    def act(handler: Handler) -> None:
        mini.blobs[digest_of(CONTENT)] = handler.body()
        handler.drop()

    mini.fault = faults(1, "^PUT ", act)
    write(store(mini))
    assert mini.count("^PUT ") == 1


def test_bytes_changed_on_the_way_up(mini: MiniRegistry) -> None:
    def act(handler: Handler) -> None:
        handler.body()
        handler.answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')

    mini.fault = faults(1, "^PUT ", act)
    write(store(mini))
    assert mini.blobs[digest_of(CONTENT)] == CONTENT
    mini.fault = faults(99, "^PUT ", act)
    with pytest.raises(
        CoformerError, match=r"it did not take the content sha256:\w{12}\.\.\. in 3 tries; run the same"
    ):
        write(store(mini), b"other")


def damaged_download(handler: Handler, mini: MiniRegistry, share: float) -> None:
    content = mini.blobs[handler.path.split("/")[-1]]
    start = int(re.sub(r"\D", "", handler.headers.get("Range", "0"))) if mini.ranges else 0
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.send_header("Content-Range", "bytes {}-{}/{}".format(start, len(content) - 1, len(content)))
    handler.end_headers()
    handler.wfile.write(content[start : start + int(share * (len(content) - start))])
    handler.close_connection = True


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_breaks_off_again_and_again(shipped: Shipped, mini: MiniRegistry, root: Root, ranges: bool) -> None:
    pushed(shipped.one, reference(mini), shipped.key, 1)
    mini.ranges = ranges
    mini.fault = faults(4, "^GET .*/blobs/", lambda handler: damaged_download(handler, mini, 0.5))
    with pytest.raises(CoformerError, match=r"has [\d,]+ bytes, it should have"):  # documents are asked for thrice
        pulled(reference(mini), root, shipped.key)
    large = {path for path, blob in mini.blobs.items() if blob[:1] != b"{"}
    pattern = "^GET .*/blobs/({})".format("|".join(large))
    mini.fault = faults(3, pattern, lambda handler: damaged_download(handler, mini, 0.5))
    whole = pulled(reference(mini), root, shipped.key)
    files = sum(p.stat().st_size for p in (shipped.one / "bundles" / "hall").rglob("*") if p.is_file())
    manifest = (shipped.one / "bundles" / "hall" / "manifest.json").stat().st_size
    if ranges:
        assert whole.travelled_bytes == files - manifest
    else:
        assert whole.travelled_bytes > files - manifest


def test_wrong_bytes(shipped: Shipped, mini: MiniRegistry, root: Root) -> None:
    pushed(shipped.one, reference(mini), shipped.key, 1)
    for digest, content in list(mini.blobs.items()):
        if content[:1] != b"{":
            mini.blobs[digest] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(CheckFailed, match=r"came with the SHA-256 \w{12}\.\.\., the manifest says \w{12}\.\.\.; pull"):
        pulled(reference(mini), root, shipped.key)
    assert root.releases() == []


def test_a_partial_file_that_is_wrong_is_fetched_anew(shipped: Shipped, mini: MiniRegistry, root: Root) -> None:
    pushed(shipped.one, reference(mini), shipped.key, 1)

    def cut(step: str) -> None:
        if step == "check":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pulled(reference(mini), root, shipped.key, before=cut)
    staging = next(Path(root.at("incoming")).iterdir())
    graph = staging / "member.onnx"
    whole = graph.read_bytes()
    (staging / "member.onnx.part").write_bytes(b"junk" + whole[4:100])
    graph.unlink()
    found = pulled(reference(mini), root, shipped.key)
    assert found.travelled_bytes == 2 * len(whole) - 100


def test_too_many_requests_and_errors_of_the_server(shipped: Shipped, mini: MiniRegistry, root: Root) -> None:
    pushed(shipped.one, reference(mini), shipped.key, 1)
    for status in (429, 500, 503):
        mini.fault = faults(2, "^GET ", lambda handler, status=status: handler.answer(status, Retry_After="1"))
        pulled(reference(mini), root, shipped.key)
    mini.fault = faults(99, "^GET ", lambda handler: handler.answer(429))
    with pytest.raises(CoformerError, match="too many requests; wait, then run the same command again"):
        pulled(reference(mini), root, shipped.key)
    body = b'{"errors":[{"code":"BOOM","message":"disk\\u001b[31m full"}]}'
    mini.fault = faults(99, "^GET ", lambda handler: handler.answer(500, body))
    with pytest.raises(
        CoformerError, match=r"it answers 500 for /v2/team/flowers/manifests/one \(BOOM: disk\?\[31m full"
    ):
        pulled(reference(mini), root, shipped.key)


def test_refusals(shipped: Shipped, mini: MiniRegistry, root: Root) -> None:
    with pytest.raises(CoformerError, match="there is no 'one'; check the name and the tag, or push the release first"):
        pulled(reference(mini), root, shipped.key)
    mini.fault = faults(99, "", lambda handler: handler.answer(403, b"<html>"))
    with pytest.raises(CoformerError, match="it refuses /v2/team/flowers/manifests/one; check the rights of the user"):
        pulled(reference(mini), root, shipped.key)
    mini.fault = faults(99, "", lambda handler: handler.answer(418))
    with pytest.raises(CoformerError, match=r"it answers 418 for .*; check that it is an OCI registry"):
        pulled(reference(mini), root, shipped.key)
    mini.fault = faults(99, "", lambda handler: handler.drop())
    with pytest.raises(
        CoformerError, match=r"registry 127.0.0.1:\d+: it does not answer \(.*\); check address and net"
    ):
        pulled(reference(mini), root, shipped.key)
    mini.fault = faults(99, "", lambda handler: handler.answer(200, b"{}"))
    with pytest.raises(CoformerError, match=r"it is nothing, not application/vnd\.oci\.image\.index"):
        pulled(reference(mini), root, shipped.key)


def test_unreachable(shipped: Shipped, root: Root) -> None:
    with pytest.raises(CoformerError) as caught:
        pulled("oci://127.0.0.1:1/flowers:one", root, shipped.key)
    assert caught.value.what == "it does not answer (Connection refused)"
    assert caught.value.where == "registry 127.0.0.1:1"


def test_a_password_does_not_follow_a_redirect(shipped: Shipped, mini: MiniRegistry, root: Root,
                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    pushed(shipped.one, reference(mini), shipped.key, 1)
    mini.users = {"gardener": "s3cret"}
    monkeypatch.setenv("COFORMER_REGISTRY_USER", "gardener")
    monkeypatch.setenv("COFORMER_REGISTRY_PASSWORD", "s3cret")
    seen = []
    with MiniRegistry() as elsewhere:
        elsewhere.blobs = mini.blobs
        elsewhere.fault = lambda handler: bool(seen.append(handler.headers.get("Authorization")))

        def fault(handler: Handler) -> bool:
            if "/blobs/" not in handler.path or not handler.headers.get("Authorization"):
                return False
            handler.answer(307, Location="http://{}{}".format(elsewhere.host, handler.path))
            return True

        mini.fault = fault
        pulled(reference(mini), root, shipped.key)
    assert len(seen) == 5 and set(seen) == {None}  # statement, manifest.json, three files


def test_a_loop_of_redirects_and_an_odd_one(shipped: Shipped, mini: MiniRegistry, root: Root) -> None:
    mini.fault = faults(99, "", lambda handler: handler.answer(302, Location=handler.path))
    with pytest.raises(CoformerError, match="more than 5 redirects"):
        pulled(reference(mini), root, shipped.key)
    mini.fault = faults(99, "", lambda handler: handler.answer(302, Location="file:///etc/passwd"))
    with pytest.raises(CoformerError, match="the registry names 'file:///etc/passwd'; check the registry"):
        pulled(reference(mini), root, shipped.key)


def test_a_drip_is_as_good_as_nothing(shipped: Shipped, mini: MiniRegistry, root: Root) -> None:
    import time

    pushed(shipped.one, reference(mini), shipped.key, 1)

    def drip(handler: Handler) -> None:
        content = mini.blobs[handler.path.split("/")[-1]]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        for position in range(12):
            handler.wfile.write(content[position : position + 1])
            handler.wfile.flush()
            time.sleep(0.05)
        handler.close_connection = True

    manifest = json.loads((shipped.one / "bundles" / "hall" / "manifest.json").read_text())
    digest = manifest["files"]["member.onnx"]["sha256"]
    mini.fault = faults(1, digest, drip)
    assert pulled(reference(mini), root, shipped.key).travelled_bytes > 0
    assert mini.count("^GET .*" + digest) == 2


def test_a_document_that_drips(
    shipped: Shipped, mini: MiniRegistry, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(50):
            handler.wfile.write(b"{")
            time.sleep(0.01)
        handler.close_connection = True

    monkeypatch.setattr("coformer_runtime.shipping.store.DOCUMENT_LIMIT_S", 0.05)
    mini.fault = faults(99, "", drip)
    with pytest.raises(CoformerError, match=r"it does not answer \(timed out\)"):
        pulled(reference(mini), root, shipped.key)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A key and a certificate for 127.0.0.1 that nobody else vouches for."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()) + made.public_bytes(pem))
    return str(path)


def test_tls(certificate: str) -> None:
    with MiniRegistry(certificate) as mini:
        where = parse_reference(reference(mini))
        with Registry(where, HTTP._replace(ca_file=certificate), None, True) as trusting:
            write(trusting)
        assert mini.blobs[digest_of(CONTENT)] == CONTENT
        elsewhere = where._replace(place=mini.host.replace("127.0.0.1", "localhost"))
        with pytest.raises(CoformerError, match="Hostname mismatch"):
            Registry(elsewhere, HTTP._replace(ca_file=certificate)).has_blob(digest_of(CONTENT))


def test_tls_of_an_unknown_authority_and_a_way_out_of_it(
    certificate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coformer_runtime.shipping.http.is_loopback", lambda host: False)  # as if it were far away
    with MiniRegistry(certificate) as mini:
        far = Registry(parse_reference(reference(mini)), HTTP)
        with pytest.raises(CoformerError) as caught:
            far.has_blob("sha256:" + "0" * 64)
        assert "certificate verify failed" in caught.value.what
        assert caught.value.mend.startswith("give the registry's certificate authority with --ca, or --plain-http")
        mini.fault = faults(9, "", lambda handler: handler.answer(307, Location="http://{}/v2/x".format(mini.host)))
        with pytest.raises(
            CoformerError, match=r"the registry leads to 'http://.*', without encryption; check the reg"
        ):
            Registry(parse_reference(reference(mini)), HTTP._replace(ca_file=certificate)).has_blob(
                "sha256:" + "0" * 64
            )
    with MiniRegistry() as plain:
        where = parse_reference(reference(plain))
        with pytest.raises(CoformerError, match="--plain-http if it speaks no TLS"):
            Registry(where, HTTP).has_blob("sha256:" + "0" * 64)
        assert not Registry(where, HTTP._replace(plain_http=True)).has_blob("sha256:" + "0" * 64)
        plain.users = {"gardener": "s3cret"}
        open_ = Registry(where, HTTP._replace(plain_http=True), Credentials("gardener", "s3cret"))
        with pytest.raises(
            CoformerError, match="the password would travel without encryption; use a registry with TLS"
        ):
            open_.has_blob("sha256:" + "0" * 64)
