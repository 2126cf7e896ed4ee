"""The base of every group of options: strict types, no unknown keys, never changed after loading."""

import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

# A file or directory that determines a result: absolute, so that the same place is the same configuration.
AbsolutePath = Annotated[str, AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]


class Options(BaseModel):
    """One config group as a checked, frozen record.

    Strict: `lr: abc` and `epochs: 2.5` are refused rather than converted. Errors carry the
    path of the key; `fsbench.config.load` turns them into one-line usage errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
