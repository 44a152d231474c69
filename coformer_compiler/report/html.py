"""The report as one self-contained HTML file: no network, no fonts, readable without its few lines of script."""

from __future__ import annotations

from importlib import resources

from coformer_compiler.report.markup import Markup, element, joined
from coformer_compiler.report.schema import Report
from coformer_compiler.report.sections.accuracy import accuracy_html
from coformer_compiler.report.sections.alternatives import alternatives_html
from coformer_compiler.report.sections.build import build_html
from coformer_compiler.report.sections.costs import costs_html
from coformer_compiler.report.sections.headline import headline_html
from coformer_compiler.report.sections.limits import limits_html
from coformer_compiler.report.sections.match import match_html
from coformer_compiler.report.sections.policy import policy_html
from coformer_compiler.report.sections.profiles import profiles_html
from coformer_compiler.report.sections.request import request_html
from coformer_compiler.report.sections.search import search_html
from coformer_compiler.report.sections.training import training_html

SECTIONS = (
    headline_html,
    accuracy_html,
    policy_html,
    search_html,
    limits_html,
    alternatives_html,
    match_html,
    training_html,
    request_html,
    profiles_html,
    costs_html,
    build_html,
)

# Nothing may be fetched, whatever a string in the report says.
_FETCH_NOTHING = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def html_from_report(report: Report) -> str:
    """The page's text; every string of the report is escaped."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_FETCH_NOTHING),
        element("title", report.title),
        element("style", _resource("page.css")),
    )
    footer = element("footer", "The same figures, for programs: report.json beside this file.")
    main = element("main", joined(write(report) for write in SECTIONS), footer)
    body = element("body", main, element("script", _resource("hover.js")))
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def _resource(name: str) -> Markup:
    """Our own style or script, which is markup as it stands."""
    return Markup(resources.files("coformer_compiler.report").joinpath(name).read_text(encoding="utf-8"))
