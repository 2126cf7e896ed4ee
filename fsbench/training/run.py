"""One training run from its configuration to its finished directory."""

from __future__ import annotations

import errno
import logging
import math
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from fsbench.config.compose import Job
from fsbench.config.optimizer import BaseOptions, OptimizerOptions
from fsbench.config.train import TrainConfig
from fsbench.data import Data, EvalBatches, TrainBatches, eval_batches, load_data, train_batches
from fsbench.data.splits import Split
from fsbench.distributed.devices import Devices
from fsbench.errors import Diverged, FsbenchError, Interrupted, UsageError, first_line
from fsbench.lines import tell
from fsbench.losses import build_loss, plain_loss
from fsbench.models import build_model, parameter_count
from fsbench.optim import Descent, Processes
from fsbench.runs.atomic import atomic_path, disk_full, write_json, write_json_lines, write_text
from fsbench.runs.directory import RunDirectory, open_log
from fsbench.runs.identity import identity
from fsbench.runs.provenance import provenance
from fsbench.runs.read import Unreadable, read_json
from fsbench.stop_signal import StopSignal
from fsbench.training.average import Average
from fsbench.training.checkpoint import (
    fitting,
    load_checkpoint,
    random_state,
    refuse_other_kinds,
    restore_random_state,
    save_checkpoint,
)
from fsbench.training.cuda_graphs import records_steps
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.evaluate import evaluate
from fsbench.training.fit import FAST_DEV_STEPS, TrainingState, fit
from fsbench.training.loggers import build_logger
from fsbench.training.memory_format import chosen_memory_format
from fsbench.training.precision import Precision, arithmetic, arithmetic_in_force
from fsbench.training.progress import Progress
from fsbench.training.schedule import Schedule

log = logging.getLogger("fsbench")

_FEW_DIGITS = (
    "the regulariser's difference of gradients has %.1f digits left, the rest is rounding (difference_digits in "
    "metrics.jsonl); a larger optimizer.alpha leaves more"
)

# Dropout then draws what it draws without compiling; whole steps are recorded (`trainer.cuda_graph`), which nothing
# inside may be on its own.
_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"fallback_random": True, "triton.cudagraphs": False}


def train(job: Job, stop: StopSignal) -> dict[str, Any]:
    """Train one run, or finish an interrupted one; returns the results that its summary.json records.

    With several devices every one's process calls this; the first alone touches the run directory.
    Everything that can be wrong with the input is found before the run directory exists.

    Raises:
        UsageError: the data, the network or the directory can't be used as configured.
        Diverged, Interrupted, RunIsBusy: as they say. Any other exception leaves traceback.txt behind.
    """
    devices = Devices.joined(job.config.trainer.device, job.config.trainer.devices)
    try:
        with devices.failing_together():
            return train_on(devices, job, stop)
    finally:
        devices.leave()


def train_on(devices: Devices, job: Job, stop: StopSignal) -> dict[str, Any]:
    """`train`, on devices that were joined before."""
    with arithmetic(job.config.trainer.precision, devices.device):
        return _trained(devices, job, stop)


def _trained(devices: Devices, job: Job, stop: StopSignal) -> dict[str, Any]:
    options = job.config
    config = options.model_dump(mode="json")
    directory = RunDirectory.of(config, job.choices)
    if devices.first:
        directory.refuse_other_config(config, overwrite=options.overwrite)

    device = devices.device
    start_logger = build_logger(options.logger)
    data = devices.node_by_node(lambda: load_data(options.dataset, Path(options.data_dir)))
    batches, evaluations = build_batches(options, data, devices)
    state = build_state(options, data, len(batches), devices)
    model, precision = state.model, state.precision
    forward = compiled(model, device) if options.trainer.compile else model

    stop = devices.agreed(stop)
    stop.check()
    with _held(directory, config, options.overwrite, devices) as finished:
        if finished:
            return devices.from_first(directory.read_results)
        resume(state, directory, data.provenance, options.seed, devices)
        if devices.first:
            record_provenance(directory, job, devices, data.provenance)
        progress = Progress(
            f"{job.choices['dataset']} {job.choices['model']} {job.choices['optimizer']} seed {options.seed}",
            options.trainer.epochs,
            options.trainer.epochs * len(batches),
            state.epoch * len(batches) + state.step,
            options.trainer.progress and devices.first,
        )
        silent = (lambda row: None), (lambda: None)
        log_row, close_logger = start_logger(directory.path, config) if devices.first else silent
        reset_peak_memory(device)

        def save() -> None:
            others = devices.gathered(random_state())[1:] if devices.count > 1 else []
            if devices.first:
                whole = {**state.state_dict(), "data": data.provenance["sha256"], "random_of_others": others}
                save_checkpoint(directory.checkpoint, whole)

        def on_epoch(row: dict[str, Any]) -> None:
            if not devices.first:
                return
            write_json_lines(directory.metrics, state.rows)
            log_row(row)
            progress.epoch(row)
            before, digits = [math.inf, *(one.get("difference_digits", math.inf) for one in state.rows)][-2:]
            if digits < 1 <= before:
                log.warning(_FEW_DIGITS, digits)

        try:
            with _few_rows_named(options):
                fit(
                    state, batches, evaluations, options.trainer,
                    forward=forward, save=save, on_step=progress.step, on_epoch=on_epoch, stop=stop, devices=devices,
                    recorded=records_steps(options, device),
                )  # fmt: skip
        finally:
            progress.close()
            close_logger()
        limit = FAST_DEV_STEPS if options.trainer.fast_dev_run else None
        trained_on = split_batches(data.train, options, data, devices)
        on_train = dict(evaluate(state.network, trained_on, precision, state.plain_loss, limit, devices))
        results = devices.from_first(lambda: final_results(state, on_train, model, device))
        if devices.first:
            finish(directory, job, config, state, results)
        devices.any(False)  # nobody leaves before the summary is written
    return results


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` compiled; the parameters and buffers are its own.

    Raises:
        UsageError: torch.compile can't make code here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # With a product, which makes inductor recommend TF32: once, and here nobody hears it.
            probe = torch.compile(lambda x: torch.relu(x @ x) + 1, options=_OPTIONS)
            probe(torch.zeros(8, 8, device=device))
    except Exception as failure:  # whatever the compilers below raise
        problem = f"torch.compile does not work here ({first_line(failure)}); use trainer.compile=false"
        raise UsageError("trainer.compile", "true", problem) from None
    # Each size of batch (the last one, sub-batches) gets code of its own: no slower code for all sizes.
    return torch.compile(model, dynamic=False, options=_OPTIONS)  # type: ignore[return-value]  # of a module it is one


def build_batches(options: TrainConfig, data: Data, devices: Devices) -> tuple[TrainBatches, dict[str, EvalBatches]]:
    """The batches that a run is trained on, and those that it is evaluated on, by the prefix of the metrics."""
    batches = train_batches(
        data, options.augment, options.trainer.batch_size, options.seed, devices.device, options.trainer.workers,
        devices.share,
    )  # fmt: skip
    splits = {"test": data.test, "validation": data.validation}
    return batches, {
        prefix: split_batches(split, options, data, devices) for prefix, split in splits.items() if split is not None
    }


def split_batches(split: Split, options: TrainConfig, data: Data, devices: Devices) -> EvalBatches:
    """A split as a run evaluates it."""
    return eval_batches(split, data, options.augment, devices.device, options.trainer.workers, devices.share)


def build_state(options: TrainConfig, data: Data, steps_per_epoch: int, devices: Devices) -> TrainingState:
    """The network as its seed makes it, and all that changes with it."""
    trainer, device = options.trainer, devices.device
    torch.manual_seed(options.seed)
    # A cropping augmentation may have the network see less than the data set's own size.
    side = options.augment.image_size(None)
    shape = data.shape if side is None else (data.shape[0], side, side)
    precision = Precision(trainer.precision, device)
    model = devices.node_by_node(lambda: build_model(options.model, shape, data.classes))
    layout = chosen_memory_format(trainer.memory_format, model, precision)
    model.to(device, memory_format=layout)  # type: ignore[call-overload]  # the stubs leave that argument out
    devices.same_(model)
    devices.seed(options.seed)
    # The recorded step leaves it to the fused kernels to pass over what is not finite.
    fused = records_steps(options, device) or trainer.fused
    optimizer = build_optimizer(model, options.optimizer, options.base, trainer.max_norm, devices, fused)
    schedule = Schedule(options.schedule, optimizer, trainer.epochs, steps_per_epoch)
    loss, plain = build_loss(options.loss), plain_loss(options.loss)
    return TrainingState(model, optimizer, schedule, precision, loss, plain, Average(trainer, model))


def build_optimizer(
    model: nn.Module,
    options: OptimizerOptions,
    base: BaseOptions,
    max_norm: float | None,
    processes: Processes | None = None,
    fused: bool = False,
) -> Descent:
    """The method over its base optimizer, on the named parameters that are trained.

    Args:
        processes: those that share each batch.
        fused: torch's fused base optimizer.
    """
    params = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    own: dict[str, Any] = {**base.arguments(), **({"fused": True} if fused else {}), **options.arguments()}
    shared: dict[str, Any] = {"lr": options.lr, "max_norm": max_norm, "model": model, "processes": processes}
    return options.built_by()(params, base.built_by(), **shared, **own)


@contextmanager
def _held(directory: RunDirectory, config: dict[str, Any], overwrite: bool, devices: Devices) -> Iterator[bool]:
    """Yields whether the run is finished; on the first device the directory is open meanwhile."""
    if not devices.first:
        yield devices.from_first(bool)
        return
    with directory.open(config, overwrite=overwrite) as finished, reported(directory, devices):
        yield devices.from_first(lambda: finished)


def resume(state: TrainingState, directory: RunDirectory, data: dict[str, Any], seed: int, devices: Devices) -> None:
    def read() -> dict[str, Any] | None:
        if directory.checkpoint.is_file():
            return load_checkpoint(directory.checkpoint)
        directory.metrics.unlink(missing_ok=True)
        return None

    saved = devices.from_first(read)
    if saved is None:
        return
    if saved.get("data") != data["sha256"]:
        raise UsageError("data_dir", data["label"], "the training data changed since this run began; overwrite=true")
    with fitting(directory.checkpoint):
        # Earlier releases counted fewer things in an epoch.
        refuse_other_kinds({**saved, "totals": {**EpochTotals().state_dict(), **saved["totals"]}}, state.state_dict())
        state.load_state_dict(saved)
        _refuse_other_shapes(state)
        restore_random_state(saved, devices.rank, devices.count, seed)
    if not devices.first:
        return
    _tell_threads(directory)
    # Rows of epochs after the checkpoint are trained, and written, again.
    write_json_lines(directory.metrics, state.rows)
    log.info("resumed at epoch %d, step %d", state.epoch + 1, state.step)


def _refuse_other_shapes(state: TrainingState) -> None:
    """Raise unless the optimizer's state of each parameter has its shape, and each epoch its row of numbers."""
    for parameter, kept in state.optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{name} of a parameter of shape {tuple(parameter.shape)} has {tuple(value.shape)}")
    if len(state.rows) != state.epoch or state.step < 0:
        raise ValueError(f"{len(state.rows)} rows of {state.epoch} epochs")
    for row in state.rows:
        refuse_other_kinds(row, {"epoch": 0, "seconds": 0.0, "steps": 0})
        if not all(value is None or isinstance(value, (int, float)) for value in row.values()):
            raise TypeError("a row is of another kind")


def _tell_threads(directory: RunDirectory) -> None:
    """Say where a run goes on with another number of threads: sums are taken in another order."""
    with suppress(FileNotFoundError, Unreadable, KeyError, TypeError):
        before, now = read_json(directory.provenance)["hardware"]["threads"], torch.get_num_threads()
        if isinstance(before, int) and before != now:
            tell(f"{directory.path}: begun with {before} thread{'s' * (before > 1)}, goes on with {now}: "
                 "the last bits may differ from a run with one number throughout")  # fmt: skip


def record_provenance(
    directory: RunDirectory, job: Job, devices: Devices, data: dict[str, Any], **details: Any
) -> None:
    """Write down where the run comes from, `details` beside it."""
    record, device = provenance(), devices.device
    record["hardware"] |= {"device": device.type, "devices": devices.count, "threads": torch.get_num_threads()}
    if device.type == "cuda":
        record["hardware"]["gpu"] = torch.cuda.get_device_name(device)
        record["arithmetic"] = arithmetic_in_force()
    record |= {"seed": job.config.seed, "data": data, "choices": job.choices, "overrides": list(job.overrides)}
    record |= details
    write_json(directory.provenance, record)


def reset_peak_memory(device: torch.device) -> None:
    """Start counting here, so that a sweep's later runs do not report their predecessors' peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak of the whole process is reported
        return


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's allocator, or resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def final_results(
    state: TrainingState, on_train: dict[str, float], model: nn.Module, device: torch.device
) -> dict[str, Any]:
    """The results that tables can show. Accuracies in [0, 1], losses in nats, times in seconds, memory in bytes."""
    last = state.rows[-1]
    evaluated = [row for row in state.rows if "test_accuracy" in row]
    best = max(evaluated, key=lambda row: row["test_accuracy"])
    seconds = sum(row["seconds"] for row in state.rows)
    steps = sum(row["steps"] for row in state.rows)
    results = {key: value for key, value in last.items() if key.startswith(("test_", "validation_"))}
    results |= {"best_test_accuracy": best["test_accuracy"], "best_epoch": best["epoch"]}
    results |= {f"train_{name}": value for name, value in on_train.items()}
    results["generalization_gap"] = results["train_accuracy"] - results["test_accuracy"]
    sampled = ("eps_cosine_to_sam", "eps_length_over_sam", "penalty", "difference_digits")
    results |= {key: last[key] for key in sampled if key in last}
    return results | {
        "epochs": len(state.rows),
        "steps": steps,
        "skipped_steps": state.optimizer.skipped,
        "seconds": seconds,
        "seconds_per_epoch": seconds / len(state.rows),
        "seconds_per_step": seconds / steps,
        "peak_memory": peak_memory(device),
        "parameters": parameter_count(model),
    }


def finish(
    directory: RunDirectory, job: Job, config: dict[str, Any], state: TrainingState, results: dict[str, Any]
) -> None:
    """The summary comes last but for the checkpoint's removal: a run with a summary is whole."""
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in state.network.state_dict().items()}
    with atomic_path(directory.model) as part:
        part.write_bytes(save(weights))
    directory.set_status("done")
    summary = {
        "run": directory.path.name,
        "identity": identity(config),
        "choices": job.choices,
        "config": config,
        "results": results,
    }
    write_json(directory.summary, summary)
    directory.checkpoint.unlink(missing_ok=True)
    directory.traceback.unlink(missing_ok=True)


class _LogFile(logging.FileHandler):
    def _open(self) -> TextIOWrapper:
        return open_log(Path(self.baseFilename))

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: a full disk is met, and said, at the next file."""


@contextmanager
def _few_rows_named(options: TrainConfig) -> Iterator[None]:
    """Name the option that hands the network single rows, where its BatchNorm needs more: maps of 1 x 1 pixel, say."""
    try:
        yield
    except ValueError as failure:
        if "Expected more than 1 value per channel" not in str(failure):
            raise
        given = {
            "trainer.micro_batch_size": options.trainer.micro_batch_size,
            "optimizer.m": getattr(options.optimizer, "m", None),
            "optimizer.sub_batches": getattr(options.optimizer, "sub_batches", None),
        }
        key, value = next(((k, v) for k, v in given.items() if v), ("trainer.batch_size", options.trainer.batch_size))
        problem = "passes of one row are left, of which BatchNorm has no statistics where maps shrink to 1 x 1 pixel"
        raise UsageError(key, value, f"{problem}; let each pass have more rows, or use larger images") from failure


@contextmanager
def reported(directory: RunDirectory, devices: Devices, log: logging.Logger = log) -> Iterator[None]:
    """Log to train.log what `log` is told; leave status, and the traceback of a failure, in the run directory."""
    handler = _LogFile(directory.log, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        try:
            yield
        except OSError as failure:
            if failure.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(directory.path.parent) from None
            raise
    except BaseException as met:
        cause = devices.cause(met)
        status = {Diverged: "diverged", Interrupted: "interrupted", KeyboardInterrupt: "interrupted"}
        with suppress(OSError, UsageError):
            if not isinstance(cause, (FsbenchError, KeyboardInterrupt)):
                write_text(directory.traceback, getattr(cause, "traceback", "") or traceback.format_exc())
            directory.set_status(status.get(type(cause), "failed"), message=f"{type(cause).__name__}: {cause}")
        raise
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()
