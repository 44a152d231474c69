"""A worker answers a central node of its own build, and refuses everything else in words."""

from typing import List, Tuple

import numpy as np

from coformer_runtime import wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.errors import CoformerError
from tests.runtime import bundles
from tests.runtime.nodes import PIXELS, serving


def exchange(address: str, frames: List[bytes]) -> List[wire.Frame]:
    import grpc

    with grpc.insecure_channel(address) as channel:
        return [wire.decode_frame(data) for data in channel.stream_stream(wire.METHOD)(iter(frames), timeout=10)]


def test_what_a_worker_refuses(cluster_dirs: List[str]) -> None:
    manifest = open_bundle(cluster_dirs[0]).manifest
    hello = wire.encode_frame(wire.hello_frame(manifest, "0"))
    ask = wire.tensor_frame(wire.REQUEST, 5, manifest.build, PIXELS)

    def failure(*frames: bytes) -> Tuple[wire.Frame, CoformerError]:
        frame = exchange(address, list(frames))[-1]
        return frame, wire.frame_error(frame)

    with serving(cluster_dirs[1]) as address:
        frame, error = failure(hello, wire.encode_frame(ask._replace(build="d" * 64)))
        assert (frame.request_id, frame.status) == (5, wire.OTHER_BUILD)
        assert error.what == "the request is of build dddddddddddd..., this device serves bbbbbbbbbbbb..."
        wrong = wire.tensor_frame(wire.REQUEST, 5, manifest.build, PIXELS.astype(np.float32))
        frame, error = failure(hello, wire.encode_frame(wrong))
        assert (frame.request_id, frame.status) == (5, wire.BAD_REQUEST)
        assert error.what == (
            "the request holds float32 of shape [1, 1, 4, 4], the input is uint8 of shape [1, 1, 4, 4]"
        )
        assert error.where == "hall"
        for frames in (
            [b"junk"],
            [wire.encode_frame(ask)],
            [hello, wire.encode_frame(ask._replace(kind=wire.FEATURES))],
        ):
            frame, error = failure(*frames)
            assert (frame.request_id, frame.status) == (0, wire.BAD_REQUEST)
        replies = exchange(address, [hello, wire.encode_frame(ask), wire.encode_frame(ask._replace(request_id=6))])
    assert [frame.request_id for frame in replies] == [0, 5, 6]
    assert replies[1].member == 1 and replies[1].compute_us > 0
    np.testing.assert_allclose(wire.frame_tensor(replies[1]), bundles.features_of(1, PIXELS), rtol=1e-5)
