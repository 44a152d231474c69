"""A search's evaluations at another bandwidth: the losses stay, latencies and what hangs on them are predicted anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coformer_compiler.decomposer.search.journal import Entry
from coformer_compiler.device import Device
from coformer_compiler.evaluator.energy import estimated_energy_mj
from coformer_compiler.evaluator.latency import Latencies, Latency, LatencyModel, Network
from coformer_compiler.evaluator.score import Loss
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.profiling.table import table_of_shapes


class Recosting:
    """Latency, objective and energy of evaluated policies for any rate of the network; nothing is scored again."""

    def __init__(
        self,
        entries: Sequence[Entry],
        teacher: TransformerSpec,
        devices: Sequence[Device],
        network: Network,
        *,
        delta_per_ms: float,
        loss: Loss,
        shortcuts: bool,
    ) -> None:
        """All but `entries` as in the search that evaluated them; the rate of `network` is not used.

        Args:
            entries: the journal.
            teacher: the model.
            devices: in the order of the entries' shapes.
            network: the link.
            delta_per_ms: δ over the unit of T.
            loss: which loss the objective counts.
            shortcuts: whether members have shortcut matrices.
        """
        self.entries, self.devices = tuple(entries), tuple(devices)
        self._network, self._delta_per_ms, self._loss = network, delta_per_ms, loss
        layers = len(teacher.layers)
        members = zip(*(entry.shapes for entry in self.entries), strict=True)
        self._tables = [table_of_shapes(each, layers, shortcuts=shortcuts) for each in members]
        self._model = LatencyModel(teacher, devices, network)
        self._deadlines = np.array([np.inf if d.deadline_ms is None else d.deadline_ms for d in self.devices])

    @property
    def estimated(self) -> bool:
        """Whether latencies rest on less than measurements."""
        return self._model.estimated

    def latencies(self, mbps: float) -> Latencies:
        """Predicted latencies of all entries at this rate in Mbit/s."""
        return self._model.of_tables(self._tables, replace(self._network, mbps=mbps))

    def all_at(self, mbps: float) -> list[Entry]:
        """The entries at this rate in Mbit/s, in their order, in time or not."""
        found = self.latencies(mbps)
        return [self._entry(entry, found.row(n)) for n, entry in enumerate(self.entries)]

    def at(self, mbps: float) -> list[Entry | None]:
        """The same; None where one breaks a device's deadline then."""
        found = self.latencies(mbps)
        late = np.any(found.arrival_ms > self._deadlines[:, None], axis=0).tolist()
        return [None if late[n] else self._entry(entry, found.row(n)) for n, entry in enumerate(self.entries)]

    def _entry(self, entry: Entry, found: Latency) -> Entry:
        kept = [n for n, shape in enumerate(entry.shapes) if shape is not None]
        latency = Latency(
            tuple(found.compute_ms[n] for n in kept),
            tuple(found.arrival_ms[n] for n in kept),
            found.aggregate_ms,
            found.total_ms,
        )
        counted = entry.score.loss if self._loss == "aggregated" else entry.score.members_loss
        energy = estimated_energy_mj([self.devices[n] for n in kept], latency)
        objective = counted + self._delta_per_ms * latency.total_ms
        return replace(entry, score=replace(entry.score, objective=objective, latency=latency, energy_mj=energy))
