"""`coformerc certs`, `keygen`, `push` and `rollout`: a cluster's certificates, and how releases reach its boards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from coformer_compiler.cli.words import add_command, print_result, say


def add_fleet(commands: Any) -> None:
    """Add `certs`, `push`, `keygen` and `rollout`."""
    certs = add_command(commands, "certs", _certs, "make the certificates of a cluster, for coformer-node --tls")
    certs.add_argument("out", type=Path, metavar="DIR", help="the authority's folder; made if it is not there")
    certs.add_argument(
        "--node", action="append", default=[], metavar="DEVICE[=HOST,...]", help="a device, and how clients reach it"
    )
    certs.add_argument("--client", action="append", default=[], metavar="NAME", help="a client of the central node")
    certs.add_argument("--days", type=int, default=825, help="how long they hold (default 825)")
    push = add_command(
        commands, "push", _push, "push a build's bundles, signed, into an OCI registry or a layout folder"
    )
    push.add_argument("out", type=Path, metavar="OUT", help="output folder of a build")
    push.add_argument("reference", metavar="REF", help="oci://HOST/NAME:TAG, or oci-layout:DIR:TAG")
    push.add_argument("--key", type=Path, metavar="FILE", help="private key to sign with; `coformerc keygen` makes one")
    push.add_argument("--unsigned", action="store_true", help="push without a signature")
    push.add_argument("--name", help="what is released (default: the name of OUT)")
    push.add_argument("--version", type=int, metavar="N", help="larger than all before (default: the time as a number)")
    push.add_argument("--days", type=int, default=365, metavar="N", help="until the release expires (default 365)")
    _add_registry(push)
    keygen = add_command(commands, "keygen", _keygen, "make the pair of keys that releases are signed with")
    keygen.add_argument("stem", type=Path, metavar="NAME", help="writes NAME.key and NAME.pub")
    keygen.add_argument("--algorithm", choices=("ed25519", "ecdsa-p256"), default="ed25519", help="default ed25519")
    rollout = add_command(commands, "rollout", _rollout, "bring a release onto a fleet of boards, or onto none of them")
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


def _certs(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.certs import certificates_text, make_certificates

    made = make_certificates(options.out, options.node, options.client, options.days)
    print_result(made, options.json, lambda: certificates_text(made))
    return 0


def _push(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.push import PushOptions, push_build, pushed_text
    from coformer_runtime.shipping.http import HttpOptions

    http = HttpOptions(options.plain_http, options.ca)
    chosen = PushOptions(options.name, options.version, options.days, options.key, options.unsigned, http)
    found = push_build(options.out, options.reference, chosen, say)
    print_result(found, options.json, lambda: pushed_text(found))
    return 0


def _keygen(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.keygen import generate_keys, keys_text

    found = generate_keys(options.stem, options.algorithm)
    print_result(found, options.json, lambda: keys_text(found))
    return 0


def _rollout(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.rollout import roll_out, rollout_text
    from coformer_runtime.shipping.http import HttpOptions

    http = HttpOptions(options.plain_http, options.ca)
    found = roll_out(
        options.reference, options.hosts, options.key, say, allow_unsigned=options.allow_unsigned, http=http
    )
    print_result(found, options.json, lambda: rollout_text(found))
    return 0
