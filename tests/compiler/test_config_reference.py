"""The user guide tells every key, strategy and pick.

Its table of keys is made from the models; where it is stale, the failure prints what it should be.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.config import ConfigSection
from coformer_compiler.config.sections import SearchSection
from coformer_compiler.decomposer.picks import PICKS, UNDER
from coformer_compiler.decomposer.strategies import SEARCHES, STRATEGIES
from coformer_targets.toml import read_toml
from tests.end_to_end.tiny import ROOT


def sections() -> dict[str, type[BaseModel]]:
    """The tables of a file by their headings, "" for the keys above all tables."""
    found: dict[str, type[BaseModel]] = {"": ConfigSection}
    for key, info in ConfigSection.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found[f"[{key}]"] = kind
        elif get_args(kind) and isinstance(get_args(kind)[0], type) and issubclass(get_args(kind)[0], BaseModel):
            found[f"[[{key}]]"] = get_args(kind)[0]
    return found


def reference() -> str:
    lines = ["| table | key | value | default | meaning |", "|---|---|---|---|---|"]
    for table, section in sections().items():
        for key, info in section.model_fields.items():
            if table or info.description:
                lines.append(f"| {table} | `{key}` | {kind_of(info)} | {default_of(info)} | {info.description} |")
    described = re.split(r"\n {8}(?=\w+: )", (BoosterOptions.__doc__ or "").partition("Attributes:")[2])[1:]
    meanings = {key: " ".join(text.split()) for key, _, text in (entry.partition(": ") for entry in described)}
    kinds = get_type_hints(BoosterOptions)
    for option in fields(BoosterOptions):
        kind, default = words_of(str(kinds[option.name])), text_of(option.default)
        lines.append(f"| [booster] | `{option.name}` | {kind} | {default} | {meanings[option.name]} |")
    return "\n".join(lines)


def kind_of(info: FieldInfo) -> str:
    return words_of(str(info.annotation))


def words_of(annotation: str) -> str:
    choices = re.search(r"Literal\[(.*?)\]", annotation)
    if choices:
        return ", ".join(f"`{each}`" for each in re.findall(r"'([^']+)'", choices[1]))
    for sign, word in (("dict", "table"), ("list", "numbers"), ("bool", "true or false"), ("Path", "path")):
        if sign in annotation:
            return word
    for sign, word in (("int", "whole number"), ("float", "number"), ("str", "text")):
        if sign in annotation:
            return word
    raise AssertionError(annotation)


def default_of(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    return "" if info.default_factory is not None else text_of(info.default)


def text_of(default: object) -> str:
    if default is None:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_the_user_guide_has_every_key() -> None:
    guide = (ROOT / "docs" / "user-guide.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- keys:begin -->\n(.*?)\n<!-- keys:end -->", guide, re.DOTALL)
    assert found is not None
    assert found[1] == reference(), f"the table should be:\n{reference()}"


def test_the_user_guide_tells_every_strategy_and_pick_and_its_cluster_is_used(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "user-guide.md").read_text(encoding="utf-8")
    policies = guide[guide.index("## Policies") : guide.index("### A network that changes")]
    for name in (*STRATEGIES, *SEARCHES, "file"):
        assert f"\n| `{name}` | " in policies
    for name in (*PICKS, UNDER):
        assert f"`{name}" in policies
    # With one job, or one candidate at a time, nothing leaves this machine (evaluator/recipe.py).
    (example,) = re.findall(r"```toml\n(\[search\].*?)```", policies, re.DOTALL)
    (tmp_path / "search.toml").write_text(example)
    section = SearchSection.model_validate(read_toml(tmp_path / "search.toml", "the guide")["search"])
    assert section.batch > 1 and section.jobs > 1
    assert "register_ray()\n" in policies
