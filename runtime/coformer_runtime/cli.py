"""The command `coformer-node`. It only parses; the work is in the modules that it calls."""

import argparse
import contextlib
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, List, Optional, Union

from . import __version__
from .errors import CoformerError
from .shipping.commands import add_commands as add_shipping

if TYPE_CHECKING:
    from .bundle import Bundle
    from .security import Security

DESCRIPTION = "Runs one device's share of a decomposed transformer."


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command and return its exit code: 0 fine, 1 a check failed, 2 the user's mistake, 3 our bug."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except CoformerError as error:
        sys.stderr.write("error: {}\n".format(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - exit code 3 is for what nobody foresaw
        traceback.print_exception(type(error), error, error.__traceback__)
        sys.stderr.write("error: internal error: please report the trace above\n")
        return 3


def parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    top = argparse.ArgumentParser(prog="coformer-node", description=DESCRIPTION)
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True

    serve = commands.add_parser("serve", help="answer features on the device edge")
    _add_common(serve)
    serve.set_defaults(run=_serve)

    central = commands.add_parser("central", help="answer clients with the help of the workers")
    _add_common(central)
    central.add_argument(
        "--worker",
        action="append",
        default=[],
        metavar="[DEVICE=]HOST:PORT",
        help="address of one worker; once per worker",
    )
    central.add_argument("--deadline-ms", type=int, default=1000, help="time for one answer (default 1000)")
    central.add_argument(
        "--min-members",
        type=int,
        default=None,
        metavar="K",
        help="answer with at least K members (default: all, or no answer)",
    )
    central.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts that are longer than the longest profile, and say so in the answer",
    )
    central.add_argument(
        "--batch-wait-ms",
        type=float,
        default=None,
        metavar="MS",
        help="join requests that wait at the same time; one that comes alone waits so long for others (default: never)",
    )
    central.add_argument(
        "--standby",
        action="store_true",
        help="stand in for the central device: be its worker, and answer clients that turn to this node",
    )
    central.add_argument(
        "--traces",
        metavar="URL",
        help="send OpenTelemetry traces to a collector, such as http://127.0.0.1:4318/v1/traces",
    )
    central.set_defaults(run=_central)

    status = commands.add_parser("status", help="ask a central node how its cluster is")
    status.add_argument("address", metavar="HOST:PORT", help="where its --metrics are")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)

    validate = commands.add_parser("validate", help="check hashes and golden vectors of a bundle")
    validate.add_argument("bundle", metavar="BUNDLE")
    _add_which(validate)
    validate.set_defaults(run=_validate)

    build = commands.add_parser("build", help="build TensorRT plans on this board, and check them")
    build.add_argument("bundle", metavar="BUNDLE", help="directory of this device's bundle, or of its alternatives")
    _add_which(build)
    build.add_argument("--rebuild", action="store_true", help="build what is there already, too")
    build.set_defaults(run=_build)

    profile = commands.add_parser("profile", help="measure the graphs of a pack on this board, into a CSV")
    profile.add_argument("pack", metavar="PACK", help="directory that 'coformerc profile pack' wrote")
    profile.add_argument(
        "-o", "--out", metavar="CSV", help="begun, or gone on with where it is there (default: PACK.csv)"
    )
    profile.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of one inference (default: all CPUs)"
    )
    profile.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the process's processor time, for one thread on a machine that has other work",
    )
    profile.add_argument("--again", action="store_true", help="measure those points anew that were not stable")
    profile.set_defaults(run=_profile)

    energy = commands.add_parser("energy", help="measure millijoules of one inference, where the board tells its power")
    energy.add_argument("bundle", metavar="BUNDLE", help="directory of this device's bundle, or of its alternatives")
    _add_which(energy)
    energy.add_argument("--threads", type=int, default=0, metavar="N", help="of one inference (default: all CPUs)")
    energy.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="to be idle, and to run after that (default 10)"
    )
    energy.add_argument("--json", action="store_true", help="print JSON")
    energy.set_defaults(run=_energy)

    doctor = commands.add_parser("doctor", help="say what this machine has and lacks, and how to mend it")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)

    add_shipping(commands)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return top


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", metavar="BUNDLE", help="directory of this device's bundle, or of its alternatives")
    command.add_argument(
        "--listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="where to listen; port 0 picks a free one (default 127.0.0.1:0)",
    )
    command.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of one inference (default: all CPUs)"
    )
    _add_which(command)
    command.add_argument(
        "--tls", metavar="DIR", help="mutual TLS on every connection: ca.pem, cert.pem and key.pem of 'coformerc certs'"
    )
    command.add_argument(
        "--token-file", metavar="FILE", help="a secret that callers must present as a bearer token, in a file"
    )
    command.add_argument(
        "--insecure",
        action="store_true",
        help="allow addresses that other machines reach, without encryption",
    )
    command.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help="also serve /metrics for Prometheus, and on a central node a live page, over plain HTTP",
    )
    command.add_argument(
        "--broadcast",
        action="store_true",
        help="take inputs that clients send to every device themselves; for all nodes of a cluster or none",
    )
    command.add_argument("--allow-root", action="store_true", help="run with root's rights, which are not needed")
    command.add_argument(
        "--exit-with-stdin",
        action="store_true",
        help="stop when standard input closes, that is with the parent process",
    )


def _add_which(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", help="the target that the bundle must be for")
    command.add_argument(
        "--cache",
        metavar="DIR",
        help="where TensorRT plans are kept (default: .coformer-engines beside the bundle)",
    )


def _threads(options: argparse.Namespace) -> int:
    from .listen import run_threads

    if options.threads < 0:
        raise CoformerError("--threads is {}".format(options.threads), "coformer-node", "give at least 1")
    return options.threads or run_threads()


def _security(options: argparse.Namespace) -> "Security":
    from .security import read_security

    if os.geteuid() == 0 and not options.allow_root:
        raise CoformerError(
            "a node needs no rights of root",
            "coformer-node",
            "start it as a user of its own (runtime/systemd has unit files), or pass --allow-root",
        )

    return read_security(options.insecure, options.tls, options.token_file)


def _bundles(options: argparse.Namespace) -> "List[Bundle]":
    """Return the bundle that is named, or those of a folder of alternatives."""
    from .alternatives import open_all

    return open_all(options.bundle, options.target, options.cache)


def _serve(options: argparse.Namespace) -> None:
    from .listen import serve_until_stopped
    from .metrics import exposition
    from .page import OperatorPort
    from .worker import Worker

    bundle, *others = _bundles(options)
    security = _security(options)
    if others and options.broadcast:
        raise CoformerError(
            "clients that send inputs to every device cannot know which alternative is used",
            "coformer-node serve",
            "leave --broadcast away, or serve one alternative: {}".format(bundle.directory),
        )
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(
            Worker(bundle, options.listen, _threads(options), security, options.broadcast, others)
        )
        if options.metrics is not None:
            port = OperatorPort(options.metrics, options.insecure, lambda: exposition(worker.counts.families()))
            stack.enter_context(port)
            sys.stderr.write("metrics at http://{}/metrics\n".format(port.address))
        serve_until_stopped(worker.server, worker.address, options.exit_with_stdin)


def _central(options: argparse.Namespace) -> None:
    from .alternatives import has_index, open_held
    from .bundle import open_bundle
    from .central import Central
    from .central_options import CentralOptions
    from .front import serve_front
    from .metrics import exposition
    from .page import OperatorPort
    from .switching import Switching

    settings = CentralOptions(
        tuple(options.worker),
        options.deadline_ms,
        options.min_members,
        _threads(options),
        _security(options),
        options.standby,
        options.broadcast,
        options.truncate,
        options.batch_wait_ms,
    )
    node: Union[Central, Switching]
    if has_index(options.bundle):
        node = Switching(open_held(options.bundle, options.target, options.cache), settings)
    else:
        node = Central(open_bundle(options.bundle, options.target, options.cache), settings)
    with contextlib.ExitStack() as stack:
        tracer = None
        if options.traces is not None:
            from .trace import Tracer

            tracer = stack.enter_context(Tracer(options.traces, node.manifest.device))
        stack.enter_context(node)
        if options.metrics is not None:
            port = OperatorPort(
                options.metrics,
                options.insecure,
                lambda: exposition(node.families()),
                node.status,
            )
            stack.enter_context(port)
            sys.stderr.write("metrics and status at http://{}/\n".format(port.address))
        serve_front(node, options.listen, options.exit_with_stdin, tracer)


def _status(options: argparse.Namespace) -> int:
    from .status import ask_status, status_text

    status = ask_status(options.address)
    sys.stdout.write(json.dumps(status, sort_keys=True) + "\n" if options.json else status_text(status))
    return 0 if status["ready"] else 1


def _validate(options: argparse.Namespace) -> None:
    from .golden import check_bundle

    for bundle in _bundles(options):
        checked = check_bundle(bundle)
        sys.stdout.write(
            "{}: {} files, {} golden cases, worst difference {:.3g} of {:.3g}, {} aggregators: fine\n".format(
                bundle.directory,
                checked.files,
                checked.cases,
                checked.worst,
                checked.tolerance,
                checked.aggregators,
            )
        )


def _build(options: argparse.Namespace) -> None:
    from .tensorrt.build import build_bundle, built_line

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")

    for bundle in _bundles(options):
        for built in build_bundle(bundle, options.rebuild, say):
            sys.stdout.write(built_line(built) + "\n")


def _profile(options: argparse.Namespace) -> None:
    import os

    from .profile import profile_pack
    from .profile_pack import open_pack

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")

    threads, pack = _threads(options), open_pack(options.pack)
    path = options.out or os.path.normpath(options.pack) + ".csv"
    count, noisy = profile_pack(pack, path, threads, "cpu" if options.cpu_time else "wall", options.again, say)
    sys.stdout.write(
        "{}: {} points, {} of them not stable{}\n".format(
            path, count, noisy, " (left out of the fit; --again measures them anew)" if noisy else ""
        )
    )


def _energy(options: argparse.Namespace) -> None:
    from .energy import measure_energy
    from .engines import open_member
    from .golden import load_golden

    if not 0 < options.seconds <= 3600:
        raise CoformerError("--seconds is {:g}".format(options.seconds), "coformer-node energy", "give 1 to 3600")
    bundle, *others = _bundles(options)
    if others:
        raise CoformerError(
            "these are {} alternatives".format(1 + len(others)),
            "bundle {}".format(options.bundle),
            "name the folder of one of them, such as {}".format(bundle.directory),
        )
    manifest = bundle.manifest
    golden = load_golden(bundle, manifest.golden.input, manifest.input.dtype, manifest.input.shape)
    feeds = {manifest.input.name: golden[:1]}
    with open_member(bundle, _threads(options)) as engine:
        found = measure_energy(lambda: engine.run(feeds), options.seconds)
    if options.json:
        sys.stdout.write(json.dumps(dict(found._asdict(), device=manifest.device), sort_keys=True) + "\n")
        return
    sys.stdout.write(
        "{}, {}: idle {:.2f} W, running {:.2f} W; {} inferences of {:.2f} ms, {:.2f} mJ each above idle\n".format(
            manifest.device, found.source, found.idle_w, found.running_w, found.runs, found.ms_each, found.mj_each
        )
    )


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine, findings_json, findings_text

    findings = examine()
    sys.stdout.write(findings_json(findings) if options.json else findings_text(findings))
    return int(any(finding.lacking for finding in findings))


def _version(options: argparse.Namespace) -> None:
    sys.stdout.write("coformer-node {}\n".format(__version__))
