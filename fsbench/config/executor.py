"""Options of the executors (`executor=`): where the runs of a sweep or a reproduction are carried out."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fsbench.config.component import Component
from fsbench.config.options import Processes


def _made_of(pattern: str, allowed: str) -> AfterValidator:
    def check(text: str) -> str:
        if isinstance(text, str) and not re.fullmatch(pattern, text):
            raise ValueError(f"must be made of {allowed} only")
        return text

    return AfterValidator(check)


# They become lines of a job's script, or an address that is connected to.
_Name = Annotated[str, Field(min_length=1), _made_of(r"[A-Za-z0-9][A-Za-z0-9_.,-]*", "letters, digits and . , _ -")]
_Address = Annotated[str, Field(min_length=1), _made_of(r"[A-Za-z0-9_.:/\[\]-]*", "letters, digits and . : / [ ] _ -")]
_Option = Annotated[str, _made_of(r"[a-z][a-z0-9_-]*", "small letters, digits and _ -")]
_MARKS = ". , : / @ % + = & | ( ) [ ] ^ ~ * ? # _ -"
_Value = Annotated[
    str | int | float | bool,
    _made_of(f"[A-Za-z0-9{re.escape(_MARKS)}]*", f"letters, digits, spaces and {_MARKS}"),
]


class ExecutorOptions(Component, group="executor"):
    """Where the runs of a sweep or a reproduction are carried out."""

    name: str


class SerialOptions(ExecutorOptions, name="serial"):
    """One run after the other, in this process."""

    name: str = "serial"


class PooledOptions(ExecutorOptions):
    """Runs side by side, each with its share of the machine."""

    workers: Processes | None = None
    """Runs at once; null: as many as there is room for (slurm: as many as it starts)."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """Of each run, which computes with as many threads."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """Of each run; null: 1 if there are any, 0 with device=cpu."""
    memory: Annotated[float, Field(gt=0)] | None = None
    """GiB that each run needs."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Of a run whose worker was lost; it goes on from its checkpoint."""


class RayOptions(PooledOptions, name="ray"):
    """Runs side by side through Ray, on this machine or a cluster; needs pip install 'fsbench[ray]'."""

    address: _Address | None = None
    """Null starts Ray on this machine; auto: the cluster this machine is part of; or HOST:PORT."""

    @model_validator(mode="after")
    def _whole_cards_above_one(self) -> RayOptions:
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"executor.gpus={self.gpus:g}: must be a fraction below 1, or a whole number")
        return self


class SlurmOptions(PooledOptions, name="slurm"):
    """Runs as jobs of SLURM through submitit; needs pip install 'fsbench[slurm]'."""

    cluster: Literal["slurm", "local"] = "slurm"
    """SLURM, or processes on this machine, by submitit's local executor."""
    partition: _Name | None = None
    time_limit: Annotated[int, Field(ge=1)] = 1440
    """Minutes of a job; a run that needs more goes on in another."""
    sbatch: dict[_Option, _Value] | None = None
    """More of sbatch's parameters, such as {account: NAME, constraint: a100}."""

    @model_validator(mode="after")
    def _whole_cards(self) -> SlurmOptions:
        if self.gpus is not None and self.gpus != int(self.gpus):
            raise ValueError(
                f"executor.gpus={self.gpus:g}: SLURM gives whole cards; executor=ray shares one by fractions"
            )
        return self
