"""Data flows one way: who may import whom, and what stays free of torch and Hydra."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fsbench

ROOT = Path(fsbench.__file__).parent

# A package, and the packages of fsbench it may import.
ALLOWED = {
    "errors": set(),
    "lines": set(),
    "geometries": set(),
    "plugins": {"errors"},
    "declare": {"config", "data", "errors", "geometries", "losses", "measuring", "optim", "papers", "plugins"},
    "config": {"errors", "geometries", "lines", "plugins"},
    "optim": {"geometries"},
    "image_folder": {"errors"},
    "data": {"config", "errors", "image_folder"},
    "models": {"config", "errors"},
    "runs": {"config", "errors", "plugins"},
    "losses": {"config", "errors"},
    "papers": {"errors"},
    "report": {"config", "errors", "papers", "runs"},
    "stop_signal": {"errors", "lines"},
    "distributed": {"config", "data", "errors", "optim", "runs", "stop_signal"},
    "training": {
        "config",
        "data",
        "distributed",
        "errors",
        "image_folder",
        "lines",
        "losses",
        "models",
        "optim",
        "runs",
        "stop_signal",
    },
    "population": {"config", "data", "distributed", "errors", "optim", "runs", "stop_signal", "training"},
    "sharpness": {"errors", "geometries", "optim"},
    "executors": {"config", "errors", "lines", "population", "runs", "stop_signal", "training"},
    "measuring": {
        "lines",
        "distributed",
        "stop_signal",
        "config",
        "data",
        "errors",
        "geometries",
        "losses",
        "models",
        "runs",
        "sharpness",
        "training",
        "plugins",
    },
    "reproduce": {
        "lines",
        "distributed",
        "stop_signal",
        "config",
        "data",
        "errors",
        "executors",
        "geometries",
        "image_folder",
        "measuring",
        "models",
        "optim",
        "papers",
        "report",
        "runs",
        "sharpness",
        "training",
    },
    "conform": {"errors"},
    "compare": {"config", "errors", "measuring", "report", "runs", "training"},
    "notebook": {"cli", "config", "declare", "errors", "measuring", "runs", "stop_signal", "training"},
    "cli": {
        "compare",
        "conform",
        "distributed",
        "stop_signal",
        "config",
        "errors",
        "executors",
        "lines",
        "measuring",
        "papers",
        "report",
        "reproduce",
        "runs",
        "training",
        "plugins",
    },
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_never_point_back(package) -> None:
    files = sorted((ROOT / package).rglob("*.py")) or [ROOT / f"{package}.py"]
    for path in files:
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("fsbench.")} - {package}
        assert ours <= ALLOWED[package], path.name


# Modules that are imported by one process, in this order, and what must not be there after each.
FREE_OF = {
    "nothing": {
        "fsbench": {"hydra", "omegaconf", "pydantic", "torch", "pandas", "numpy", "fsbench.notebook", "fsbench.errors"},
        "fsbench.geometries": {"torch"},
        "fsbench.cli.main": {"hydra", "omegaconf", "torch", "pandas", "pydantic"},
        "fsbench.measuring.measures": {"hydra", "omegaconf", "torch", "pandas", "pydantic", "fsbench.sharpness"},
        "fsbench.papers": {"hydra", "omegaconf", "torch", "pandas", "pydantic"},
        "fsbench.image_folder": {"hydra", "torch", "PIL"},
    },
    "pydantic": {
        "fsbench.config.load": {"hydra", "torch"},
        "fsbench.runs.records": {"hydra", "omegaconf", "torch", "pandas"},
        "fsbench.reproduce.plan": {"hydra", "omegaconf", "torch", "pandas"},
        "fsbench.measuring.source": {"hydra", "torch", "pandas", "fsbench.sharpness"},
        "fsbench.training.launch": {"hydra", "torch"},
        "fsbench.population.plan": {"hydra", "torch"},
        "fsbench.training.outcome": {"hydra", "torch", "PIL"},
        "fsbench.executors.pooled": {"hydra", "torch", "ray", "submitit"},
        "fsbench.cli.reproduce": {"torch", "pandas", "matplotlib"},
    },
    "pandas": {
        "fsbench.report.runs_table": {"hydra", "omegaconf", "torch", "matplotlib", "scipy"},
        "fsbench.report.artefact": {"hydra", "omegaconf", "torch", "matplotlib", "scipy"},
        "fsbench.notebook": {"hydra", "torch", "matplotlib", "fsbench.sharpness"},
    },
    "torch": {
        "fsbench.optim": {"hydra", "omegaconf", "pydantic", "fsbench.training"},
        "fsbench.sharpness": {"hydra", "omegaconf", "pydantic", "fsbench.training"},
    },
}
IMPORT = """
import importlib, json, sys
for module, absent in json.load(sys.stdin).items():
    importlib.import_module(module)
    if found := sorted({*absent} & {*sys.modules}):
        sys.exit(f"{module} imports {', '.join(found)}")
"""


@pytest.mark.parametrize("needed", FREE_OF)
def test_no_more_is_imported_than(needed) -> None:
    modules = json.dumps({module: sorted(absent) for module, absent in FREE_OF[needed].items()})
    done = subprocess.run([sys.executable, "-c", IMPORT], input=modules, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
