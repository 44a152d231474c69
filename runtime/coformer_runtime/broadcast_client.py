"""A client that sends its input to every device itself, as in the paper's prototype."""

import random
from typing import Any, Dict, List, Optional, Sequence, Union

from . import wire
from .answer import Answer
from .arrays import Array
from .client import Client
from .errors import CheckFailed
from .listen import CHANNEL_OPTIONS
from .oip import BROADCAST_KEY
from .security import LOOPBACK, Security, open_channel, parse_address


class BroadcastClient(Client):
    """Connections to the central nodes and to all workers of a cluster whose nodes run with --broadcast.

    Args:
        address: HOST:PORT of the central node, or of it and those on standby.
        workers: HOST:PORT of every worker.
        security: how they are protected.
        timeout_s: how long a call may take.
    """

    def __init__(
        self,
        address: Union[str, Sequence[str]],
        workers: Sequence[str],
        security: Security = LOOPBACK,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(address, security, timeout_s)
        for worker in workers:
            parse_address(worker, security, "client")
        self._workers = [open_channel(worker, security, CHANNEL_OPTIONS) for worker in workers]
        self._submit: Dict[str, Any] = {
            worker: channel.unary_unary(wire.SUBMIT) for worker, channel in zip(workers, self._workers)
        }
        self._random = random.SystemRandom()

    def close(self) -> None:
        """Close the connections."""
        super().close()
        for channel in self._workers:
            channel.close()

    def infer(self, array: Array, deadline_ms: Optional[float] = None, request_id: str = "") -> Answer:
        """Return the cluster's answer to one input; see Client.infer.

        Raises:
            CoformerError: the request is wrong, in the central node's words.
            CheckFailed: the cluster did not answer; also says what the workers that refused have said.
        """
        chosen = self._random.randrange(1, wire.BROADCAST)
        limit_s = self._timeout_s if deadline_ms is None else deadline_ms / 1e3
        frame = wire.tensor_frame(
            wire.REQUEST, wire.BROADCAST | chosen, wire.ANY_BUILD, array, max(1, int(limit_s * 1e3))
        )
        data = wire.encode_frame(frame)
        sent = {
            worker: submit.future(data, timeout=limit_s, metadata=self._metadata)
            for worker, submit in self._submit.items()
        }
        try:
            return self._infer(array, deadline_ms, request_id, {BROADCAST_KEY: chosen})
        except CheckFailed as error:
            said = _refusals(sent)
            if not said:
                raise
            raise CheckFailed(error.what + said, error.where, error.mend) from error


def _refusals(sent: Dict[str, Any]) -> str:
    said: List[str] = []
    for worker, call in sent.items():
        if call.done() and call.code() is not None and call.code().value[0] != 0:
            said.append("; {} says {}: {}".format(worker, call.code().name.lower(), call.details()))
    return "".join(said)
