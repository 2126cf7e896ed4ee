"""Every wrong SAM fails the check that is meant for it, the right ones fail none; the command's words and codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fsbench.conform.subject import Subject
from fsbench.conform.worker import run, sentences

FORMULA = {"perturbation", "on_its_ellipsoid", "maximal"}
# Class of wrong_sams, method, the checks that fail, and what the perturbation is equal to instead.
WRONG = {
    "DownTheGradient": ("sam", {"perturbation", "maximal"}, "equal to: down the gradient"),
    "Unnormalised": ("sam", {"perturbation", "on_its_ellipsoid"}, "equal to: not normalised"),
    "NormOfEachTensor": ("sam", FORMULA, "equal to: each tensor by its own norm"),
    "Adaptive": ("asam", FORMULA, "equal to: eta = 0, biases scaled too"),
    "AdaptiveByTheFirstPower": ("asam", FORMULA, "equal to: D = |w| + eta"),
    "FisherByTheFirstPower": ("fsam", FORMULA, "equal to: D = 1 / (1 + eta |g|)"),
    "OneRadius": ("sam", {"radius_of_a_group"}, ""),
    "NotRestored": ("sam", {"descends_from_w", "weights_come_back"}, ""),
    "SubtractedAgain": ("sam", {"weights_come_back"}, ""),
    "FirstGradient": ("sam", {"descends_from_w"}, ""),
    "MomentumLost": ("sam", {"momentum", "nesterov"}, ""),
    "StateOfItsOwn": ("sam", {"state_is_kept"}, ""),
    "LostInACopy": ("sam", {"deep_copy", "pickled"}, ""),
    "RateOfItsOwn": ("sam", {"schedule"}, ""),
    "Division": ("sam", {"zero_gradient"}, ""),
    "Unused": ("sam", {"unused"}, ""),
    "Retained": ("sam", {"loss_at_w"}, ""),
}  # fmt: skip
# Right in all else, the usual form can't know of BatchNorm, nor of a loss that is not finite.
USUAL = {"statistics_move_once", "not_finite"}


def verdicts(name: str, method: str, checks=None, api: str | None = None):
    subject = Subject(f"wrong_sams:{name}", "torch.optim.SGD", api)
    return {check: run(subject, method, check) for check in checks or sentences(method)}


def test_the_usual_form_fails_where_it_must_and_nowhere_else() -> None:
    found = verdicts("Plain", "sam")
    assert {check for check, verdict in found.items() if verdict.failed} == USUAL
    assert found["statistics_move_once"].difference == 1


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_sam_fails_the_check_that_is_meant_for_it(name: str) -> None:
    method, checks, note = WRONG[name]
    found = verdicts(name, method, checks, "closure" if name == "Retained" else None)
    assert {check for check, verdict in found.items() if verdict.failed} == checks
    assert note in (found["perturbation"].note if note else "")


@pytest.mark.parametrize(("name", "method"), [("SAM", "sam"), ("ASAM", "asam"), ("FSAM", "fsam")])
def test_ours_fail_nothing(name: str, method: str) -> None:
    subject = Subject(f"fsbench.optim:{name}", "torch.optim.SGD")
    found = [run(subject, method, check) for check in sentences(method)]
    assert [(verdict.check, verdict.verdict) for verdict in found if verdict.verdict != "equal"] == []


def test_the_script_of_a_failure_shows_it(tmp_path) -> None:
    found = verdicts("Unnormalised", "sam", ["perturbation"])["perturbation"]
    (tmp_path / "shown.py").write_text(found.script)
    place = {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(tmp_path / "shown.py")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=place)
    assert float(shown.stdout) == pytest.approx(found.difference)
    assert "fsbench" not in found.script


def test_the_command(fsbench) -> None:
    ended = fsbench("conform", "fsbench.optim:FSAM", "--method", "fsam", "--format", "json")
    found = json.loads(ended.out)
    assert ended.code == 0
    assert {check["verdict"] for check in found["checks"]} == {"equal"}
    assert len(found["checks"]) == 27


def test_a_check_that_does_not_end_and_one_that_ends_its_process(fsbench, tmp_path) -> None:
    adapter = tmp_path / "adapter.py"
    adapter.write_text(
        "import os, time, torch\n"
        "def make(params, lr, rho, **options):\n"
        "    return torch.optim.SGD(params, lr=lr, **options)\n"
        "def step(optimizer, closure):\n"
        "    if optimizer.param_groups[0].get('nesterov'):\n        os._exit(1)\n"
        "    if optimizer.param_groups[0]['weight_decay']:\n        time.sleep(60)\n"
        "    return optimizer.step(closure)\n"
    )
    ended = fsbench("conform", "torch.optim:SGD", "--api", str(adapter), "--timeout", "5", "--format", "json")
    found = {check["check"]: check["verdict"] for check in json.loads(ended.out)["checks"]}
    assert ended.code == 3
    assert {check for check, verdict in found.items() if verdict == "did not end"} == {"nesterov", "weight_decay"}
    assert (found["momentum"], found["clipping"], len(found)) == ("equal", "equal", 24)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "nonsense: must read MODULE:CLASS"),
        (["fsbench.optim:SAMM"], "fsbench.optim:SAMM: fsbench.optim has no SAMM"),
        (["nothing.there:SAM"], "nothing.there:SAM: No module named 'nothing'"),
        (["torch.optim:SGD"], "torch.optim:SGD: can't be made with lr= and rho= (SGD.__init__() got an unexpected"),
        (["fsbench.optim:SAM", "--option", "x"], "--option=x: must read KEY=VALUE"),
        (["fsbench.optim:SAM", "--api", "other"], "--api=other: must be one of closure, backward_first, "),
    ],
)
def test_what_is_refused(fsbench, words: list[str], message: str) -> None:
    ended = fsbench("conform", *words)
    assert ended.code == 2
    assert message in ended.err
