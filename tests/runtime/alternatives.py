"""Alternatives of tiny bundles: all three devices on a fast link, two of them on a slow one, the central one alone."""

import hashlib
from itertools import combinations
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
from onnx import TensorProto, helper

from coformer_runtime.alternatives import INDEX_NAME, Alternative, Index, Range, index_json
from coformer_runtime.bundle import file_sha256
from coformer_runtime.manifest import MANIFEST_NAME, AggregatorSpec, FileSpec, GoldenSpec
from tests.runtime import bundles

MEMBERS: Dict[str, Tuple[int, ...]] = {"1mbps": (0, 2), "100mbps": (0, 1, 2)}
ALONE: Dict[str, Tuple[int, ...]] = {"1mbps": (0,), "100mbps": (0, 1, 2)}
BOUNDARY = 20.0


def build_of(name: str) -> str:
    """Return the build digest of an alternative."""
    return hashlib.sha256(name.encode("ascii")).hexdigest()


def make_alternatives(
    directory: Path,
    members: Dict[str, Tuple[int, ...]] = MEMBERS,
    pixels: Sequence[int] = bundles.PIXELS,
    start: str = "100mbps",
    standby: Sequence[int] = (),
) -> List[str]:
    """Write the devices' folders, those that take part in none of the alternatives aside; return the folders."""

    def written(name: str, device: int) -> Tuple[str, str]:
        folder = directory / bundles.DEVICES[device] / name
        return bundles.DEVICES[device], _write_bundle(folder, name, members[name], device, pixels, standby)

    manifests = {name: tuple(written(name, device) for device in chosen) for name, chosen in members.items()}
    index = make_index(manifests, start)
    folders = sorted({device for chosen in members.values() for device in chosen})
    for device in folders:
        (directory / bundles.DEVICES[device] / INDEX_NAME).write_text(index_json(index), encoding="ascii")
    return [str(directory / bundles.DEVICES[device]) for device in folders]


def make_index(manifests: Dict[str, Tuple[Tuple[str, str], ...]], start: str = "100mbps") -> Index:
    """Return an index of two alternatives, the first one for the slower links."""
    slow, fast = manifests
    alternatives = tuple(
        Alternative(name, build_of(name), tuple(sorted(chosen)), 0.9 + 0.01 * len(chosen), (30.0 * len(chosen), 3.0))
        for name, chosen in manifests.items()
    )
    return Index((1.0, 100.0), True, start, alternatives, (Range(0.0, BOUNDARY, slow), Range(BOUNDARY, None, fast)))


def answer_of(name: str, pixels: np.ndarray, members: Dict[str, Tuple[int, ...]] = MEMBERS) -> np.ndarray:
    """Return `(batch, classes)` float32, what an alternative answers."""
    return bundles.answer_of(members[name], pixels)


def name_of(build: str) -> str:
    """Return the alternative of a build digest."""
    return next(name for name in MEMBERS if build_of(name) == build)


def _write_bundle(
    folder: Path, name: str, chosen: Tuple[int, ...], device: int, pixels: Sequence[int], standby: Sequence[int]
) -> str:
    """Write one bundle; return the digest of its manifest."""
    central = device == 0 or device in standby
    inputs = bundles.golden_pixels(pixels)
    files = {
        "member.onnx": bundles.member_graph(device, pixels),
        "golden/input.npy": bundles.npy(inputs),
        "golden/output.npy": bundles.npy(bundles.features_of(device, inputs)),
    }
    places = [part for size in range(1, len(chosen) + 1) for part in combinations(range(len(chosen)), size)]
    if central:
        files["golden/answer.npy"] = bundles.npy(bundles.answer_of(chosen, inputs))
        for part in places:
            files[bundles.aggregator_path(part)] = _aggregator_graph([chosen[place] for place in part], part)
    manifest = bundles.member_manifest(device, files, build_of(name), pixels)._replace(
        member=chosen.index(device),
        golden=GoldenSpec("golden/input.npy", "golden/output.npy", 1e-4, "golden/answer.npy" if central else None),
        standby=tuple(bundles.DEVICES[each] for each in standby if each in chosen),
        members=tuple(bundles.DEVICES[each] for each in chosen),
        aggregators=tuple(
            AggregatorSpec(part, bundles.aggregator_path(part), 0.9 + 0.01 * len(part)) for part in places
        )
        if central
        else (),
        files=tuple(
            FileSpec(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in sorted(files.items())
        ),
    )
    bundles.write_bundle(folder, manifest, files)
    return file_sha256(str(folder / MANIFEST_NAME))


def _aggregator_graph(devices: Sequence[int], places: Sequence[int]) -> bytes:
    names = ["features_{}".format(place) for place in places]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, bundles.WIDTHS[device]])
        for name, device in zip(names, devices)
    ]
    nodes = [
        helper.make_node("Concat", names, ["joined"], axis=1),
        helper.make_node("Gemm", ["joined", "weight"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, bundles.CLASSES])]
    return bundles._model(nodes, inputs, outputs, {"weight": bundles.aggregator_weight(devices)})
