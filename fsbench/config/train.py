"""The whole configuration of a training run, checked."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from fsbench.config.augment import AugmentOptions
from fsbench.config.component import Component
from fsbench.config.dataset import DatasetOptions
from fsbench.config.executor import ExecutorOptions, SerialOptions
from fsbench.config.loss import CrossEntropyOptions, LossOptions
from fsbench.config.model import ModelOptions
from fsbench.config.optimizer import BaseOptions, FisherTraceOptions, OptimizerOptions, PlainOptions
from fsbench.config.options import Options, PathText, Processes
from fsbench.config.schedule import ScheduleOptions


class TrainerOptions(Options):
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    micro_batch_size: Annotated[int, Field(ge=1)] | None
    max_norm: Annotated[float, Field(gt=0)] | None
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    device: Literal["auto", "cpu", "cuda"]
    devices: Processes = 1
    sync_batchnorm: bool = False
    workers: Annotated[int, Field(ge=0, le=1024)]
    eval_every: Annotated[int, Field(ge=1)]
    checkpoint_every: Annotated[int, Field(ge=1)]
    compare_every: Annotated[int, Field(ge=0)]
    max_skipped: Annotated[int, Field(ge=1)]
    max_steps: Annotated[int, Field(ge=1)] | None
    fast_dev_run: bool
    progress: bool
    # Later than the first records of runs, which load without them.
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    compile: bool = False
    fused: bool = True
    cuda_graph: Literal["auto", True, False] = "auto"  # auto: as false, until recordings were tried on a GPU
    population: bool = False
    average: Literal["none", "ema", "swa"] = "none"
    average_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    average_start: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _average_is_one(self) -> TrainerOptions:
        if self.average_decay is not None and self.average != "ema":
            raise ValueError(f"trainer.average_decay={self.average_decay}: is that of trainer.average=ema")
        if self.average_start is not None and self.average == "none":
            raise ValueError(f"trainer.average_start={self.average_start}: needs trainer.average=ema or swa")
        return self


class LoggerOptions(Component, group="logger"):
    """A service that gets the rows of metrics.jsonl."""

    name: str
    project: str | None = None
    mode: Literal["online", "offline"] | None = None


class NoLogger(LoggerOptions, name="none"):
    """Files in the run directory only."""

    builder: ClassVar = "fsbench.training.loggers:none"


class TensorBoard(LoggerOptions, name="tensorboard"):
    """TensorBoard event files in the run directory (pip install "fsbench[tensorboard]")."""

    builder: ClassVar = "fsbench.training.loggers:tensorboard"


class WandB(LoggerOptions, name="wandb"):
    """Weights & Biases (pip install "fsbench[wandb]")."""

    builder: ClassVar = "fsbench.training.loggers:wandb"
    project: str | None = "fsbench"
    mode: Literal["online", "offline"] | None = "online"


class TrainConfig(Options):
    """One run: what `conf/train.yaml` composes to."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    runs_dir: PathText
    data_dir: PathText
    run_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._=,+-]*$", max_length=200)] | None
    overwrite: bool
    dataset: SerializeAsAny[DatasetOptions]
    augment: SerializeAsAny[AugmentOptions]
    model: SerializeAsAny[ModelOptions]
    loss: SerializeAsAny[LossOptions]
    base: SerializeAsAny[BaseOptions]
    optimizer: SerializeAsAny[OptimizerOptions]
    schedule: SerializeAsAny[ScheduleOptions]
    trainer: TrainerOptions
    logger: SerializeAsAny[LoggerOptions]
    # Where a run is carried out is no part of its record, nor of its identity.
    executor: SerializeAsAny[ExecutorOptions] = Field(default_factory=SerialOptions, exclude=True)

    @model_validator(mode="after")
    def _compiled_keeps_batchnorm(self) -> TrainConfig:
        if self.trainer.compile and self.trainer.sync_batchnorm:
            raise ValueError(
                "trainer.compile=true: does not go with trainer.sync_batchnorm=true, which acts on BatchNorm as it runs"
            )
        return self

    @model_validator(mode="after")
    def _population_is_one_process(self) -> TrainConfig:
        if self.trainer.population and self.executor.name != "serial":
            raise ValueError("trainer.population=true: trains the runs of a sweep in one process; use executor=serial")
        return self

    @model_validator(mode="after")
    def _plain_is_its_base(self) -> TrainConfig:
        if isinstance(self.optimizer, PlainOptions) and self.optimizer.name != self.base.name:
            raise ValueError(
                f"base={self.base.name}: optimizer={self.optimizer.name} is that optimizer alone; "
                f"use optimizer={self.base.name}, or base={self.optimizer.name}"
            )
        return self

    @model_validator(mode="after")
    def _every_device_has_work(self) -> TrainConfig:
        if self.trainer.devices > self.trainer.batch_size:
            raise ValueError(
                f"trainer.devices={self.trainer.devices}: more than the {self.trainer.batch_size} images of a "
                "mini-batch, which they share; use fewer, or a larger trainer.batch_size"
            )
        if self.trainer.sync_batchnorm and getattr(self.optimizer, "perturbation", "global") == "local":
            raise ValueError(
                "optimizer.perturbation=local: with trainer.sync_batchnorm=true no device's first pass is its own"
            )
        return self

    @model_validator(mode="after")
    def _fisher_information_is_of_a_likelihood(self) -> TrainConfig:
        fisher = getattr(self.optimizer, "fisher", "batch")
        if fisher != "batch" and not isinstance(self.loss, CrossEntropyOptions):
            raise ValueError(
                f"optimizer.fisher={fisher}: is of the classes' likelihood, whose loss is cross-entropy; with "
                f"loss={self.loss.name} use optimizer.fisher=batch"
            )
        return self

    @model_validator(mode="after")
    def _regulariser_can_act(self) -> TrainConfig:
        if not isinstance(self.optimizer, FisherTraceOptions):
            return self
        if self.trainer.precision != "fp32":
            raise ValueError(
                f"trainer.precision={self.trainer.precision}: optimizer=fisher_trace needs fp32, "
                f"because the difference of gradients it adds is below the rounding of {self.trainer.precision}"
            )
        if self.optimizer.start == "first_drop" and not self.schedule.drops:
            raise ValueError(
                f"optimizer.start=first_drop: the learning rate never drops with schedule={self.schedule.name}; "
                "use optimizer.start=immediately"
            )
        return self
