"""A member with graphs for several shapes of its input: each request runs the one of its own shape.

The graphs point into one file of weights. ONNX Runtime maps it, so that tables of words are in memory once for all of
them; the weights of linear layers it lays out anew for each graph. TensorRT has a plan for each graph.
"""

from typing import Dict, Iterator, Tuple

from ..arrays import Array
from ..bundle import Bundle
from ..errors import CheckFailed
from ..manifest import REBUILD, Manifest, TensorSpec
from ..manifest_profiles import ProfileSpec
from . import Engine, check_tensors, open_graph


class Profiled(Engine):
    """The member's own graph, and those of its profiles.

    Args:
        whole: the member's graph.
        graphs: shape → graph, for the other shapes.
        manifest: of the bundle.

    Attributes:
        inputs, outputs: those of the member's own graph.
    """

    def __init__(self, whole: Engine, graphs: Dict[Tuple[int, ...], Engine], manifest: Manifest) -> None:
        self.inputs, self.outputs = whole.inputs, whole.outputs
        self._input = manifest.input.name
        self._graphs = dict(graphs)
        self._graphs[manifest.input.shape] = whole

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        """Run the graph of the input's shape; see `Engine.run`."""
        shape = tuple(feeds[self._input].shape)
        if shape not in self._graphs:
            known = ", ".join(str(list(each)) for each in sorted(self._graphs))
            raise CheckFailed(
                "there is no graph for inputs of shape {}".format(list(shape)), "member", "send one of {}".format(known)
            )
        return self._graphs[shape].run(feeds)

    def close(self) -> None:
        """Free all graphs."""
        for engine in self._graphs.values():
            engine.close()


def open_profiles(bundle: Bundle, whole: Engine, threads: int) -> Engine:
    """Open the graphs of a bundle's profiles beside the member's own, and check their inputs and outputs."""
    manifest = bundle.manifest
    assert manifest.profiles is not None
    graphs: Dict[Tuple[int, ...], Engine] = {}
    try:
        for spec in manifest.profiles.graphs:
            graphs[spec.shape] = open_graph(bundle, spec.file, threads)
            check_profile(bundle, spec, graphs[spec.shape])
    except BaseException:
        for engine in [whole, *graphs.values()]:
            engine.close()
        raise
    return Profiled(whole, graphs, manifest)


def check_profile(bundle: Bundle, spec: ProfileSpec, engine: Engine) -> None:
    """Close the engine and raise a CheckFailed unless it takes and gives what the profile says."""
    manifest = bundle.manifest
    output = TensorSpec(manifest.output.name, manifest.output.dtype, (spec.shape[0],) + manifest.output.shape[1:])
    check_tensors(engine, (manifest.input.name,), output, bundle, spec.file)
    if engine.inputs[0].shape != spec.shape:
        engine.close()
        raise CheckFailed(
            "the graph takes {}, the manifest says {}".format(list(engine.inputs[0].shape), list(spec.shape)),
            "{}, file '{}'".format(bundle.directory, spec.file),
            REBUILD,
        )


def in_batches(cases: int, batch: int) -> Iterator[Tuple[int, ...]]:
    """Yield the cases in batches of that size, from the front again where the last one is not full."""
    for first in range(0, cases, batch):
        yield tuple(number % cases for number in range(first, first + batch))
