"""The whole configuration of `fsbench sharpness`, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, SerializeAsAny, Tag, field_validator, model_validator

from fsbench.config.augment import AugmentOptions
from fsbench.config.component import Component, components
from fsbench.config.dataset import DatasetOptions
from fsbench.config.loss import LossOptions
from fsbench.config.model import ModelOptions
from fsbench.config.options import AbsolutePath, Options, PathText, Processes

Count = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(ge=0)]


class MeasureOptions(Component, group="measure"):
    """The options of a measure that a user brings, `<measure>.<option>` on the command line."""

    name: str


class MovedDataset(Options):
    """No data set is chosen: the run's own is used, whose folder of images may have moved."""

    root: AbsolutePath | None = None


def _chosen(value: Any) -> str:
    named = "name" in value if isinstance(value, dict) else isinstance(value, DatasetOptions)
    return "chosen" if named else "moved"


AnyDataset = Annotated[
    Annotated[SerializeAsAny[DatasetOptions], Tag("chosen")] | Annotated[MovedDataset, Tag("moved")],
    Discriminator(_chosen),
]


class SharpnessConfig(Options):
    """The configuration of `conf/sharpness.yaml`: a network, the images, the measures and their options."""

    run: PathText | None
    model: SerializeAsAny[ModelOptions] | None = None
    dataset: AnyDataset
    augment: SerializeAsAny[AugmentOptions] | None = None
    loss: SerializeAsAny[LossOptions] | None = None
    measures: list[str] | None
    samples: Count | None
    split: Literal["train", "subset", "test"]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    dtype: Literal["float32", "float64"]
    device: Literal["auto", "cpu", "cuda"]
    devices: Processes = 1
    memory: Annotated[float, Field(gt=0)]
    workers: Annotated[int, Field(ge=0, le=1024)]
    data_dir: PathText | None
    out: PathText | None
    overwrite: bool
    progress: bool
    label_smoothing: Annotated[float, Field(ge=0, le=1)] | None

    classes: Count | None
    probes: Annotated[int, Field(ge=2)]
    tolerance: Annotated[float, Field(ge=0)]
    subset_size: Count
    subsets: Annotated[int, Field(ge=1, le=1_000_000)]
    logit_norm: Annotated[float, Field(gt=0)] | None
    neighbourhood: Literal["sam", "asam", "fsam"]
    rho: Length | None
    eta: Length | None
    ascent_steps: Count
    alphas: Annotated[list[Length], Field(min_length=1)]
    eigenvalues: Annotated[int, Field(ge=1, le=1000)]
    eigenvalue_tolerance: Annotated[float, Field(gt=0)]
    ball: Literal["l2", "linf"]
    adaptive: bool
    group_size: Count
    apgd_steps: Count
    epsilon: Length
    draws: Annotated[int, Field(ge=2)]

    # Options of users' measures, by measure.
    own: dict[str, SerializeAsAny[MeasureOptions]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _options_of_users_measures(cls, values: Any) -> Any:
        theirs = [name for name in components("measure") if isinstance(values, dict) and name in values]
        if not theirs:
            return values
        own = {name: {"name": name, **values[name]} for name in theirs}
        return {**{key: value for key, value in values.items() if key not in theirs}, "own": own}

    @field_validator("measures", "alphas", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _sam_has_no_eta(self) -> SharpnessConfig:
        if self.neighbourhood == "sam" and self.eta is not None:
            raise ValueError(f"eta={self.eta}: neighbourhood=sam has none; it is of asam and fsam")
        return self

    @model_validator(mode="after")
    def _smoothed_by_its_own_key(self) -> SharpnessConfig:
        if smoothing := getattr(self.loss, "label_smoothing", 0):
            raise ValueError(
                f"loss.label_smoothing={smoothing}: measures are of the loss without it; label_smoothing={smoothing} "
                "measures with it"
            )
        return self

    @model_validator(mode="after")
    def _one_network(self) -> SharpnessConfig:
        chosen = isinstance(self.dataset, DatasetOptions)
        either = "give a run (run=runs/<id>), or both model= and dataset="
        if self.run is not None:
            for group, given in (("model", self.model is not None), ("dataset", chosen), ("augment", self.augment),
                                 ("loss", self.loss)):  # fmt: skip
                if given:
                    raise ValueError(f"run={self.run}: can't be combined with {group}=, which the run brings; {either}")
            if self.out is not None:
                raise ValueError(f"out={self.out}: the measures of a run are kept in its directory; leave out= away")
        elif self.model is None and not chosen:
            raise ValueError(f"run=null: {either}")
        elif self.model is None or not chosen:
            raise ValueError(f"{'model' if chosen else 'dataset'}=null: {either}")
        return self
