"""The command `coformerc`. It parses and prints; the work is in `compile` and `commands`."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coformer_compiler import __version__
from coformer_runtime.errors import CoformerError

if TYPE_CHECKING:
    from coformer_compiler.config import BuildConfig

INTERNAL_ERROR = 3
FULL_OR_FORBIDDEN = (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EPERM, errno.EROFS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    The exit code is 0 fine, 1 a check failed, 2 the user's mistake, 3 our bug (see the report file). With `--json`, a
    failure is an object on the standard output as well as a line on the standard error.
    """
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except CoformerError as error:
        return _fail(error, options.json)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read has closed the pipe; nothing more can be said, not even by the interpreter when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 (exit code 3 is for what nobody foresaw)
        if isinstance(error, OSError) and error.errno in FULL_OR_FORBIDDEN:
            what, where = f"cannot be written ({error.strerror})", f"file {error.filename or 'unknown'}"
            mend = "make room or get the right to write there, then run the same command again"
            return _fail(CoformerError(what, where, mend), options.json)
        text = f"{type(error).__name__}: {error}".strip(": ")
        print(f"error: internal error ({text}); please send us {_bug_report(error)}", file=sys.stderr)
        return INTERNAL_ERROR


def _fail(error: CoformerError, as_json: bool) -> int:
    print(f"error: {error}", file=sys.stderr)
    if as_json:
        _print_json({"error": {"what": error.what, "where": error.where, "mend": error.mend}})
    return error.exit_code


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    top = argparse.ArgumentParser(
        prog="coformerc", description="Compiles one transformer into one small model per device."
    )
    top.add_argument("--version", action="version", version=f"coformerc {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_build(commands)
    targets = _command(commands, "targets", _targets, "list the targets, or print all that is known of one")
    targets.add_argument("name", nargs="?", help="a target")
    targets.add_argument("--target-file", type=Path, metavar="FILE", help="a target of your own, in place of a name")
    _add_legalize(commands)
    _add_certs(commands)
    _add_profile(commands)
    inspect = _command(commands, "inspect", _inspect, "describe a build, bundle, policy, graph or checkpoint")
    inspect.add_argument(
        "path", type=Path, metavar="PATH", help="a folder or file that the toolchain wrote, or a checkpoint"
    )
    validate = _command(commands, "validate", _validate, "check a build: files, graphs, numerics, the assembled system")
    validate.add_argument("out", type=Path, metavar="OUT", help="output folder of a build")
    validate.add_argument(
        "--old-python", type=Path, metavar="PYTHON", help="a Python 3.6 with onnx 1.8.1 (default: python3.6 on PATH)"
    )
    validate.add_argument("--junit", type=Path, metavar="FILE", help="also write a JUnit XML file")
    run = _command(commands, "run", _run, "answer an input with a cluster of local processes")
    run.add_argument("out", type=Path, metavar="OUT", help="output folder of a build")
    given = run.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="a .npy file of what the members take, an image, or a .txt file of one text a line (pairs with a tab)",
    )
    given.add_argument("--text", metavar="TEXT", help="a text, for members that read texts; a pair with a tab between")
    run.add_argument("--truncate", action="store_true", help="cut texts that are too long")
    run.add_argument("--min-members", type=int, metavar="K", help="answer with at least K members (default: all)")
    bench = _command(commands, "bench", _bench, "measure a build's latency on this machine")
    bench.add_argument("out", type=Path, metavar="OUT", help="output folder of a build")
    _add_shipping(commands)
    return top


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.add_argument("--json", action="store_true", help="print JSON")
    made.set_defaults(run=run)
    return made


def _add_build(commands: Any) -> None:
    build = _command(commands, "build", _build, "compile a model for a list of devices")
    _add_configuration(build)
    build.add_argument(
        "--steps", type=int, metavar="N", help="training steps per member and in the joint phase; 0 trains nothing"
    )
    build.add_argument(
        "--dry-run", action="store_true", help="print policy, costs, what would be built and what is cached"
    )
    search = _command(
        commands, "search", _search, "search for a policy, and print the front of loss, latency and energy"
    )
    _add_configuration(search)
    search.set_defaults(steps=None)
    search.add_argument("--journal", type=Path, metavar="FILE", help="an earlier search's journal to go on from")


def _add_configuration(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG.toml", help="what to build; options override what it says"
    )
    build.add_argument("-o", "--out", type=Path, metavar="OUT", help="output folder (default: build/NAME)")
    build.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="a device of this target; repeatable"
    )
    build.add_argument(
        "--target-file",
        action="append",
        type=Path,
        dest="target",
        metavar="FILE",
        help="a device of a target of your own; repeatable",
    )
    build.add_argument("--precision", metavar="NAME", help="what engines compute in: float32, float16 or int8")
    build.add_argument("--model", metavar="LIBRARY:NAME", help="the teacher: timm:NAME or hf:FOLDER")
    build.add_argument("--checkpoint", type=Path, metavar="FILE", help="its weights: safetensors, pth or a hub folder")
    build.add_argument("--weights", choices=("file", "hub", "random"), help="where weights come from")
    build.add_argument("--model-option", action="append", default=[], metavar="KEY=VALUE", help="constructor option")
    build.add_argument("--data", metavar="KIND:PATH", help="such as digits, imagefolder:DIR or text:PATH")
    build.add_argument("--strategy", metavar="NAME", help="how the teacher is shared out, such as proportional or debo")
    build.add_argument("--pick", metavar="NAME", help="best, knee, fastest, most-accurate or under=MS, of a search")
    build.add_argument("--seed", type=int, metavar="N", help="of everything that is drawn at random")
    build.add_argument("--resume", action="store_true", help="go on with an earlier build; refuse to begin a new one")


def _add_shipping(commands: Any) -> None:
    push = _command(commands, "push", _push, "push a build's bundles, signed, into an OCI registry or a layout folder")
    push.add_argument("out", type=Path, metavar="OUT", help="output folder of a build")
    push.add_argument("reference", metavar="REF", help="oci://HOST/NAME:TAG, or oci-layout:DIR:TAG")
    push.add_argument("--key", type=Path, metavar="FILE", help="private key to sign with; `coformerc keygen` makes one")
    push.add_argument("--unsigned", action="store_true", help="push without a signature")
    push.add_argument("--name", help="what is released (default: the name of OUT)")
    push.add_argument("--version", type=int, metavar="N", help="larger than all before (default: the time as a number)")
    push.add_argument("--days", type=int, default=365, metavar="N", help="until the release expires (default 365)")
    _add_registry(push)
    keygen = _command(commands, "keygen", _keygen, "make the pair of keys that releases are signed with")
    keygen.add_argument("stem", type=Path, metavar="NAME", help="writes NAME.key and NAME.pub")
    keygen.add_argument("--algorithm", choices=("ed25519", "ecdsa-p256"), default="ed25519", help="default ed25519")
    rollout = _command(commands, "rollout", _rollout, "bring a release onto a fleet of boards, or onto none of them")
    rollout.add_argument("reference", metavar="REF", help="a release that was pushed")
    rollout.add_argument("--hosts", type=Path, required=True, metavar="FILE.toml", help="the boards")
    rollout.add_argument(
        "--key", type=Path, action="append", default=[], metavar="FILE", help="public key that is trusted; repeatable"
    )
    rollout.add_argument("--allow-unsigned", action="store_true", help="read a release that nobody signed")
    _add_registry(rollout)


def _add_registry(command: argparse.ArgumentParser) -> None:
    command.add_argument("--plain-http", action="store_true", help="talk to the registry without TLS")
    command.add_argument("--ca", metavar="FILE", help="certificates to trust in place of the system's")


def _add_legalize(commands: Any) -> None:
    legalize = _command(commands, "legalize", _legalize, "lower any ONNX graph to what a target takes, or say why not")
    legalize.add_argument("graph", type=Path, metavar="GRAPH.onnx", help="a graph of opset 24 or lower")
    legalize.add_argument("--target", metavar="NAME", help="what it is lowered for")
    legalize.add_argument("--target-file", type=Path, metavar="FILE", help="a target of your own, in place of --target")
    legalize.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the legal graph")
    legalize.add_argument("--precision", metavar="NAME", help="float32, float16 or int8 (default: the target's first)")
    legalize.add_argument(
        "--shape", action="append", default=[], metavar="INPUT=1,3,224,224", help="shape of a dynamic input; repeatable"
    )


def _add_certs(commands: Any) -> None:
    certs = _command(commands, "certs", _certs, "make the certificates of a cluster, for coformer-node --tls")
    certs.add_argument("out", type=Path, metavar="DIR", help="the authority's folder; made if it is not there")
    certs.add_argument(
        "--node", action="append", default=[], metavar="DEVICE[=HOST,...]", help="a device, and how clients reach it"
    )
    certs.add_argument("--client", action="append", default=[], metavar="NAME", help="a client of the central node")
    certs.add_argument("--days", type=int, default=825, help="how long they hold (default 825)")


def _certs(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.certs import certificates_text, make_certificates

    made = make_certificates(options.out, options.node, options.client, options.days)
    _print(made, options.json, lambda: certificates_text(made))
    return 0


def _add_profile(commands: Any) -> None:
    text = "measure boards: write packs of random members, fit latency predictors to what boards tell"
    verbs = commands.add_parser("profile", help=text, description=text).add_subparsers(
        dest="verb", metavar="VERB", required=True
    )
    pack = _command(verbs, "pack", _profile_pack, "write random member graphs for `coformer-node profile`")
    pack.add_argument("--model", required=True, metavar="LIBRARY:NAME", help="whose members")
    pack.add_argument("--model-option", action="append", default=[], metavar="KEY=VALUE", help="constructor option")
    pack.add_argument("--target", required=True, metavar="NAME", help="whose passes the graphs go through")
    pack.add_argument("--precision", metavar="NAME", help="what its engine computes in (default: the target's first)")
    pack.add_argument("-n", "--points", type=int, default=1000, metavar="N", help="how many graphs (default 1000)")
    pack.add_argument("--seed", type=int, default=0, metavar="N", help="of shapes and weights (default 0)")
    pack.add_argument("-o", "--out", type=Path, required=True, metavar="PACK", help="a new folder")
    fit = _command(verbs, "fit", _profile_fit, "fit a predictor to the CSV files of one board")
    fit.add_argument(
        "files", type=Path, nargs="+", metavar="CSV", help="what `coformer-node profile` wrote, one a model"
    )
    fit.add_argument("-o", "--out", type=Path, required=True, metavar="PREDICTOR", help="the predictor, .safetensors")
    fit.add_argument(
        "--from", dest="known", metavar="PREDICTOR", help="carry this one over to the board by a few points (or: cpu)"
    )


def _profile_pack(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.profile import write_profile_pack
    from coformer_compiler.commands.show import pack_text
    from coformer_compiler.config import scalar
    from coformer_compiler.progress import RichProgress
    from coformer_targets import load_target, with_precision

    pairs = [(key, scalar(value)) for key, value in _options(options.model_option)]
    target = load_target(options.target)
    if options.precision is not None:
        target = with_precision(target, options.precision)
    with RichProgress() as progress:
        found = write_profile_pack(options.model, pairs, target, options.points, options.seed, options.out, progress)
    _print(found, options.json, lambda: pack_text(found))
    return 0


def _profile_fit(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.profile import fit_predictor
    from coformer_compiler.commands.show import predictor_text

    found = fit_predictor(options.files, options.out, options.known)
    _print(found, options.json, lambda: predictor_text(found))
    return 0


def _options(given: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [pair.partition("=") for pair in given]
    for key, equals, _ in pairs:
        if not equals:
            raise CoformerError(f"'{key}' has no value", "--model-option", "write KEY=VALUE")
    return [(key, value) for key, _, value in pairs]


def _legalize(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.legalize import legalize_graph, legalize_text, shapes_from

    found = legalize_graph(
        options.graph,
        options.target,
        options.out,
        target_file=options.target_file,
        precision=options.precision,
        shapes=shapes_from(options.shape),
    )
    _print(found, options.json, lambda: legalize_text(found))
    return 0


def _build(options: argparse.Namespace) -> int:
    config, out = _configured(options)
    if options.dry_run:
        return _dry_run(config, out, options.json)

    from coformer_compiler.artifact import first_process
    from coformer_compiler.compile import build
    from coformer_compiler.progress import RichProgress, SilentProgress
    from coformer_compiler.report.table import print_table

    if first_process():
        with RichProgress() as progress:
            built = build(config, out, progress)
    else:
        build(config, out, SilentProgress())
        return 0
    if options.json:
        _print_json(built.report.to_json())
    elif built.changed:
        print_table(built.report)
        print(f"\nbundles: {out / 'bundles'}\nreport:  {out / 'report.html'}")
    else:
        print_table(built.report)
        print(f"\nnothing to do: all {len(built.report.stages)} stages are cached in {out}")
    return 0


def _configured(options: argparse.Namespace) -> tuple[BuildConfig, Path]:
    from coformer_compiler.config import Overrides, read_config

    overrides = Overrides(
        options.model,
        options.checkpoint,
        options.weights,
        tuple(_options(options.model_option)),
        options.data,
        tuple(options.target),
        options.precision,
        options.strategy,
        options.seed,
        options.steps,
        options.pick,
        getattr(options, "journal", None),
    )
    config = read_config(options.config, overrides)
    stem = options.config.stem if options.config else config.model.name.partition(":")[2]
    out: Path = options.out or Path("build") / stem
    if options.resume and not (out / "cache").is_dir():
        raise CoformerError("there is nothing to resume", f"output folder {out}", "leave --resume away to begin")
    return config, out


def _search(options: argparse.Namespace) -> int:
    config, out = _configured(options)
    from coformer_compiler.commands.search import search_config, search_text
    from coformer_compiler.progress import RichProgress

    with RichProgress() as progress:
        found = search_config(config, out, progress)
    _print(found, options.json, lambda: search_text(found))
    return 0


def _dry_run(config: BuildConfig, out: Path, as_json: bool) -> int:
    from coformer_compiler.commands.dry_run import dry_run
    from coformer_compiler.commands.show import plan_text

    found = dry_run(config, out)
    _print(found, as_json, lambda: plan_text(found, out))
    return 0


def _targets(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from coformer_compiler.commands.show import target_text, targets_text
    from coformer_targets import load_target, load_target_file, target_names

    if options.name is not None and options.target_file is not None:
        raise CoformerError("two targets are named", "targets", "give one of NAME and --target-file")
    if options.name is not None or options.target_file is not None:
        found = load_target(options.name) if options.name is not None else load_target_file(options.target_file)
        target = asdict(found)
        _print(target, options.json, lambda: target_text(target))
    else:
        targets = [load_target(name) for name in target_names()]
        _print([asdict(target) for target in targets], options.json, lambda: targets_text(targets))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.inspect import inspect_path
    from coformer_compiler.commands.show import inspect_text

    found = inspect_path(options.path)
    if found["kind"] == "build" and not options.json:
        from coformer_compiler.report.schema import report_from_json
        from coformer_compiler.report.table import print_table

        print_table(report_from_json(found["report"]))
        return 0
    _print(found, options.json, lambda: inspect_text(found, options.path))
    return 0


def _validate(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from coformer_compiler.commands.show import checks_text
    from coformer_compiler.commands.validate import validate_build, write_junit

    checks = validate_build(options.out, options.old_python)
    if options.junit is not None:
        write_junit(options.junit, checks)
    failed = any(check.failure is not None for check in checks)
    found = {"ok": not failed, "checks": [asdict(check) for check in checks]}
    _print(found, options.json, lambda: checks_text(checks, options.out))
    return 1 if failed else 0


def _run(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.run import run_build
    from coformer_compiler.commands.show import answers_text

    found = run_build(
        options.out, options.input, text=options.text, truncate=options.truncate, min_members=options.min_members
    )
    _print(found, options.json, lambda: answers_text(found))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.bench import bench_build
    from coformer_compiler.commands.show import bench_text

    found = bench_build(options.out)
    _print(found, options.json, lambda: bench_text(found))
    return 0


def _push(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.push import PushOptions, push_build, pushed_text
    from coformer_runtime.shipping.http import HttpOptions

    http = HttpOptions(options.plain_http, options.ca)
    chosen = PushOptions(options.name, options.version, options.days, options.key, options.unsigned, http)
    found = push_build(options.out, options.reference, chosen, _say)
    _print(found, options.json, lambda: pushed_text(found))
    return 0


def _keygen(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.keygen import generate_keys, keys_text

    found = generate_keys(options.stem, options.algorithm)
    _print(found, options.json, lambda: keys_text(found))
    return 0


def _rollout(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.rollout import roll_out, rollout_text
    from coformer_runtime.shipping.http import HttpOptions

    http = HttpOptions(options.plain_http, options.ca)
    found = roll_out(
        options.reference, options.hosts, options.key, _say, allow_unsigned=options.allow_unsigned, http=http
    )
    _print(found, options.json, lambda: rollout_text(found))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print(value: Any, as_json: bool, text: Callable[[], str]) -> None:
    if as_json:
        _print_json(value)
    else:
        print(text())


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


def _bug_report(error: Exception) -> Path:
    """Write what we need to find the bug, and return the path."""
    import platform
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="coformerc-bug-", suffix=".txt", encoding="utf-8", delete=False
    ) as file:
        file.write(f"coformerc {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        file.write(f"arguments: {sys.argv[1:]}\n\n")
        file.write("".join(traceback.format_exception(error)))
    return Path(file.name)


if __name__ == "__main__":
    sys.exit(main())
