"""The recipes of the guide on bringing one's own, each tried as it stands there, and what is said of wrong ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.config_store import ConfigStore

import fsbench as package
from fsbench import plugins
from fsbench.config import component
from fsbench.measuring.measures import MEASURES

GUIDE = (Path(package.__file__).parent / "guides" / "extending.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", GUIDE, flags=re.DOTALL))
# Lines of code at most, the module of the network aside.
LINES = {
    "geometry.py": 15,
    "gnp.py": 20,
    "net.py": 8 + 9,
    "data.py": 12,
    "focal.py": 8,
    "polynomial.py": 20,
    "norm.py": 12,
    "two_radii.py": 22,
}
QUICK = ("trainer.epochs=1", "trainer.batch_size=128", "trainer.progress=false", "dataset.subset=256")
SMALL = ("dataset=digits", "model=mlp", "model.widths=[16]", *QUICK)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test declares is gone after it."""
    monkeypatch.setenv(plugins.VARIABLE, "")
    for group in component._DECLARED_IN:
        component.components(group)
    kept = {group: dict(table) for group, table in component._TABLE.items()}
    measures, read = dict(MEASURES), dict(plugins._read)
    yield
    for group, before in kept.items():
        for name in component._TABLE[group].keys() - before.keys():
            ConfigStore.instance().repo.get(group, {}).pop(f"{name}.yaml", None)
    tables = [*((component._TABLE[group], before) for group, before in kept.items()), (MEASURES, measures)]
    for table, before in [*tables, (plugins._read, read)]:
        table.clear()
        table.update(before)


@pytest.fixture
def recipe(tmp_path: Path):
    """The path of a recipe's file."""

    def written(name: str, text: str | None = None) -> str:
        (tmp_path / name).write_text(RECIPES[name] if text is None else text, encoding="utf-8")
        return str(tmp_path / name)

    return written


def results(line: str) -> dict:
    """The results of the run that a line on stdout names."""
    return json.loads(Path(line.partition(":")[0], "summary.json").read_text())["results"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_short(name) -> None:
    lines = [line for line in RECIPES[name].splitlines() if line.strip()]
    assert len(lines) <= LINES[name]


COMMANDS = {
    "geometry.py": (*SMALL, "optimizer=layerwise", "optimizer.power=1", "optimizer.rho=0.1"),
    "gnp.py": (*SMALL, "optimizer=gnp", "optimizer.alpha=0.2"),
    "net.py": ("dataset=digits", "model=my_net", "model.width=24", *QUICK),
    "data.py": ("dataset=even_odd", "dataset.test=200", "model=mlp", "model.widths=[16]", *QUICK),
    "focal.py": (*SMALL, "loss=focal", "loss.gamma=1"),
    "polynomial.py": (*SMALL, "schedule=polynomial", "schedule.power=1", "augment=dimmed", "augment.least=0.9"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_recipes_train(name, recipe, fsbench) -> None:
    ended = fsbench("train", "--plugin", recipe(name), *COMMANDS[name])
    assert ended.code == 0, ended.err
    run = Path(ended.out.partition(":")[0])
    provenance = json.loads((run / "provenance.json").read_text())
    assert list(provenance["plugins"]) == [str(Path(name).resolve())]
    option = next(
        word for word in COMMANDS[name] if word.count(".") == 1 and not word.startswith(("trainer", "model.widths"))
    )
    key, _, value = option.partition("=")
    group, _, name_of_option = key.partition(".")
    assert json.loads((run / "summary.json").read_text())["config"][group][name_of_option] == float(value)


def test_a_schedule_with_the_values_of_ours_is_ours(recipe, fsbench) -> None:
    """lr (1 - t)^power at power 0 is the constant rate."""
    theirs = fsbench("train", "--plugin", recipe("polynomial.py"), *SMALL, "schedule=polynomial", "schedule.power=0")
    ours = fsbench("train", *SMALL, "schedule=constant")
    assert results(theirs.out)["test_loss"] == results(ours.out)["test_loss"]


def test_a_loss_of_the_values_of_ours_is_evaluated_and_measured_as_ours(recipe, fsbench) -> None:
    """Focal loss at gamma 0 is cross-entropy."""
    file = recipe("focal.py")
    theirs = fsbench("train", "--plugin", file, *SMALL, "loss=focal", "loss.gamma=0")
    ours = fsbench("train", *SMALL)
    for key in ("test_loss", "train_loss", "test_accuracy"):
        assert results(theirs.out)[key] == pytest.approx(results(ours.out)[key], rel=1e-5)
    for out in (theirs.out, ours.out):
        ended = fsbench(
            "sharpness", f"run={out.partition(':')[0]}", "measures=[trace_hutchinson,worst_case]", "probes=2"
        )
        assert ended.code == 0, ended.out + ended.err
    values = [
        json.loads(Path(out.partition(":")[0], "sharpness.json").read_text())["measures"]["worst_case_sharpness"][
            "value"
        ]
        for out in (theirs.out, ours.out)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_geometry_in_a_population_is_itself_alone(recipe, fsbench) -> None:
    line = ("-m", "--plugin", recipe("geometry.py"), *SMALL, "optimizer=layerwise", "seed=0,1")
    alone = fsbench("train", *line, "runs_dir=alone")
    together = fsbench("train", *line, "runs_dir=together", "trainer.population=true")
    assert (alone.code, together.code) == (0, 0)
    for directory in Path("alone").iterdir():
        one, other = (results(f"{place}/{directory.name}:") for place in ("alone", "together"))
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)


def test_a_measure_and_its_options(recipe, fsbench) -> None:
    run = fsbench("train", *SMALL).out.partition(":")[0]
    file = recipe("norm.py")
    line = ("sharpness", "--plugin", file, f"run={run}", "measures=[weight_norm]", "weight_norm.power=1")
    assert fsbench(*line).code == 0
    entry = json.loads(Path(run, "sharpness.json").read_text())["measures"]["weight_norm"]
    from safetensors.torch import load_file

    weights = load_file(Path(run, "model.safetensors"))
    assert entry["value"] == pytest.approx(sum(float(w.abs().sum()) for w in weights.values()), rel=1e-5)
    assert entry["settings"]["power"] == 1
    assert "already measured" in fsbench(*line).out
    assert "already measured" not in fsbench(*line[:-1], "weight_norm.power=3").out
    ended = fsbench(*line[:-1], "weight_norm.powr=3")
    assert (ended.code, ended.err) == (
        2, "fsbench: weight_norm.powr=3: no such key (did you mean 'weight_norm.power'?)\n"
    )  # fmt: skip


def test_options_are_checked_listed_and_shown(recipe, fsbench) -> None:
    file = recipe("net.py")
    ended = fsbench("train", "--plugin", file, "dataset=digits", "model=my_net", "model.width=wide")
    assert (ended.code, ended.err) == (2, "fsbench: model.width=wide: must be a whole number\n")
    ended = fsbench("train", "--plugin", file, "dataset=digits", "model=my_net", "model.widht=3")
    assert ended.err == "fsbench: model.widht=3: no such key (did you mean 'model.width'?)\n"
    assert re.search(r"^my_net +One hidden layer with tanh$", fsbench("list", "models", f"--plugin={file}").out, re.M)
    assert "\n  width: 16\n" in fsbench("train", "--plugin", file, "model=my_net", "--help").out


def test_a_changed_file_makes_new_runs(recipe, fsbench) -> None:
    line = ("dataset=digits", "model=my_net", *QUICK)
    first = fsbench("train", "--plugin", recipe("net.py"), *line).out
    assert "already done" in fsbench("train", "--plugin", recipe("net.py"), *line).out
    plugins._read.clear()
    other = recipe("net.py", RECIPES["net.py"].replace("nn.Tanh", "nn.ReLU"))
    again = fsbench("train", "--plugin", other, *line).out
    assert "already done" not in again
    assert again.partition(":")[0] != first.partition(":")[0]


def test_a_run_says_which_plugin_it_needs(recipe, fsbench, monkeypatch) -> None:
    file = recipe("net.py")
    run = fsbench("train", "--plugin", file, "dataset=digits", "model=my_net", *QUICK).out.partition(":")[0]
    plugins._read.clear()
    del component._TABLE["model"]["my_net"]
    monkeypatch.setenv(plugins.VARIABLE, "")
    ended = fsbench("sharpness", f"run={run}")
    assert ended.code == 2
    assert ended.err.startswith(
        f"fsbench: run={run}: its config.yaml can't be used: model.family=my_net: must be one of "
    )
    assert ended.err.endswith(f"; it was made with --plugin {file}\n")
    assert fsbench("sharpness", "--plugin", file, f"run={run}", "measures=[trace]", "samples=20").code == 0


WRONG = {
    "absent": (None, "there is no such file"),
    "syntax": ("def", "can't be read, SyntaxError: invalid syntax"),
    "taken": (
        "import fsbench\n@fsbench.model('wrn')\ndef net(classes: int): ...\n",
        "fsbench has a model of this name; choose another",
    ),
    "annotation": (
        "import fsbench\n@fsbench.model('net')\ndef net(classes: int, width=3): ...\n",
        "model net: its parameter width has no annotation",
    ),
    "geometry": (
        "import fsbench\n@fsbench.optimizer('mine')\ndef mine(): return 3\n",
        "optimizer mine gives a int, not a Geometry",
    ),
    "no name": ("import fsbench\n@fsbench.model\ndef net(classes: int): ...\n", '@fsbench.model needs a name'),
    "name": ("import fsbench\n@fsbench.model('a/b')\ndef net(classes: int): ...\n", "model 'a/b': can't be its name"),
    "option's name": (
        "import fsbench\n@fsbench.model('net')\ndef net(classes: int, checkpoint: int = 3): ...\n",
        "model net: its parameter checkpoint has a name of fsbench's; choose another",
    ),
    "default": (
        "import fsbench\n@fsbench.model('net')\ndef net(classes: int, width: int = 'x'): ...\n",
        "model net: its parameter width has the default 'x', which must be a whole number",
    ),
    "unsayable default": (
        "import fsbench\n@fsbench.model('net')\ndef net(classes: int, of: set[int] = {1}): ...\n",
        "model net: its parameter of has the default {1}, which no command line can say",
    ),
    "unknown annotation": (
        "import fsbench, torch\n@fsbench.model('net')\ndef net(classes: int, at: torch.Tensor): ...\n",
        "model net: its parameter at has an annotation that can't be checked",
    ),
    "too few parameters": (
        "import fsbench\n@fsbench.loss('mine')\ndef mine(logits): ...\n",
        "loss mine: a function is needed whose first 2 parameters fsbench hands in",
    ),
    "no optimizer": (
        "import fsbench\n@fsbench.optimizer('mine')\nclass Mine: ...\n",
        "optimizer mine: has to be a torch.optim.Optimizer whose constructor takes lr",
    ),
    "geometry's option": (
        "import fsbench\n@fsbench.optimizer('mine')\ndef mine(power: float): ...\n",
        "optimizer mine: its parameter power needs a default",
    ),
    "geometry's defaults": (
        "import fsbench\nfrom fsbench.geometries import Geometry\n"
        "fsbench.optimizer('mine')(Geometry('mine', None, {'gamma': 1}))\n",
        "optimizer mine: its defaults are of gamma, not of rho, or of rho and eta",
    ),
    "a key of sharpness": (
        "import fsbench\n@fsbench.measure('samples')\ndef samples(risk): return 3\n",
        "measure samples: the name means something else to fsbench sharpness; choose another",
    ),
    "measure": (
        "import fsbench\n@fsbench.measure('trace')\ndef trace(risk): return 3\n",
        "fsbench has the measure trace; choose another name",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(case, recipe, fsbench, tmp_path) -> None:
    text, problem = WRONG[case]
    file = str(tmp_path / "wrong.py") if text is None else recipe("wrong.py", text)
    ended = fsbench("list", "models", "--plugin", file)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("fsbench: --plugin=")
    assert problem in ended.err
    assert ended.err.count("\n") == 1


def test_a_step_of_theirs(recipe, fsbench) -> None:
    """SAM written as others write it, over the base it is handed, is SAM."""
    text = """
import fsbench, torch

@fsbench.optimizer("theirs")
class Theirs(torch.optim.Optimizer):
    def __init__(self, params, base, lr: float, rho: float = 0.05, **options):
        self.base, self.rho = base(params, lr=lr, **options), rho
        super().__init__(self.base.param_groups, self.base.defaults)
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def step(self, closure):
        loss = closure()
        params = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        moved = [self.rho * p.grad / norm for p in params]
        for p, e in zip(params, moved):
            p.add_(e)
        closure()
        for p, e in zip(params, moved):
            p.sub_(e)
        self.base.step()
        return loss
"""
    theirs = fsbench("train", "--plugin", recipe("theirs.py", text), *SMALL, "optimizer=theirs", "optimizer.rho=0.2")
    assert theirs.code == 0, theirs.err
    ours = fsbench("train", *SMALL, "optimizer=sam", "optimizer.rho=0.2")
    assert results(theirs.out)["test_loss"] == pytest.approx(results(ours.out)["test_loss"], rel=1e-4)


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_losses(loss, fsbench) -> None:
    """Training, evaluation and measures are of the loss that was chosen."""
    ended = fsbench("train", *SMALL, f"loss={loss}")
    assert ended.code == 0, ended.err
    run = ended.out.partition(":")[0]
    network = package.load(run).model()
    from fsbench.config.dataset import Digits
    from fsbench.data import load_data

    data = load_data(Digits(mean=[0.3046], std=[0.3755]), Path())
    with torch.no_grad():
        logits = network((data.test.images / 255 - data.mean[0]) / data.std[0])
    wanted = torch.nn.functional.one_hot(data.test.labels, 10).float()
    expected = {
        "mse": (logits - wanted).square().mean(),
        "bce": torch.nn.functional.binary_cross_entropy(logits.sigmoid(), wanted),
    }[loss]
    assert results(ended.out)["test_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert fsbench("sharpness", f"run={run}", "measures=[trace_hutchinson]", "probes=2", "samples=50").code == 0


def test_two_files_of_one_name(recipe, fsbench) -> None:
    text = "import fsbench\n@fsbench.loss('mine')\ndef mine(logits, labels): return logits.mean()\n"
    one, other = recipe("one.py", text), recipe("other.py", text)
    ended = fsbench("list", "losses", "--plugin", one, "--plugin", other)
    problem = f"fsbench: --plugin={other}: loss mine: {one} has a loss of this name; choose another\n"
    assert (ended.code, ended.err) == (2, problem)


OPTIONS = """
import fsbench
from typing import Optional
from torch import nn

@fsbench.model("bare")
def bare(classes: int):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

@fsbench.model("typed", batchnorm=False)
class Typed(nn.Module):
    def __init__(self, classes: int, width: int, pair: Optional[tuple[int, int]] = (1, 2)):
        super().__init__()
        assert pair == (3, 4)
        self.all = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, classes))

    def forward(self, x):
        return self.all(x)
"""


def test_options_of_every_kind(recipe, fsbench) -> None:
    """A component without options, one that has to be given, and tuples, which are lists on the command line."""
    line = ("train", "--plugin", recipe("options.py", OPTIONS), "dataset=digits", *QUICK)
    assert fsbench(*line, "model=bare").code == 0
    assert fsbench(*line, "model=typed", "model.width=4", "model.pair=[3,4]").code == 0
    for words, problem in [
        ((), "model.width=(missing): has to be given"),
        (("model.width=4", "model.pair=3"), "model.pair=3: must be a list, such as [1,2]"),
        (("model.width=4", "model.pair=[3]"), "model.pair=[3]: has too few entries"),
    ]:
        ended = fsbench(*line, "model=typed", *words)
        assert (ended.code, ended.err) == (2, f"fsbench: {problem}\n")


METHODS = """
import fsbench, torch
from fsbench.optim import SharpnessAware

@fsbench.optimizer("own_decay")
class OwnDecay(torch.optim.SGD): ...

@fsbench.optimizer("own_rho")
class OwnRho(SharpnessAware):
    def __init__(self, params, base=torch.optim.SGD, *, rho: float = 0.3, **options):
        super().__init__(params, base, rho=rho, **options)

fsbench.optimizer("plain")(SharpnessAware.geometry)
"""
# A method of theirs, and what is the same of ours.
SAME = {
    "a class of torch with options that bases have": (
        ("optimizer=own_decay", "optimizer.momentum=0.5", "optimizer.weight_decay=0.1"),
        ("optimizer=sgd", "base.momentum=0.5", "base.weight_decay=0.1"),
    ),
    "another default of rho": (("optimizer=own_rho",), ("optimizer=sam", "optimizer.rho=0.3")),
    "m of a geometry": (("optimizer=plain", "optimizer.m=32"), ("optimizer=sam", "optimizer.m=32")),
}


@pytest.mark.parametrize("case", SAME)
def test_methods_of_theirs_take_their_options(case, recipe, fsbench) -> None:
    theirs, ours = (fsbench("train", "--plugin", recipe("methods.py", METHODS), *SMALL, *words) for words in SAME[case])
    assert (theirs.code, ours.code) == (0, 0), theirs.err
    assert results(theirs.out)["test_loss"] == pytest.approx(results(ours.out)["test_loss"], rel=1e-5)


RETURNED = {
    "float pixels": (
        "@fsbench.dataset('mine')\ndef f(): return 2 * (((torch.arange(2) + 0.5).view(2, 1, 1, 1), [0, 1]),)\n",
        "dataset=mine: the training split of its function has float images from 0.5 to 1.5; they must lie in [0, 1]",
    ),
    "labels": (
        "@fsbench.dataset('mine')\ndef f(): return 2 * ((torch.zeros(2, 1, 8, 8), ['cat', 'dog']),)\n",
        "dataset=mine: the training split of its function has labels <U3 (2,) for 2 images",
    ),
    "label below 0": (
        "@fsbench.dataset('mine')\ndef f(): return 2 * ((torch.zeros(2, 1, 8, 8), [-1, 1]),)\n",
        "dataset=mine: what its function returns can't be used: the training labels reach from -1 to 1",
    ),
    "losses": (
        "@fsbench.loss('mine')\ndef f(logits, labels): return logits.mean(1)\n",
        "loss=mine: its function returns a tensor (128,), not the mean",
    ),
    "factor": (
        "@fsbench.schedule('mine')\ndef f(progress): return -1\n",
        "schedule=mine: its function returns -1 at step 0, not a number >= 0",
    ),
    "images": (
        "@fsbench.augmentation('mine')\ndef f(images, generator): return images / 2\n",
        "augment=mine: its function makes torch.float32 (128, 1, 8, 8) of images torch.uint8 (128, 1, 8, 8)",
    ),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_functions_may_return(case, recipe, fsbench) -> None:
    text, problem = RETURNED[case]
    group = problem.partition(":")[0]
    small = [word for word in SMALL if not word.startswith(group.partition("=")[0]) or "subset" in word]
    ended = fsbench("train", "--plugin", recipe("mine.py", f"import fsbench, torch\n{text}"), *small, group)
    assert ended.code == 2
    assert ended.err.startswith(f"fsbench: {problem}")
    assert ended.err.count("\n") == 1


def test_smoothing_is_measured_by_its_own_key(fsbench) -> None:
    ended = fsbench("sharpness", "model=mlp", "dataset=digits", "loss=cross_entropy", "loss.label_smoothing=0.1")
    problem = "measures are of the loss without it; label_smoothing=0.1 measures with it"
    assert (ended.code, ended.err) == (2, f"fsbench: loss.label_smoothing=0.1: {problem}\n")


def test_a_file_that_changed_since_the_run_is_named(recipe, fsbench) -> None:
    run = fsbench("train", "--plugin", recipe("net.py"), "dataset=digits", "model=my_net", *QUICK).out.partition(":")[0]
    plugins._read.clear()
    del component._TABLE["model"]["my_net"]
    file = recipe("net.py", RECIPES["net.py"] + "# changed\n")
    ended = fsbench("sharpness", "--plugin", file, f"run={run}", "measures=[trace]", "samples=20")
    assert ended.code == 0
    assert f"note: {run}: the file that declares model=my_net has changed since the run\n" in ended.err


def test_rerun_says_which_plugin_it_needs(recipe, fsbench, monkeypatch) -> None:
    file = recipe("net.py")
    run = fsbench("train", "--plugin", file, "dataset=digits", "model=my_net", *QUICK).out.partition(":")[0]
    plugins._read.clear()
    del component._TABLE["model"]["my_net"]
    ConfigStore.instance().repo["model"].pop("my_net.yaml")
    monkeypatch.setenv(plugins.VARIABLE, "")
    ended = fsbench("rerun", run, "seed=1")
    assert ended.code == 2
    assert ended.err.endswith(f"; it was made with --plugin {file}\n")


def test_no_file(fsbench) -> None:
    for line in (("--plugin=", "list", "models"), ("list", "models", "--plugin")):
        ended = fsbench(*line)
        assert (ended.code, ended.err) == (2, "fsbench: --plugin=(missing): needs a file, mine.py, or a module\n")


def test_options_of_plugins_complete(recipe, fsbench, monkeypatch) -> None:
    line = f"fsbench train --plugin {recipe('net.py')} model=my_n"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert fsbench("-sc", "query=bash").out.split() == ["model=my_net"]
