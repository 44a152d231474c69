"""`coformer-node pull` and `coformer-node release`: parsing and printing."""

import argparse
import glob
import json
import os
import sys
from typing import Any, Dict, List, Optional, Tuple

ACTIONS = "list, activate, check, confirm, rollback, recover, pin, unpin or collect"


def add_commands(commands: Any) -> None:
    """Add both to the parser of `coformer-node`."""
    pull = commands.add_parser("pull", help="fetch this device's bundle of a release, test it, and serve it")
    pull.add_argument("reference", metavar="REF", help="oci://HOST/NAME:TAG, or oci-layout:DIR:TAG")
    pull.add_argument("--device", required=True, metavar="NAME", help="whose bundle to take")
    pull.add_argument("--target", help="the target that the bundle must be for")
    _add_root(pull)
    _add_trust(pull)
    pull.add_argument("--allow-downgrade", action="store_true", help="take an older version than the one served")
    pull.add_argument("--retry", action="store_true", help="take a release that was tried here and rolled back")
    pull.add_argument("--max-bytes", type=int, metavar="N", help="largest bundle to take (default: 8 GiB)")
    pull.add_argument("--fetch-only", action="store_true", help="fetch and test, but go on serving what is served")
    _add_network(pull)
    _add_probation(pull)
    pull.set_defaults(run=_pull)

    release = commands.add_parser("release", help="the releases of this board: " + ACTIONS)
    actions = release.add_subparsers(dest="action", metavar="ACTION")
    actions.required = True
    _action(actions, "list", _list, "what is served, kept and fetched")
    activate = _action(actions, "activate", _activate, "serve a release that was fetched")
    activate.add_argument("release", nargs="?", metavar="ID", help="default: the one that was fetched last")
    activate.add_argument("--hold", action="store_true", help="leave it on probation until `confirm` or `rollback`")
    _add_probation(activate)
    check = _action(actions, "check", _check, "wait until what is served has proved well")
    check.add_argument("--version", type=int, metavar="N", help="what has to be served")
    _add_probation(check)
    _action(actions, "confirm", _confirm, "end a probation well")
    rollback = _action(actions, "rollback", _roll_back, "serve the release before")
    rollback.add_argument("--version", type=int, metavar="N", help="only if this version is served")
    _add_probation(rollback)
    _action(actions, "recover", _recover, "finish or undo what was interrupted; before the node starts")
    for name, run, text in (
        ("pin", _pin, "keep a release from being removed"),
        ("unpin", _unpin, "let a release be removed again"),
    ):
        _action(actions, name, run, text).add_argument("release", metavar="ID")
    _action(actions, "collect", _collect, "remove the releases that nothing points at")


def _action(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = actions.add_parser(name, help=text)
    _add_root(made)
    made.set_defaults(run=run)
    return made


def _add_root(command: argparse.ArgumentParser) -> None:
    command.add_argument("--root", required=True, metavar="DIR", help="where this board keeps its releases")
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_trust(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="FILE",
        help="public key that is trusted; repeatable (default: all of ROOT/keys/*.pub)",
    )
    command.add_argument("--allow-unsigned", action="store_true", help="take a release that nobody signed")


def _add_network(command: argparse.ArgumentParser) -> None:
    command.add_argument("--plain-http", action="store_true", help="talk to the registry without TLS")
    command.add_argument("--ca", metavar="FILE", help="certificates to trust in place of the system's")


def _add_probation(command: argparse.ArgumentParser) -> None:
    command.add_argument("--restart", metavar="COMMAND", help="makes the node serve ROOT/current; run without a shell")
    command.add_argument("--check", metavar="COMMAND", help="exits with 0 if the node is well; run without a shell")
    command.add_argument(
        "--probation", type=float, default=60.0, metavar="S", help="seconds until the checks succeed (default 60)"
    )


def _probation(options: argparse.Namespace) -> Any:
    from .activate import Probation

    return Probation(options.restart, options.check, options.probation)


def trusted_keys(files: List[str], root: Optional[str]) -> Tuple[Any, ...]:
    """Return the public keys of `files`, or of ROOT/keys/*.pub where there are none."""
    from .dsse import load_public_key
    from .root import KEYS

    found = files or (sorted(glob.glob(os.path.join(root, KEYS, "*.pub"))) if root else [])
    return tuple(load_public_key(path) for path in found)


def _pull(options: argparse.Namespace) -> None:
    from .activate import activate
    from .http import HttpOptions
    from .pull import MAX_BYTES, PullOptions, pull
    from .reference import parse_reference
    from .root import Root
    from .stores import open_store

    reference, root = parse_reference(options.reference), Root(options.root)
    accepted = PullOptions(
        options.device,
        options.target,
        trusted_keys(options.key, options.root),
        options.allow_unsigned,
        options.allow_downgrade,
        options.retry,
        MAX_BYTES if options.max_bytes is None else options.max_bytes,
    )
    with open_store(reference, HttpOptions(options.plain_http, options.ca)) as store:
        pulled = pull(store, reference, root, accepted)
    if not options.fetch_only:
        activate(root, pulled.record.id, _probation(options))
    found = dict(
        pulled.record._asdict(),
        present=pulled.present,
        travelled_bytes=pulled.travelled_bytes,
        reused_bytes=pulled.reused_bytes,
        served=not options.fetch_only,
    )
    how = (
        "was here"
        if pulled.present
        else "{:,} bytes fetched, {:,} reused".format(pulled.travelled_bytes, pulled.reused_bytes)
    )
    end = "fetched, not served yet" if options.fetch_only else "served"
    _print(
        options,
        found,
        "{}: {} {} for '{}', {}; {}".format(
            pulled.record.id, pulled.record.name, pulled.record.version, pulled.record.device, how, end
        ),
    )


def _list(options: argparse.Namespace) -> None:
    from .root import CURRENT, NEXT, PREVIOUS, Root

    root = Root(options.root)
    links = {name: root.link(name) for name in (CURRENT, PREVIOUS, NEXT)}
    pins, journal, refused = root.pins(), root.journal(), root.refused()
    found: Dict[str, Any] = dict(
        links, pins=pins, refused=refused, releases=[dict(record._asdict()) for record in root.releases()]
    )
    found["activation"] = None if journal is None else dict(journal._asdict())
    lines = []
    for record in root.releases():
        marks = [name for name, release in sorted(links.items()) if release == record.id]
        marks += ["pinned"] * (record.id in pins)
        marks += ["rolled back"] * (record.id in refused)
        marks += ["on probation"] * (journal is not None and journal.new == record.id and not journal.confirmed)
        signed = "signed by {}...".format(record.signed_by[:12]) if record.signed_by else "not signed"
        line = "{}  {} for '{}' ({}), {}".format(record.id, record.name, record.device, record.target, signed)
        lines.append(line + ("  [{}]".format(", ".join(marks)) if marks else ""))
    _print(options, found, "\n".join(lines) or "no releases")


def _activate(options: argparse.Namespace) -> None:
    from .activate import activate
    from .root import Root

    record = activate(Root(options.root), options.release, _probation(options), options.hold)
    _print_served(options, record, " on probation" if options.hold else "")


def _check(options: argparse.Namespace) -> None:
    from .activate import check
    from .root import Root

    root = Root(options.root)
    check(root, options.version, _probation(options))
    _print_served(options, root.served(), " and is well")


def _confirm(options: argparse.Namespace) -> None:
    from .activate import confirm
    from .root import Root

    _print_served(options, confirm(Root(options.root)))


def _roll_back(options: argparse.Namespace) -> None:
    from .activate import roll_back
    from .root import Root

    _print_served(options, roll_back(Root(options.root), options.version, _probation(options)))


def _recover(options: argparse.Namespace) -> None:
    from .activate import recover
    from .root import Busy, Root

    root = Root(options.root)
    try:
        _print_served(options, recover(root))
    except Busy:  # the activation at work starts the node and ends this itself
        _print_served(options, root.served(), ", an activation is at work")


def _pin(options: argparse.Namespace) -> None:
    from .root import Root

    root = Root(options.root)
    with root.locked():
        root.pin(options.release)
    _print(options, {"pins": root.pins()}, "{} is kept".format(options.release))


def _unpin(options: argparse.Namespace) -> None:
    from .root import Root

    root = Root(options.root)
    with root.locked():
        root.unpin(options.release)
    _print(options, {"pins": root.pins()}, "{} is not kept any more".format(options.release))


def _collect(options: argparse.Namespace) -> None:
    from .root import Root

    root = Root(options.root)
    with root.locked():
        removed = root.collect()
    _print(options, {"removed": removed}, "removed: " + (", ".join(removed) or "nothing"))


def _print_served(options: argparse.Namespace, record: Any, more: str = "") -> None:
    text = (
        "nothing is served" if record is None else "{}: {} {} is served".format(record.id, record.name, record.version)
    )
    _print(options, {"served": None if record is None else dict(record._asdict())}, text + more)


def _print(options: argparse.Namespace, found: Dict[str, Any], text: str) -> None:
    sys.stdout.write((json.dumps(found, sort_keys=True) if options.json else text) + "\n")
