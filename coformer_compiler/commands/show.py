"""What the subcommands found, as text for a terminal of 80 columns or more."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from coformer_compiler.report.numerals import THIN_SPACE, bytes_text, percent_text, scale_for

GAP = "  "
ENGINE_TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def table_text(headings: Sequence[str], rows: Sequence[Sequence[object]], *, right: Collection[int] = ()) -> str:
    """A table without rules; the columns named by `right` end on their right, the last one wraps at the terminal."""
    cells = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(headings))]
    before = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
    room = max(shutil.get_terminal_size().columns - before, 12)
    lines = []
    for row in cells:
        parts = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        first = [*row[:-1], parts[0]]
        padded = [
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(first, widths, strict=True))
        ]
        lines.append(GAP.join(padded).rstrip())
        lines += [" " * before + part for part in parts[1:]]
    return "\n".join(lines)


def facts_text(title: str, facts: Sequence[tuple[str, object]]) -> str:
    """A title and one indented line per fact."""
    width = max(len(name) for name, _ in facts)
    room = max(shutil.get_terminal_size().columns - width - 2 * len(GAP), 30)
    lines = [title]
    for name, value in facts:
        parts = textwrap.wrap(str(value), room, break_on_hyphens=False, break_long_words=False) or [""]
        lines += [f"{GAP}{label:{width}}{GAP}{part}" for label, part in zip([name, *[""] * len(parts)], parts)]  # noqa: B905
    return "\n".join(lines)


def targets_text(targets: Sequence[Any]) -> str:
    """All targets, one a line; the first words of a title are the device's name."""
    rows = [
        (
            target.name,
            engine_text(target),
            f"{target.memory_mb / 1024:g}",
            f"{target.gflops:,g}",
            re.split(r"[,(]", target.title)[0].strip(),
        )
        for target in targets
    ]
    return table_text(("target", "engine", "GiB", "GFLOPS", "device"), rows, right=(2, 3))


def target_text(target: dict[str, Any]) -> str:
    """One target: each field, and where it comes from."""
    sources, rest = target["sources"], ("name", "title", "sources")
    rows = [(field, _value_text(value), sources.get(field, "")) for field, value in target.items() if field not in rest]
    return f"{target['name']}: {target['title']}\n\n" + table_text(("field", "value", "source"), rows)


def engine_text(target: Any) -> str:
    """The engine; the version of TensorRT is part of what the device is, that of ONNX Runtime a matter of pip."""
    title = ENGINE_TITLES.get(target.engine, target.engine)
    return title if target.engine == "onnxruntime" else f"{title} {target.engine_version}"


def latency_text(names: Sequence[str], latency: dict[str, Any]) -> str:
    """Predicted latencies; the word "estimated" stands wherever they rest on less than measurements of the device."""
    word = "estimated" if latency["estimated"] else "predicted"
    rows = [
        (f"{GAP}{name}", f"{each['compute_ms']:.3g}", f"{each['arrival_ms']:.3g}", each["basis"])
        for name, each in zip(names, latency["members"], strict=True)
    ]
    title = f"latency of a request, {word}: {latency['total_ms']:.3g} ms"
    return title + "\n" + table_text(("", "computes, ms", "answers, ms", "basis"), rows, right=(1, 2))


def pack_text(found: dict[str, Any]) -> str:
    """What `write_profile_pack` wrote, and what to do with it."""
    return (
        f"{found['pack']}: {found['points']:,} graphs for {found['target']}, {bytes_text(found['bytes'])}\n"
        f"copy it to the board, and there: coformer-node profile {Path(found['pack']).name}"
    )


def predictor_text(found: dict[str, Any]) -> str:
    """What `fit_predictor` made: on what, of how many points, and how well either kind did."""
    origin = found["origin"]
    facts: list[tuple[str, object]] = [
        ("board", found["board"]),
        (
            "engine",
            f"{origin['engine']} {origin['engine_version']}, {origin['precision']}, {origin['threads']} threads",
        ),
        ("models", ", ".join(found["models"])),
        ("points", f"{found['points']:,} (left out as not stable: {found['unstable']:,})"),
        ("their spread", f"{percent_text(found['spread'])} % of the median between the quartiles"),
    ]
    for kind, errors in found["held_out_errors"].items():
        used = " (in use)" if kind == found["kind"] else ""
        text = f"median {percent_text(errors['median'])} %, 95th percentile {percent_text(errors['p95'])} %"
        facts.append((f"held out: {kind}", text + used))
    carried = found["calibration"]
    if carried is not None:
        text = f"by {carried['points']} points on this board: times {carried['factor']:.3g}, median error "
        text += f"{percent_text(carried['median'])} %, 95th percentile {percent_text(carried['p95'])} %"
        facts.append((f"from {origin['board']}", text))
    return facts_text(found["predictor"], facts)


def plan_text(found: dict[str, Any], out: Path) -> str:
    """What `dry_run` found: shapes and costs, or what a search would look at; stages, notes."""
    parts = _search_plan_text(found) if found["search"] is not None else _policy_plan_text(found)
    missing = sum(state != "cached" for state in found["stages"].values())
    total = len(found["stages"])
    parts += [
        "",
        f"stages in {out}: {missing} of {total} to build" if missing else f"stages in {out}: all {total} cached",
        table_text(("", ""), [(f"{GAP}{stage}", state) for stage, state in found["stages"].items()]).lstrip("\n"),
    ]
    return "\n".join([*parts, *(f"note: {note}" for note in found["notes"])])


def _policy_plan_text(found: dict[str, Any]) -> list[str]:
    teacher, members = found["teacher"], found["members"]
    names = [member["device"] + (" (central)" if member["central"] else "") for member in members]
    shapes = [
        (name, each["layers"], each["embed"], range_text(each["heads"]), range_text(each["neurons"]))
        for name, each in zip(["teacher", *names], [teacher, *members], strict=True)
    ]
    flops, params = (scale_for([each[key] for each in (teacher, *members)]) for key in ("flops", "params"))
    costs = [("teacher", "", flops.number(teacher["flops"]), "", params.number(teacher["params"]), "")] + [
        (
            name,
            member["target"],
            flops.number(member["flops"]),
            percent_text(member["flops_share"]),
            params.number(member["params"]),
            f"{member['memory_mb']:,.0f} of {member['memory_limit_mb']:,.0f}",
        )
        for name, member in zip(names, members, strict=True)
    ]
    units = (f"{flops.unit} FLOPs".strip(), "% teacher", f"{params.unit} params".strip())
    return [
        f"policy by strategy '{found['strategy']}'",
        table_text(("", "layers", "embed", "heads", "neurons"), shapes, right=(1, 2, 3, 4)),
        "",
        table_text(("", "target", *units, "MB of memory"), costs, right=(2, 3, 4)),
        "",
        latency_text(names, found["latency"]),
        *[f"{GAP}at {each['mbps']:g} Mbit/s: {each['total_ms']:.3g} ms" for each in found["latency_at"]],
    ]


def _search_plan_text(found: dict[str, Any]) -> list[str]:
    """Budget, how much of the space fits, and per device the range of what would be looked at, with its limits."""
    plan, teacher = found["search"], found["teacher"]
    word = "estimated" if plan["estimated"] else "predicted"
    flops = scale_for([teacher["flops"], *(most for each in plan["devices"] for most in (each["flops"] or ())[1:])])
    rows: list[tuple[object, ...]] = [
        ("teacher", teacher["layers"], teacher["embed"], flops.number(teacher["flops"]), "", "", "")
    ]
    for each in plan["devices"]:
        work = None if each["max_gflop"] is None else flops.number(1e9 * each["max_gflop"])
        deadline = None if each["deadline_ms"] is None else f"{each['deadline_ms']:.3g}"
        rows.append(
            (
                each["device"] + (" (central)" if each["central"] else ""),
                _span(each["layers"]),
                _span(each["embed"]),
                _span(each["flops"], flops.number, work),
                _span(each["memory_mb"], "{:,.0f}".format, f"{each['memory_limit_mb']:,.0f}"),
                _span(each["arrival_ms"], "{:.3g}".format, deadline),
                f"{percent_text(each['left_out_share'], 0)} %",
            )
        )
    time = f", at most {plan['minutes']:g} minutes" if plan["minutes"] is not None else ""
    heads = ("", "layers", "embed", f"{flops.unit} FLOPs".strip(), "MB of", "ms, est." if plan["estimated"] else "ms")
    return [
        f"search by strategy '{found['strategy']}': {plan['iterations']} policies, {plan['initial']} of them at random",
        f"beside {' and '.join(map(repr, plan['starts']))}{time}",
        f"of {plan['sampled']} random policies {plan['feasible_share']:.0%} fit as drawn, "
        f"{plan['feasible_share_shrunk']:.0%} after shrinking",
        *(f"{GAP}{share:.0%} break {constraint}" for constraint, share in plan["binding"].items()),
        "",
        "what those have that fit, and their limits:",
        table_text((*heads, "left out"), rows, right=(1, 2, 3, 4, 5, 6)),
        "",
        f"latency of a request, {word}: {_span(plan['latency_ms'], '{:.3g}'.format)} ms",
    ]


def _span(values: Sequence[Any] | None, text: Callable[[Any], str] = str, limit: str | None = None) -> str:
    """From the least to the most, and what there may be."""
    if values is None:
        return "-"
    least, most = (text(value) for value in values)
    told = least if least == most else f"{least}-{most}"
    return told if limit is None else f"{told} of {limit}"


def inspect_text(found: dict[str, Any], path: Path) -> str:
    """A bundle, policy, graph or checkpoint."""
    texts = {
        "alternatives": _alternatives_text,
        "bundle": _bundle_text,
        "policy": _policy_text,
        "graph": _graph_text,
        "checkpoint": _checkpoint_text,
    }
    return texts[found["kind"]](found, path)


def checks_text(checks: Sequence[Any], out: Path) -> str:
    """One line per check, details below it, and a summary."""
    width = max(len(check.device) for check in checks)
    lines = []
    for check in checks:
        state = "FAILED" if check.failure else "skipped" if check.skipped else "ok"
        lines.append(f"{state:8}{GAP}{check.device:{width}}{GAP}{check.name}")
        room = max(shutil.get_terminal_size().columns, 60)
        lines += textwrap.wrap(
            check.failure or check.skipped or "",
            room,
            initial_indent=" " * 10,
            subsequent_indent=" " * 10,
            break_long_words=False,
            break_on_hyphens=False,
        )
    failed, skipped = (sum(getattr(check, key) is not None for check in checks) for key in ("failure", "skipped"))
    counts = f"{len(checks)} checks: {len(checks) - failed - skipped} ok, {skipped} skipped, {failed} failed"
    return "\n".join([*lines, "", f"{out}: {counts}"])


def answers_text(found: dict[str, Any]) -> str:
    """One line per sample: the best labels with their shares, who took part, and how long it took."""
    rows = []
    for n, answer in enumerate(found["answers"]):
        label, share, others = _answer_words(answer)
        missing = "".join(f"; without {device}: {why}" for device, why in answer["missing"].items())
        members = ", ".join(answer["members"]) + missing
        rows.append((n, label, share, others, f"{answer['total_ms']:.1f}", members))
    return table_text(("sample", "answer", "sure", "or", "ms", "by"), rows, right=(0, 2, 4))


def _answer_words(answer: dict[str, Any]) -> tuple[str, str, str]:
    """(answer, how sure, what else): of a class, of a number, of an embedding."""
    if "value" in answer:
        return f"{answer['value']:.4f}", "", ""
    if "embedding" in answer:
        first = ", ".join(f"{number:.3f}" for number in answer["embedding"][:4])
        return f"{len(answer['embedding'])} numbers: {first} …", "", ""
    others = ", ".join(f"{each['label']} {percent_text(each['probability'])} %" for each in answer["top"][1:3])
    return answer["label"], f"{percent_text(answer['top'][0]['probability'])} %", others


def bench_text(found: dict[str, Any]) -> str:
    """Median and 95th percentile per member and of whole requests."""
    if "alternatives" in found:
        return "\n\n".join(f"{name}\n{bench_text(each)}" for name, each in found["alternatives"].items())
    figures = {**found["members_ms"], "all together": found["aggregated_ms"]}
    rows = [
        (name, "", "", "", "its engine does not run on this machine")
        if each is None
        else (name, f"{each['median']:.3f}", f"{each['p95']:.3f}", each["runs"], "")
        for name, each in figures.items()
    ]
    return table_text(("", "median ms", "p95 ms", "runs", ""), rows, right=(1, 2, 3))


def range_text(numbers: Sequence[int]) -> str:
    """`[3, 3]` as "3", `[2, 5]` as "2-5"."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _bundle_text(found: dict[str, Any], path: Path) -> str:
    manifest = found["manifest"]
    engine, answer = manifest["engine"], manifest["answer"]
    central = manifest["central"]
    role = "central" if manifest["device"] == central else f"worker, the central device is {central}"
    if manifest["device"] in manifest.get("standby", []):
        role = f"stands by for the central device {central}"
    recipe = f", built on the board by {engine['recipe']}" if "recipe" in engine else ""
    labels = ", ".join(answer["labels"][:12]) + (", …" if len(answer["labels"]) > 12 else "")
    facts = [
        ("device", f"{manifest['device']}, {role}"),
        ("member", f"{manifest['member']} of {', '.join(manifest['members'])}"),
        ("target", manifest["target"]),
        ("engine", f"{engine['kind']} {engine['version']}, {engine['precision']}, {engine['file']}{recipe}"),
        ("input", _tensor_text(manifest["input"])),
        ("output", f"{_tensor_text(manifest['output'])}, {manifest['wire_bytes']:,} bytes on the wire"),
        ("answer", f"{_tensor_text(answer)}: {labels}"),
        ("build", manifest["build"]),
        ("policy", manifest["policy"]),
    ]
    if "profiles" in manifest:
        shapes = sorted([manifest["input"]["shape"], *(each["shape"] for each in manifest["profiles"]["graphs"])])
        facts.insert(5, ("profiles", ", ".join(map(str, shapes))))
    size = bytes_text(found["bytes"]).replace(THIN_SPACE, " ")
    parts = [facts_text(f"bundle {path}, {size}, every file as the manifest says", facts)]
    if manifest["aggregators"]:
        subsets = [
            (", ".join(manifest["members"][n] for n in each["members"]), percent_text(each["expected_accuracy"]))
            for each in manifest["aggregators"]
        ]
        parts.append(table_text(("who answers", "expected accuracy, %"), subsets))
    files = [(name, f"{each['bytes']:,}", each["sha256"][:12]) for name, each in sorted(manifest["files"].items())]
    parts.append(table_text(("file", "bytes", "SHA-256"), files, right=(1,)))
    return "\n\n".join(parts)


def _alternatives_text(found: dict[str, Any], path: Path) -> str:
    index = found["index"]
    rows = [
        (
            each["name"],
            "yes" if each["name"] in found["held"] else "no",
            ", ".join(
                f"from {span['from_mbps']:.3g}" + (f" to {span['to_mbps']:.3g}" if "to_mbps" in span else "")
                for span in index["ranges"]
                if span["alternative"] == each["name"]
            ),
            percent_text(each["expected_accuracy"]),
            each["build"][:12],
            ", ".join(each["manifests"]),
        )
        for each in index["alternatives"]
    ]
    title = f"alternatives {path} of '{found['device']}', every file as the manifests say"
    headings = ("alternative", "held", "Mbit/s", "accuracy, %", "build", "members")
    return f"{title}\n\n" + table_text(headings, rows, right=(3,))


def _policy_text(found: dict[str, Any], path: Path) -> str:
    rows = [
        (each["device"], each["layers"], each["embed"], range_text(each["heads"]), range_text(each["neurons"]))
        for each in ({"device": "teacher", **found["teacher"]}, *found["members"])
    ]
    title = f"policy {path} by strategy '{found['strategy']}', SHA-256 {found['sha256'][:12]}"
    return f"{title}\n\n" + table_text(("", "layers", "embed", "heads", "neurons"), rows, right=(1, 2, 3, 4))


def _graph_text(found: dict[str, Any], path: Path) -> str:
    facts = [
        ("opset", ", ".join(f"{domain} {version}" for domain, version in found["opset"].items())),
        ("IR version", found["ir_version"]),
        ("inputs", ", ".join(_tensor_text(each) for each in found["inputs"])),
        ("outputs", ", ".join(_tensor_text(each) for each in found["outputs"])),
        ("parameters", f"{found['parameters']:,}"),
        ("operators", ", ".join(f"{name} {count}" for name, count in found["operators"].items())),
    ]
    return facts_text(f"graph {path}", facts)


def _checkpoint_text(found: dict[str, Any], path: Path) -> str:
    title = f"checkpoint {path}: {found['tensors']:,} tensors, {found['parameters']:,} parameters"
    return f"{title}\n\n" + table_text(("tensor", "shape"), list(found["shapes"].items()))


def _tensor_text(spec: dict[str, Any]) -> str:
    return f"{spec['name']} {spec['dtype']} {spec['shape']}"


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
