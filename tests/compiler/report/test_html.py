"""The page: well formed, self-contained, escaped, honest about what is absent."""

from __future__ import annotations

import copy
import dataclasses
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_compiler.report.check import check_report, report_from_json
from coformer_compiler.report.html import html_from_report
from coformer_compiler.report.markup import Markup, element, escaped
from coformer_compiler.report.reading import json_from_value
from coformer_compiler.report.schema import Device, LinearMatch, Note, OtherSearch, Phase, ProfileTiming, Timing
from coformer_compiler.report.sections.limits import limits_of
from coformer_compiler.report.sections.match import place_of
from coformer_runtime.errors import CoformerError

REPORTS = ("digits_report", "big_report", "bare_report")
VOID = {"meta", "br"}
EVIL = "</title><script>alert('&\"')</script><b \x00\x07 ü"


class Checker(HTMLParser):
    """Follows the tags, and fails where they do not nest."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.seen, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def parsed(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    return checker


def pictures(page):
    """The outermost SVGs, through an XML parser."""
    found, depth, start = [], 0, 0
    for match in re.finditer(r"<(/?)svg\b", page):
        if not match[1]:
            start, depth = (match.start(), 1) if depth == 0 else (start, depth + 1)
        else:
            depth -= 1
            if depth == 0:
                found.append(ET.fromstring(page[start : match.end() + 1]))
    return found


@pytest.mark.parametrize("name", REPORTS)
def test_well_formed(name, request):
    report = request.getfixturevalue(name)
    page = html_from_report(report)
    checker = parsed(page)
    assert page.startswith("<!doctype html>\n<html lang=")
    sections = 8 + (report.search is not None)
    assert checker.seen.count("h1") == 1 and checker.seen.count("section") == sections
    for svg in pictures(page):
        assert svg.get("role") == "img"
        assert svg.find("title").text and svg.find("desc").text


@pytest.mark.parametrize("name", REPORTS)
def test_every_table_has_a_caption_and_scoped_headings(name, request):
    page = html_from_report(request.getfixturevalue(name))
    assert page.count("<table") == page.count("<caption")
    assert all('scope="' in tag for tag in re.findall(r"<th\b[^>]*>", page))


@pytest.mark.parametrize("name", REPORTS)
def test_nothing_is_fetched(name, request):
    page = html_from_report(request.getfixturevalue(name))
    checker = parsed(page)
    assert "://" not in page and "@import" not in page and "url(" not in page
    assert not {"link", "img", "iframe", "object", "image", "use", "a"} & set(checker.seen)
    assert not {"src", "href", "xlink:href"} & {key for key, _ in checker.attributes}
    assert any(value and value.startswith("default-src 'none'") for _, value in checker.attributes)


@pytest.mark.parametrize("name", REPORTS)
def test_sizes_are_modest(name, request):
    assert len(html_from_report(request.getfixturevalue(name))) < 400_000


def test_the_figures_are_there(digits_report):
    text = " ".join(parsed(html_from_report(digits_report)).text)
    for figure in ("97.5", "0.2 points below the teacher's 97.7", "19.6", "224", "1.52", "joint phase not kept"):
        assert figure in text, figure
    assert "losing attic costs the most, 3.9 points" in text
    assert "2 of 18 layers of the members are left out" in text
    assert "the last features to arrive are desk's" in text


def test_absent_figures_say_why(big_report, bare_report):
    text = " ".join(parsed(html_from_report(big_report)).text)
    assert "not measured: TensorRT engines are built on the boards" in text
    assert "not measured: no request was traced: not all engines run on this host" in text
    text = " ".join(parsed(html_from_report(bare_report)).text)
    assert "not measured: dry run" in text and "not measured: booster.steps is 0" in text
    assert "nan" not in text.lower() and "None" not in text


def with_everywhere(report, text):
    """The report with `text` for every free string."""
    policy = dict(report.policy, strategy=text)
    return dataclasses.replace(
        report,
        title=text,
        teacher=text,
        data=text,
        split=text,
        basis=text,
        build=text,
        digests={text: text},
        versions={text: text},
        devices=(Device(text, text, text, 1.0, 1.0, True), *report.devices[1:]),
        policy=policy,
        match=(LinearMatch(0, text, "writer", 0.5, 0.1), LinearMatch(0, f"layers.0.{text}", "reader", -0.1, 0.1)),
        history=(Phase(text, 0, (0, 1), (1.0, 0.5), (0.5, None)),),
        timeline=(),
        notes=(Note("warning", text),),
        absent={"timeline": text},
    )


def test_every_string_is_escaped(digits_report):
    page = html_from_report(with_everywhere(digits_report, EVIL))
    checker = parsed(page)
    assert checker.seen.count("script") == 1 and checker.seen.count("title") > 1
    assert "alert('" not in page and "\x00" not in page
    assert pictures(page)


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=20))
def test_any_string_leaves_the_page_well_formed(text, bare):
    page = html_from_report(with_everywhere(bare, text))
    parsed(page)
    assert pictures(page)


def test_a_reader_and_a_writer_of_one_block_are_two_rows(digits_report):
    matches = (
        LinearMatch(0, "layers.0.attention", "reader", 0.9999999, 0.1),
        LinearMatch(0, "layers.0.attention", "writer", -0.25, 0.1),
    )
    text = " ".join(parsed(html_from_report(dataclasses.replace(digits_report, match=matches))).text)
    assert "attention reads 1.0" in text and "attention writes −.25" in text


def test_a_remark_on_the_timeline_is_shown_beside_it(digits_report):
    report = dataclasses.replace(digits_report, absent={"timeline": "each transfer is drawn as half of both ways"})
    assert "Each transfer is drawn as half of both ways." in html_from_report(report)


def test_phases_without_a_figure_are_said_not_to_be_measured(digits_report):
    report = dataclasses.replace(digits_report, history=(Phase("member", 0, (0,), (None,), (None,)),))
    assert html_from_report(report).count("not measured") == 2


def test_extreme_figures(digits_report):
    flat = Phase("member", 0, (0, 0), (0.0, 0.0), (0.5, 0.5))
    one = Phase("joint", None, (7,), (1.0,), (None,), kept=False)
    report = dataclasses.replace(
        digits_report,
        history=(flat, one),
        accuracy=dataclasses.replace(
            digits_report.accuracy, teacher=1.0, aggregated=1.0, members=(0.0, None, 1.0), samples=1, subsets={}
        ),
        latency_ms=dataclasses.replace(digits_report.latency_ms, teacher=Timing(0.0, 0.0, 1), aggregated=None),
    )
    page = html_from_report(report)
    parsed(page)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S).lower()
    assert pictures(page)


def test_heads_and_neurons_kept_by_several(digits_report):
    policy = {
        "strategy": "overlap",
        "teacher": {"layers": 1, "embed": 8, "heads": 2, "neurons": 4},
        "members": [
            {"device": name, "embed": 8, "layers": [{"layer": 0, "heads": [0], "neurons": [0, 1]}]}
            for name in ("attic", "hall", "desk")
        ],
    }
    page = html_from_report(dataclasses.replace(digits_report, policy=policy))
    parsed(page)
    assert 'class="many"' in page and "kept by several" in page and "kept by none" in page


@pytest.mark.parametrize(
    ("block", "place"),
    [
        ("layers.3.attention", (3, "attention")),
        ("stages.1.blocks.12.attention.qkv", (1, "blocks.12.attention.qkv")),
        ("head", (None, "head")),
        ("layer11.query", (11, "query")),
    ],
)
def test_place_of_a_block(block, place):
    assert place_of(block) == place


def test_markup_escapes_once():
    inner = element("b", "<&>")
    assert inner == "<b>&lt;&amp;&gt;</b>"
    assert element("p", inner, title='"', data_x=1.50, hidden=None) == f'<p title="&quot;" data-x="1.5">{inner}</p>'
    assert escaped(Markup("<i>")) == "<i>" and escaped("\x00\ud800") == "\ufffd\ufffd"
    assert element("br") == "<br/>" and element("i") == "<i></i>"


def test_predictions_say_what_they_rest_on(digits_report, big_report, bare_report):
    estimated = html_from_report(big_report)
    assert "Latency of a request, estimated before anything was built: 48.1" in estimated
    assert estimated.count("estimated from 1280 GFLOPS") == 2
    measured = html_from_report(digits_report)
    assert "Latency of a request, predicted before anything was built: 1.44" in measured and "−1.7" in measured
    assert "before anything was built" not in html_from_report(bare_report)


def test_a_whole_request_has_its_error_too(digits_report, big_report):
    page = html_from_report(digits_report)
    assert "Measured with all members on this host: 1.52" in page
    row = next(row for row in re.findall(r"<tr\b.*?</tr>", page) if "a whole request" in row)
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row) == ["", "1.52", "\u22125.3", "1.44", "the members and the network"]
    assert "computes, predicted" in page and "In brackets" not in page
    estimated = html_from_report(with_estimates(digits_report))
    row = next(row for row in re.findall(r"<tr\b.*?</tr>", estimated) if "a whole request" in row)
    assert "(\u22125.3)" in row and "computes, estimated" in estimated and "answers, estimated" in estimated
    assert "In brackets: errors of estimates, which are of the devices as they are described" in estimated
    row = next(row for row in re.findall(r"<tr\b.*?</tr>", html_from_report(big_report)) if "a whole request" in row)
    assert row.count("\u2013") == 2


def with_estimates(report):
    """The report with latencies that rest on less than measurements."""
    members = tuple(dataclasses.replace(each, estimated=True) for each in report.predicted_ms.members)
    predicted = dataclasses.replace(report.predicted_ms, estimated=True, members=members)
    search = None if report.search is None else dataclasses.replace(report.search, estimated=True)
    return dataclasses.replace(report, predicted_ms=predicted, search=search)


def test_a_search_that_rests_on_estimates_says_so_in_every_place(digits_report):
    text = " ".join(parsed(html_from_report(with_estimates(digits_report))).text)
    found = text[text.index("How the policy was found") : text.index("Which limit binds")]
    assert "ms estimated, " in found and ", against estimated latency" in found and "T estimated" in found
    assert "predicted" not in found
    told = dataclasses.asdict(digits_report.search)
    del told["estimated"], told["others"]
    old = report_from_json({**digits_report.to_json(), "search": json_from_value(told)})
    assert old.search.estimated  # a report that does not tell


def test_other_searches_are_drawn_beside_this_one(digits_report):
    plain = html_from_report(digits_report)
    assert "best so far" in plain and 'class="legend"' not in plain
    others = (OtherSearch("random", (2.0, 1.0, 0.5)), OtherSearch("debo", (3.0, 0.4)), OtherSearch("debo", (3.0, 0.3)))
    search = dataclasses.replace(digits_report.search, others=others)
    report = dataclasses.replace(digits_report, search=search)
    page = html_from_report(report)
    legend = page[page.index('class="legend"') :].partition("</ul>")[0]
    best = min(each.objective for each in search.evaluations)
    told = [re.sub("<[^>]*>", "", each) for each in re.findall("<li>.*?</li>", legend)]
    assert told == [
        f"debo (this one): {best:.3g} after 30 policies",
        "random: 0.5 after 3 policies",
        "debo (2): 0.4 after 2 policies",
        "debo (3): 0.3 after 2 policies",
    ]
    picture = next(each for each in pictures(page) if "Objective" in each.find("title").text)
    curves = [each.get("class") for each in picture.iter("polyline")]
    assert curves == ["line d1 dropped", "line d2 dropped", "line d3 dropped", "line all"]
    assert report_from_json(report.to_json()) == report


def limited(report, **limits):
    """The report with limits of its second device."""
    devices = list(report.devices)
    devices[1] = dataclasses.replace(devices[1], **limits)
    return dataclasses.replace(report, devices=tuple(devices))


def test_limits_are_listed_with_what_is_left_the_tightest_first(digits_report):
    report = limited(digits_report, max_gflop=0.0015, deadline_ms=4.84)
    found = {(each.name, each.member): each for each in limits_of(report)}
    assert found["C2, widths", None].parts == (40, 24, 32) and found["C2, widths", None].left == 0
    assert found["C5, work", 1].used == 1_402_368 and found["C6, memory", 2].limit == 256e6
    assert found["deadline, predicted", 1].left == pytest.approx(0.75)
    assert [each.left for each in limits_of(report)] == sorted(each.left for each in limits_of(report))
    heads = next(each for each in limits_of(report) if each.name.startswith("C3"))
    assert heads.limit == 6 and sum(heads.parts) == heads.used
    text = " ".join(parsed(html_from_report(report)).text)
    assert "Nothing is left of C2 and C3. " in text and "C3, heads (full in 4 of 6 layers)" in text
    row = next(row for row in re.findall(r"<tr\b.*?</tr>", html_from_report(report)) if "C5, work" in row)
    assert [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td\b.*?</td>", row)] == [
        "hall", "6.5", "", "1.40", "1.50\u202fMFLOP", "0.10", "",
    ]  # fmt: skip
    assert "Of the devices' own limits C5, work of 'hall' is the tightest: 6.5 % left." in text
    assert "deadline" not in " ".join(each.name for each in limits_of(digits_report))
    assert "deadline, estimated" in html_from_report(with_estimates(report))
    assert "arrivals are estimated" in html_from_report(with_estimates(report))


def test_sums_of_heads_do_not_bind_members_that_share_them(digits_report):
    policy = copy.deepcopy(dict(digits_report.policy))
    policy["members"][1]["layers"][0]["heads"] = policy["members"][0]["layers"][0]["heads"]
    names = [each.name[:2] for each in limits_of(dataclasses.replace(digits_report, policy=policy))]
    assert "C2" in names and "C3" not in names and "C4" in names


def test_a_search_is_shown_with_what_was_built(digits_report):
    found = digits_report.search
    text = " ".join(parsed(html_from_report(digits_report)).text)
    built = found.evaluations[found.picked]
    assert f"debo evaluated 30 policies without training them. Built was number {found.picked + 1} (best)" in text
    assert f"loss {built.loss:.3g} nats, {built.latency:.3g} ms predicted" in text
    assert "84.0 % of random policies fit the devices as drawn" in text.replace("\u2009", " ")
    assert "C6 of 'hall' 12.0 %, C5 of 'desk' 4.0 %" in text
    assert "How the policy was found" not in html_from_report(dataclasses.replace(digits_report, search=None))


def test_a_search_that_names_what_was_not_evaluated_is_refused(digits_report):
    wrong = dataclasses.replace(digits_report, search=dataclasses.replace(digits_report.search, picked=30))
    with pytest.raises(CoformerError, match="'search' names evaluation 30 of 30"):
        check_report(wrong)


def test_profiles_have_a_table_where_there_are_some(digits_report):
    assert "Profiles" not in html_from_report(digits_report)
    timing, count = Timing(1.5, 2.0, 50), len(digits_report.devices)
    texts = tuple(ProfileTiming(shape, (timing,) * (count - 1) + (None,)) for shape in ((1, 32), (4, 2, 128)))
    page = html_from_report(dataclasses.replace(digits_report, profiles=texts))
    assert "<h2>Profiles</h2>" in page and "1 × 32" in page and "4 × 128" in page and "2 graphs" in page
    images = (ProfileTiming((8, 1, 8, 8), (timing,) * count),)
    assert "batch of 8" in html_from_report(dataclasses.replace(digits_report, profiles=images))
    with pytest.raises(CoformerError, match=r"'profiles\[0\].members' has 1 entries for 3 devices"):
        check_report(dataclasses.replace(digits_report, profiles=(ProfileTiming((1, 32), (timing,)),)))
