"""`fsbench sharpness` end to end on the embedded data: what is measured, recorded, asked again, refused, skipped."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from data.tiny_sets import write_folder
from safetensors.torch import load_file
from torch.nn import functional

from fsbench import sharpness
from fsbench.config.dataset import Digits
from fsbench.data import load as load_module
from fsbench.data.digits import load_digits
from fsbench.measuring.measures import MEASURES
from fsbench.sharpness.estimate import Estimate, Refused


@pytest.fixture
def run(fsbench, quick) -> Path:
    fsbench("train", *quick, "trainer.max_steps=3")
    (path,) = Path("runs").iterdir()
    return path


DEVIATION = "note: ± is the standard deviation over runs; a run's own standard errors are in its sharpness.json\n"


def record(directory: Path) -> dict:
    return json.loads((directory / "sharpness.json").read_text())


def entry(directory: Path, column: str) -> dict:
    return record(directory)["measures"][column]


@pytest.fixture
def loss_as_fisher_trace(monkeypatch) -> None:
    """The mean loss in the place of a measure: it is known of every run."""

    def loss(risk) -> Estimate:
        return Estimate(risk.value(), 0.0, risk.examples, True)

    monkeypatch.setattr(sharpness, "fisher_trace", loss)


def failing(failure: BaseException):
    def measure(risk, **_):
        raise failure

    return measure


def test_a_run_is_measured(fsbench, run) -> None:
    ended = fsbench("sharpness", f"run={run}", "measures=[fisher_trace]", "samples=null", "dtype=float64")
    assert ended.code == 0
    head, line = ended.out.splitlines()
    assert head == f"{run}: 1437 of 1437 training images"
    assert line.split()[0] == "fisher_trace"
    assert "  exact  " in line
    found = entry(run, "fisher_trace")
    assert found["images"] == {"used": 1437, "of": 1437, "split": "train"}
    assert found["provenance"]["fsbench"]

    # The network and the data by hand.
    weights = {name: value.double() for name, value in load_file(run / "model.safetensors").items()}
    first, second = (name.rpartition(".")[0] for name in weights if name.endswith("weight"))
    raw = load_digits(Digits(), Path()).train
    x = ((raw.images.double() / 255 - 0.3046) / 0.3755).flatten(1)
    hidden = x @ weights[f"{first}.weight"].t() + weights[f"{first}.bias"]
    logits = hidden.relu() @ weights[f"{second}.weight"].t() + weights[f"{second}.bias"]
    delta = logits.softmax(-1) - functional.one_hot(raw.labels, 10)
    below = delta @ weights[f"{second}.weight"] * (hidden > 0)
    squared = delta.square().sum(1) * (hidden.relu().square().sum(1) + 1)
    squared += below.square().sum(1) * (x.square().sum(1) + 1)
    # Pixels are normalised in float32.
    assert found["value"] == pytest.approx(float(squared.mean()), rel=1e-6)
    assert sum(found["per_layer"].values()) == pytest.approx(found["value"])


@pytest.mark.parametrize(
    "options",
    [[], ["dataset.noise=0.5"], ["dataset.validation=100", "dataset.subset=500", "dataset.confusion=200"],
     ["augment=crop1_flip", "loss.label_smoothing=0.1"], ["model=resnet20", "model.depth=8", "trainer.max_steps=2"]],
    ids=["plain", "noise", "confusion", "augmented", "batchnorm"],
)  # fmt: skip
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_images_and_labels_of_the_run(fsbench, quick, loss_as_fisher_trace, options, split) -> None:
    """Its own record knows the loss on them: not augmented, in eval mode, no label smoothing."""
    line = [o for o in quick if not (o.startswith("model") and any(p.startswith("model=") for p in options))]
    fsbench("train", *line, *options, "setup=standard")
    (run,) = Path("runs").iterdir()
    fsbench("sharpness", f"run={run}", "measures=[fisher_trace]", "samples=null", f"split={split}")
    results = json.loads((run / "summary.json").read_text())["results"]
    assert entry(run, "fisher_trace")["value"] == pytest.approx(results[f"{split}_loss"], rel=1e-5)


def test_the_subset_is_without_the_confusion_set(fsbench, quick, loss_as_fisher_trace) -> None:
    subset = ["dataset.validation=100", "dataset.subset=500"]
    fsbench("train", *quick, *subset, "dataset.confusion=200", "setup=standard")
    (run,) = Path("runs").iterdir()
    network = [
        "model=mlp",
        *(word for word in quick if word.startswith("model.")),
        f"model.checkpoint={run}/model.safetensors",
    ]
    values = []
    for source, images in (
        ([f"run={run}", "split=train"], "700 of 700"),
        ([f"run={run}", "split=subset"], "500 of 500"),
        # The same draw of 500 images, of which no more is known.
        ([*network, "dataset=digits", *subset, "out=other"], "500 of 500"),
    ):
        ended = fsbench("sharpness", *source, "measures=[fisher_trace]", "samples=null")
        assert f"{images} training images" in ended.out, ended.err
        values.append(entry(Path("other") if "out=other" in source else run, "fisher_trace")["value"])
    assert values[1] == pytest.approx(values[2], rel=1e-6)
    assert values[0] != pytest.approx(values[1], rel=1e-3)


def test_a_sample_is_drawn_by_its_seed(fsbench, run, loss_as_fisher_trace) -> None:
    values = []
    for options in (["samples=100"], ["samples=100", "seed=1"], ["samples=100", "seed=0"], ["samples=101"]):
        out = fsbench("sharpness", f"run={run}", "measures=[fisher_trace]", *options).out
        assert f"{options[0].partition('=')[2]} of 1437 training images" in out
        assert "exact for these images" in out
        values.append(entry(run, "fisher_trace")["value"])
    assert values[0] == values[2]
    assert len(set(values)) == 3
    # The hundred are among the hundred and one: their losses differ by one example's.
    assert 0 < abs(101 * values[3] - 100 * values[0]) < 20


def test_all_measures(fsbench, run) -> None:
    few = ("samples=30", "subset_size=5", "subsets=3", "probes=5", "eigenvalues=2", "alphas=[0,0.5]",
           "draws=3", "group_size=10", "apgd_steps=2")  # fmt: skip
    ended = fsbench("sharpness", f"run={run}", "measures=all", *few)
    assert (ended.code, ended.err) == (0, "")
    found = record(run)["measures"]
    columns = [
        column
        for name in MEASURES
        for column in MEASURES[name].columns_of(SimpleNamespace(alphas=[0, 0.5], eigenvalues=2))
    ]
    assert list(found) == columns
    assert all(isinstance(one["value"], float) for one in found.values())
    used = {column: one["images"]["used"] for column, one in found.items()}
    assert {column for column in used if used[column] == 1437} == {
        "fisher_log_determinant", "hessian_frobenius_norm_fisher", "hessian_spectral_radius",
        *(column for column in columns if column.startswith("adversarial")),
    }  # fmt: skip
    assert set(used.values()) == {30, 1437}
    first, second = (found[f"hessian_eigenvalue_{i}"]["value"] for i in (1, 2))
    assert found["hessian_top_eigenvalue"]["value"] == first > second
    lines = [
        line.split()[0] for line in ended.out.splitlines() if line.startswith("  hessian_") and "eigenvalue" in line
    ]
    assert lines == ["hessian_top_eigenvalue", "hessian_eigenvalue_2"]
    assert found["worst_case_sharpness"]["settings"]["rho"] == 0.05
    assert "  sam, rho 0.05, one step  " in ended.out
    # The network itself, on the test images.
    results = json.loads((run / "summary.json").read_text())["results"]
    assert found["adversarial_accuracy_0"]["value"] == pytest.approx(results["test_accuracy"])
    assert found["adversarial_loss_0"]["value"] == pytest.approx(results["test_loss"], rel=1e-5)
    assert "on 360 test images" in ended.out
    table = fsbench("table", "--columns", ",".join(columns), "--by", "optimizer")
    assert (table.code, table.err) == (0, DEVIATION)


OPTIONS = {
    "trace": (["classes=3", "seed=5"], "hessian_trace", {"method": "exact", "classes": 3, "seed": 5}),
    "trace_hutchinson": (["probes=7", "tolerance=0.5", "seed=5"], "hessian_trace",
                         {"method": "hutchinson", "probes": 7, "tolerance": 0.5, "seed": 5}),
    "fisher_determinant": (["subset_size=7", "subsets=3", "seed=5", "logit_norm=25"], "fisher_log_determinant",
                           {"subset_size": 7, "subsets": 3, "seed": 5, "logit_norm": 25.0}),
    "frobenius": ([], "hessian_frobenius_norm", {"definition": "per_example"}),
    "worst_case": (["neighbourhood=fsam", "rho=0.2", "eta=2", "ascent_steps=4"], "worst_case_sharpness",
                   {"neighbourhood": "fsam", "rho": 0.2, "eta": 2.0, "steps": 4}),
    "worst_case_default": (["neighbourhood=asam"], "worst_case_sharpness",
                           {"neighbourhood": "asam", "rho": 0.5, "eta": 0.01, "steps": 1}),
    "adversarial": (["alphas=0.5"], "adversarial_perturbation", {"alphas": [0.5]}),
    "eigenvalues": (["eigenvalues=1"], "hessian_top_eigenvalues", {"k": 1, "tolerance": 1e-4}),
    "eigenvalues_tolerance": (["eigenvalue_tolerance=0.1"], "hessian_top_eigenvalues", {"k": 1, "tolerance": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), OPTIONS.items(), ids=OPTIONS)
def test_options_reach_the_measure(fsbench, run, monkeypatch, name, case) -> None:
    options, function, expected = case
    name = name.removesuffix("_default").removesuffix("_tolerance")
    heard = {}

    def measure(risk, **given):
        x, _ = next(iter(risk.batches))
        given.pop("evaluate_on", None)
        heard.update(given=given, x=x.dtype, w=risk.weights[0].dtype, memory=risk.memory, loss=risk.loss_fn)
        if name == "adversarial":
            return [SimpleNamespace(alpha=0.5, loss=1.0, accuracy=0.5)]
        estimate = Estimate(1.0, 0.0, risk.examples, True)
        return [estimate] if name == "eigenvalues" else estimate

    monkeypatch.setattr(sharpness, function, measure)
    general = ("dtype=float64", "memory=0.5", "label_smoothing=0.25")
    assert fsbench("sharpness", f"run={run}", f"measures={name}", *general, *options).code == 0
    assert heard.pop("given") == expected
    assert heard.pop("loss").label_smoothing == 0.25
    assert heard == {"x": torch.float64, "w": torch.float64, "memory": 2**29}


def test_which_images_a_measure_is_given(fsbench, run, monkeypatch) -> None:
    """Subsets, and the gradient of the adversarial perturbation, are of the whole split, not of the sample."""
    seen = {}

    def whole(risk, **_) -> Estimate:
        seen["whole"] = risk.examples
        return Estimate(1.0, 0.0, 1, True)

    def drawn(risk) -> Estimate:
        seen["drawn"] = risk.examples
        return Estimate(1.0, 0.0, 1, True)

    def adversarial(risk, alphas, evaluate_on) -> list:
        seen["gradient"], seen["evaluated"] = risk.examples, sum(len(y) for _, y in evaluate_on)
        return [SimpleNamespace(alpha=alpha, loss=1.0, accuracy=0.5) for alpha in alphas]

    monkeypatch.setattr(sharpness, "fisher_log_determinant", whole)
    monkeypatch.setattr(sharpness, "fisher_trace", drawn)
    monkeypatch.setattr(sharpness, "adversarial_perturbation", adversarial)
    names = "measures=[fisher_trace,fisher_determinant,adversarial]"
    assert fsbench("sharpness", f"run={run}", names, "samples=30").code == 0
    assert seen == {"drawn": 30, "whole": 1437, "gradient": 1437, "evaluated": 360}


def test_more_samples_than_there_are(fsbench, run, loss_as_fisher_trace) -> None:
    asked = ("sharpness", f"run={run}", "measures=[fisher_trace]")
    assert fsbench(*asked, "samples=5000").out.startswith(f"{run}: 1437 of 1437 training images\n")
    assert "already measured" in fsbench(*asked, "samples=null").out
    assert "already measured" in fsbench(*asked, "samples=9999", "seed=3").out
    assert fsbench(*asked, "samples=5000", "split=test").out.startswith(f"{run}: 360 of 360 test images\n")


def test_asking_again_measures_what_is_missing(fsbench, run, monkeypatch) -> None:
    asked = ("sharpness", f"run={run}", "samples=50")
    fsbench(*asked, "measures=[trace]")
    before = entry(run, "hessian_trace")
    monkeypatch.setattr(sharpness, "hessian_trace", failing(AssertionError("measured twice")))
    more = fsbench(*asked, "measures=[hessian_trace,fisher_trace]", "probes=7")
    assert more.out.startswith(f"{run}: 50 of 1437 training images, 1 of 2 already measured\n")
    assert [line.split()[0] for line in more.out.splitlines()[1:]] == ["hessian_trace", "fisher_trace"]
    assert entry(run, "hessian_trace") == before
    again = fsbench(*asked, "measures=[fisher_trace,trace]")
    assert again.code == 0
    assert again.out.startswith(f"{run}: 50 of 1437 training images, already measured\n")
    assert fsbench(*asked, "measures=[trace]", "seed=1").code == 1
    assert fsbench(*asked, "measures=[trace]", "overwrite=true").code == 1


def test_every_setting_stays_measured(fsbench, run, monkeypatch) -> None:
    asked = ("sharpness", f"run={run}", "measures=[fisher_trace]")
    fsbench(*asked, "samples=100")
    many = entry(run, "fisher_trace")
    quick = fsbench(*asked, "samples=10")
    assert quick.out.splitlines()[-1] == f"  note: fisher_trace: before: 100 images, {many['value']:.6g}"
    few = entry(run, "fisher_trace")
    assert record(run)["others"] == {"fisher_trace": [many]}
    monkeypatch.setattr(sharpness, "fisher_trace", failing(AssertionError("measured twice")))
    again = fsbench(*asked, "samples=100")
    assert again.out.startswith(f"{run}: 100 of 1437 training images, already measured\n")
    assert again.out.splitlines()[-1] == f"  note: fisher_trace: before: 10 images, {few['value']:.6g}"
    assert (entry(run, "fisher_trace"), record(run)["others"]) == (many, {"fisher_trace": [few]})
    assert "note" not in fsbench(*asked, "samples=100").out
    swept = fsbench("sharpness", "-m", f"run={run}", "measures=[fisher_trace]", "samples=10,100")
    assert swept.out.endswith("0 measured, 2 already measured, 0 refused, 0 failed, 0 not finished\n")
    assert fsbench(*asked, "samples=10", "overwrite=true").code == 1


def test_a_refusal_destroys_no_number(fsbench, run) -> None:
    asked = ("sharpness", f"run={run}", "measures=[fisher_determinant]", "subsets=2")
    fsbench(*asked, "subset_size=5")
    value = entry(run, "fisher_log_determinant")
    for already in ("", ", already measured"):
        refused = fsbench(*asked, "subset_size=100000")
        assert refused.code == 1
        assert refused.out.startswith(f"{run}: 1437 of 1437 training images{already}\n")
        assert refused.out.splitlines()[-1] == (
            f"  note: fisher_log_determinant: tables keep subset_size 5, {value['value']:.6g}"
        )
        assert entry(run, "fisher_log_determinant") == value
    assert "note: fisher_log" not in fsbench(*asked, "subset_size=5").out


def test_a_worst_case_without_a_radius_is_that_of_the_optimizer(fsbench, run) -> None:
    asked = ("sharpness", f"run={run}", "measures=[worst_case]", "samples=50")
    assert "  asam, rho 0.5, eta 0.01, one step  " in fsbench(*asked, "neighbourhood=asam").out
    same = fsbench(*asked, "neighbourhood=asam", "rho=0.5", "eta=0.01")
    assert "already measured" in same.out
    other = fsbench(*asked, "neighbourhood=sam", "rho=0.1")
    assert "before: neighbourhood asam, rho 0.5, eta 0.01, " in other.out


def test_a_moved_run_stays_measured(fsbench, run) -> None:
    asked = ("measures=[fisher_trace]", "samples=50")
    fsbench("sharpness", f"run={run}", *asked)
    shutil.copytree(run, "elsewhere/it's, moved=1")
    assert "already measured" in fsbench("sharpness", 'run="elsewhere/it\'s, moved=1"', *asked).out
    fsbench("sharpness", 'run="elsewhere/it\'s, moved=1"', "measures=[fisher_trace]", "samples=60")
    assert entry(Path("elsewhere/it's, moved=1"), "fisher_trace")["images"]["used"] == 60


def test_other_weights_are_measured_anew(fsbench, run, quick) -> None:
    asked = ("sharpness", f"run={run}", "measures=[fisher_trace]", "samples=50")
    fsbench(*asked)
    fsbench("sharpness", f"run={run}", "measures=[trace]", "samples=50")
    first = entry(run, "fisher_trace")["value"]
    fsbench("train", *quick, "seed=7", "run_name=other")
    shutil.copy("runs/other/model.safetensors", run / "model.safetensors")
    assert "already measured" not in fsbench(*asked).out
    assert entry(run, "fisher_trace")["value"] != first
    # What was known of the old weights is gone with them.
    assert "hessian_trace" not in record(run)["measures"]


def test_training_again_forgets_what_was_measured(fsbench, run, quick) -> None:
    fsbench("sharpness", f"run={run}", "measures=[fisher_trace]", "samples=50")
    fsbench("train", *quick, "trainer.max_steps=3", "overwrite=true")
    assert not (run / "sharpness.json").exists()
    fsbench("sharpness", f"run={run}", "measures=[fisher_trace]", "samples=50")
    (run / "summary.json").unlink()
    fsbench("train", *quick, "trainer.max_steps=3")
    assert not (run / "sharpness.json").exists()


def test_a_refusal_is_an_answer(fsbench, run, monkeypatch) -> None:
    monkeypatch.setattr(sharpness, "hessian_trace", failing(Refused("bn1 stands in the way")))
    asked = ("sharpness", f"run={run}", "samples=50")
    both = fsbench(*asked, "measures=[trace,fisher_trace]")
    assert both.code == 0
    assert "  hessian_trace  refused: bn1 stands in the way\n" in both.out
    assert entry(run, "hessian_trace")["refused"] == "bn1 stands in the way"
    alone = fsbench(*asked, "measures=[trace]")
    assert alone.code == 1
    assert alone.out == (
        f"{run}: 50 of 1437 training images, already measured\n  hessian_trace  refused: bn1 stands in the way\n"
    )
    table = fsbench("table", "--columns", "hessian_trace,fisher_trace", "--by", "optimizer")
    assert table.out.splitlines()[-1].split("|")[3].strip() == "-"
    assert table.err == "note: hessian_trace was refused for 1 of 1 runs: bn1 stands in the way\n" + DEVIATION


def test_a_refusal_of_an_older_version_is_tried_again(fsbench, run) -> None:
    fsbench("sharpness", f"run={run}", "samples=50", "measures=[fisher_trace]")
    content = record(run)
    old = content["measures"]["fisher_trace"]
    old["refused"] = "not known yet"
    (run / "sharpness.json").write_text(json.dumps(content))
    assert fsbench("sharpness", f"run={run}", "samples=50", "measures=[fisher_trace]").code == 1
    old["provenance"]["fsbench"] = "0.0.1"
    (run / "sharpness.json").write_text(json.dumps(content))
    assert fsbench("sharpness", f"run={run}", "samples=50", "measures=[fisher_trace]").code == 0
    assert "refused" not in entry(run, "fisher_trace")


def test_a_failure_does_not_stop_the_others(fsbench, run, monkeypatch) -> None:
    monkeypatch.setattr(sharpness, "hessian_trace", failing(RuntimeError("boom\nand more")))
    ended = fsbench("sharpness", f"run={run}", "samples=50", "measures=[trace,fisher_trace]")
    assert ended.code == 1
    assert ended.err == f"fsbench: {run}: trace failed, RuntimeError: boom\n"
    assert "boom" not in ended.out
    assert list(record(run)["measures"]) == ["fisher_trace"]
    both = fsbench("sharpness", f"run={run}", "samples=50", "measures=[trace,trace_hutchinson]")
    assert (both.code, both.out) == (1, f"{run}: nothing measured\n")
    assert both.err == f"fsbench: {run}: trace, trace_hutchinson failed, RuntimeError: boom\n"
    swept = fsbench("sharpness", "-m", f"run={run}", "samples=50", "measures=[trace,fisher_trace]")
    assert swept.code == 3
    assert "0 measured, 0 already measured, 0 refused, 1 failed, 0 not finished\n" in swept.out
    assert "fsbench: 1 of 1 failed; the same command measures what is missing\n" in swept.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interruption_leaves_what_was_measured(fsbench, run, monkeypatch, number) -> None:
    def interrupted(risk, **_):
        signal.raise_signal(number)

    monkeypatch.setattr(sharpness, "hessian_trace", interrupted)
    ended = fsbench("sharpness", f"run={run}", "samples=50", "measures=[fisher_trace,trace,fisher_rao]")
    assert ended.code == 130
    assert ended.err == (
        f"fsbench: {run}: interrupted; 1 of 3 measures are recorded, the same command goes on from here\n"
    )
    assert list(record(run)["measures"]) == ["fisher_trace"]


def test_warnings_become_notes(fsbench, run, monkeypatch) -> None:
    import warnings

    def warned(risk) -> Estimate:
        warnings.warn("not invariant: tanh", stacklevel=1)
        return Estimate(float("-inf"), float("nan"), 5, False, seed=0, method="5 draws", notes=("duplicates",))

    monkeypatch.setattr(sharpness, "fisher_trace", warned)
    ended = fsbench("sharpness", f"run={run}", "samples=50", "measures=[fisher_trace]")
    assert ended.code == 0
    assert ended.err == ""
    _, line, *notes = ended.out.splitlines()
    assert line.split()[:2] == ["fisher_trace", "-inf"]
    assert "5 draws" in line
    assert notes == [
        "  note: fisher_trace: duplicates",
        "  note: fisher_trace: the value is -inf, which JSON can't hold",
        "  note: fisher_trace: not invariant: tanh",
    ]
    assert fsbench("sharpness", f"run={run}", "samples=50", "measures=[fisher_trace]").out == (
        ended.out.replace("training images", "training images, already measured")
    )
    found = entry(run, "fisher_trace")
    assert (found["value"], found["stderr"], found["not_finite"]) == (None, None, "-inf")
    table = fsbench("table", "--columns", "fisher_trace", "--by", "optimizer")
    assert table.out.splitlines()[-1].split("|")[3].strip() == "-inf"


def test_a_sweep_over_a_glob(fsbench, quick, monkeypatch) -> None:
    fsbench("train", "-m", *quick, "seed=0,1,2", "trainer.max_steps=1")
    last = sorted(Path("runs").iterdir())[-1]
    (last / "summary.json").unlink()
    (last / "status.json").write_text('{"status": "interrupted"}')
    fsbench("sharpness", *quick[:3], "measures=[fisher_trace]", "samples=20")
    (Path("runs") / "notes.txt").touch()
    asked = ("sharpness", "-m", "run=glob(runs/*)", "measures=[fisher_trace]", "samples=20")
    ended = fsbench(*asked)
    assert ended.code == 0
    assert f"[3/3] {last}: left out, not finished (interrupted)\n" in ended.out
    assert ended.out.endswith("2 measured, 0 already measured, 0 refused, 0 failed, 1 not finished\n")
    again = fsbench(*asked)
    assert again.out.endswith("0 measured, 2 already measured, 0 refused, 0 failed, 1 not finished\n")
    one, two, _ = sorted(Path("runs").glob("digits*"))
    named = fsbench("sharpness", "-m", f"run={one},{two}", "measures=[fisher_trace]", "samples=20,30")
    assert named.out.endswith("2 measured, 2 already measured, 0 refused, 0 failed, 0 not finished\n")
    kept = fsbench("sharpness", "-m", "run=glob(runs/*,exclude=*s1*)", "measures=[fisher_trace]", "samples=30")
    assert kept.out.count("fisher_trace") == 1
    monkeypatch.setattr(sharpness, "hessian_trace", failing(Refused("no")))
    assert fsbench("sharpness", "-m", f"run={one},{two}", "measures=[trace]").code == 1
    assert fsbench("sharpness", "-m", f"run={one},{two}", "measures=[trace,fisher_trace]", "samples=40").code == 0


def test_a_broken_run_in_a_glob_does_not_stop_the_others(fsbench, quick) -> None:
    fsbench("train", "-m", *quick, "seed=0,1", "trainer.max_steps=1")
    first, _ = sorted(Path("runs").iterdir())
    (first / "model.safetensors").unlink()
    ended = fsbench("sharpness", "-m", "run=glob(runs/*)", "measures=[fisher_trace]", "samples=20")
    assert ended.code == 3
    assert f"[1/2] {first}: failed, holds no model.safetensors" in ended.out
    assert "1 measured, 0 already measured, 0 refused, 1 failed, 0 not finished\n" in ended.out


def test_any_network_on_any_data_set(fsbench, run, quick) -> None:
    """A checkpoint of a run gives what the run gives; its record is nobody's run."""
    asked = ("measures=[fisher_trace]", "samples=50")
    fsbench("sharpness", f"run={run}", *asked)
    line = ("sharpness", *quick[:3], f"model.checkpoint={run}/model.safetensors", *asked)
    ended = fsbench(*line)
    assert ended.code == 0
    (place,) = Path("runs/sharpness").iterdir()
    assert ended.out.startswith(f"{place}: 50 of 1437 training images\n")
    assert place.name.startswith("digits-mlp-")
    assert {p.name for p in place.iterdir()} == {"lock", "sharpness.json", "source.yaml"}
    assert entry(place, "fisher_trace")["value"] == entry(run, "fisher_trace")["value"]
    assert "already measured" in fsbench(*line).out
    # Found by what is in the file, wherever it lies; the seed of the draw is no other network.
    shutil.copy(run / "model.safetensors", "weights.safetensors")
    assert "already measured" in fsbench(*line, "model.checkpoint=weights.safetensors").out
    fsbench(*line, "seed=1")
    assert len(list(Path("runs/sharpness").iterdir())) == 1
    table = fsbench("table", "--columns", "fisher_trace")
    assert table.code == 0
    assert table.err == DEVIATION
    assert fsbench("sharpness", *quick[:3], *asked, "out=here").out.startswith("here: 50 of 1437 training images\n")
    other = fsbench("sharpness", *quick[:3], *asked, "seed=1", "out=here")
    assert (
        other.err == "fsbench: out=here: holds the measures of another network or data set; choose another directory\n"
    )
    assert fsbench("sharpness", *quick[:3], *asked, f"out={run}").err.startswith(
        f"fsbench: out={run}: holds other files"
    )


def test_an_initial_network_says_that_it_is_one(fsbench, quick) -> None:
    ended = fsbench("sharpness", *quick[:3], "measures=[fisher_trace]", "samples=20", "seed=3")
    assert "note: the weights are the initial ones, of seed 3" in ended.out.replace("fisher_trace: ", "")


def test_a_folder_that_moved(fsbench, tmp_path, monkeypatch) -> None:
    write_folder(tmp_path / "pictures")
    line = ["dataset=folder", "dataset.root=pictures", "model=mlp", "model.widths=[4]", "trainer.batch_size=4"]
    fsbench("train", *line, "trainer.max_steps=1", "trainer.progress=false")
    (run,) = Path("runs").iterdir()
    shutil.move("pictures", "images")
    asked = ("sharpness", f"run={run}", "measures=[fisher_trace]")
    # Another process does not remember the data set that was read last.
    monkeypatch.setattr(load_module._memo, "key", None)
    assert "pictures: there is no such directory" in fsbench(*asked).err
    assert fsbench(*asked, "dataset.root=images").code == 0
    (run / "sharpness.json").unlink()
    monkeypatch.setattr(load_module._memo, "key", None)
    next(iter(Path("images/train").rglob("*.png"))).unlink()
    changed = fsbench(*asked, "dataset.root=images")
    assert changed.code == 2
    assert "images: holds other training images or labels than the run was trained on" in changed.err


BAD = [
    ("nothing", [], "run=null: give a run (run=runs/<id>), or both model= and dataset="),
    ("model-alone", ["model=mlp"], "dataset=null: give a run"),
    ("dataset-alone", ["dataset=digits"], "model=null: give a run"),
    ("both", ["run=RUN", "model=mlp"], "run=RUN: can't be combined with model=, which the run brings"),
    ("out-of-a-run", ["run=RUN", "out=x"], "out=x: the measures of a run are kept in its directory"),
    ("measure", ["run=RUN", "measures=[minimm]"], "measures=minimm: no such measure (did you mean 'minimum'?)"),
    ("no-measure", ["run=RUN", "measures=[]"], "measures=[]: name at least one"),
    ("unbracketed", ["run=RUN", "measures=trace,minimum"], "measures=trace,minimum: several values; a list reads "
     "measures=[trace,minimum]; add -m"),
    ("no-run", ["run=RUM"], "run=RUM: no such directory (did you mean 'RUN'?)"),
    ("no-run-in-a-sweep", ["-m", "run=RUN,nowhere"], "run=nowhere: no such directory"),
    ("file", ["run=file"], "run=file: no such directory"),
    ("not-a-run", ["run=empty"], "run=empty: is not a run directory: it holds no config.yaml"),
    ("unfinished", ["run=begun"], "run=begun: is not finished: interrupted"),
    ("all-unfinished", ["-m", "run=glob(beg*)"], "run=begun: no run is finished (1 interrupted)"),
    ("empty-glob", ["-m", "run=glob(nope/*)"], "run=glob(nope/*): matches no directory with a config.yaml"),
    ("glob-without-m", ["run=glob(*)"], "run=glob(*): several values; add -m"),
    ("no-weights", ["run=bare"], "run=bare: holds no model.safetensors"),
    ("unreadable", ["run=broken"], "unreadable: broken/config.yaml (not YAML)"),
    ("other-config", ["run=foreign"], "run=foreign: its config.yaml can't be used: "),
    ("samples", ["run=RUN", "samples=0"], "samples=0: must be >= 1"),
    ("memory", ["run=RUN", "memory=0"], "memory=0: must be > 0"),
    ("eigenvalues", ["run=RUN", "measures=eigenvalues", "eigenvalues=700"],
     "eigenvalues=700: must be 1 to 610, the number of weights"),
    ("eigenvalue-tolerance", ["run=RUN", "eigenvalue_tolerance=0"], "eigenvalue_tolerance=0: must be > 0"),
    ("resized", ["model=timm", "model.name=resnet18", "dataset=digits", "augment=none", "augment.size=160"],
     "augment.size=160: works on data sets that are streamed from image files only"),
    ("alphas", ["run=RUN", "alphas=[0.1,-1]"], "alphas.1=-1: must be >= 0"),
    ("no-alphas", ["run=RUN", "alphas=[]"], "alphas=[]: must have at least 1 entries"),
    ("eta-of-sam", ["run=RUN", "eta=1"], "eta=1.0: neighbourhood=sam has none"),
    ("split", ["run=RUN", "split=validation"], "split=validation: must be one of train, subset, test"),
    ("dtype", ["run=RUN", "dtype=half"], "dtype=half: must be one of float32, float64"),
    ("key", ["run=RUN", "sample=3"], "sample=3: no such key (did you mean 'samples'?)"),
    ("group-of-training", ["run=RUN", "optimizer=sam"], "optimizer=sam: no such key in fsbench sharpness"),
    ("key-of-training", ["run=RUN", "trainer.device=cpu"], "trainer.device=cpu: no such key in fsbench sharpness"),
    ("setup", ["setup=standard", "model=mlp", "dataset=digits"], "setup=standard: no such key"),
    ("null-group", ["model.depth=20"], "model.depth=20: choose a model first: model=NAME, one of cnn, "),
    ("choice", ["model=resnet-20", "dataset=digits"], "did you mean 'resnet20'?"),
    ("model-key", ["model=resnet20", "model.depth=21", "dataset=digits"], "model.depth=21: the depth must be 6n + 2"),
    ("root-of-digits", ["run=RUN", "dataset.root=x"], "the data set of RUN is digits, which lies under data_dir"),
    ("no-folder", ["model=mlp", "dataset=folder"], "dataset.root=null: dataset=folder needs the directory"),
    ("no-checkpoint", ["model=mlp", "model.checkpoint=x", "dataset=digits"], "there is no such file"),
    ("too-small", ["model=lenet", "dataset=digits"], "can't take images of 1 x 8 x 8"),
    ("shared-out", ["-m", "model=mlp", "dataset=digits", "out=x", "model.widths=[8],[9]"],
     "out=x: several networks or data sets of the sweep would share this directory"),
    ("help", ["--help", "sed=1"], "sed=1: no such key (did you mean 'seed'?)"),
    ("cfg-of-a-sweep", ["-m", "--cfg", "job", "seed=0,1"], "--cfg, --info and --hydra-help show one run"),
    ("flag", ["--foo"], "fsbench sharpness: unrecognized arguments: --foo; see fsbench sharpness --help"),
]  # fmt: skip


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> Path:
    """A finished run RUN, and what is none."""
    from fsbench.cli.main import main

    root = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main(["train", "dataset=digits", "model=mlp", "model.widths=[8]", "trainer.max_steps=1", "runs_dir=.",
              "run_name=RUN", "trainer.progress=false"])  # fmt: skip
    for name, missing in (("begun", "summary.json"), ("bare", "model.safetensors")):
        shutil.copytree(root / "RUN", root / name)
        (root / name / missing).unlink()
    (root / "begun" / "status.json").write_text('{"status": "running"}')
    for name, text in (("broken", "a: ["), ("foreign", "seed: 3\n")):
        shutil.copytree(root / "RUN", root / name)
        (root / name / "config.yaml").write_text(text)
    (root / "empty").mkdir()
    (root / "file").touch()
    return root


@pytest.mark.parametrize(("overrides", "message"), [pytest.param(c[1], c[2], id=c[0]) for c in BAD])
def test_bad_input_is_one_line(fsbench, monkeypatch, directories, overrides, message) -> None:
    monkeypatch.chdir(directories)
    before = sorted(directories.rglob("*"))
    ended = fsbench("sharpness", *overrides)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.startswith("fsbench: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    assert sorted(p for p in directories.rglob("*") if p.name != "lock") == [p for p in before if p.name != "lock"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_such_device(fsbench, run) -> None:
    ended = fsbench("sharpness", f"run={run}", "device=cuda")
    assert (ended.code, ended.err) == (2, "fsbench: device=cuda: no CUDA device was found; use cpu or auto\n")


def test_a_run_that_says_how_its_sub_batches_were_passed(fsbench, tmp_path, monkeypatch) -> None:
    """An option of older runs: their records are read, and they are the same runs."""
    monkeypatch.chdir(tmp_path)
    line = ["dataset=digits", "model=mlp", "model.widths=[8]", "optimizer=fisher_trace", "trainer.max_steps=1"]
    assert fsbench("train", *line).code == 0
    (config,) = Path("runs").glob("*/config.yaml")
    config.write_text(config.read_text().replace("  full_batch: own\n", "  full_batch: own\n  together: auto\n"))
    assert "together: auto" in config.read_text()
    again = fsbench("train", *line)
    assert (again.code, again.err) == (0, "")
    assert ": already done" in again.out
    assert fsbench("sharpness", f"run={config.parent}", "measures=[fisher_trace]").code == 0


def test_many_networks_are_told_before_they_are_composed(fsbench) -> None:
    ended = fsbench("sharpness", "-m", "model=mlp", "dataset=digits", "seed=range(0,101)", "samples=0")
    assert ended.code == 2
    assert ended.err.startswith("101 configurations to compose and check first\nfsbench: samples=0: ")
