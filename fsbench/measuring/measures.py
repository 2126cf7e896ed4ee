"""The measures by name: which function computes them, from which options. Imports neither torch nor the functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsbench.errors import UsageError, did_you_mean
from fsbench.geometries import BALLS, GEOMETRIES

if TYPE_CHECKING:
    from fsbench.config.sharpness import SharpnessConfig

OptionKeys = Callable[["SharpnessConfig"], dict[str, str]]


@dataclass(frozen=True)
class Measure:
    """One measure.

    Args:
        name: on the command line.
        column: in tables, and in the record.
        line, source: what it is and where from.
        function: of `fsbench.sharpness`, called with the risk.
        fixed: arguments that make the function this measure.
        options: of a configuration, the arguments that it determines, each with its key; they are what a recorded
            value depends on, beside the images.
        defaults: of a configuration, what stands for keys that are null.
        whole: takes its risk over the whole split, not over the `samples` drawn from it.
        own_loss: puts a loss of its own in the place of the risk's (tsuzuku2019, eq. 20 to 22).
        in_one_place: of a configuration, whether it needs all images in one process, which several can't share.
        test_images: called with the batches of the test split as `evaluate_on`.
        columns: where there are several ...
        named_by: ... the key that names them; each of them is a measurement of its own ...
        pattern: ... and what they look like, with a group for what the key gives.
        version: of a user's measure, the sha256 of the text that declares it.
    """

    name: str
    column: str
    line: str
    source: str
    function: str | Callable[..., Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    options: OptionKeys = lambda config: {}
    defaults: Callable[[SharpnessConfig], dict[str, Any]] = lambda config: {}
    whole: bool = False
    own_loss: bool = False
    in_one_place: Callable[[SharpnessConfig], bool] = lambda config: False
    test_images: bool = False
    columns: Callable[[SharpnessConfig], list[str]] | None = None
    named_by: str | None = None
    pattern: str | None = None
    version: str = ""

    def columns_of(self, config: SharpnessConfig) -> list[str]:
        return self.columns(config) if self.columns else [self.column]

    def arguments(self, config: SharpnessConfig) -> dict[str, Any]:
        options = {name: self._value(key, config) for name, key in self.options(config).items()}
        return {**self.fixed, **options, **self._theirs(config)}

    def settings(self, config: SharpnessConfig) -> dict[str, Any]:
        """The settings that, with the weights, determine the value: equal ones are the same measurement.

        `samples` (and the seed that drew them) is left to the record, which knows how many images there are.
        """
        own = {key: self._value(key, config) for key in self.options(config).values() if key != self.named_by}
        loss: dict[str, Any] = {} if self.own_loss else {"label_smoothing": config.label_smoothing or 0.0}
        if loss and config.loss is not None and config.loss.name != "cross_entropy":
            loss["loss"] = config.loss.model_dump(mode="json")
        theirs = {"version": self.version} if self.version else {}
        return {"split": config.split, "dtype": config.dtype, **loss, **own, **theirs, **self._theirs(config)}

    def named_in(self, column: str) -> str | None:
        """The value that `named_by` needs for this column to be measured: 7 for adversarial_accuracy_7; None: any."""
        found = re.fullmatch(self.pattern or "", column)
        return found[1] if found else None

    def has(self, column: str) -> bool:
        if self.pattern is None:
            return column == self.column
        named = self.named_in(column)
        return re.fullmatch(self.pattern, column) is not None and (named is None or _as_written(named))

    def _theirs(self, config: SharpnessConfig) -> dict[str, Any]:
        return config.own[self.name].arguments() if self.name in config.own else {}

    def _value(self, key: str, config: SharpnessConfig) -> Any:
        given = getattr(config, key)
        return self.defaults(config).get(key) if given is None else given


@dataclass(frozen=True)
class Failed:
    """A measure that ended with an exception."""

    measure: Measure
    reason: str


def _named(*keys: str) -> OptionKeys:
    return lambda config: {key: key for key in keys}


def _always(config: SharpnessConfig) -> bool:
    return True


def _trace(config: SharpnessConfig) -> dict[str, str]:
    return {} if config.classes is None else {"classes": "classes", "seed": "seed"}


def _adversarial_columns(config: SharpnessConfig) -> list[str]:
    return [f"adversarial_{what}_{alpha:g}" for alpha in config.alphas for what in ("accuracy", "loss")]


def _eigenvalue_columns(config: SharpnessConfig) -> list[str]:
    return ["hessian_top_eigenvalue", *(f"hessian_eigenvalue_{i + 1}" for i in range(config.eigenvalues))]


def _neighbourhood(config: SharpnessConfig) -> dict[str, Any]:
    return dict(GEOMETRIES[config.neighbourhood].defaults)


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("trace", "hessian_trace", "Tr H, exact by K backward passes",
                "ibayashi2021 prop. 1, tsuzuku2019 eq. 5", "hessian_trace", {"method": "exact"}, _trace,
                in_one_place=lambda config: config.classes is not None),
        Measure("trace_hutchinson", "hessian_trace_hutchinson", "Tr H by random probes, for any network",
                "Hutchinson 1990", "hessian_trace", {"method": "hutchinson"}, _named("probes", "tolerance", "seed")),
        Measure("trace_xtrace", "hessian_trace_xtrace", "the same with less spread, its vectors held in memory",
                "Epperly et al. 2024", "hessian_trace", {"method": "xtrace"}, _named("probes", "seed")),
        Measure("minimum", "minimum_sharpness", "least Tr H among networks equal up to the layers' scales",
                "ibayashi2021 theorem 1", "minimum_sharpness"),
        Measure("matrix_normalized", "matrix_normalized_sharpness", "sum over matrices of sqrt(||W||^2 Tr H)",
                "tsuzuku2019 eq. 13", "matrix_normalized_sharpness", own_loss=True),
        Measure("normalized", "normalized_sharpness", "the same at the best scale of every row and column",
                "tsuzuku2019 eq. 17", "normalized_sharpness", own_loss=True),
        Measure("fisher_determinant", "fisher_log_determinant", "gamma-hat, ln det of Gram matrices of gradients",
                "jia2020 eq. 6", "fisher_log_determinant",
                options=_named("subset_size", "subsets", "seed", "logit_norm"), whole=True, in_one_place=_always),
        Measure("fisher_trace", "fisher_trace", "mean squared norm of the gradient of an example",
                "jia2020 section 6", "fisher_trace"),
        Measure("frobenius", "hessian_frobenius_norm", "mean fourth power of the norm of an example's gradient",
                "jia2020 app. D", "hessian_frobenius_norm", {"definition": "per_example"}),
        Measure("frobenius_fisher", "hessian_frobenius_norm_fisher", "||J'J / N'||_F^2 of subsets' gradients",
                "jia2020 section 7.1", "hessian_frobenius_norm", {"definition": "fisher"},
                _named("subset_size", "subsets", "seed"), whole=True, in_one_place=_always),
        Measure("spectral", "hessian_spectral_radius", "mean squared spectral norm of subsets' gradients",
                "jia2020 app. D", "hessian_spectral_radius",
                options=_named("subset_size", "subsets", "seed"), whole=True, in_one_place=_always),
        Measure("robustness", "input_robustness", "squared spectral norm of the Jacobian by the input",
                "jia2020 section 7.1", "input_robustness"),
        Measure("fisher_rao", "fisher_rao_norm", "sum of w^2 E[(d loss / d w)^2]", "tsuzuku2019 eq. 25",
                "fisher_rao_norm"),
        Measure("worst_case", "worst_case_sharpness", "rise of the loss on the ellipsoid of SAM, ASAM or FSAM",
                "kim2022 eq. 1, 4, 8", "worst_case_sharpness",
                options=lambda config: {"neighbourhood": "neighbourhood", "rho": "rho", "eta": "eta",
                                        "steps": "ascent_steps"}, defaults=_neighbourhood),
        Measure("adversarial", "adversarial", "test accuracy and loss at w + alpha g / ||g||", "kim2022 section 5.4",
                "adversarial_perturbation", options=_named("alphas"), whole=True, test_images=True,
                columns=_adversarial_columns, named_by="alphas", pattern=r"adversarial_(?:accuracy|loss)_(.+)"),
        Measure("eigenvalues", "hessian_top_eigenvalue", "largest eigenvalues of H by Lanczos", "Lanczos 1950",
                "hessian_top_eigenvalues",
                options=lambda config: {"k": "eigenvalues", "tolerance": "eigenvalue_tolerance"},
                columns=_eigenvalue_columns, named_by="eigenvalues",
                pattern=r"hessian_(?:top_eigenvalue|eigenvalue_([1-9]\d*))"),
        Measure("gradient_norm", "gradient_norm", "||grad L||, how far from a stationary point", "Euclidean norm",
                "gradient_norm"),
        Measure("gradient_snr", "gradient_snr", "mean over weights of the examples' gradients' mean^2 / variance",
                "Liu et al. 2020", "gradient_snr"),
        Measure("average_case", "average_case_sharpness", "rise of the loss at weights with Gaussian noise",
                "Andriushchenko et al. 2023", "average_case_sharpness",
                options=_named("rho", "adaptive", "draws", "logit_norm", "seed"),
                defaults=lambda config: {"rho": 0.1}),
        Measure("worst_case_apgd", "worst_case_sharpness_apgd", "largest rise of a few examples' loss in a ball or box",
                "Andriushchenko et al. 2023", "worst_case_sharpness_apgd",
                options=lambda config: {**_named("rho", "ball", "adaptive", "group_size", "logit_norm")(config),
                                        "steps": "apgd_steps"},
                defaults=lambda config: {"rho": BALLS[config.ball]}, in_one_place=_always),
        Measure("epsilon", "epsilon_sharpness", "rise of the loss in a box of epsilon (|w| + 1), in percent of 1 + L",
                "Keskar et al. 2017", "epsilon_sharpness",
                options=lambda config: {"epsilon": "epsilon", "steps": "apgd_steps"}),
        Measure("pacbayes", "pacbayes_sigma", "largest Gaussian noise that lifts the error by no more than 0.1",
                "Jiang et al. 2020", "pacbayes_sigma", options=_named("draws", "seed")),
        Measure("pacbayes_magnitude", "pacbayes_magnitude_sigma", "the same with noise relative to each weight",
                "Jiang et al. 2020", "pacbayes_sigma", {"magnitude_aware": True}, _named("draws", "seed")),
    )
}  # fmt: skip

# What they are made of, as `fsbench list measures` shows them; users' own come last.
GROUPS: dict[str, tuple[str, ...]] = {
    "curvature": ("trace", "trace_hutchinson", "trace_xtrace", "eigenvalues", "minimum", "matrix_normalized",
                  "normalized"),
    "perturbation": ("worst_case", "worst_case_apgd", "average_case", "adversarial", "epsilon", "pacbayes",
                     "pacbayes_magnitude"),
    "gradients": ("gradient_norm", "gradient_snr", "fisher_trace", "fisher_determinant", "frobenius",
                  "frobenius_fisher", "spectral", "fisher_rao"),
    "inputs": ("robustness",),
}  # fmt: skip

DEFAULT = ("trace", "minimum", "normalized", "fisher_trace", "fisher_determinant", "worst_case")


def add_measure(measure: Measure) -> None:
    """Take a user's measure.

    Raises:
        UsageError: fsbench has one of this name or column.
    """
    from fsbench.config.sharpness import SharpnessConfig

    if measure.name in ("default", "all", *SharpnessConfig.model_fields):
        problem = "the name means something else to fsbench sharpness; choose another"
        raise UsageError("", "", f"measure {measure.name}: {problem}")
    for one in MEASURES.values():
        if one.name != measure.name and one.version and one.column == measure.column:
            raise UsageError("", "", f"measure {measure.name}: the measure {one.name} has its column; choose another")
        if not one.version and any(one.name == word or one.has(word) for word in (measure.name, measure.column)):
            raise UsageError("", "", f"measure {measure.name}: fsbench has the measure {one.name}; choose another name")
    MEASURES[measure.name] = measure


def grouped_measures() -> dict[str, list[Measure]]:
    """All measures by group, `own` for users'."""
    known = {name for names in GROUPS.values() for name in names}
    own = tuple(name for name in MEASURES if name not in known)
    return {group: [MEASURES[name] for name in names] for group, names in (GROUPS | {"own": own}).items() if names}


def chosen_measures(names: Iterable[str] | None) -> list[Measure]:
    """The measures of `measures=[...]`: short names, column names, `default` and `all`, without repetitions.

    Raises:
        UsageError: for a name that is none of these.
    """
    chosen: dict[str, Measure] = {}
    by_column = {measure.column: measure for measure in MEASURES.values()}
    for name in DEFAULT if names is None else names:
        if name in ("default", "all"):
            chosen |= {n: MEASURES[n] for n in (DEFAULT if name == "default" else MEASURES)}
            continue
        found = MEASURES.get(name) or by_column.get(name)
        if found is None:
            near = did_you_mean(name, [*MEASURES, *by_column, "default", "all"])
            raise UsageError("measures", name, f"no such measure{near}; `fsbench list measures` shows them")
        chosen[found.name] = found
    if not chosen:
        raise UsageError("measures", "[]", "name at least one; `fsbench list measures` shows them")
    return list(chosen.values())


def measure_of(column: str) -> Measure | None:
    """The measure whose results stand under a column of tables."""
    for measure in MEASURES.values():
        if measure.has(column):
            return measure
    return None


def _as_written(number: str) -> bool:
    """True of a number as columns are named by it: `0.5`, not `0.50` or `half`."""
    try:
        return f"{float(number):g}" == number
    except ValueError:
        return False
