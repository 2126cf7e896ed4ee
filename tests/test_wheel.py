"""A wheel built from the checkout runs where there is no checkout: conf/ travels with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fsbench

CHECKOUT = Path(fsbench.__file__).parent.parent


@pytest.mark.skipif(not (CHECKOUT / "pyproject.toml").is_file(), reason="not a checkout")
def test_a_wheel_trains(tmp_path) -> None:
    source = tmp_path / "source"
    names = subprocess.run(
        ["git", "-C", str(CHECKOUT), "ls-files", "--cached", "--others", "--exclude-standard", "-z",
         "fsbench", "conf", "pyproject.toml", "README.md"],
        capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (CHECKOUT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((CHECKOUT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    shipped = {p.relative_to(site / "fsbench") for p in (site / "fsbench/conf").rglob("*.yaml")}
    assert shipped == {p.relative_to(CHECKOUT) for p in (CHECKOUT / "conf").rglob("*.yaml")}
    guides = {p.relative_to(CHECKOUT / "fsbench") for p in (CHECKOUT / "fsbench/guides").iterdir()}
    assert {p.relative_to(site / "fsbench") for p in (site / "fsbench/guides").iterdir()} == guides
    assert (site / "fsbench/py.typed").is_file()
    done = subprocess.run(
        [sys.executable, "-m", "fsbench", "train", "dataset=digits", "model=mlp", "model.widths=[16]",
         "trainer.epochs=1"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "runs/digits-mlp-sgd-s0-" in done.stdout
    probe = "import fsbench; print(fsbench.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert found.stdout.startswith(str(site))
