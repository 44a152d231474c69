"""Options that cannot work are refused before anything is loaded."""

from typing import List

import pytest

from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions, check_options
from coformer_runtime.errors import CoformerError

OPTIONS = {
    "too few": (CentralOptions(("127.0.0.1:1",)), "3 members are needed, this node and 1 --worker make 2"),
    "twice": (CentralOptions(("127.0.0.1:1", "127.0.0.1:1")), "the worker is given twice"),
    "device twice": (CentralOptions(("hall=127.0.0.1:1", "hall=127.0.0.1:2")), "the worker is given twice"),
    "stranger": (CentralOptions(("roof=127.0.0.1:1",)), "'roof' is not another member of this cluster"),
    "itself": (CentralOptions(("attic=127.0.0.1:1",)), "'attic' is not another member of this cluster"),
    "no address": (CentralOptions(("hall",)), "'hall' is not an address"),
    "far away": (CentralOptions(("10.0.0.7:1", "127.0.0.1:1")), "'10.0.0.7:1' can be reached from other machines"),
    "min": (CentralOptions((), min_members=4), "--min-members is 4 of 3"),
    "deadline": (CentralOptions((), deadline_ms=0), "--deadline-ms is 0"),
}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_options_are_checked(cluster_dirs: List[str], name: str) -> None:
    options, message = OPTIONS[name]
    with pytest.raises(CoformerError) as caught:
        check_options(open_bundle(cluster_dirs[0]).manifest, options)
    assert caught.value.what.startswith(message)


def test_only_the_central_bundle_aggregates(cluster_dirs: List[str]) -> None:
    with pytest.raises(CoformerError, match="'hall' is not the central device, that is 'attic'"):
        Central(open_bundle(cluster_dirs[1]), CentralOptions(()))
