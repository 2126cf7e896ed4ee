"""A wheel built from the checkout holds every file of fsbench and conf/, and finds them where there is no checkout."""

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
def test_a_wheel_is_whole(tmp_path) -> None:
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
    mine = {Path(name) for name in filter(None, names) if name.startswith(("fsbench/", "conf/"))}
    shipped = {path.relative_to(site) for path in (site / "fsbench").rglob("*") if path.is_file()}
    assert shipped == {Path("fsbench") / path if path.parts[0] == "conf" else path for path in mine}
    code = "import fsbench; from fsbench.cli.main import main; print(fsbench.__file__); raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--cfg", "job", "dataset=digits", "model=mlp"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert "name: digits" in done.stdout
