"""Prometheus text as its own rules want it, the operator port, the live page in a browser, and energy readings."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import grpc
import pytest

from coformer_runtime import wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.cli import main
from coformer_runtime.client import Client
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.front import open_front
from coformer_runtime.metrics import Counter, Histogram, exposition, gauge, labels
from coformer_runtime.page import OperatorPort
from coformer_runtime.power import readings
from coformer_runtime.status import ask_status
from coformer_runtime.worker import Worker
from tests.runtime import bundles
from tests.runtime.nodes import PIXELS, serving

LINE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-z_]+="(?:[^"\\]|\\.)*",?)*\})? (-?[0-9.e+-]+)$')


def parsed(text: str) -> Dict[str, float]:
    values: Dict[str, float] = {}
    kinds: Dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            assert name not in kinds
            kinds[name] = kind
        elif not line.startswith("# HELP"):
            found = LINE.match(line)
            assert found, line
            base = re.sub(r"_(bucket|sum|count)$", "", found.group(1))
            assert found.group(1) in kinds or kinds.get(base) == "histogram", line
            assert found.group(1) + (found.group(2) or "") not in values
            values[found.group(1) + (found.group(2) or "")] = float(found.group(3))
    return values


def test_text_format() -> None:
    counter, histogram = Counter("c_total", "C"), Histogram("h_seconds", "H")
    key = labels({"b": 'a"\\\n', "a": "1"})
    counter.add(key, 2)
    counter.add(key)
    for seconds in (0.0004, 0.001, 0.0011, 100.0):
        histogram.observe((), seconds)
    values = parsed(exposition([counter.family(), histogram.family(), gauge("g", "G", {labels({}): 0.5})]))
    assert values['c_total{a="1",b="a\\"\\\\\\n"}'] == 3 and values["g"] == 0.5
    assert values['h_seconds_bucket{le="0.0005"}'] == 1 and values['h_seconds_bucket{le="0.001"}'] == 2
    assert values['h_seconds_bucket{le="5.0"}'] == 3
    assert values['h_seconds_bucket{le="+Inf"}'] == values["h_seconds_count"] == 4
    assert values["h_seconds_sum"] == pytest.approx(100.0025)
    assert histogram.mean_ms(()) == pytest.approx(25000.625) and histogram.mean_ms((("x", "y"),)) == 0


@pytest.fixture(scope="module")
def site(cluster_dirs: List[str]) -> Iterator[Tuple[str, str]]:
    """Addresses of a central node without desk and of its operator port."""
    with serving(cluster_dirs[1]) as hall, Central(
        open_bundle(cluster_dirs[0]), CentralOptions(("hall=" + hall,), 2000, 2)
    ) as central, OperatorPort(
        "127.0.0.1:0",
        False,
        lambda: exposition(central.observed.families(central)),
        lambda: central.observed.status(central),
    ) as port:
        server, address = open_front(central, "127.0.0.1:0")
        with Client(address) as client:
            for _ in range(5):
                assert client.infer(PIXELS).degraded
            with pytest.raises(CoformerError):
                client.infer(PIXELS[:, :, :2])
        yield address, port.address
        server.stop(0).wait()


def get(address: str, path: str) -> str:
    with urllib.request.urlopen("http://{}{}".format(address, path), timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def test_metrics_of_a_cluster(site: Tuple[str, str]) -> None:
    values = parsed(get(site[1], "/metrics"))
    model = 'model="coformer",version="bbbbbbbbbbbb"'
    assert values["nv_inference_request_success{" + model + "}"] == 5
    assert (
        values['nv_inference_request_failure{model="coformer",reason="INVALID_ARGUMENT",version="bbbbbbbbbbbb"}'] == 1
    )
    assert values["coformer_degraded_total"] == values['coformer_member_missing_total{device="desk"}'] == 5
    assert values['coformer_member_up{device="hall"}'] == 1 and values['coformer_member_up{device="desk"}'] == 0
    assert (
        values['coformer_breaker_state{device="hall"}']
        == values["nv_inference_pending_request_count{" + model + "}"]
        == 0
    )
    assert values['coformer_phase_seconds_count{phase="total"}'] == 5
    assert values['coformer_member_seconds_count{device="hall",phase="compute"}'] == 5
    assert values['coformer_member_bytes_total{device="hall",direction="out"}'] == 5 * 16
    assert values['coformer_member_bytes_total{device="hall",direction="in"}'] == 5 * 12
    assert values["coformer_ready"] == 1 and values["process_resident_memory_bytes"] > 1e7


def test_metrics_of_a_worker(cluster_dirs: List[str]) -> None:
    manifest = open_bundle(cluster_dirs[1]).manifest
    frames = [wire.encode_frame(wire.hello_frame(manifest, "0"))]
    frames += [wire.encode_frame(wire.tensor_frame(wire.REQUEST, n, manifest.build, PIXELS)) for n in (1, 2, 3)]
    frames += [wire.encode_frame(wire.tensor_frame(wire.REQUEST, 4, "d" * 64, PIXELS))]
    with Worker(open_bundle(cluster_dirs[1]), "127.0.0.1:0", 1) as worker, OperatorPort(
        "127.0.0.1:0", False, lambda: exposition(worker.counts.families())
    ) as port, grpc.insecure_channel(worker.address) as channel:
        assert len(list(channel.stream_stream(wire.METHOD)(iter(frames), timeout=10))) == 5
        values = parsed(get(port.address, "/metrics"))
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(port.address, "/")
        caught.value.close()
    assert values['coformer_worker_requests_total{outcome="features"}'] == 3
    assert values['coformer_worker_requests_total{outcome="other_build"}'] == 1
    assert values["coformer_engine_seconds_count"] == 3 and caught.value.code == 404
    assert values['coformer_build_info{build="' + "b" * 64 + '",device="hall"}'] == 1


def test_status_command(site: Tuple[str, str], capsys: pytest.CaptureFixture) -> None:
    assert main(["status", site[1]]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("ready: central node 'attic', build bbbbbbbbbbbb, up for ")
    assert "5 answered (5 degraded), 1 failed, 0 in progress\nexpected accuracy 92.0 % (attic + hall)\n" in shown
    assert re.search(r"  desk +away  breaker closed .* no worker's address was given for it\n", shown)
    assert re.search(r"  hall +up .* 0\.00 MB out +0\.00 in\n", shown)
    assert main(["status", site[1], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["expected_of"] == ["attic", "hall"]
    assert [(each["sent_bytes"], each["received_bytes"]) for each in told["members"][1:]] == [(5 * 16, 5 * 12), (0, 0)]
    with pytest.raises(CheckFailed, match="start the central node with --metrics"):
        ask_status("127.0.0.1:9")


def test_port_is_robust(site: Tuple[str, str]) -> None:
    host, port = site[1].split(":")
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as junk:
        junk.sendall(b"\xff\x00junk\r\n\r\n")  # the other one says nothing at all
        started = time.monotonic()
        assert '"ready": true' in get(site[1], "/status.json")
        assert time.monotonic() - started < 5
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(site[1], "/../../etc/passwd")
    caught.value.close()
    assert caught.value.code == 404
    with pytest.raises(CoformerError, match="can be reached from other machines"):
        OperatorPort("0.0.0.0:0", False, str, dict)
    with pytest.raises(CoformerError, match="cannot be listened on"):
        OperatorPort(site[1], False, str, dict)


def test_failing_page_says_nothing(capsys: pytest.CaptureFixture) -> None:
    def fail() -> str:
        raise ValueError("secret")

    with OperatorPort("127.0.0.1:0", False, fail, dict) as port, pytest.raises(urllib.error.HTTPError) as caught:
        get(port.address, "/metrics")
    with caught.value as error:
        told = error.reason + error.read().decode()
    assert caught.value.code == 500 and "secret" not in told
    assert caught.value.reason.split()[-1] in capsys.readouterr().err


@pytest.mark.slow
def test_live_page_in_a_browser(site: Tuple[str, str], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000",
             "--user-data-dir={}".format(tmp_path), "--dump-dom", "http://{}/".format(site[1])]  # fmt: skip
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=120)
    page = done.stdout.decode()
    assert '<span id="state" class="up">ready</span>' in page
    assert "5 answered, 5 of them degraded, 1 failed" in page and "Expected accuracy now: 92.0 % (attic, hall)." in page
    assert [name for name in bundles.DEVICES if '<td class="">{}</td>'.format(name) in page] == list(bundles.DEVICES)
    assert "away: no worker's address was given for it" in page


def test_power_readings(tmp_path: Path) -> None:
    assert readings(str(tmp_path)) == {}
    rails = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    rails.mkdir(parents=True)
    for name, text in (("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "1200"), ("in2_label", "NC")):
        (rails / name).write_text(text + "\n")
    domain = tmp_path / "sys/class/powercap/intel-rapl:0"
    domain.mkdir(parents=True)
    (domain / "name").write_text("package-0\n")
    (domain / "energy_uj").write_text("2500000\n")
    assert readings(str(tmp_path)) == {"watts": {"VDD_IN": 6.0}, "joules": {"package-0 (intel-rapl:0)": 2.5}}
