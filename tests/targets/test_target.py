"""Tests of coformer_targets.target."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from coformer_runtime.errors import CoformerError
from coformer_targets import (
    Target,
    load_target,
    load_target_file,
    operator_table,
    strongly_typed,
    target_names,
    target_variants,
    tensorrt_older_than,
    with_precision,
)

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
    assert " ".join(target_names()) == (
        "cpu jetson-agx-orin jetson-agx-xavier jetson-nano jetson-orin-nano jetson-orin-nx jetson-thor jetson-tx2 "
        "jetson-xavier-nx raspberry-pi-4b raspberry-pi-5 rtx-ada rtx-ampere rtx-blackwell tensorrt-a100 tensorrt-h100 "
        "tensorrt-t4"
    )


@pytest.mark.parametrize("name", target_variants())
def test_every_fact_has_a_source(name: str) -> None:
    target = load_target(name)
    facts = {field.name for field in dataclasses.fields(Target)} - {"name", "title", "engine", "sources", "jetpacks"}
    facts -= {field for field in ("sm", "cuda", "jetpack") if getattr(target, field) is None}
    if target.arch == "any":
        facts.remove("arch")
    assert set(target.sources) == facts


@pytest.mark.parametrize("name", target_variants())
def test_a_target_is_named_after_its_file_and_hashable(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert {target: 1}[load_target(name)] == 1


def test_the_facts_of_jetson_nano() -> None:
    nano = load_target("jetson-nano")
    assert (nano.engine, nano.engine_version, nano.opset, nano.ir_version) == ("tensorrt", "8.2.1", 13, 7)
    assert (nano.python, nano.sm, nano.memory_mb, nano.uint8_input) == ("3.6", 53, 4096, False)
    assert nano.precisions == ("float32", "float16")


@pytest.mark.parametrize(
    ("name", "version", "cuda", "python", "opset"),
    [
        ("jetson-tx2", "8.2.1", "10.2", "3.6", 13),
        ("jetson-xavier-nx", "8.5.2", "11.4", "3.8", 17),
        ("jetson-orin-nano@jp5.1", "8.5.2", "11.4", "3.8", 17),
        ("jetson-orin-nx@jp6.0", "8.6.2", "12.2", "3.10", 17),
        ("jetson-agx-orin@jp6.2", "10.3.0", "12.6", "3.10", 20),
        ("jetson-orin-nano@jp7.2", "10.16.2", "13.2", "3.12", 24),
        ("jetson-thor", "10.13.3", "13.0", "3.12", 21),
    ],
)
def test_a_jetson_has_what_its_jetpack_brings(name: str, version: str, cuda: str, python: str, opset: int) -> None:
    target = load_target(name)
    assert (target.engine, target.engine_version) == ("tensorrt", version)
    assert (target.cuda, target.python, target.opset) == (cuda, python, opset)
    assert target.title.endswith(f"TensorRT {version}")


def test_a_bare_name_means_one_stated_jetpack() -> None:
    bare, stated = load_target("jetson-orin-nano"), load_target("jetson-orin-nano@jp6.2")
    assert bare.jetpack == "6.2" and bare.jetpacks == ("5.1", "6.0", "6.2", "7.2")
    assert "the bare name: " in bare.sources["jetpack"]
    assert dataclasses.replace(stated, name=bare.name, sources=bare.sources) == bare


def test_an_unknown_jetpack_lists_those_that_there_are() -> None:
    with pytest.raises(CoformerError) as caught:
        load_target("jetson-orin-nano@jp6.9")
    assert str(caught.value) == (
        "target 'jetson-orin-nano@jp6.9': there is no 'jp6.9' of jetson-orin-nano; these are there: "
        "jetson-orin-nano@jp5.1, jetson-orin-nano@jp6.0, jetson-orin-nano@jp6.2, jetson-orin-nano@jp7.2"
    )


def test_a_target_without_jetpack_has_no_variants() -> None:
    with pytest.raises(CoformerError) as caught:
        load_target("cpu@jp6.2")
    assert str(caught.value) == "target 'cpu@jp6.2': there is no 'jp6.2' of cpu; it has no JetPack: write cpu"


def test_a_file_takes_what_its_jetpack_brings_and_goes_before_it(write) -> None:
    orin = (DEVICES / "jetson-orin-nano.toml").read_text(encoding="utf-8")
    own = orin.replace('jetpack = "6.2"', 'jetpack = "6.0"\nengine_version = "8.6.1"', 1)
    target = load_target_file(write(own))
    assert (target.engine_version, target.cuda, target.opset) == ("8.6.1", "12.2", 17)
    table = operator_table(target)
    assert table is not None and table.version == "8.6.2"  # one table for all of 8.6
    assert _message(write(orin.replace('jetpack = "6.2"', 'jetpack = "6.9"', 1))) == (
        "target file mine.toml: there is no JetPack '6.9'; known JetPacks: 4.6, 5.1, 6.0, 6.2, 7.0, 7.2"
    )


def test_a_tensorrt_without_an_operator_table_is_refused_when_its_target_is_read(write) -> None:
    """Not only when a graph is lowered for it, which is after the training."""
    orin = (DEVICES / "jetson-orin-nano.toml").read_text(encoding="utf-8")
    own = orin.replace('jetpack = "6.2"', 'jetpack = "6.2"\nengine_version = "9.3.0"', 1)
    assert _message(write(own)) == (
        "target file mine.toml, engine_version: which operators TensorRT 9.3.0 takes is not known; take one of "
        "8.2, 8.4, 8.5, 8.6, 10.1, 10.3, 10.7, 10.13, 10.16, 11.1: any patch of them will do"
    )
    ada = (DEVICES / "rtx-ada.toml").read_text(encoding="utf-8")
    assert 'engine_version = "1.7.1"' in ada
    assert _message(write(ada.replace('engine_version = "1.7.1"', 'engine_version = "2.0.0"', 1))) == (
        "target file mine.toml, engine_version: which operators TensorRT-RTX 2.0.0 takes is not known; take one of "
        "1.7: any patch of them will do"
    )
    assert load_target_file(write(CPU.replace("1.32.0", "99.1", 1))).engine_version == "99.1"


def test_a_precision_is_chosen_from_those_that_there_are() -> None:
    nano = load_target("jetson-nano")
    assert with_precision(nano, "float16").precisions == ("float16", "float32")
    assert with_precision(nano, "float32") == nano
    with pytest.raises(CoformerError) as caught:
        with_precision(nano, "int8")
    assert str(caught.value) == "target 'jetson-nano': it does not compute in int8; choose one of float16, float32"


@pytest.mark.parametrize(("name", "typed"), [("cpu", False), ("jetson-thor", False), ("rtx-ada", True)])
def test_which_engines_are_strongly_typed(name: str, typed: bool) -> None:
    assert strongly_typed(load_target(name)) is typed
    assert strongly_typed(dataclasses.replace(load_target("jetson-nano"), engine_version="11.1.0"))


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
    with pytest.raises(CoformerError, match="known targets: cpu, jetson-agx-orin, jetson-agx-xavier,") as caught:
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


def test_int8_is_refused_where_no_pass_writes_it() -> None:
    with pytest.raises(CoformerError, match=r"^target 'jetson-orin-nano': no pass writes int8 for tensorrt yet"):
        with_precision(load_target("jetson-orin-nano"), "int8")
