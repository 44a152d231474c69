"""How a central node runs, and what options contradict a bundle or each other."""

from typing import List, NamedTuple, Optional, Tuple

from .errors import CoformerError
from .manifest import AggregatorSpec, Manifest
from .manifest_profiles import batches_of
from .security import LOOPBACK, Security, parse_address


class CentralOptions(NamedTuple):
    """How the central node runs.

    Attributes:
        workers: "[DEVICE=]HOST:PORT" of each worker.
        deadline_ms: how long one answer may take.
        min_members: answer with at least so many members; None: all of them, or no answer.
        threads: threads of one inference of the own member.
        security: how workers are reached, and who may call.
        standby: run where another device is the central one.
        broadcast: take inputs that clients send to every device themselves.
        truncate: cut texts that are longer than the longest profile.
        batch_wait_ms: join requests that wait, each at most so long while nothing is under way; None: never.
    """

    workers: Tuple[str, ...]
    deadline_ms: int = 1000
    min_members: Optional[int] = None
    threads: int = 1
    security: Security = LOOPBACK
    standby: bool = False
    broadcast: bool = False
    truncate: bool = False
    batch_wait_ms: Optional[float] = None


def usable_aggregators(manifest: Manifest, min_members: Optional[int]) -> List[AggregatorSpec]:
    """Return the aggregators of subsets that are large enough to answer; None: all members are needed."""
    least = len(manifest.members) if min_members is None else min_members
    return [spec for spec in manifest.aggregators if len(spec.members) >= least]


def split_worker(worker: str) -> Tuple[Optional[str], str]:
    """Return device (None where not given) and address of "[DEVICE=]HOST:PORT"."""
    device, equals, address = worker.rpartition("=")
    return (device if equals else None), address


def check_options(manifest: Manifest, options: CentralOptions) -> None:
    """Raise a CoformerError for options that contradict the manifest or each other."""
    where = "central node '{}'".format(manifest.device)
    count = len(manifest.members)
    _check_role(manifest, options.standby, where)
    if options.min_members is not None and not 1 <= options.min_members <= count:
        raise CoformerError(
            "--min-members is {} of {}".format(options.min_members, count),
            where,
            "give a number from 1 to {}".format(count),
        )
    if options.truncate and (manifest.profiles is None or manifest.profiles.padding is None):
        raise CoformerError(
            "--truncate is for texts of several lengths, this bundle takes inputs of one shape",
            where,
            "leave it out, or build with [profiles] lengths",
        )
    _check_batching(manifest, options, where)
    if options.deadline_ms < 1:
        raise CoformerError("--deadline-ms is {}".format(options.deadline_ms), where, "give at least 1")
    addresses, devices = [], []
    for worker in options.workers:
        device, address = split_worker(worker)
        parse_address(address, options.security, "--worker " + worker)
        if device is not None and (device not in manifest.members or device == manifest.device):
            raise CoformerError(
                "'{}' is not another member of this cluster".format(device),
                "--worker " + worker,
                "name one of {}".format(_others(manifest)),
            )
        if address in addresses or (device is not None and device in devices):
            raise CoformerError("the worker is given twice", "--worker " + worker, "name each worker once")
        addresses.append(address)
        devices.append(device)
    least = count if options.min_members is None else options.min_members
    if len(addresses) + 1 < least:
        raise CoformerError(
            "{} members are needed, this node and {} --worker make {}".format(
                least, len(addresses), len(addresses) + 1
            ),
            where,
            "give one --worker for each of {}".format(_others(manifest)),
        )


def _check_batching(manifest: Manifest, options: CentralOptions, where: str) -> None:
    wait_ms = options.batch_wait_ms
    if wait_ms is None:
        return
    if batches_of(manifest) == [1]:
        raise CoformerError(
            "--batch-wait-ms is for bundles with several batch sizes, this one takes a sample at a time",
            where,
            "leave it out, or build with [profiles] batches",
        )
    if not 0 <= wait_ms < options.deadline_ms:
        raise CoformerError(
            "--batch-wait-ms is {:g}, --deadline-ms {}".format(wait_ms, options.deadline_ms),
            where,
            "give at least 0, and less than the deadline",
        )


def _check_role(manifest: Manifest, standby: bool, where: str) -> None:
    if not manifest.can_aggregate:
        raise CoformerError(
            "'{}' is not the central device, that is '{}'".format(manifest.device, manifest.central),
            where,
            "serve this bundle with 'coformer-node serve', or build it with standby = true for '{}'".format(
                manifest.device
            )
            if standby
            else "serve this bundle with 'coformer-node serve'",
        )
    if standby == manifest.is_central:
        raise CoformerError(
            "'{}' is the central device, not one on standby".format(manifest.device)
            if standby
            else "'{}' stands by for the central device '{}'".format(manifest.device, manifest.central),
            where,
            "leave out --standby" if standby else "pass --standby",
        )


def _others(manifest: Manifest) -> str:
    return ", ".join(name for name in manifest.members if name != manifest.device)
