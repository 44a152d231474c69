"""Tests of coformer_targets.target."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from coformer_runtime.errors import CoformerError
from coformer_targets import Target, load_target, load_target_file, target_names, tensorrt_older_than

DEVICES = Path(__file__).parents[2] / "targets" / "coformer_targets" / "devices"
CPU = (DEVICES / "cpu.toml").read_text(encoding="utf-8")


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_the_targets_of_the_toolchain() -> None:
    assert target_names() == ("cpu", "jetson-nano", "jetson-tx2", "raspberry-pi-4b", "raspberry-pi-5")


@pytest.mark.parametrize("name", target_names())
def test_every_fact_has_a_source(name: str) -> None:
    target = load_target(name)
    facts = {field.name for field in dataclasses.fields(Target)} - {"name", "title", "engine", "sources"}
    if target.sm is None:
        facts.remove("sm")
    if target.arch == "any":
        facts.remove("arch")
    assert set(target.sources) == facts


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_named_after_its_file_and_hashable(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert {target: 1}[load_target(name)] == 1


def test_the_facts_of_jetson_nano() -> None:
    nano = load_target("jetson-nano")
    assert (nano.engine, nano.engine_version, nano.opset, nano.ir_version) == ("tensorrt", "8.2.1", 13, 7)
    assert (nano.python, nano.sm, nano.memory_mb, nano.uint8_input) == ("3.6", 53, 4096, False)
    assert nano.precisions == ("float32", "float16")


def test_a_target_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_target("cpu").opset = 9  # type: ignore[misc]


def test_tensorrt_older_than_compares_numbers_not_texts() -> None:
    nano = load_target("jetson-nano")
    assert tensorrt_older_than(nano, 8, 6) and tensorrt_older_than(nano, 10) and not tensorrt_older_than(nano, 8, 2)
    assert not tensorrt_older_than(dataclasses.replace(nano, engine_version="10.3.0"), 8, 6)
    assert not tensorrt_older_than(load_target("cpu"), 99)


def test_an_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(CoformerError) as caught:
        load_target("jetson-nan")
    assert str(caught.value) == "target 'jetson-nan': no such target; did you mean the target 'jetson-nano'?"


def test_a_strange_target_lists_all() -> None:
    with pytest.raises(CoformerError, match="known targets: cpu, jetson-nano, jetson-tx2, raspberry-pi-4b") as caught:
        load_target("/etc/passwd")
    assert caught.value.exit_code == 2


def test_a_file_without_a_name_is_named_after_itself(write) -> None:
    assert load_target_file(write(CPU)).name == "mine"
    assert load_target_file(write('name = "attic"\n' + CPU)).name == "attic"


def test_sm_and_sources_may_be_left_out(write) -> None:
    target = load_target_file(write(CPU.split("[sources]")[0]))
    assert target.sm is None and target.sources == {}


def _message(path: Path) -> str:
    with pytest.raises(CoformerError) as caught:
        load_target_file(path)
    return str(caught.value)


def test_an_unknown_key_suggests_the_nearest(write) -> None:
    path = write(CPU.replace("memory_mb = 8192", "memory = 8192", 1))
    assert _message(path) == "target file mine.toml: unknown key 'memory'; did you mean the key 'memory_mb'?"


def test_a_missing_key_says_what_to_set(write) -> None:
    path = write(CPU.replace("opset = 20\n", "", 1))
    assert _message(path) == "target file mine.toml: the key 'opset' is missing; set it to a whole number from 9 to 24"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "memory_mb = 8192",
            "memory_mb = -1",
            "memory_mb = -1 is refused; set it to a whole number of megab",
        ),
        ("memory_mb = 8192", "memory_mb = true", "memory_mb = True is refused"),
        ("memory_mb = 8192", "memory_mb = 1.5", "memory_mb = 1.5 is refused"),
        (
            'engine = "onnxruntime"',
            'engine = "tflite"',
            "engine = 'tflite' is refused; set it to 'onnxr",
        ),
        (
            'engine_version = "1.32.0"',
            'engine_version = "new"',
            "engine_version = 'new' is refused; set it to a version",
        ),
        ("opset = 20", "opset = 99", "opset = 99 is refused; set it to a whole number from 9 to 24"),
        ("ir_version = 10", "ir_version = 1", "ir_version = 1 is refused; set it to a whole number from 4 to 12"),
        ('python = "3.10"', "python = 3.1", "python = 3.1 is refused; set it to a version such as '3.6'"),
        ('arch = "any"', 'arch = "arm"', "arch = 'arm' is refused; set it to 'x86_64', 'aarch64' or 'any'"),
        ('arch = "any"', 'arch = "any"\nsm = 5.3', "sm = 5.3 is refused; set it to the compute capability times ten"),
        ("gflops = 130", "gflops = inf", "gflops = inf is refused; set it to a number above zero"),
        ("gflops = 130", "gflops = nan", "gflops = nan is refused"),
        ('precisions = ["float32", "int8"]', "precisions = []", "precisions = [] is refused; set it to a list of"),
        ('precisions = ["float32", "int8"]', 'precisions = ["fp32"]', "precisions = ['fp32'] is refused"),
        ("alignment = 8", "alignment = 0", "alignment = 0 is refused; set it to a whole number above zero"),
        ("uint8_input = true", "uint8_input = 1", "uint8_input = 1 is refused; set it to true or false"),
        ("power_w = 65", "power_w = '65'", "power_w = '65' is refused; set it to a number above zero"),
        ('title = "Any', 'title = ""\n#', "title = '' is refused; set it to a non-empty text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(write, old: str, new: str, message: str) -> None:
    assert old in CPU
    assert _message(write(CPU.replace(old, new, 1))).startswith(f"target file mine.toml: {message}")


def test_a_source_of_an_unknown_field_suggests_the_nearest(write) -> None:
    path = write(CPU + 'memory = "a guess"\n')
    assert _message(path) == (
        "target file mine.toml: [sources] names 'memory', which is no field; did you mean the field 'memory_mb'?"
    )


def test_sources_are_texts(write) -> None:
    path = write(CPU.split("[sources]")[0] + "sources = 3\n")
    assert "sources = 3 is refused; set it to a table of texts" in _message(path)


def test_a_missing_file(tmp_path: Path) -> None:
    assert _message(tmp_path / "no.toml") == (
        "target file no.toml: cannot be read (No such file or directory); give the path of a readable TOML file"
    )


def test_a_file_that_is_no_toml(write) -> None:
    message = _message(write("title = "))
    assert message.startswith("target file mine.toml: is no TOML (") and message.endswith("; mend the syntax")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is no TOML" in _message(path)
