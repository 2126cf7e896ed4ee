"""Learning-rate schedules of torch.optim, put together from the `schedule` group."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau

from fsbench.config.schedule import PlateauOptions, ScheduleOptions, Span
from fsbench.optim import Descent


class Schedule:
    """Moves the learning rates of an optimizer's groups: after every step, and on plateaus after every epoch.

    It tells the optimizer its `progress` too: the share of the training's steps that are over.
    """

    def __init__(self, options: ScheduleOptions, optimizer: Descent, epochs: int, steps_per_epoch: int) -> None:
        self.optimizer, self.steps = optimizer, epochs * steps_per_epoch
        self.by_step: LRScheduler
        self.by_epoch: ReduceLROnPlateau | None = None
        warmup = round(options.warmup_epochs * steps_per_epoch)
        if isinstance(options, PlateauOptions):
            # The plateau's factor has to survive the steps, so the warm-up multiplies instead of setting.
            self.by_step = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
            self.by_epoch = ReduceLROnPlateau(
                optimizer, factor=options.factor, patience=options.patience, threshold=options.threshold
            )
            return

        span = Span(epochs, steps_per_epoch, warmup)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / (warmup + 1)) * options.at(step, span)

        self.by_step = LambdaLR(optimizer, factor)

    def after_step(self) -> None:
        self.by_step.step()
        self.optimizer.progress = self.progress

    @property
    def progress(self) -> float:
        return self.by_step.last_epoch / self.steps

    def after_epoch(self, train_loss: float) -> None:
        if self.by_epoch is not None:
            self.by_epoch.step(train_loss)

    def state_dict(self) -> dict[str, Any]:
        by_step = {key: value for key, value in self.by_step.state_dict().items() if key != "lr_lambdas"}
        return {"by_step": by_step, "by_epoch": self.by_epoch and self.by_epoch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.by_step.__dict__.update(state["by_step"])
        self.optimizer.progress = self.progress
        if self.by_epoch is not None:
            self.by_epoch.load_state_dict(state["by_epoch"])
