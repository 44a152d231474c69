"""report.json: round trip, strictness, and the two files on disk."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.report.check import check_report, report_from_json
from coformer_compiler.report.kept import kept_from_policy, tally
from coformer_compiler.report.schema import (
    Accuracy,
    Cost,
    Device,
    Latency,
    MemberCost,
    ModelCost,
    Phase,
    Report,
    Span,
    Timing,
    members_of,
    why_absent,
)
from coformer_compiler.report.write import read_report, write_report
from coformer_runtime.errors import CoformerError


@pytest.mark.parametrize("name", ["digits_report", "big_report", "bare_report"])
def test_json_round_trip(name, request):
    report = request.getfixturevalue(name)
    text = json.dumps(report.to_json())
    assert report_from_json(json.loads(text)) == report


def test_the_keys_that_other_tools_read(digits_report):
    made = digits_report.to_json()
    assert made["accuracy"]["teacher"] == 0.977 and made["accuracy"]["aggregated"] == 0.975
    assert made["accuracy"]["members"] == [0.941, 0.858, 0.917]
    assert made["accuracy"]["members_untrained"] == [0.883, 0.733, 0.822]
    assert made["accuracy"]["aggregated_untrained"] == 0.925
    assert made["accuracy"]["subsets"]["0-2"] == 0.967
    assert set(made["cost"]["teacher"]) == {"flops", "params"}
    assert {"device", "target", "flops", "params", "engine_bytes", "wire_bytes"} <= set(made["cost"]["members"][0])
    assert made["latency_ms"]["teacher"] == {"median": 1.84, "p95": 2.31, "runs": 50}
    assert len(made["latency_ms"]["members"]) == 3 and made["latency_ms"]["aggregated"]["runs"] == 50
    assert made["policy"]["format"] == "coformer-policy/1"
    assert made["seed"] == 0 and made["versions"]["torch"] == "2.13.0"


def test_fields_with_a_default_may_be_missing(bare_report):
    made = bare_report.to_json()
    for key in ("match", "history", "timeline", "stages", "notes"):
        del made[key]
    assert report_from_json(made) == bare_report


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format",), "coformer-report/9", "format is 'coformer-report/9', wanted 'coformer-report/1'"),
        (("seed",), "0", "'seed' must be an integer, not \"0\""),
        (("seed",), True, "'seed' must be an integer, not true"),
        (("accuracy", "teacher"), "high", "'accuracy.teacher' must be a number, not \"high\""),
        (("accuracy", "members"), 0.5, "'accuracy.members' must be a list, not 0.5"),
        (("accuracy", "members", 1), [], "'accuracy.members[1]' must be a number, not []"),
        (("accuracy", "subsets"), [], "'accuracy.subsets' must be an object, not []"),
        (("accuracy", "subsets"), {"2-0": 0.5}, "'accuracy.subsets' names '2-0', which is no subset of 3 members"),
        (("accuracy", "subsets"), {"0-3": 0.5}, "'accuracy.subsets' names '0-3', which is no subset of 3 members"),
        (("devices", 0), 3, "'devices[0]' must be an object, not 3"),
        (("notes",), [{"level": "shout", "text": ""}], "'notes[0].level' must be one of note, warning, not \"shout\""),
        (("timeline", 0, "device"), "attik", "'timeline[0].device' is 'attik', which is no device of the build"),
        (("timeline", 0, "end_ms"), 0.01, "'timeline[0]' ends before it starts"),
        (("policy", "members", 0, "layers", 0, "heads"), [6], "'policy' is not a policy (IndexError"),
        (("policy", "teacher"), 3, "'policy' is not a policy (TypeError"),
        (("match", 0, "member"), 3, "'match[0].member' is 3"),
        (("history", 0, "loss"), [], "'history[0]' has lists of unequal length"),
        (("history", 0, "member"), 7, "'history[0].member' is 7"),
    ],
)  # fmt: skip
def test_a_broken_document_is_refused_by_key(digits_report, path, value, said):
    made = digits_report.to_json()
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(CoformerError) as caught:
        report_from_json(made, "out/report.json")
    assert said in caught.value.what and caught.value.where == "out/report.json"


def test_an_unknown_key_suggests_the_nearest(bare_report):
    made = bare_report.to_json()
    made["accuracy"]["agregated"] = 1.0
    with pytest.raises(CoformerError) as caught:
        report_from_json(made)
    assert str(caught.value) == "report.json: unknown key 'accuracy.agregated'; did you mean the key 'aggregated'?"


def test_a_missing_key_is_named(bare_report):
    made = bare_report.to_json()
    del made["cost"]["teacher"]["flops"]
    with pytest.raises(CoformerError, match=r"'cost\.teacher\.flops' is missing; build again"):
        report_from_json(made)


def test_a_document_that_is_no_object(bare_report):
    with pytest.raises(CoformerError, match="'the document' must be an object, not 3"):
        report_from_json(3)


def test_lists_must_fit_the_devices(digits_report):
    report = dataclasses.replace(digits_report, devices=digits_report.devices[:2])
    with pytest.raises(CoformerError, match=r"'accuracy\.members' has 3 entries for 2 devices"):
        check_report(report)


def test_a_number_that_json_cannot_say_is_named(digits_report):
    latency = dataclasses.replace(digits_report.latency_ms, teacher=Timing(float("nan"), 1.0, 50))
    with pytest.raises(ValueError, match=r"latency_ms\.teacher\.median is nan"):
        dataclasses.replace(digits_report, latency_ms=latency).to_json()


def test_why_absent_looks_outward(digits_report):
    report = dataclasses.replace(digits_report, absent={"latency_ms.members[1]": "no engine", "accuracy": "dry run"})
    assert why_absent(report, "latency_ms.members[1].median") == "no engine"
    assert why_absent(report, "latency_ms.members[0]") is None
    assert why_absent(report, "accuracy.members[2]") == "dry run"


def test_members_of():
    assert members_of("0-2-11") == (0, 2, 11)


def test_written_files_are_canonical_and_whole(digits_report, tmp_path):
    paths = write_report(digits_report, tmp_path)
    assert [path.name for path in paths] == ["report.json", "report.html"]
    text = paths[0].read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert read_report(paths[0]) == digits_report
    write_report(digits_report, tmp_path)
    assert paths[0].read_text(encoding="utf-8") == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_nothing_is_written_for_a_broken_report(digits_report, tmp_path):
    broken = dataclasses.replace(digits_report, devices=())
    with pytest.raises(CoformerError):
        write_report(broken, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(digits_report, tmp_path):
    with pytest.raises(CoformerError, match=r"cannot be written .*choose another output folder"):
        write_report(digits_report, tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"format": 1}'])
def test_unreadable_reports(text, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CoformerError) as caught:
        read_report(path)
    assert caught.value.where == str(path) and "build again" in caught.value.mend


def test_a_report_that_is_not_there(tmp_path):
    with pytest.raises(CoformerError, match=r"cannot be read .*No such file"):
        read_report(tmp_path / "report.json")


share = st.none() | st.floats(0, 1)


@given(teacher=share, alone=share, samples=st.none() | st.integers(1, 10**6), text=st.text())
def test_any_figures_survive_the_round_trip(teacher, alone, samples, text):
    from_test = _small(teacher, alone, samples, text)
    assert report_from_json(json.loads(json.dumps(from_test.to_json()))) == from_test


def _small(teacher, alone, samples, text) -> Report:
    rows = {"layers": 1, "embed": 2, "heads": 1, "neurons": 2}
    return Report(
        title=text,
        teacher=text,
        data="d",
        split="test",
        seed=0,
        basis=None,
        build="",
        digests={text: text},
        versions={},
        devices=(Device("a", "cpu", text, 1, 1.0, True),),
        policy={"teacher": rows, "members": [{"device": "a", "embed": 1, "layers": []}]},
        accuracy=Accuracy(teacher, None, (alone,), (None,), None, {}, samples=samples),
        cost=Cost(ModelCost(1, 1), (MemberCost("a", "cpu", 1, 1, None, 4),)),
        latency_ms=Latency(None, None, (None,)),
        history=(Phase("joint", None, (1,), (0.5,), (teacher,)),),
        timeline=(Span("a", "compute", 0.0, 1.0),),
    )


def test_kept_reads_one_count_or_one_per_layer(digits_report):
    kept = kept_from_policy(digits_report.policy)
    flat = dict(digits_report.policy, teacher={"layers": 6, "embed": 96, "heads": 6, "neurons": 384})
    assert kept_from_policy(flat) == kept
    assert kept.embeds == (40, 24, 32) and len(kept.layers) == 6
    assert kept.layers[2].keepers == (0, 1) and kept.layers[4].keepers == (0, 2)
    assert sum(tally(kept.layers[0].neurons, 3)) == 384


def test_kept_by_several_and_by_none():
    members = [
        {"embed": 1, "layers": [{"layer": 0, "heads": [0, 1], "neurons": [0]}]},
        {"embed": 1, "layers": [{"layer": 0, "heads": [1], "neurons": []}]},
    ]
    teacher = {"layers": 1, "embed": 2, "heads": 3, "neurons": 2}
    layer = kept_from_policy({"teacher": teacher, "members": members}).layers[0]
    assert layer.heads == ((0,), (0, 1), ())
    assert tally(layer.heads, 2) == [1, 0, 1, 1]
