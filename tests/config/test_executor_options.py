"""Options that become lines of a job's script, or an address: plain text only."""

from __future__ import annotations

import pytest

from fsbench.config.compose import compose_jobs
from fsbench.errors import UsageError

WRONG = {
    "newline": (
        'executor.partition="a\n#SBATCH --wrap=x"',
        "executor.partition=a\n#SBATCH --wrap=x: must be made of letters, digits and . , _ - only",
    ),
    "space": ("executor.partition='a b'", "executor.partition=a b: must be made of letters, digits and . , _ - only"),
    "dash first": ("executor.partition='-a'", "executor.partition=-a: must be made of"),
    "value": ("executor.sbatch={account: 'a;reboot'}", "must be made of letters, digits, spaces and"),
    "value's newline": ('executor.sbatch={account:"a\nb"}', "must be made of letters, digits, spaces and"),
    "command": ("executor.sbatch={account: '$(reboot)'}", "must be made of letters, digits, spaces and"),
    "key": ("executor.sbatch={A: x}", "must be made of small letters, digits and _ - only"),
    "time": ("executor.time_limit='1\n2'", "executor.time_limit=1\n2: must be a whole number"),
}


@pytest.mark.parametrize(("override", "line"), WRONG.values(), ids=WRONG)
def test_what_a_job_script_does_not_take(override, line) -> None:
    with pytest.raises(UsageError) as met:
        compose_jobs(["executor=slurm", override], multirun=False)
    assert line in str(met.value)


@pytest.mark.parametrize("address", ["a b", "auto\nx", "$(x)"])
def test_what_is_no_address(address) -> None:
    with pytest.raises(UsageError, match="must be made of letters, digits and"):
        compose_jobs(["executor=ray", f"executor.address='{address}'"], multirun=False)


def test_what_is_taken() -> None:
    sbatch = "{account:mine,gres:'gpu:a100:2',constraint:'a100&ib',exclude:'node[1-4]',mail-user:'a@b.c',nice:5}"
    line = ["executor=slurm", "executor.partition='short,long'", f"executor.sbatch={sbatch}"]
    (job,) = compose_jobs(line, multirun=False)
    assert job.config.executor.sbatch == {
        "account": "mine", "gres": "gpu:a100:2", "constraint": "a100&ib", "exclude": "node[1-4]", "mail-user": "a@b.c",
        "nice": 5,
    }  # fmt: skip
    for address in ("auto", "ray://10.0.0.1:10001", "[::1]:6379"):
        (job,) = compose_jobs(["executor=ray", f"executor.address='{address}'"], multirun=False)
        assert job.config.executor.address == address
