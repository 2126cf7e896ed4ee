"""Optional services that get the same rows as metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsbench.config.train import LoggerOptions
from fsbench.errors import UsageError, first_line

Log = Callable[[dict[str, Any]], None]


def build_logger(options: LoggerOptions) -> Callable[[Path, dict[str, Any]], tuple[Log, Callable[[], None]]]:
    """A function of (run directory, configuration) that starts logging and returns `log(row)` and `close()`.

    Raises:
        UsageError: the extra is not installed, or can't be imported.
    """
    try:
        return options.built_by()(options)
    except Exception as failure:  # whatever another package may raise when it is imported
        absent = isinstance(failure, ModuleNotFoundError) and failure.name in ("tensorboard", "wandb")
        problem = f'is not installed; pip install "fsbench[{options.name}]"'
        if not absent:
            problem = f"is installed, but can't be imported ({type(failure).__name__}: {first_line(failure)}); mend it,"
        raise UsageError("logger", options.name, f"{problem} or logger=none") from None


def none(options: LoggerOptions) -> Any:
    return lambda directory, config: (lambda row: None, lambda: None)


def tensorboard(options: LoggerOptions) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    def start(directory: Path, config: dict[str, Any]) -> tuple[Log, Callable[[], None]]:
        writer = SummaryWriter(str(directory / "tensorboard"))

        def log(row: dict[str, Any]) -> None:
            for key, value in row.items():
                if key != "epoch" and value is not None:
                    writer.add_scalar(key, value, row["epoch"])

        return log, writer.close

    return start


def wandb(options: LoggerOptions) -> Any:
    import wandb

    def start(directory: Path, config: dict[str, Any]) -> tuple[Log, Callable[[], None]]:
        try:
            run = wandb.init(
                project=options.project,
                mode=options.mode,
                name=directory.name,
                id=directory.name,
                resume="allow",
                dir=str(directory),
                config=config,
                settings=wandb.Settings(silent=True),
            )
        except wandb.errors.Error as failure:
            problem = f"{first_line(failure)}; logger.mode=offline needs neither key nor network"
            raise UsageError("logger", "wandb", problem) from None
        return lambda row: run.log(row, step=row["epoch"]), run.finish

    return start
