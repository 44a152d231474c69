"""The tables of a configuration file, their keys and what each may hold; docs/user-guide.md prints them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import suggestion


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
    overlap: bool = Field(
        default=False,
        description="members may keep the same heads and neurons, each as many as its device's limits let it",
    )
    embed: int | None = Field(
        default=None, ge=2, description="width of every member's stream, for `proportional` and `uniform`; its share"
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, min_length=1, description="the teacher's layers that members keep, for the same; all of them"
    )
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


class ProfilesSection(_Section):
    """`[profiles]`: the shapes that every member gets a graph for."""

    lengths: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        min_length=1,
        description="tokens, ascending, the last `model.options.length`; a text is computed at the first that it fits",
    )
    batches: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1], min_length=1, description="samples that are computed at a time, ascending, the first one 1"
    )
    share_weights: bool = Field(
        default=False,
        description="ONNX Runtime computes with one copy of the weights for all graphs: less memory, slower",
    )


class NetworkSection(_Section):
    """`[network]`: the link that the boards share; predicted latencies rest on it."""

    mbps: float = Field(default=1000.0, gt=0, description="rate in Mbit/s")
    rtt_ms: float = Field(default=0.5, ge=0, description="round trip in ms, with the software at both ends")
    node_ms: float = Field(
        default=0.0, ge=0, description="what a request takes on the central node in ms, beside its engines"
    )
    input: Literal["sent", "present"] = Field(
        default="sent",
        description="by the central device with each request, or on every device already, as in the paper",
    )
    bandwidths: list[float] = Field(
        default_factory=list,
        description="rates in Mbit/s, at least two: a search's policy is built for each; "
        "see [A network that changes](#a-network-that-changes)",
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
        default=None, gt=0, description="when its features have to be at the central device, as latencies are predicted"
    )
    standby: bool = Field(default=False, description="this device can aggregate where the central one has died")
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
    profiles: ProfilesSection = ProfilesSection()
    devices: list[DeviceSection] = Field(min_length=1)
    booster: dict[str, Any] = Field(default_factory=dict)


def config_error(error: ValidationError, where: str, content: dict[str, Any], prefix: str = "") -> CoformerError:
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
        "profiles": ProfilesSection,
        "devices": DeviceSection,
    }
    return sections.get(str(location[0]), ConfigSection) if location else ConfigSection
