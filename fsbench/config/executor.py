"""Options of the executors (`executor=`): where the runs of a sweep or a reproduction are carried out."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fsbench.config.options import Options, Processes


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


class SerialOptions(Options):
    """One run after the other, in this process."""

    name: Literal["serial"] = "serial"


class PooledOptions(Options):
    """What each run is given, and how often one that lost its worker is tried again."""

    workers: Processes | None
    cpus: Annotated[int, Field(ge=1)]
    gpus: Annotated[float, Field(ge=0)] | None
    memory: Annotated[float, Field(gt=0)] | None
    retries: Annotated[int, Field(ge=0)]


class RayOptions(PooledOptions):
    """Workers of Ray; `address=null` starts it on this machine."""

    name: Literal["ray"]
    address: _Address | None

    @model_validator(mode="after")
    def _whole_cards_above_one(self) -> RayOptions:
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"executor.gpus={self.gpus:g}: must be a fraction below 1, or a whole number")
        return self


class SlurmOptions(PooledOptions):
    """Jobs of SLURM, or processes of this machine, through submitit."""

    name: Literal["slurm"]
    cluster: Literal["slurm", "local"]
    partition: _Name | None
    time_limit: Annotated[int, Field(ge=1)]
    sbatch: dict[_Option, _Value] | None

    @model_validator(mode="after")
    def _whole_cards(self) -> SlurmOptions:
        if self.gpus is not None and self.gpus != int(self.gpus):
            raise ValueError(
                f"executor.gpus={self.gpus:g}: SLURM gives whole cards; executor=ray shares one by fractions"
            )
        return self


AnyExecutor = Annotated[SerialOptions | RayOptions | SlurmOptions, Field(discriminator="name")]
