"""Where the config files lie: inside the installed package, or at the top of a checkout."""

from pathlib import Path

import fsbench


def conf_dir() -> Path:
    """The directory with train.yaml and the config groups."""
    package = Path(fsbench.__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"
