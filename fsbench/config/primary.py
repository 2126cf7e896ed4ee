"""The primary configurations: one for each command that is configured by `conf/`."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsbench.config.options import Options


@dataclass(frozen=True)
class Primary:
    """`conf/<name>.yaml` of the command `fsbench <name>`.

    Args:
        checked_by: the record that it is checked by, `module:class`.
        groups: the config groups it chooses from; None: all there are.
        nullable: groups of which none need be chosen.
        directories: keys that name directories, and a file that these hold; their `glob()` is over the file system.
        lists: keys that take a list of names.
        takes_measures: the options of users' measures are nodes by the measures' names.
    """

    name: str
    checked_by: str
    groups: tuple[str, ...] | None = None
    nullable: tuple[str, ...] = ()
    directories: Mapping[str, str] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    takes_measures: bool = False

    def kind(self) -> type[Options]:
        """The record's class. Imported late: pydantic takes its time."""
        return pkgutil.resolve_name(self.checked_by)


TRAIN = Primary("train", "fsbench.config.train:TrainConfig", nullable=("experiment",))
SHARPNESS = Primary(
    "sharpness",
    "fsbench.config.sharpness:SharpnessConfig",
    groups=("model", "dataset", "augment", "loss"),
    nullable=("model", "dataset", "augment", "loss"),
    directories={"run": "config.yaml"},
    lists=("measures", "alphas"),
    takes_measures=True,
)
EVALUATE = Primary(
    "evaluate",
    "fsbench.config.evaluate:EvaluateConfig",
    groups=("dataset",),
    nullable=("dataset",),
    directories={"run": "config.yaml"},
)
REPRODUCE = Primary("reproduce", "fsbench.config.reproduce:ReproduceConfig", groups=("executor",))
COMPARE = Primary("compare", "fsbench.config.compare:CompareConfig", groups=("executor",), lists=("pairs",))
