"""A whole cluster as processes of this machine: for tests, `coformerc run` and `coformerc bench`."""

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import IO, Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type, Union

from .alternatives import has_index, index_digest, open_held
from .broadcast_client import BroadcastClient
from .client import Client
from .errors import CheckFailed, CoformerError
from .manifest import Manifest, load_manifest

LISTENING = "listening "
STOP_S = 5.0
_STDERR_BYTES = 4000


class Child(NamedTuple):
    """One process of the cluster: `command` is for error messages, `stderr` a file that collects its log."""

    device: str
    command: Sequence[str]
    process: Any
    stderr: IO[bytes]


class Node(NamedTuple):
    """One node of a cluster: its device, the build or index that all share, all devices, and who aggregates."""

    device: str
    build: str
    members: Tuple[str, ...]
    central: str
    standby: Tuple[str, ...]


class LocalCluster:
    """Workers and a central node on loopback. A context manager: entering waits until requests are answered.

    Args:
        bundle_dirs: one bundle per device, all of one build, or one folder of alternatives per device.
        python: device → interpreter with coformer-runtime and the engine library; the others use this one.
        deadline_ms, min_members, threads: as for the central node; `threads` holds for each process.
        start_timeout_s: how long entering may take.
        standby: let the devices that can stand in for the central one do so.
        broadcast: let clients send their inputs to every device themselves.
        options: further words for the central node, such as "--truncate".

    Attributes:
        address: HOST:PORT of the central node, once entered.
        addresses: the same, and then those of the nodes on standby.

    Raises:
        CoformerError: bundles that do not make one cluster.
        CheckFailed: a process ended, with the last of its standard error, or none was ready in time.
    """

    def __init__(
        self,
        bundle_dirs: Sequence[str],
        python: Optional[Mapping[str, str]] = None,
        deadline_ms: int = 1000,
        min_members: Optional[int] = None,
        threads: int = 1,
        start_timeout_s: float = 60.0,
        standby: bool = False,
        broadcast: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self._bundles = {
            node.device: (str(path), node) for path, node in ((path, describe_node(path)) for path in bundle_dirs)
        }
        check_cluster([manifest for _, manifest in self._bundles.values()], len(bundle_dirs), min_members)
        self._python = dict(python or {})
        self._deadline_ms, self._min_members, self._threads = deadline_ms, min_members, threads
        self._start_timeout_s = start_timeout_s
        self._broadcast, self._options = broadcast, list(options)
        self._children: Dict[str, Child] = {}
        self._addresses: Dict[str, str] = {}
        self._clients: List[Client] = []
        first = next(iter(self._bundles.values()))[1]
        self._central = first.central
        self._standby = [device for device in first.standby if standby and device in self._bundles]
        self.address = ""

    @property
    def pids(self) -> Dict[str, int]:
        """Device → process id."""
        return {device: child.process.pid for device, child in self._children.items()}

    @property
    def addresses(self) -> List[str]:
        """HOST:PORT of the central node and of those that stand by for it."""
        return [self.address] + [self._addresses[device] for device in self._standby]

    def kill(self, device: str) -> None:
        """End a node's process as a power cut would: it has no time for anything."""
        process = self._children[device].process
        process.kill()
        process.wait()

    def restart(self, device: str) -> None:
        """Start a killed node again, at the address that it had.

        Raises:
            CheckFailed: it does not listen in time.
        """
        child, address = self._children[device], self._addresses[device]
        for stream in (child.process.stdin, child.process.stdout, child.stderr):
            stream.close()
        self._start(device, address)
        self._listening(device, time.monotonic() + self._start_timeout_s)

    def client(self) -> Client:
        """Return a client of all central nodes, which is closed with the cluster at the latest."""
        workers = [address for device, address in self._addresses.items() if device != self._central]
        client = BroadcastClient(self.addresses, workers) if self._broadcast else Client(self.addresses)
        self._clients.append(client)
        return client

    def __enter__(self) -> "LocalCluster":
        until = time.monotonic() + self._start_timeout_s
        try:
            answering = [*self._standby, self._central]
            workers = [device for device in self._bundles if device not in answering]
            for device in workers:
                self._start(device, None)
            for device in workers:
                self._addresses[device] = self._listening(device, until)
            if self._standby:  # these must know each other's addresses before any of them listens
                self._addresses.update((device, free_address()) for device in answering)
            for device in answering:
                self._start(device, self._addresses.get(device))
            for device in answering:
                self._addresses[device] = self._listening(device, until)
            self.address = self._addresses[self._central]
            self._wait_until_ready(until)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the clients and end every process, by force where one does not stop within five seconds."""
        for client in self._clients:
            client.close()
        for child in self._children.values():
            if child.process.poll() is None:
                child.process.terminate()
        for child in self._children.values():
            try:
                child.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.process.stdin.close()
            child.process.stdout.close()
            child.stderr.close()
        self._children, self._clients = {}, []

    def _words(self, device: str) -> List[str]:
        """Return subcommand, bundle and options of a device's node."""
        bundle = self._bundles[device][0]
        if device != self._central and device not in self._standby:
            return ["serve", bundle]
        words = ["central", bundle, "--deadline-ms", str(self._deadline_ms)] + self._options
        if self._min_members is not None:
            words += ["--min-members", str(self._min_members)]
        if device in self._standby:
            words += ["--standby"]
        others = [name for name in self._bundles if name != device and name in self._addresses]
        for name in others:
            words += ["--worker", "{}={}".format(name, self._addresses[name])]
        return words

    def _start(self, device: str, listen: Optional[str]) -> None:
        python = self._python.get(device, sys.executable)
        command = (
            [python, "-m", "coformer_runtime"]
            + self._words(device)
            + [
                "--listen",
                listen or "127.0.0.1:0",
                "--threads",
                str(self._threads),
                "--exit-with-stdin",
            ]
            + (["--broadcast"] if self._broadcast else [])
            + (["--allow-root"] if os.geteuid() == 0 else [])  # the caller's own rights
        )
        environment = dict(os.environ)
        if python == sys.executable:
            # The package may come from a source tree that only this process' sys.path names.
            here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
            environment["PYTHONPATH"] = os.pathsep.join(
                [here] + [path for path in [environment.get("PYTHONPATH")] if path]
            )
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - the child lives on; `close` closes it
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment
        )
        self._children[device] = Child(device, command, process, stderr)

    def _listening(self, device: str, until: float) -> str:
        """Return the address that a child prints; raise a CheckFailed if it ends or is silent until then."""
        child = self._children[device]
        line = b""
        while not line.endswith(b"\n"):
            left = max(0.0, until - time.monotonic())
            if not select.select([child.process.stdout], [], [], left)[0]:
                raise self._failed(child, "does not listen after {:g} s".format(self._start_timeout_s))
            piece = os.read(child.process.stdout.fileno(), 256)
            if not piece:
                child.process.wait()
                raise self._failed(child, "ended with exit code {}".format(child.process.returncode))
            line += piece
        text = line.decode("utf-8").strip()
        if not text.startswith(LISTENING):
            raise self._failed(child, "printed '{}' instead of its address".format(text))
        return text[len(LISTENING) :]

    def _wait_until_ready(self, until: float) -> None:
        with Client(self.address, timeout_s=2.0) as client:
            while not client.ready():
                for child in self._children.values():
                    if child.process.poll() is not None:
                        raise self._failed(child, "ended with exit code {}".format(child.process.returncode))
                if time.monotonic() > until:
                    reasons = "; ".join(self._log(child) for child in self._children.values())
                    raise CheckFailed(
                        "the cluster is not ready after {:g} s: {}".format(self._start_timeout_s, reasons),
                        "local cluster",
                        "check that the bundles are of one build",
                    )
                time.sleep(0.02)

    def _failed(self, child: Child, what: str) -> CheckFailed:
        return CheckFailed(
            "the process of '{}' {}; it said: {}".format(child.device, what, self._log(child)),
            "local cluster, {}".format(" ".join(child.command)),
            "mend what it says",
        )

    def _log(self, child: Child) -> str:
        size = os.fstat(child.stderr.fileno()).st_size
        child.stderr.seek(max(0, size - _STDERR_BYTES))
        return child.stderr.read().decode("utf-8", "replace").strip() or "nothing"


def free_address() -> str:
    """Return a HOST:PORT of loopback that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return "127.0.0.1:{}".format(found.getsockname()[1])


def describe_node(directory: str) -> Node:
    """Return what a bundle, or a folder of alternatives, says of its device and of the cluster."""
    if not has_index(directory):
        manifest = load_manifest(directory)
        return Node(manifest.device, manifest.build, manifest.members, manifest.central, manifest.standby)
    held = open_held(directory)
    manifests = [bundle.manifest for bundle in held.bundles.values()]
    devices = {device for alternative in held.listing.alternatives for device, _ in alternative.manifests}
    standby = sorted({device for manifest in manifests for device in manifest.standby})
    return Node(held.device, index_digest(held.listing), tuple(sorted(devices)), manifests[0].central, tuple(standby))


def check_cluster(manifests: Sequence[Union[Node, Manifest]], given: int, min_members: Optional[int]) -> None:
    """Raise a CoformerError unless the bundles are of one build, one per device, the central one among them."""
    where = "local cluster"
    if not manifests:
        raise CoformerError("no bundle was given", where, "name one bundle directory per device")
    first = manifests[0]
    for manifest in manifests:
        if manifest.build != first.build:
            raise CoformerError(
                "'{}' is of build {}..., '{}' of {}...".format(
                    first.device, first.build[:12], manifest.device, manifest.build[:12]
                ),
                where,
                "give the bundles of one build",
            )
    devices = [manifest.device for manifest in manifests]
    if len(devices) != given:
        raise CoformerError("two bundles are for the same device", where, "give one bundle per device")
    if first.central not in devices:
        raise CoformerError(
            "the central device '{}' is not among the bundles".format(first.central), where, "add its bundle"
        )
    absent = [name for name in first.members if name not in devices]
    if absent and min_members is None:
        raise CoformerError("no bundle for {}".format(", ".join(absent)), where, "add the bundles, or set min_members")
