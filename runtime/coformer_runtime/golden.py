"""The golden vectors of a bundle, run through its engine."""

from typing import NamedTuple, Optional, Tuple

from .arrays import Array
from .bundle import Bundle
from .engines import Engine, open_aggregator, open_member
from .engines.profiled import in_batches
from .errors import CheckFailed, CoformerError
from .manifest_profiles import ProfileSpec


class Checked(NamedTuple):
    """What was checked.

    Attributes:
        files: hashed files.
        cases: golden cases that ran, through all graphs of the member.
        worst: largest |a - b| / (1 + |b|) of all outputs.
        tolerance: what the manifest allows for it.
        aggregators: aggregator graphs that loaded.
    """

    files: int
    cases: int
    worst: float
    tolerance: float
    aggregators: int


def check_bundle(bundle: Bundle) -> Checked:
    """Run the golden cases of a verified bundle through its engine and load its aggregators.

    A member that takes tokens one after another is given them so.

    Raises:
        CoformerError: the engine cannot be opened here, or a golden file is unreadable.
        CheckFailed: an output differs by more than the tolerance; names the case.
    """
    manifest = bundle.manifest
    with open_member(bundle, 1) as engine:
        checked = [check_golden(bundle, engine)]
        profiles = () if manifest.profiles is None else manifest.profiles.graphs
        checked += [check_golden(bundle, engine, spec) for spec in profiles]
    cases, worst = sum(each[0] for each in checked), max(each[1] for each in checked)
    for spec in manifest.aggregators:
        open_aggregator(bundle, spec).close()
    return Checked(len(manifest.files), cases, worst, manifest.golden.tolerance, len(manifest.aggregators))


def check_golden(bundle: Bundle, engine: Engine, profile: Optional[ProfileSpec] = None) -> Tuple[int, float]:
    """Return the number of golden cases and the worst difference; raise a CheckFailed for one too large.

    Args:
        bundle: a verified bundle.
        engine: of the member, or of one graph.
        profile: whose graph is meant; None: the member's own. Its inputs are the golden ones, cut to its length.
    """
    import numpy

    manifest = bundle.manifest
    batch = 1 if profile is None else profile.shape[0]
    inputs = load_golden(bundle, manifest.golden.input, manifest.input.dtype, manifest.input.shape)
    wanted_file = manifest.golden.output if profile is None else profile.golden
    outputs = load_golden(bundle, wanted_file, manifest.output.dtype, manifest.output.shape)
    if profile is not None:
        inputs = numpy.ascontiguousarray(inputs[..., : profile.shape[-1]])
    if len(inputs) != len(outputs) or not len(inputs):
        raise CoformerError(
            "{} golden inputs and {} outputs".format(len(inputs), len(outputs)),
            bundle.directory,
            "build the bundle again with coformerc",
        )
    worst = 0.0
    for rows in in_batches(len(inputs), batch):
        feeds = {manifest.input.name: inputs[list(rows)]}
        found = engine.run(feeds)[manifest.output.name].astype("float64")
        wanted = outputs[list(rows)].astype("float64")
        difference = float((numpy.abs(found - wanted) / (1.0 + numpy.abs(wanted))).max())
        if not difference <= manifest.golden.tolerance:  # a NaN is a failure as well
            raise CheckFailed(
                "golden case {} differs by {:.3g}, the tolerance is {:.3g}".format(
                    ", ".join(map(str, rows)), difference, manifest.golden.tolerance
                ),
                "{}, output '{}'{}".format(
                    bundle.directory,
                    manifest.output.name,
                    "" if profile is None else ", profile {}".format(list(profile.shape)),
                ),
                "use the engine version that the bundle was built for ({} {}), or build it again".format(
                    manifest.engine.kind, manifest.engine.version
                ),
            )
        worst = max(worst, difference)
    return len(inputs), worst


def load_golden(bundle: Bundle, path: str, dtype: str, shape: Tuple[int, ...]) -> Array:
    """Return a golden file's array `(cases, *shape[1:])`; raise a CoformerError for anything else."""
    import numpy

    try:
        array: Array = numpy.load(bundle.file(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CoformerError(
            "'{}' is not readable as an array ({})".format(path, error),
            bundle.directory,
            "build the bundle again with coformerc",
        ) from error
    if array.dtype.name != dtype or array.shape[1:] != shape[1:]:
        raise CoformerError(
            "'{}' holds {} of shape {}, the manifest says {} of (cases, {})".format(
                path, array.dtype.name, array.shape, dtype, ", ".join(str(size) for size in shape[1:])
            ),
            bundle.directory,
            "build the bundle again with coformerc",
        )
    return array
