"""The options of measures that a user brings; those of fsbench's own are keys of `conf/sharpness.yaml`."""

from __future__ import annotations

from fsbench.config.component import Component


class MeasureOptions(Component, group="measure"):
    """A measure's options, `<measure>.<option>` on the command line."""

    name: str
