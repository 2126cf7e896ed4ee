"""The examples in the docstrings of what users import: there are some, and they print what they say."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch

from fsbench import optim, sharpness

# Nothing that a user calls.
NO_WAY_IN = {"Diagonal", "GaussNewtonWarning", "NotInvariantWarning", "Perturbed", "Processes", "Refused",
             "SpectralDensity"}  # fmt: skip
# The example that sets the scene for those of the package, each of which begins anew.
FIRST = {optim: "SAM", sharpness: "Risk"}
NAMES = [(package, name) for package in FIRST for name in package.__all__ if name not in NO_WAY_IN]


def run(package: Any, name: str, scene: dict[str, Any]) -> int:
    """Run the example of one name in this scene; the number of its lines."""
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(package, name), name, globs={})
    found.globs = scene
    result = doctest.DocTestRunner().run(found, clear_globs=False)
    assert result.failed == 0
    return result.attempted


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[name for _, name in NAMES])
def test_the_example_of(package, name) -> None:
    scene = {"torch": torch, **{key: getattr(package, key) for key in package.__all__}}
    run(package, FIRST[package], scene)
    assert run(package, name, scene) > 0
