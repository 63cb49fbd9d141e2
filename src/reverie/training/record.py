"""The content of run.json. Older versions and imports lack some entries; entries beyond these are accepted."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from reverie.training.options import Options
from reverie.training.plan import Knot


class _Named(TypedDict):
    name: str


class ModelRecord(_Named, total=False):
    """What rebuilds the model; without arguments for a class of the user."""

    kwargs: dict[str, Any] | None


class Space(TypedDict, total=False):
    """A latent space, as on the card."""

    encode: str | None
    prior: str | None


class CardRecord(TypedDict, total=False):
    """The part of the card that commands read without building the model."""

    conditions: dict[str, int]
    latents: dict[str, Space]
    serves: str


class DataRecord(TypedDict, total=False):
    """The training data: ``Dataset.provenance``. Format 1 has spec, size, train instead of source, shape, counts."""

    source: str
    spec: str
    reopenable: bool
    medium: str
    shape: list[int]
    channels: int
    low: float
    high: float
    dtype: str
    fit: str
    background: list[int]
    held_out: float
    requested: dict[str, Any]
    fingerprint: str
    classes: list[str]
    attributes: list[str]
    counts: dict[str, int]


class PlanRecord(TypedDict):
    """``Plan.state``."""

    knots: list[Knot]
    end: int | None
    extended: list[int]
    clock: tuple[float, float, float] | None


class _At(TypedDict):
    step: int


class MoreSteps(_At):
    """A request of ``resume`` for a total number of steps, and the step at which it was made."""

    steps: int


class MoreTime(_At):
    """A request of ``resume`` for more time."""

    minutes: float
    seconds: float


class FindingRecord(_At, total=False):
    """A problem that the doctor found during training."""

    kind: str
    message: str
    advice: str


class InitRecord(TypedDict):
    """The run that a training started from."""

    run: str
    step: int
    model: str
    weights: str
    taken: int
    missing: list[str]


class SubRunRecord(TypedDict):
    """A run that is a part of the model, as it was: its absolute path, the step and the hash of its weights."""

    run: str
    step: int
    weights: str


class Result(TypedDict):
    """The end of a training."""

    run: str
    steps: int
    images_per_second: float
    seconds: float


class Machine(TypedDict, total=False):
    """The machine of a training."""

    threads: int


class _Modelled(TypedDict):
    model: ModelRecord


class RunRecord(_Modelled, total=False):
    """run.json."""

    format: int
    reverie: str
    verbs: list[str]
    card: CardRecord
    phases: dict[str, Any]
    data: DataRecord | None
    training: Options
    plan: dict[str, Any]
    machine: Machine
    status: Literal["new", "running", "stopped", "finished", "failed"]
    seconds: float
    held_out: dict[str, float] | None
    result: Result
    extensions: list[MoreSteps | MoreTime]
    findings: list[FindingRecord]
    init: InitRecord
    caption_words: list[str]
    code: str
    files: dict[str, str]
    sub_runs: dict[str, SubRunRecord]
    imported: str
    rerun_of: str


class _Built(_Named):
    kwargs: dict[str, Any] | None


class TrainedRecord(TypedDict):
    """The entries that a run needs to go on or to be repeated, in the current format."""

    model: _Built
    phases: dict[str, Any]
    data: DataRecord | None
    training: Options
    plan: PlanRecord
    status: str


class DataOnly(TypedDict):
    """The entry of a run that another one takes its data from."""

    data: DataRecord


class _Digest(TypedDict):
    settled: list[dict[str, float]]
    typical: dict[str, float]
    since: int


class _Line(TypedDict):
    digest: _Digest
    numbers: dict[str, float]
    worked: float


class _Loop(TypedDict):
    seconds: float
    stage_seconds: float


class LoopRecord(_Loop, total=False):
    """The part of a checkpoint's training state that the loop itself stores."""

    line: _Line
    typical_losses: dict[str, float]
