"""Data flows one way: who may import whom, and what stays free of torch and Hydra."""

from __future__ import annotations

import ast
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
    "measuring": {"lines",
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
    "notebook": {"cli", "config", "declare", "errors", "measuring", "runs", "stop_signal", "training"},
    "cli": {
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


FREE_OF = [
    ("fsbench", {"hydra", "omegaconf", "pydantic", "torch", "pandas", "numpy", "fsbench.notebook", "fsbench.errors"}),
    ("fsbench.notebook", {"hydra", "torch", "matplotlib", "fsbench.sharpness"}),
    ("fsbench.optim", {"hydra", "omegaconf", "pydantic", "fsbench.training"}),
    ("fsbench.geometries", {"torch"}),
    ("fsbench.sharpness", {"hydra", "omegaconf", "pydantic", "fsbench.training"}),
    ("fsbench.measuring.measures", {"hydra", "omegaconf", "torch", "pandas", "pydantic", "fsbench.sharpness"}),
    ("fsbench.measuring.source", {"hydra", "torch", "pandas", "fsbench.sharpness"}),
    ("fsbench.image_folder", {"hydra", "torch", "PIL"}),
    ("fsbench.training.launch", {"hydra", "torch"}),
    ("fsbench.population.plan", {"hydra", "torch"}),
    ("fsbench.training.outcome", {"hydra", "torch", "PIL"}),
    ("fsbench.runs.records", {"hydra", "omegaconf", "torch", "pandas"}),
    ("fsbench.report.runs_table", {"hydra", "omegaconf", "torch", "matplotlib", "scipy"}),
    ("fsbench.report.artefact", {"hydra", "omegaconf", "torch", "matplotlib", "scipy"}),
    ("fsbench.papers", {"hydra", "omegaconf", "torch", "pandas", "pydantic"}),
    ("fsbench.reproduce.plan", {"hydra", "omegaconf", "torch", "pandas"}),
    ("fsbench.cli.reproduce", {"torch", "pandas", "matplotlib"}),
    ("fsbench.config.load", {"hydra", "torch"}),
    ("fsbench.executors.pooled", {"hydra", "torch", "ray", "submitit"}),
    ("fsbench.cli.main", {"hydra", "omegaconf", "torch", "pandas", "pydantic"}),
]


@pytest.mark.parametrize(("module", "absent"), FREE_OF, ids=[m for m, _ in FREE_OF])
def test_imports_none_of(module, absent) -> None:
    code = f"import sys, {module}; print(sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
