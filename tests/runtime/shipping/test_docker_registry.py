"""The registry that everybody runs: distribution's own, as Debian packages it."""

import contextlib
import io
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Iterator
from urllib.request import urlopen

import pytest

from coformer_runtime.errors import CoformerError
from coformer_runtime.shipping.reference import parse_reference
from coformer_runtime.shipping.registry import Registry
from coformer_runtime.shipping.root import Root
from coformer_runtime.shipping.store import Descriptor, digest_of
from tests.runtime.shipping.conftest import Shipped
from tests.runtime.shipping.releases import HTTP, pulled, pushed

CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {folder}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""
HTPASSWD = "auth: {{htpasswd: {{realm: test, path: {path}}}}}"
# "gardener" with the password "s3cret", hashed by bcrypt
USER = "gardener:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n"


@contextlib.contextmanager
def running(folder: Path, auth: str = "") -> Iterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed (Debian: apt-get install docker-registry)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config.yml").write_text(CONFIG.format(folder=folder / "data", port=port, auth=auth))
    command = [program, "serve", str(folder / "config.yml")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(port)
            yield "127.0.0.1:{}".format(port)
        finally:
            process.kill()


def _wait(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            urlopen("http://127.0.0.1:{}/".format(port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("docker-registry does not listen")


def test_push_pull_and_push_again(shipped: Shipped, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "board"))
    with running(tmp_path) as host:
        reference = "oci://{}/team/flowers:stable".format(host)
        first = pushed(shipped.one, reference, shipped.key, 1)
        assert pulled(reference, root, shipped.key).record.version == 1
        again = pushed(shipped.two, reference, shipped.key, 2)
        assert again["sent_bytes"] < first["sent_bytes"]
        assert pulled(reference, root, shipped.key).record.version == 2
        assert pulled(first["pinned"], root, shipped.key).record.version == 1
        with pytest.raises(CoformerError, match="there is no 'other'; check the name and the tag"):
            pulled("oci://{}/team/flowers:other".format(host), root, shipped.key)


def test_a_blob_in_pieces_and_a_part_of_it(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    descriptor = Descriptor("x", digest_of(content), len(content))
    with running(tmp_path) as host:
        registry = Registry(parse_reference("oci://{}/a".format(host)), HTTP, None, True, chunk_bytes=100_000)
        assert not registry.has_blob(descriptor.digest)
        registry.write_blob(descriptor, io.BytesIO(content))
        assert registry.has_blob(descriptor.digest)
        for offset in (0, 1, 255_999, 256_000):
            stream, start = registry.open_blob(descriptor.digest, offset)
            with stream:
                assert start == (0 if offset == len(content) else offset)
                assert stream.read() == content[start:]


def test_login(shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "users").write_text(USER)
    with running(tmp_path, HTPASSWD.format(path=tmp_path / "users")) as host:
        reference = "oci://{}/flowers:stable".format(host)
        with pytest.raises(CoformerError, match="it wants a user and a password"):
            pushed(shipped.one, reference, shipped.key, 1)
        monkeypatch.setenv("COFORMER_REGISTRY_USER", "gardener")
        monkeypatch.setenv("COFORMER_REGISTRY_PASSWORD", "s3cret")
        pushed(shipped.one, reference, shipped.key, 1)
        assert pulled(reference, Root(str(tmp_path / "board")), shipped.key).record.version == 1
