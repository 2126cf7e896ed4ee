"""The process that the optimizer under test runs in: `python -m fsbench.conform.worker`; a line of JSON a check."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fsbench.conform import checks
from fsbench.conform.subject import Subject
from fsbench.conform.variants import variants
from fsbench.conform.verdict import Verdict
from fsbench.errors import UsageError

# Formulas differ by more, norms that were taken in single precision by less.
_TOLERANCE = 1e-6
# What the rounding of double precision explains is not told.
_ROUNDING = 1e-9


class _NotOffered(Exception):
    """It can't be made so."""


def sentences(method: str | None) -> dict[str, str]:
    """The checks of a method by name, each with its sentence; None: those of any."""
    own = checks.OF_THE_METHOD if method else ()
    return {check.__name__: inspect.getdoc(check) or "" for check in (*own, *checks.OF_ANY)}


def run(subject: Subject, method: str | None, name: str) -> Verdict:
    """One check."""
    make, step = subject.load()

    def made(params: Any, **options: Any) -> Any:
        try:
            return make(params, **options)
        except (TypeError, ValueError, NotImplementedError) as failure:
            raise _NotOffered(str(failure)) from failure

    check: Callable[..., float] = getattr(checks, name)
    axis = (checks.AXES[method],) if method and check in checks.OF_THE_METHOD else ()
    found = Verdict(name, sentences(method)[name], "equal")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.difference = check(made, step, *axis)
    except _NotOffered as failure:
        found.verdict, found.note = "not offered", _line(failure)
        return found
    except Exception as failure:
        found.verdict, found.note = "raises", f"{type(failure).__name__}: {_line(failure)}"
    else:
        if not found.difference <= (0.0 if check in checks.EXACT else _TOLERANCE):
            found.verdict = "differs"
            if check is checks.perturbation:
                found.note = _equal_to(made, step, str(method))
        elif found.difference > _ROUNDING:
            found.note = "to single precision"
        found.difference = found.difference if math.isfinite(found.difference) else None
    if found.failed:
        found.script = script(subject, check, axis)
    return found


def script(subject: Subject, check: Callable[..., float], axis: tuple[Callable[..., Any], ...]) -> str:
    """The check as lines that need torch and the package alone."""
    parts: list[Callable[..., Any]] = [check, *axis]
    needed: list[Callable[..., Any]] = [checks.problem, checks.watched, checks.follow, checks.moved, checks.apart]
    # What a part calls is printed before it.
    for part in parts:
        parts += [one for one in needed if one not in parts and f"{one.__name__}(" in inspect.getsource(part)]
    body = "\n\n".join(_plain(inspect.getsource(part)) for part in reversed(parts))
    names = "".join(f", {one.__name__}" for one in axis)
    imports = [name for name in ("copy", "math", "pickle") if f"{name}." in body]
    head = "".join(f"import {name}\n" for name in imports)
    return f"{head}{subject.source}\nfrom torch import nn\n\n\n{body}\n\nprint({check.__name__}(make, step{names}))\n"


def _plain(source: str) -> str:
    """Without annotations."""
    return re.sub(r": Any\b| -> (Any|float)\b|: list\[Any\]", "", source).replace("  # noqa: E731", "")


def _equal_to(make: Any, step: Any, method: str) -> str:
    """The known variant that it is equal to."""
    w, loss = checks.problem()
    closure, passes = checks.watched(optimizer := make(w, lr=0.1, rho=0.05), w, loss)
    step(optimizer, closure)
    (before, gradients, _), (after, *_) = passes[0], passes[-1]
    eps = [b - a for a, b in zip(before, after, strict=True)]
    if len(passes) < 2 or not any(float(one.abs().max()) for one in eps):
        return "equal to: no perturbation"
    for words, other in variants(method, before, gradients, 0.05):
        if checks.apart(eps, other) <= _TOLERANCE:
            return f"equal to: {words}"
    return "equal to no variant that is known here"


def _line(failure: BaseException) -> str:
    return " ".join(str(failure).split())[:200]


def main() -> None:
    """Run the checks that stdin names, or all, and tell of each before it begins."""
    out, sys.stdout = sys.stdout, sys.stderr  # what the package prints is no verdict

    def tell(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=out, flush=True)

    # Part of the start: a check that compiles would take seconds of its own time for it.
    importlib.import_module("torch._dynamo")
    asked = json.load(sys.stdin)
    subject, method = Subject(**asked["subject"]), asked["method"]
    try:
        make, _ = subject.load()
    except UsageError as failure:
        tell({"refused": str(failure)})
        return
    try:
        make(checks.problem()[0], lr=0.1, rho=0.05)
    except Exception as failure:
        tell({"refused": f"{subject.target}: can't be made with lr= and rho= ({_line(failure)}); see --api"})
        return
    tell({"sentences": sentences(method)})
    for name in asked["checks"] or sentences(method):
        tell({"begun": name})
        tell(asdict(run(subject, method, name)))


if __name__ == "__main__":
    main()
