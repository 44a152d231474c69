"""Shape profiles of a bundle: graphs of other lengths and batch sizes than the member's own graph has.

All shapes are static, so that every engine takes them. The shapes of a bundle are all pairs of its batch sizes and its
lengths; the member's own graph is the one for a batch of one of the longest.
"""

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Tuple

from .dtypes import count_elements, dtype_named
from .manifest_fields import Fields

if TYPE_CHECKING:
    from .manifest import Manifest

MAX_RANK = 8


class ProfileSpec(NamedTuple):
    """One further graph: `shape` of its input, `golden` the output of the golden inputs at its length."""

    shape: Tuple[int, ...]
    file: str
    golden: str


class ProfilesSpec(NamedTuple):
    """All of them.

    Attributes:
        graphs: those besides the member's own.
        padding: the word that shorter texts are filled up with, None where lengths are fixed.
        share_weights: whether all graphs of the member are to compute with the weights as they lie in their file, in
            place of copies that each has laid out for itself.
    """

    graphs: Tuple[ProfileSpec, ...]
    padding: Optional[int] = None
    share_weights: bool = False


def profiles_from_fields(fields: Fields) -> ProfilesSpec:
    """Read the section."""
    graphs = tuple(_graph(each) for each in fields.sections("graphs"))
    padding = fields.integer("padding", 0) if fields.has("padding") else None
    spec = ProfilesSpec(graphs, padding, fields.boolean("share_weights") if fields.has("share_weights") else False)
    fields.finish()
    return spec


def profiles_json(spec: ProfilesSpec) -> Dict[str, Any]:
    """Return the section as JSON values; what is not said is left out."""
    said: Dict[str, Any] = {"graphs": [dict(each._asdict(), shape=list(each.shape)) for each in spec.graphs]}
    if spec.padding is not None:
        said["padding"] = spec.padding
    if spec.share_weights:
        said["share_weights"] = True
    return said


def _graph(fields: Fields) -> ProfileSpec:
    spec = ProfileSpec(fields.shape("shape", MAX_RANK), fields.path("file"), fields.path("golden"))
    fields.finish()
    return spec


def shapes_of(manifest: "Manifest") -> Tuple[Tuple[int, ...], ...]:
    """Return the shapes of input that there is a graph for, the smallest first."""
    further = () if manifest.profiles is None else tuple(each.shape for each in manifest.profiles.graphs)
    return tuple(sorted(further + (manifest.input.shape,)))


def batches_of(manifest: "Manifest") -> List[int]:
    """Return the batch sizes, ascending."""
    return sorted({shape[0] for shape in shapes_of(manifest)})


def lengths_of(manifest: "Manifest") -> List[int]:
    """Return the sizes of the last axis, ascending: of texts their lengths."""
    return sorted({shape[-1] for shape in shapes_of(manifest)})


def broken_profiles(manifest: "Manifest", most_bytes: int) -> Optional[str]:
    """Return what is wrong with the profiles in words, or None.

    Args:
        manifest: see above.
        most_bytes: of a tensor that travels.
    """
    spec, own = manifest.profiles, manifest.input.shape
    if spec is None:
        return None
    if manifest.generation is not None:
        return "'profiles' and 'generation' exclude each other"
    if not spec.graphs and spec.padding is None:
        return "'profiles' says nothing"
    if spec.share_weights and manifest.engine.kind != "onnxruntime":
        return "'profiles.share_weights' is for ONNX Runtime, the engine is {}".format(manifest.engine.kind)
    if spec.padding is not None and manifest.input.dtype != "int32":
        return "'profiles.padding' is of token numbers, the input is {}".format(manifest.input.dtype)
    for each in spec.graphs:
        if len(each.shape) != len(own) or each.shape[1:-1] != own[1:-1] or each.shape[-1] > own[-1]:
            return "a profile of shape {} does not go with the input's {}".format(list(each.shape), list(own))
        if each.shape[-1] < own[-1] and spec.padding is None:
            return "a profile of shape {} is shorter, and 'profiles.padding' is missing".format(list(each.shape))
        for kind, size in (("input", count_elements(each.shape)), ("output", each.shape[0] * _features(manifest))):
            bytes_each = dtype_named((manifest.input if kind == "input" else manifest.output).dtype, kind).size_bytes
            if size * bytes_each > most_bytes:
                return "the {} of the profile {} has {:,} bytes, at most {:,} travel".format(
                    kind, list(each.shape), size * bytes_each, most_bytes
                )
    shapes = shapes_of(manifest)
    wanted = [(batch,) + own[1:-1] + (length,) for batch in batches_of(manifest) for length in lengths_of(manifest)]
    if list(shapes) != wanted:
        return "the profiles {} are not each of {} batch sizes at each of {} lengths, once".format(
            [list(shape) for shape in shapes], len(batches_of(manifest)), len(lengths_of(manifest))
        )
    return None


def _features(manifest: "Manifest") -> int:
    return count_elements(manifest.output.shape)
