"""The index of alternatives: its text, its rules, and a device's folder that is not what it names."""

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from coformer_runtime.alternatives import INDEX_NAME, index_digest, index_json, load_index, open_held, parse_index
from coformer_runtime.cli import main
from coformer_runtime.errors import CoformerError
from tests.runtime import bundles
from tests.runtime.alternatives import build_of, make_alternatives, make_index

INDEX = make_index({"1mbps": (("attic", "a" * 64),), "100mbps": (("attic", "b" * 64), ("hall", "c" * 64))})


@pytest.fixture
def folders(tmp_path: Path) -> List[str]:
    """Attic, hall and desk; hall has no bundle of the slow alternative."""
    return make_alternatives(tmp_path)


def test_text_and_back() -> None:
    text = index_json(INDEX)
    assert parse_index(text, "here") == INDEX
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2) + "\n"
    assert len(index_digest(INDEX)) == 64


def edited(change: Callable[[Dict[str, Any]], Any]) -> str:
    document = json.loads(index_json(INDEX))
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(format="coformer-alternatives/2"), "the format is 'coformer-alternatives/2'"),
        (lambda d: d.update(starts="1mbps"), "unknown key 'starts' (did you mean 'start'?)"),
        (lambda d: d.pop("ranges"), "'ranges' is missing"),
        (lambda d: d.update(start="2mbps"), "'2mbps' is no alternative"),
        (lambda d: d["ranges"][0].update(alternative="2mbps"), "'2mbps' is no alternative"),
        (lambda d: d["ranges"][1].update(from_mbps=21.0), "'ranges' do not go on from 0 without a gap"),
        (lambda d: d["ranges"][1].update(to_mbps=50.0), "'ranges' do not go on from 0 without a gap"),
        (lambda d: d.update(ranges=[]), "'ranges' do not go on from 0 without a gap"),
        (lambda d: d.update(alternatives=[]), "'alternatives' names none, or one twice"),
        (lambda d: d["alternatives"][1].update(build=d["alternatives"][0]["build"]), "names none, or one twice"),
        (lambda d: d["alternatives"][0].update(name="../x"), "'alternatives[0].name' must be a folder's name"),
        (lambda d: d["alternatives"][0].update(manifests={}), "alternative '1mbps' has no devices"),
        (lambda d: d["alternatives"][0].update(predicted_ms=[1.0]), "has 1 latencies for 2 bandwidths"),
        (lambda d: d.update(bandwidths_mbps=[100.0, 1.0]), "'bandwidths_mbps' is not ascending"),
        (lambda d: d.update(bandwidths_mbps=["1"]), "'bandwidths_mbps' must be a list of numbers"),
    ],
)
def test_what_an_index_may_not_say(change: Callable[[Dict[str, Any]], Any], said: str) -> None:
    with pytest.raises(CoformerError) as caught:
        parse_index(edited(change), "here")
    assert said in caught.value.what


def test_a_folder_is_opened_with_all_that_it_holds(folders: List[str]) -> None:
    attic, hall, desk = (open_held(folder) for folder in folders)
    both = ["1mbps", "100mbps"]
    assert [list(held.bundles) for held in (attic, hall, desk)] == [both, ["100mbps"], both]
    assert [held.device for held in (attic, hall, desk)] == list(bundles.DEVICES)
    assert attic.bundles["1mbps"].manifest.build == build_of("1mbps")
    assert attic.bundles["1mbps"].engines_dir == str(Path(folders[0]).parent / ".coformer-engines")
    assert load_index(folders[1]) == attic.listing


def test_an_alternative_that_was_taken_away_is_not_held(folders: List[str]) -> None:
    shutil.rmtree(Path(folders[2]) / "1mbps")
    assert list(open_held(folders[2]).bundles) == ["100mbps"]
    shutil.rmtree(Path(folders[2]) / "100mbps")
    with pytest.raises(CoformerError, match="it holds none of the alternatives 1mbps, 100mbps"):
        open_held(folders[2])


def test_damage_is_named(folders: List[str]) -> None:
    attic, hall, desk = map(Path, folders)
    (attic / "notes").mkdir()
    with pytest.raises(CoformerError, match=r"'notes' is not named in alternatives\.json"):
        open_held(str(attic))
    shutil.copy(desk / "1mbps" / "golden" / "input.npy", hall / "100mbps" / "member.onnx")
    with pytest.raises(CoformerError, match=r"'member.onnx' has [\d,]+ bytes, the manifest says"):
        open_held(str(hall))
    manifest = desk / "1mbps" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("c" * 64, "d" * 64))
    with pytest.raises(CoformerError, match=r"it is not the bundle of 'desk' that alternatives\.json names"):
        open_held(str(desk))
    shutil.rmtree(desk)
    with pytest.raises(CoformerError, match="it cannot be read"):
        load_index(str(desk))


def test_bundles_of_two_devices_are_refused(folders: List[str]) -> None:
    attic, _, desk = map(Path, folders)
    shutil.rmtree(attic / "1mbps")
    shutil.copytree(desk / "1mbps", attic / "1mbps")
    with pytest.raises(CoformerError, match="its bundles are for the devices attic, desk"):
        open_held(str(attic))


def test_commands_take_the_folder(folders: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", folders[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [folders[0] + "/1mbps", folders[0] + "/100mbps"]
    assert main(["build", folders[1]]) == 2  # as for a bundle
    assert "its engine is onnxruntime, which runs the graph as it is" in capsys.readouterr().err
    assert main(["energy", folders[0]]) == 2
    assert "these are 2 alternatives" in capsys.readouterr().err
    (Path(folders[0]) / INDEX_NAME).write_text("{")
    assert main(["validate", folders[0]]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--broadcast"], "clients that send inputs to every device cannot know which alternative is used"),
        (["--worker", "127.0.0.1:1"], "a worker of alternatives needs its device's name"),
        (["--worker", "porch=127.0.0.1:1"], "'porch' takes part in none of the alternatives"),
        (["--worker", "hall=127.0.0.1:1"], "2 members are needed, this node and 0 --worker make 1"),
    ],
)
def test_options_that_do_not_go_with_alternatives(
    folders: List[str], capsys: pytest.CaptureFixture[str], words: List[str], said: str
) -> None:
    given = [] if "hall=127.0.0.1:1" in words else ["--worker", "desk=127.0.0.1:2"]
    assert main(["central", folders[0], "--allow-root", *words, *given]) == 2
    assert said in capsys.readouterr().err


def test_a_worker_of_alternatives_takes_no_broadcast(folders: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", folders[0], "--allow-root", "--broadcast"]) == 2
    assert "cannot know which alternative is used" in capsys.readouterr().err
