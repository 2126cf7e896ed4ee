"""The base of every group of options: strict types, no unknown keys, never changed after loading."""

import os
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _place(path: str) -> str:
    path = os.path.expanduser(path)
    if path.startswith("~"):
        raise ValueError("there is no such home directory; a directory here is written ./~NAME")
    if "\0" in path or len(os.fsencode(path)) > 4000 or any(len(os.fsencode(name)) > 255 for name in path.split("/")):
        raise ValueError("no file system takes such a path: names have up to 255 bytes, paths up to 4000")
    return path


# A file or directory; `~` is the home directory.
PathText = Annotated[str, Field(min_length=1), AfterValidator(_place)]
# One that determines a result: absolute, so that the same place is the same configuration.
AbsolutePath = Annotated[PathText, AfterValidator(os.path.abspath)]
Pixels = Annotated[int, Field(ge=1, le=10_000)]
# Processes to be started.
Processes = Annotated[int, Field(ge=1, le=1024)]


class Options(BaseModel):
    """One config group as a checked, frozen record.

    Strict: `lr: abc` and `epochs: 2.5` are refused rather than converted. Errors carry the
    path of the key; `fsbench.config.load` turns them into one-line usage errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits_a_machine_word(self) -> Self:
        for key, value in self:
            for one in value if isinstance(value, list) else (value,):
                if isinstance(one, int) and abs(one) >= 2**63:
                    raise ValueError(f"{key}={one}: must lie within 63 bits")
        return self
