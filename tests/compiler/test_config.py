"""Configurations: what is read, what the command line overrides, and what every mistake is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coformer_compiler.config import (
    BuildConfig,
    Overrides,
    bandwidths_from_text,
    read_config,
)
from coformer_runtime.errors import CoformerError
from tests.end_to_end.tiny import TINY

NO_OVERRIDES = Overrides()


@pytest.fixture
def write(tmp_path: Path):
    def written(*changes: tuple[str, str], text: str = TINY) -> Path:
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "tiny.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def refusal(path: Path | None, overrides: Overrides = NO_OVERRIDES) -> str:
    with pytest.raises(CoformerError) as caught:
        read_config(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_file_is_read(write) -> None:
    path = write()
    config = read_config(path, NO_OVERRIDES)
    assert (config.title, config.seed, config.data.source) == ("Tiny", 0, "digits")
    assert config.model.checkpoint == path.parent / "teacher.safetensors"
    assert dict(config.model.options)["embed_dim"] == 24
    assert [(d.name, d.target.name) for d in config.devices] == [
        ("attic", "cpu"),
        ("hall", "raspberry-pi-4b"),
        ("desk", "cpu"),
    ]
    assert (config.booster.steps, config.booster.learning_rate) == (2, 1e-3)


def test_figures_that_are_left_out_are_the_targets(write) -> None:
    attic, hall, _ = read_config(write(), NO_OVERRIDES).devices
    assert (attic.gflops, attic.memory_mb) == (12.0, 512.0)
    assert (hall.gflops, hall.memory_mb) == (hall.target.gflops, hall.target.memory_mb)


def central(config: BuildConfig) -> str:
    return config.devices[config.central].name


def test_the_fastest_device_aggregates_unless_one_is_named(write) -> None:
    assert central(read_config(write(), NO_OVERRIDES)) == "hall"
    assert central(read_config(write(("gflops = 10.0", "gflops = 10.0\ncentral = true")), NO_OVERRIDES)) == "desk"
    equal = write(("gflops = 12.0", "gflops = 13.5"), ("gflops = 10.0", "gflops = 13.5"))
    assert central(read_config(equal, NO_OVERRIDES)) == "attic"


def test_a_device_on_standby_is_not_the_central_one(write) -> None:
    config = read_config(write(('name = "hall"', 'name = "hall"\nstandby = true')), NO_OVERRIDES)
    assert central(config) == "attic" and config.aggregating == (0, 1)


def test_a_title_is_made_where_there_is_none(write) -> None:
    assert read_config(write(('title = "Tiny"\n', "")), NO_OVERRIDES).title == "vit_tiny_patch16_224 on 3 devices"


def test_the_seed_is_the_boosters_too_unless_it_has_its_own(write) -> None:
    assert read_config(write(("seed = 0", "seed = 7")), NO_OVERRIDES).booster.seed == 7
    own = write(("seed = 0", "seed = 7"), ("steps = 2\njoint", "seed = 3\nsteps = 2\njoint"))
    assert read_config(own, NO_OVERRIDES).booster.seed == 3


def test_the_command_line_alone_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = Overrides(
        model="timm:deit_tiny_patch16_224",
        checkpoint=Path("deit.pth"),
        data="npz:some.npz",
        targets=("cpu", "jetson-nano", "cpu"),
        options=(("num_classes", "5"), ("qkv_bias", "false"), ("mlp_ratio", "2.5"), ("global_pool", "avg")),
        steps=10,
        seed=4,
    )
    config = read_config(None, given)
    assert config.model.checkpoint == tmp_path / "deit.pth"
    assert config.data.source == f"npz:{tmp_path / 'some.npz'}"
    assert [device.name for device in config.devices] == ["cpu-1", "jetson-nano", "cpu-2"]
    assert dict(config.model.options) == {
        "num_classes": 5,
        "qkv_bias": False,
        "mlp_ratio": 2.5,
        "global_pool": "avg",
    }
    assert (config.booster.steps, config.booster.joint_steps, config.seed, config.booster.seed) == (10, 10, 4, 4)


def test_targets_replace_the_devices_of_the_file(write) -> None:
    config = read_config(write(), Overrides(targets=("raspberry-pi-5",)))
    assert [(device.name, device.central) for device in config.devices] == [("raspberry-pi-5", True)]


def test_another_model_does_not_inherit_the_options_of_the_file(write) -> None:
    config = read_config(write(), Overrides(model="timm:deit_tiny_patch16_224", weights="random"))
    assert (config.model.options, config.model.checkpoint, config.model.weights) == ((), None, "random")


def test_a_checkpoint_of_the_command_line_is_taken_where_the_file_wants_random_weights(write, tmp_path: Path) -> None:
    path = write(('checkpoint = "teacher.safetensors"', 'weights = "random"'))
    config = read_config(path, Overrides(checkpoint=tmp_path / "other.pth"))
    assert (config.model.weights, config.model.checkpoint) == ("file", tmp_path / "other.pth")


def test_random_weights_of_the_command_line_put_the_files_checkpoint_aside(write) -> None:
    config = read_config(write(), Overrides(weights="random"))
    assert (config.model.weights, config.model.checkpoint) == ("random", None)


def test_paths_of_a_file_start_from_its_folder_and_those_of_the_command_line_from_here(
    write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = write(('source = "digits"', 'source = "npz:a.npz"'))
    assert read_config(path, NO_OVERRIDES).data.source == f"npz:{tmp_path / 'a.npz'}"
    assert read_config(path, Overrides(data="npz:b.npz")).data.source == f"npz:{here / 'b.npz'}"
    home = write(('source = "digits"', 'source = "npz:~/c.npz"'), ('"teacher.', '"~/teacher.'))
    config = read_config(home, NO_OVERRIDES)
    assert config.data.source == f"npz:{tmp_path / 'home' / 'c.npz'}"
    assert config.model.checkpoint == tmp_path / "home" / "teacher.safetensors"


MISTAKES = [
    (
        ("calibration", "calibraton"),
        "config tiny.toml: unknown key 'data.calibraton'; did you mean the key 'calibration'?",
    ),
    (("[booster]", "[boster]"), "config tiny.toml: unknown key 'boster'; did you mean the key 'booster'?"),
    (("[booster]", "[budget]"), "config tiny.toml: unknown key 'budget'; known keys: booster, data, devices, model, "),
    (
        ("gflops = 10.0", "gflop = 10.0"),
        "config tiny.toml, device 'desk': unknown key 'gflop'; did you mean the key 'gflops'?",
    ),
    (
        ("joint_steps", "joint_step"),
        "config tiny.toml: unknown key 'booster.joint_step'; did you mean the key 'joint_steps'?",
    ),
    (
        ("calibration = 64", "calibration = 4"),
        "config tiny.toml: data.calibration = 4 is refused; it should be greater than or equal to 8",
    ),
    (
        ("calibration = 64", 'calibration = "many"'),
        "config tiny.toml: data.calibration = 'many' is refused; it should be a valid integer",
    ),
    (
        ("gflops = 12.0", "gflops = 0"),
        "config tiny.toml, device 'attic': gflops = 0 is refused; it should be greater than 0",
    ),
    (
        ("[booster]", "[search]\niterations = 0\n[booster]"),
        "config tiny.toml: search.iterations = 0 is refused; it should be greater than or equal to 1",
    ),
    (
        ("[booster]", "[search]\nminutes = 0\n[booster]"),
        "config tiny.toml: search.minutes = 0 is refused; it should be greater than 0",
    ),
    (
        ("seed = 0", "seed = -1"),
        "config tiny.toml: seed = -1 is refused; it should be greater than or equal to 0",
    ),
    (
        ("joint_steps = 2", "joint_steps = -2"),
        "config tiny.toml, booster: joint_steps = -2 is out of range; give 0 or more",
    ),
    (
        ("joint_steps = 2", "joint_steps = 2.5"),
        "config tiny.toml: booster.joint_steps = 2.5 is refused; it should be a valid integer, got a number with a "
        "fractional part",
    ),
    (
        ('checkpoint = "teacher.safetensors"', 'weights = "rnd"'),
        "config tiny.toml: model.weights = 'rnd' is refused; it should be 'file', 'hub' or 'random'",
    ),
    (
        ('checkpoint = "teacher.safetensors"', ""),
        "config tiny.toml, model.checkpoint: no checkpoint; name its file (--checkpoint FILE), or set model.weights "
        "(--weights) to 'hub' or 'random'",
    ),
    (
        ('checkpoint = "teacher.safetensors"', 'checkpoint = "teacher.safetensors"\nweights = "hub"'),
        "config tiny.toml, model.checkpoint: the weights are to be 'hub', and a checkpoint is named; leave the "
        "checkpoint away, or set model.weights to 'file'",
    ),
    (
        ('checkpoint = "teacher.safetensors"', 'checkpoint = "teacher.safetensors"\nstd = [0.0]'),
        "config tiny.toml: model.std.0 = 0.0 is refused; it should be greater than 0",
    ),
    (
        ('target = "raspberry-pi-4b"', 'target = "raspbery-pi-4"'),
        "target 'raspbery-pi-4': no such target; did you mean the target 'raspberry-pi-4b'?",
    ),
    (
        ('target = "raspberry-pi-4b"', ""),
        "config tiny.toml, devices: device 'hall' needs one of target and target_file; set target to a name of "
        "`coformerc targets`",
    ),
    (
        ('target = "raspberry-pi-4b"', 'target_file = "mine.toml"'),
        "target file mine.toml: cannot be read (No such file or directory); give the path of a readable TOML file",
    ),
    (
        ('name = "desk"', 'name = "attic"'),
        "config tiny.toml, devices: device 'attic' is listed 2 times; give every device a name of its own",
    ),
    (
        ('name = "desk"', 'name = "../desk"'),
        "config tiny.toml, devices: '../desk' cannot be a device's name; use up to 63 letters, digits, '_', '.' and "
        "'-', a letter or digit first",
    ),
    (('name = "desk"', 'name = ""'), "config tiny.toml, devices: '' cannot be a device's name; use up to 63 letters"),
    (
        ('name = "desk"\n', ""),
        "config tiny.toml, device 'number 3': the key 'name' is missing; add it",
    ),
    (
        ('target = "cpu"', 'target = "cpu"\ncentral = true'),
        "config tiny.toml, devices: 2 devices are central; set central = true for one of them",
    ),
    (
        ("gflops = 10.0", "gflops = 10.0\ncentral = true\nstandby = true"),
        "config tiny.toml, device 'desk', standby: 'desk' is the central device and cannot stand by for itself; set "
        "standby = true for another device",
    ),
    (
        ("[data]", '[policy]\nstrategy = "proportionl"\n[data]'),
        "config tiny.toml, policy.strategy: unknown strategy 'proportionl'; did you mean the strategy 'proportional'?",
    ),
    (
        ("[data]", '[policy]\nstrategy = "file"\n[data]'),
        "config tiny.toml, policy.file: strategy 'file' and policy.file go together; set both or neither",
    ),
    (
        ("[data]", '[policy]\nstrategy = "debo"\nembed = 64\n[data]'),
        "config tiny.toml, policy.embed: the strategy 'debo' decides by itself how wide and how deep members are; "
        "leave it away, or choose one of uniform, proportional",
    ),
    (
        ("[data]", '[policy]\nstrategy = "random"\nlayers = [0]\n[data]'),
        "config tiny.toml, policy.layers: the strategy 'random' decides by itself how wide and how deep members are; "
        "leave it away, or choose one of uniform, proportional",
    ),
    (
        ("[data]", "[profiles]\nlengths = [64, 32]\n[data]"),
        "config tiny.toml: profiles.lengths = [64, 32] is not ascending; write each number once, the smallest first",
    ),
    (
        ("[data]", "[profiles]\nbatches = [4]\n[data]"),
        "config tiny.toml: profiles.batches = [4] lacks 1; add it: a single request is a batch of one",
    ),
    (("[data]", "[profiles]\nlengths = []\n[data]"), "config tiny.toml: profiles.lengths = [] is refused"),
    (("[data]", "[profiles]\nbatches = [0, 1]\n[data]"), "config tiny.toml: profiles.batches.0 = 0 is refused"),
    (
        ("[data]", "[profiles]\nbatch = [1]\n[data]"),
        "config tiny.toml: unknown key 'profiles.batch'; did you mean the key 'batches'?",
    ),
    (("[data]", "[data"), "config tiny.toml: is no TOML ("),
]


@pytest.mark.parametrize(("change", "told"), MISTAKES, ids=[change[1].strip()[:40] for change, _ in MISTAKES])
def test_mistakes(write, change: tuple[str, str], told: str) -> None:
    text = refusal(write(change))
    assert text.startswith(told) or told in text
    assert "pydantic" not in text and "Input" not in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('model = "timm:x"\n', "config tiny.toml: model = 'timm:x' is no table; write [model], its keys below it"),
        ("devices = 3\n", "config tiny.toml: 'devices' is no list of tables; write [[devices]] once per device"),
        (
            "[devices]\nname='x'\n",
            "config tiny.toml: 'devices' is no list of tables; write [[devices]] once per device",
        ),
        ("profiles = 3\n", "config tiny.toml: profiles = 3 is no table; write [profiles], its keys below it"),
        ("booster = 3\n", "config tiny.toml: booster = 3 is no table; write [booster], its keys below it"),
        ("", "config tiny.toml: names no model; give --model LIBRARY:NAME, or [model] in a configuration file"),
    ],
)
def test_values_in_the_place_of_tables(write, text: str, told: str) -> None:
    assert refusal(write(text=text)) == told


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    told = "config no.toml: cannot be read (No such file or directory); give the path of a readable TOML file"
    assert refusal(tmp_path / "no.toml") == told


def test_the_command_line_says_what_it_lacks() -> None:
    model = Overrides(model="timm:deit_tiny_patch16_224", weights="random")
    assert refusal(None).startswith("command line: names no model; give --model LIBRARY:NAME, or [model] in a conf")
    assert refusal(None, model).startswith("command line: names no data set; give --data KIND:PATH, or [data] in a")
    told = refusal(None, Overrides(model=model.model, weights="random", data="digits"))
    assert told == (
        "command line: names no device; "
        "give --target NAME or --target-file FILE, or [[devices]] in a configuration file"
    )


SEARCHING = ("[booster]", '[policy]\nstrategy = "debo"\n\n[booster]')


def test_bandwidths_are_sorted_and_the_command_line_overrides_them(write) -> None:
    path = write(SEARCHING, ("[booster]", "[network]\nmbps = 50\nbandwidths = [100, 2]\n\n[booster]"))
    assert read_config(path, NO_OVERRIDES).network.bandwidths == [2.0, 100.0]
    network = read_config(path, Overrides(bandwidths=bandwidths_from_text("1000,2.5"))).network
    assert (network.mbps, network.bandwidths) == (50.0, [2.5, 1000.0])
    assert read_config(write(), NO_OVERRIDES).network.bandwidths == []


@pytest.mark.parametrize(
    ("bandwidths", "text"),
    [
        ((0.0, 2.0), "0 Mbit/s is no bandwidth; write rates in Mbit/s above 0, such as 2,100,1000"),
        ((-1.0, 2.0), "-1 Mbit/s is no bandwidth"),
        ((float("nan"), 2.0), "nan Mbit/s is no bandwidth"),
        ((float("inf"), 2.0), "inf Mbit/s is no bandwidth"),
        ((2.0, 100.0, 2.0), "2 Mbit/s is named twice; name each bandwidth once"),
        ((100.0,), "one bandwidth leaves nothing to change between; name at least two, or set network.mbps = 100"),
    ],
)
def test_bandwidths_that_are_none(write, bandwidths: tuple[float, ...], text: str) -> None:
    told = refusal(write(SEARCHING), Overrides(bandwidths=bandwidths))
    assert text in told and "network.bandwidths" in told


@pytest.mark.parametrize("text", ["abc", "2,", "2;100"])
def test_bandwidths_that_are_no_numbers(text: str) -> None:
    with pytest.raises(CoformerError, match="is no number; write rates in Mbit/s above 0") as caught:
        bandwidths_from_text(text)
    assert caught.value.where == "--bandwidths"


def test_a_strategy_that_does_not_search_has_one_policy_for_every_bandwidth(write) -> None:
    told = refusal(write(), Overrides(bandwidths=(2.0, 100.0)))
    assert "the strategy 'proportional' gives one policy, whatever the bandwidth" in told
    assert "choose one that searches: debo, debo-paper, optuna-gp, random (--strategy)" in told


def test_a_search_takes_debo_where_the_file_names_no_search(write) -> None:
    searching = Overrides(searching=True)
    found = read_config(write(), searching)
    assert (found.policy.strategy, found.replaced) == ("debo", "proportional")
    of_file = write(("[booster]", '[policy]\nstrategy = "file"\nfile = "mine.json"\n\n[booster]'))
    found = read_config(of_file, searching)
    assert (found.policy.strategy, found.policy.file, found.replaced) == ("debo", None, "file")
    bandwidths = replace(searching, bandwidths=(2.0, 100.0))
    assert read_config(write(), bandwidths).network.bandwidths == [2.0, 100.0]
    named = read_config(write(), replace(searching, strategy="uniform"))
    assert (named.policy.strategy, named.replaced) == ("uniform", None)
    own = read_config(write(("[booster]", '[policy]\nstrategy = "random"\n\n[booster]')), searching)
    assert (own.policy.strategy, own.replaced) == ("random", None)
    assert read_config(write(), NO_OVERRIDES).policy.strategy == "proportional"
    unknown = write(("[booster]", '[policy]\nstrategy = "debbo"\n\n[booster]'))
    assert "unknown strategy 'debbo'" in refusal(unknown, searching)
