"""The configuration of a build: a TOML file, or the command line alone, to frozen data.

Unknown keys are refused with the nearest known one. Paths are relative to the file that names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.decomposer.picks import check_pick
from coformer_compiler.decomposer.strategies import SEARCHES, STRATEGIES
from coformer_compiler.device import Device
from coformer_compiler.frontends import ModelSource
from coformer_compiler.profiling.predictor import Predictor, load_predictor, mismatch
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest_rules import DEVICE_NAME
from coformer_targets import Target, load_target, load_target_file, with_precision
from coformer_targets.nearest import suggestion
from coformer_targets.toml import read_toml


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """`[model]`: which teacher; see `frontends.ModelSource`."""

    name: str = Field(description="`timm:NAME`, or `hf:FOLDER` with config.json, weights and tokenizer")
    weights: Literal["file", "hub", "random"] = Field(
        default="file", description="a local file, the library's own download, or random ones by `seed`"
    )
    checkpoint: Path | None = Field(
        default=None, description="safetensors or pth file, or a folder of the hub's format"
    )
    options: dict[str, bool | int | float | str | list[int]] = Field(
        default_factory=dict,
        description="constructor options that differ from the named model's, such as `num_classes`",
    )
    mean: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        default=None, description="per channel, on a scale of 0 to 1; the model's own where left out"
    )
    std: list[Annotated[float, Field(gt=0)]] | None = Field(default=None, description="likewise")


class DataSection(_Section):
    """`[data]`: which samples."""

    source: str = Field(description="`KIND` or `KIND:PATH`, see [Data](#data)")
    calibration: int = Field(default=1024, ge=8, description="training samples that the transplant is fitted on")
    crop: float = Field(default=1.0, gt=0, le=1, description="share of a photograph's shorter side that is kept")
    truncate: bool = Field(default=False, description="cut texts that are longer than the model's length")


class PolicySection(_Section):
    """`[policy]`: how the teacher is shared out, and how the members get their weights."""

    strategy: str = Field(
        default="proportional",
        description="`proportional`, `uniform`, `debo`, `debo-paper`, `optuna-gp`, `random` or `file`",
    )
    file: Path | None = Field(default=None, description="a policy, for strategy `file`")
    overlap: bool = Field(default=False, description="members may keep the same heads and neurons")
    method: Literal["transplant", "index"] = Field(
        default="transplant", description="fit members to the teacher in closed form, or cut out rows and columns"
    )
    basis: Literal["auto", "global", "per-norm"] = Field(
        default="auto", description="of the narrower stream; `auto` tries both and keeps the better on held-out data"
    )
    importance: Literal["activation", "taylor"] = Field(
        default="activation", description="what decides which heads and neurons matter"
    )


class SearchSection(_Section):
    """`[search]`: budget, objective and choice of the strategies `debo`, `debo-paper`, `optuna-gp` and `random`."""

    iterations: int = Field(default=48, ge=1, description="policies to evaluate, beside `uniform` and `proportional`")
    minutes: float | None = Field(default=None, gt=0, description="stop proposing after this long")
    initial: int = Field(default=8, ge=1, description="of the iterations, at random before the first proposal")
    batch: int = Field(default=1, ge=1, description="policies that are proposed, then evaluated, at a time")
    jobs: int = Field(default=1, ge=1, description="processes that evaluate a batch (joblib); changes no result")
    delta: float = Field(default=0.1, ge=0, description="weight of latency; the teacher's on the fastest device is 1")
    samples: int = Field(default=256, ge=16, description="calibration samples that a candidate is transplanted on")
    drop: bool = Field(default=True, description="devices that slow the cluster may be left out")
    pick: str = Field(
        default="best",
        description="which policy is taken: `best` by the objective, or of the front of loss, latency and energy "
        "`knee`, `fastest`, `most-accurate` or `under=MS`",
    )
    journal: Path | None = Field(default=None, description="an earlier search's journal to go on from")


class NetworkSection(_Section):
    """`[network]`: the link that the boards share; predicted latencies rest on it."""

    mbps: float = Field(default=1000.0, gt=0, description="rate in Mbit/s")
    rtt_ms: float = Field(default=0.5, ge=0, description="round trip in ms, with the software at both ends")
    input: Literal["sent", "present"] = Field(
        default="sent",
        description="by the central device with each request, or on every device already, as in the paper",
    )


class DeviceSection(_Section):
    """`[[devices]]`: one board; figures that are left out are the target's."""

    name: str = Field(description="your name for it: letters, digits, `_`, `.` and `-`")
    target: str | None = Field(default=None, description="a name that `coformerc targets` lists")
    target_file: Path | None = Field(default=None, description="a target of your own, in place of `target`")
    gflops: float | None = Field(default=None, gt=0, description="sustained FP32 throughput, 10⁹ operations a second")
    memory_mb: float | None = Field(default=None, gt=0, description="what the member may use, engine library included")
    max_gflop: float | None = Field(default=None, gt=0, description="most work per inference, 10⁹ operations")
    precision: Literal["float32", "float16", "int8"] | None = Field(
        default=None, description="what its engine computes in; the file's `precision`, or else the target's first"
    )
    deadline_ms: float | None = Field(
        default=None, gt=0, description="when its features have to be at the central device; for searches"
    )
    central: bool = Field(default=False, description="this device aggregates; the fastest where none says so")
    predictor: Path | None = Field(default=None, description="of its latency, from `coformerc profile fit`")


class ConfigSection(_Section):
    """The whole file."""

    title: str | None = Field(default=None, description="of the report")
    seed: int = Field(default=0, ge=0, description="of everything that is drawn at random")
    precision: Literal["float32", "float16", "int8"] | None = Field(
        default=None, description="what the engines compute in where a device does not say; the target's first"
    )
    model: ModelSection
    data: DataSection
    policy: PolicySection = PolicySection()
    search: SearchSection = SearchSection()
    network: NetworkSection = NetworkSection()
    devices: list[DeviceSection] = Field(min_length=1)
    booster: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class BuildConfig:
    """A checked configuration with targets loaded and paths absolute."""

    title: str
    seed: int
    model: ModelSource
    data: DataSection
    policy: PolicySection
    search: SearchSection
    network: NetworkSection
    devices: tuple[Device, ...]
    booster: BoosterOptions

    def with_members(self, names: Sequence[str]) -> BuildConfig:
        """Without the devices that a policy leaves out."""
        return replace(self, devices=tuple(device for device in self.devices if device.name in names))

    @property
    def central(self) -> int:
        """Index of the device that aggregates."""
        return next(n for n, device in enumerate(self.devices) if device.central)


@dataclass(frozen=True)
class Overrides:
    """What the command line says over, or in place of, a file; of `targets`, texts are names and paths are files."""

    model: str | None = None
    checkpoint: Path | None = None
    weights: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    data: str | None = None
    targets: tuple[str | Path, ...] = ()
    precision: str | None = None
    strategy: str | None = None
    seed: int | None = None
    steps: int | None = None
    pick: str | None = None
    journal: Path | None = None


def read_config(path: Path | None, overrides: Overrides) -> BuildConfig:
    """The configuration of a file, of the command line, or of both.

    Raises:
        CoformerError: for anything missing, unknown, or of a wrong type; names the key.
    """
    where = "command line" if path is None else f"config {path.name}"
    content = {} if path is None else read_toml(path, f"config {path.name}")
    folder = Path.cwd() if path is None else path.resolve().parent
    _refuse_values_for_tables(content, where)
    merged = _merged(content, overrides)
    for section, what, flag in (
        ("model", "model", "--model LIBRARY:NAME"),
        ("data", "data set", "--data KIND:PATH"),
        ("devices", "device", "--target NAME or --target-file FILE"),
    ):
        if not merged.get(section):
            table = "[[devices]]" if section == "devices" else f"[{section}]"
            raise CoformerError(f"names no {what}", where, f"give {flag}, or {table} in a configuration file")
    try:
        checked = ConfigSection.model_validate(merged)
    except ValidationError as error:
        raise _config_error(error, where, merged) from error
    return _build_config(checked, folder, where)


def _refuse_values_for_tables(content: dict[str, Any], where: str) -> None:
    for key in ("model", "data", "policy", "booster"):
        if key in content and not isinstance(content[key], dict):
            raise CoformerError(f"{key} = {content[key]!r} is no table", where, f"write [{key}], its keys below it")
    devices = content.get("devices", [])
    if not isinstance(devices, list) or not all(isinstance(device, dict) for device in devices):
        raise CoformerError("'devices' is no list of tables", where, "write [[devices]] once per device")


def _merged(content: dict[str, Any], given: Overrides) -> dict[str, Any]:
    merged = {**content}
    model, data, policy = (dict(merged.get(key, {})) for key in ("model", "data", "policy"))
    if given.model is not None:
        library, _, place = given.model.partition(":")
        model = {"name": f"hf:{_absolute(Path(place), Path.cwd())}" if library == "hf" else given.model}
    if given.checkpoint is not None:
        model |= {"checkpoint": str(given.checkpoint.expanduser().resolve()), "weights": "file"}
    if given.weights is not None:
        model["weights"] = given.weights
        if given.weights != "file" and given.checkpoint is None:
            model.pop("checkpoint", None)
    if given.options:
        model["options"] = {**model.get("options", {}), **{key: scalar(text) for key, text in given.options}}
    if given.data is not None:
        data["source"] = _absolute_source(given.data, Path.cwd())
    if given.strategy is not None:
        policy["strategy"] = given.strategy
    search = dict(merged.get("search", {}))
    if given.pick is not None:
        search["pick"] = given.pick
    if given.journal is not None:
        search["journal"] = str(given.journal.expanduser().resolve())
    if search:
        merged["search"] = search
    if given.targets:
        merged["devices"] = _devices_of_targets(given.targets)
    if given.precision is not None:
        merged["precision"] = given.precision
        merged["devices"] = [
            {key: value for key, value in device.items() if key != "precision"} for device in merged.get("devices", [])
        ]
    if given.seed is not None:
        merged["seed"] = given.seed
    if given.steps is not None:
        merged["booster"] = {**merged.get("booster", {}), "steps": given.steps, "joint_steps": given.steps}
    for key, value in (("model", model), ("data", data), ("policy", policy)):
        if value:
            merged[key] = value
    return merged


def _devices_of_targets(targets: Sequence[str | Path]) -> list[dict[str, Any]]:
    names = [target.stem if isinstance(target, Path) else target.replace("@", "-") for target in targets]
    devices = []
    for i, (name, target) in enumerate(zip(names, targets, strict=True)):
        number = f"-{names[: i + 1].count(name)}" if names.count(name) > 1 else ""
        key = "target_file" if isinstance(target, Path) else "target"
        place = str(target.expanduser().resolve()) if isinstance(target, Path) else target
        devices.append({"name": name + number, key: place})
    return devices


def scalar(text: str) -> bool | int | float | str:
    """The value that a word on the command line stands for."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _build_config(section: ConfigSection, folder: Path, where: str) -> BuildConfig:
    model, policy = section.model, section.policy
    known = (*STRATEGIES, *SEARCHES, "file")
    if policy.strategy not in known:
        raise CoformerError(
            f"unknown strategy '{policy.strategy}'",
            f"{where}, policy.strategy",
            suggestion(policy.strategy, known, noun="strategy"),
        )
    if (policy.strategy == "file") != (policy.file is not None):
        raise CoformerError(
            "strategy 'file' and policy.file go together", f"{where}, policy.file", "set both or neither"
        )
    model = _with_folder(model, folder, where)
    if model.weights == "file" and model.checkpoint is None:
        raise CoformerError(
            "no checkpoint",
            f"{where}, model.checkpoint",
            "name its file (--checkpoint FILE), or set model.weights (--weights) to 'hub' or 'random'",
        )
    if model.weights != "file" and model.checkpoint is not None and not model.name.startswith("hf:"):
        raise CoformerError(
            f"the weights are to be '{model.weights}', and a checkpoint is named",
            f"{where}, model.checkpoint",
            "leave the checkpoint away, or set model.weights to 'file'",
        )
    check_pick(section.search.pick, f"{where}, search.pick")
    checkpoint = None if model.checkpoint is None else _absolute(model.checkpoint, folder)
    source = ModelSource(
        model.name,
        model.weights,
        checkpoint,
        tuple((key, tuple(each) if isinstance(each, list) else each) for key, each in sorted(model.options.items())),
        None if model.mean is None else tuple(model.mean),
        None if model.std is None else tuple(model.std),
        section.seed,
    )
    data = section.data.model_copy(update={"source": _absolute_source(section.data.source, folder)})
    policy = policy.model_copy(update={"file": None if policy.file is None else _absolute(policy.file, folder)})
    title = section.title or f"{model.name.partition(':')[2]} on {len(section.devices)} devices"
    return BuildConfig(
        title,
        section.seed,
        source,
        data,
        policy,
        section.search.model_copy(
            update={"journal": None if section.search.journal is None else _absolute(section.search.journal, folder)}
        ),
        section.network,
        _devices(section.devices, section.precision, folder, where),
        _booster(section.booster, section.seed, where),
    )


def _with_folder(model: ModelSection, folder: Path, where: str) -> ModelSection:
    """`hf:FOLDER` as a checkpoint, named after its folder."""
    library, _, location = model.name.partition(":")
    if library != "hf":
        return model
    if model.checkpoint is not None:
        raise CoformerError(
            "an hf model is its folder, and a checkpoint is named beside it",
            f"{where}, model.checkpoint",
            "leave the checkpoint away, and write model.name = 'hf:FOLDER'",
        )
    path = _absolute(Path(location), folder)
    return model.model_copy(update={"name": f"hf:{path.resolve().name}", "checkpoint": path})


def _absolute_source(source: str, folder: Path) -> str:
    kind, colon, location = source.partition(":")
    return f"{kind}:{_absolute(Path(location), folder)}" if colon and location else source


def _absolute(path: Path, folder: Path) -> Path:
    return folder / path.expanduser()


def _devices(sections: Sequence[DeviceSection], precision: str | None, folder: Path, where: str) -> tuple[Device, ...]:
    names = [section.name for section in sections]
    for name in names:
        if not DEVICE_NAME.fullmatch(name):
            raise CoformerError(
                f"'{name}' cannot be a device's name",
                f"{where}, devices",
                "use up to 63 letters, digits, '_', '.' and '-', a letter or digit first",
            )
        if names.count(name) > 1:
            raise CoformerError(
                f"device '{name}' is listed {names.count(name)} times",
                f"{where}, devices",
                "give every device a name of its own",
            )
    chosen = [n for n, section in enumerate(sections) if section.central]
    if len(chosen) > 1:
        raise CoformerError(
            f"{len(chosen)} devices are central", f"{where}, devices", "set central = true for one of them"
        )
    devices = []
    for section in sections:
        if (section.target is None) == (section.target_file is None):
            raise CoformerError(
                f"device '{section.name}' needs one of target and target_file",
                f"{where}, devices",
                "set target to a name of `coformerc targets`",
            )
        target = _target(section, precision, folder, where)
        devices.append(
            Device(
                section.name,
                target,
                section.gflops or target.gflops,
                section.memory_mb or float(target.memory_mb),
                section.max_gflop,
                predictor=_predictor(section, target, folder, where),
                deadline_ms=section.deadline_ms,
            )
        )
    # The aggregation waits for the slowest anyway; the fastest board has the most time to spare for it.
    central = chosen[0] if chosen else max(range(len(devices)), key=lambda n: (devices[n].gflops, -n))
    return tuple(replace(device, central=n == central) for n, device in enumerate(devices))


def _predictor(section: DeviceSection, target: Target, folder: Path, where: str) -> Predictor | None:
    if section.predictor is None:
        return None
    predictor = load_predictor(_absolute(section.predictor, folder))
    other = mismatch(predictor, target)
    if other is not None:
        raise CoformerError(
            f"the predictor '{section.predictor}' does not fit: {other}",
            f"{where}, device '{section.name}'",
            "measure a pack for this target, on the device, and name the predictor that is fitted to it",
        )
    return predictor


def _target(section: DeviceSection, precision: str | None, folder: Path, where: str) -> Target:
    """The device's target, computing in its precision."""
    target = (
        load_target(section.target)
        if section.target is not None
        else load_target_file(_absolute(Path(str(section.target_file)), folder))
    )
    try:
        return with_precision(target, section.precision or precision or target.precision)
    except CoformerError as error:
        raise CoformerError(
            error.what, f"{where}, device '{section.name}', {error.where}", f"precision: {error.mend}"
        ) from error


def _booster(content: dict[str, Any], seed: int, where: str) -> BoosterOptions:
    known = [field.name for field in fields(BoosterOptions)]
    for key in content:
        if key not in known:
            raise CoformerError(f"unknown key 'booster.{key}'", where, suggestion(key, known, noun="key"))
    try:
        return TypeAdapter(BoosterOptions).validate_python({"seed": seed, **content})
    except ValidationError as error:
        raise _config_error(error, where, {}, "booster") from error
    except CoformerError as error:
        raise CoformerError(error.what, f"{where}, booster", error.mend) from error


def _config_error(error: ValidationError, where: str, content: dict[str, Any], prefix: str = "") -> CoformerError:
    """The first of pydantic's complaints in the house's words; a device is called by its name."""
    first = error.errors()[0]
    location = list(first["loc"])
    if location[0] == "devices" and len(location) > 2:
        name = content["devices"][location[1]].get("name", f"number {int(location[1]) + 1}")
        where, location = f"{where}, device '{name}'", location[2:]
    # pydantic appends the tried type of a union to the path
    path = ".".join([prefix] * bool(prefix) + [str(p) for p in location if p not in ("bool", "int", "float", "str")])
    if first["type"] == "extra_forbidden":
        known = list(_section_at(first["loc"][:-1]).model_fields)
        return CoformerError(f"unknown key '{path}'", where, suggestion(str(first["loc"][-1]), known, noun="key"))
    if first["type"] == "missing":
        return CoformerError(f"the key '{path}' is missing", where, "add it")
    expected = first["msg"].replace("Input should", "it should").partition(", unable to parse")[0]
    return CoformerError(f"{path} = {first.get('input')!r} is refused", where, expected)


def _section_at(location: Sequence[int | str]) -> type[BaseModel]:
    sections: dict[str, type[BaseModel]] = {
        "model": ModelSection,
        "data": DataSection,
        "policy": PolicySection,
        "devices": DeviceSection,
    }
    return sections.get(str(location[0]), ConfigSection) if location else ConfigSection
