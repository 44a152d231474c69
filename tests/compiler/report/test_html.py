"""The page: well formed, self-contained, escaped, honest about what is absent."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_compiler.report.html import html_from_report
from coformer_compiler.report.markup import Markup, element, escaped
from coformer_compiler.report.schema import Device, LinearMatch, Note, Phase, ProfileTiming, Timing, check_report
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
    sections = 7 + (report.search is not None)
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
