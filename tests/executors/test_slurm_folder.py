"""What jobs of SLURM unpickle lies where nobody else can write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fsbench.errors import UsageError
from fsbench.executors import slurm_engine
from fsbench.executors.slurm_engine import _make_own, _python

STRANGER = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives directories away")


@pytest.fixture
def runs(tmp_path) -> Path:
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o755)
    return runs


def test_it_is_made_private(runs) -> None:
    (runs / ".slurm").mkdir()
    (runs / ".slurm").chmod(0o777)
    _make_own(runs / ".slurm")
    assert (runs / ".slurm").stat().st_mode & 0o777 == 0o700
    _make_own(runs / "more" / ".slurm")
    assert (runs / "more/.slurm").stat().st_mode & 0o777 == 0o700


def test_a_link_is_refused(runs, tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (runs / ".slurm").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError) as met:
        _make_own(runs / ".slurm")
    problem = f"{runs}/.slurm is not a directory of yours, and jobs would run code from it"
    assert str(met.value) == f"runs_dir={runs}: {problem}"


@needs_root
def test_somebody_elses_is_refused(runs) -> None:
    (runs / ".slurm").mkdir()
    os.chown(runs / ".slurm", STRANGER, STRANGER)
    with pytest.raises(UsageError, match="is not a directory of yours"):
        _make_own(runs / ".slurm")
    os.chown(runs / ".slurm", 0, 0)
    os.chown(runs, STRANGER, STRANGER)
    with pytest.raises(UsageError, match="others may write it"):
        _make_own(runs / ".slurm")


@pytest.mark.parametrize(
    ("mode", "alone", "refused"),
    [(0o777, True, True), (0o1777, True, False), (0o775, False, True), (0o775, True, False), (0o1775, False, False)],
    ids=["world", "world-sticky", "group", "group-of-its-own", "group-sticky"],
)
def test_where_others_may_put_their_own_in_its_place(runs, monkeypatch, mode, alone, refused) -> None:
    monkeypatch.setattr(slurm_engine, "_alone", lambda group: alone)
    runs.chmod(mode)
    if not refused:
        _make_own(runs / ".slurm")
        return
    with pytest.raises(UsageError, match=r"others may write it, .* chmod go-w it, or \+t, or choose another"):
        _make_own(runs / ".slurm")


def test_jobs_leave_the_modules_of_the_working_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _python().endswith(" -P")
    monkeypatch.chdir(Path(slurm_engine.fsbench.__file__).parent.parent)
    assert not _python().endswith(" -P")
