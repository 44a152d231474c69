"""Which worker is which member: links to the workers, and the member that each has claimed."""

import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from . import wire
from .central_options import CentralOptions, split_worker
from .link import WorkerLink, greeting_refusal, open_link
from .link_rate import LinkRate
from .manifest import Manifest, TensorSpec
from .members import Reply

FIRST_CONTACT_S = 1.0  # so that the first request after the start finds the workers that are up


class Roster:
    """The workers of a cluster, as a central node sees them.

    Args:
        manifest: of the central node's bundle.
        features: member index → what it has to send; filled in before `open`.
    """

    def __init__(self, manifest: Manifest, features: Dict[int, TensorSpec]) -> None:
        self.manifest, self._features = manifest, features
        self.links: List[WorkerLink] = []
        self._claiming = threading.Lock()

    def open(
        self, options: CentralOptions, pushed: Callable[[int, int, Reply], None], rate: Optional[LinkRate] = None
    ) -> None:
        """Call all workers, and wait up to a second for each to be reached or to be found missing.

        Args:
            options: with their addresses.
            pushed: see `WorkerLink`.
            rate: likewise.
        """
        for worker in options.workers:
            expected, address = split_worker(worker)
            link = open_link(address, self.manifest, expected, self._claim, options.security, pushed, rate)
            self.links.append(link)
        until = time.monotonic() + FIRST_CONTACT_S
        for link in self.links:
            link.tried.wait(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Hang up."""
        for link in self.links:
            link.close()

    def members(self) -> Dict[int, Tuple[Optional[WorkerLink], str]]:
        """Return member index → its link that can be asked now, or why not ("" where it can); no link for this node."""
        roster: Dict[int, Tuple[Optional[WorkerLink], str]] = {}
        seen = [(link, link.member, link.problem) for link in self.links]  # other threads write to them
        for index, device in enumerate(self.manifest.members):
            if index == self.manifest.member:
                roster[index] = (None, "")
                continue
            asked = [link for link, member, problem in seen if problem is None and member == index]
            if asked:
                roster[index] = (asked[0], "")
                continue
            reasons = [
                problem
                for link, member, problem in seen
                if problem is not None and self._likely(link, member) in (device, None)
            ]
            roster[index] = (None, "; ".join(reasons) or "no worker's address was given for it")
        return roster

    def _likely(self, link: WorkerLink, member: Optional[int]) -> Optional[str]:
        """Return the device that should answer or last answered at a link; None where nobody knows."""
        if link.expected is not None:
            return link.expected
        return None if member is None else self.manifest.members[member]

    def _claim(self, link: WorkerLink, greeting: wire.Greeting) -> Optional[str]:
        """Give the greeting's member to this link, or return why not."""
        refusal = greeting_refusal(greeting, link, self.manifest, self._features)
        if refusal is not None:
            return refusal
        with self._claiming:
            for other in self.links:
                if other is not link and other.claimed and other.member == greeting.member:
                    return "{} serves '{}', as {} does already".format(link.address, greeting.device, other.address)
            link.member, link.claimed = greeting.member, True
        return None
