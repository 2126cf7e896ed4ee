"""Jobs of SLURM: an array is submitted, an interrupted driver leaves it in the queue, the same command finds it again.

SLURM itself is not there in tests: small commands of the same names start the jobs as processes of this machine.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from executors.engines import assert_same_runs, end, start, under_way, wait_for

SBATCH = """\
import os, re, subprocess, sys
from pathlib import Path
queue = Path(os.environ["TEST_QUEUE"])
script = Path(sys.argv[1])
text = script.read_text()
with (queue / "submissions").open("a") as file:
    file.write(text.replace("\\n", " ") + "\\n")
number = str(100 + len((queue / "submissions").read_text().splitlines()))
array = re.search(r"--array=0-(\\d+)%", text)
for index in range(int(array.group(1)) + 1) if array else [None]:
    name = number if index is None else f"{number}_{index}"
    known = {"SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
    if index is not None:
        known |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
    process = subprocess.Popen(["bash", str(script.resolve())], env=os.environ | known, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (queue / f"{name}.pid").write_text(str(process.pid))
print(f"Submitted batch job {number}")
"""
SQUEUE = """\
import os
from pathlib import Path
for file in Path(os.environ["TEST_QUEUE"]).glob("*.pid"):
    try:
        if "Z" not in Path(f"/proc/{file.read_text()}/stat").read_text().rpartition(")")[2].split()[0]:
            print(file.stem)
    except OSError:
        pass
"""
SRUN = """\
import os, sys
rest = sys.argv[1:]
while rest[0].startswith("--"):
    rest = rest[1:] if rest[0] == "--unbuffered" else rest[2:]
os.execvp(rest[0], rest)
"""
# As on a cluster without accounts.
SACCT = "raise SystemExit('Slurm accounting storage is disabled')\n"
SCANCEL = """\
import os, signal, sys
from pathlib import Path
os.killpg(int((Path(os.environ["TEST_QUEUE"]) / f"{sys.argv[1]}.pid").read_text()), signal.SIGTERM)
"""
COMMANDS = {"sbatch": SBATCH, "squeue": SQUEUE, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}
TINY = ("dataset=digits", "model=mlp", "model.widths=[16]", "trainer.device=cpu", "trainer.progress=false")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands keep their jobs."""
    pytest.importorskip("submitit")
    commands, queue = tmp_path / "commands", tmp_path / "queue"
    commands.mkdir()
    queue.mkdir()
    for name, text in COMMANDS.items():
        (commands / name).write_text(f"#!{sys.executable}\n{text}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("TEST_QUEUE", str(queue))
    return queue


def without_sacct(said: str) -> str:
    """submitit asks it, and lets it speak."""
    return said.replace("Slurm accounting storage is disabled\n", "")


@pytest.mark.slow
def test_jobs_outlive_their_driver(fsbench, queue, tmp_path) -> None:
    sweep = ("train", "-m", *TINY, "trainer.epochs=60", "seed=0,1")
    slurm = ("executor=slurm", "executor.partition=short", "executor.workers=3", "executor.sbatch={account:mine}")
    fsbench(*sweep, "runs_dir=alone")
    driver = start(tmp_path, *sweep, *slurm)
    run = wait_for(lambda: under_way(tmp_path / "runs"), driver)
    os.killpg(driver.pid, signal.SIGINT)
    ended = end(driver)
    assert ended.code == 130
    assert without_sacct(ended.err) == (
        "fsbench: interrupted; 2 runs are left to SLURM, the same command waits for them again; scancel 101 ends them\n"
    )
    assert not run.finished
    again = end(start(tmp_path, *sweep, *slurm))
    assert (again.code, without_sacct(again.err)) == (0, "")
    assert again.out.endswith("2 done, 0 skipped, 0 failed\n")
    assert "resumed" not in run.log.read_text()
    (submission,) = (queue / "submissions").read_text().splitlines()
    for line in ("--partition=short", "--cpus-per-task=1", "--account=mine", "--array=0-1%2", "--time=1440"):
        assert f"#SBATCH {line} " in submission
    assert "gpus" not in submission
    assert_same_runs(tmp_path / "runs", tmp_path / "alone")
    assert {path.suffix for path in (tmp_path / "runs/.slurm").iterdir()} <= {".sh"}
