"""The decorators by which a user declares components of their own, in a file that `--plugin` names.

    # mine.py
    import fsbench

    @fsbench.model("my_net")
    def my_net(classes: int, channels: int, width: int = 16) -> torch.nn.Module: ...

    fsbench train --plugin mine.py model=my_net model.width=32

A component's options are the parameters of its function beyond those that fsbench hands in, with their annotations and
defaults; the first line of its docstring describes it in `fsbench list`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Concatenate,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)  # fmt: skip

from fsbench.errors import UsageError, first_line
from fsbench.plugins import PREFIX

if TYPE_CHECKING:
    from fsbench.config.component import Component

_Given = TypeVar("_Given")
_Facts = ParamSpec("_Facts")


def _decorator(
    declare: Callable[Concatenate[str, Any, _Facts], None],
) -> Callable[Concatenate[str, _Facts], Callable[[_Given], _Given]]:
    """Of `declare(name, given, ...)`, which declares what is given, the decorator `@fsbench.<kind>(name, ...)`."""

    @wraps(declare)
    def decorator(name: Any, *args: _Facts.args, **facts: _Facts.kwargs) -> Callable[[_Given], _Given]:
        kind = declare.__name__
        if not isinstance(name, str):
            raise UsageError("", "", f'@fsbench.{kind} needs a name, @fsbench.{kind}("mine")')
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", name) or name.lower() in ("true", "false", "null", "nan", "inf"):
            allowed = "a letter, then letters, digits, _ and - only, and not true, false or null"
            raise UsageError("", "", f"{kind} {name!r}: can't be its name, which has to be {allowed}")

        def declared(given: _Given) -> _Given:
            declare(name, given, *args, **facts)
            return given

        return declared

    parameters = list(inspect.signature(declare).parameters.values())
    decorator.__signature__ = inspect.Signature([parameters[0], *parameters[2:]])  # type: ignore[attr-defined]
    return decorator


@_decorator
def model(name: str, function: Any, *, batchnorm: bool = True, smallest: int = 1) -> None:
    """Declare a network: a function, or a class of `torch.nn.Module`, that gives logits (N, classes).

    It is handed those of `classes`, `channels` and `shape` (C, H, W) that it asks for.

    Args:
        name: for `model=`.
        batchnorm: whether an example's output in training may depend on the others of its batch. A network that says no
            can be trained in a population, and its runs are the same on any number of devices.
        smallest: least height and width of its images in pixels.

    Example:
        >>> @model("wide", batchnorm=False)
        ... def wide(classes: int, shape: tuple[int, int, int], width: int = 512) -> "torch.nn.Module":
        ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), classes))
    """

    def build(options: Component, shape: tuple[int, int, int], classes: int) -> Any:
        return _called(function, options, classes=classes, channels=shape[0], shape=tuple(shape))

    handed = ("classes", "channels", "shape")
    _declare("model", name, function, build, handed, batchnorm=batchnorm, smallest=smallest)


@_decorator
def dataset(name: str, function: Any, *, title: str | None = None, classes: Sequence[str] | None = None) -> None:
    """Declare a data set: a function that returns its training and its test images.

    Each is `(images, labels)`, or a `torch.utils.data.Dataset` of such pairs: images uint8 (N, H, W), (N, C, H, W) or
    (N, H, W, C), or float (N, C, H, W), which are taken as scaled to [0, 1]; labels 0 to K - 1. The function is handed
    `data_dir` if it asks for it.

    Args:
        name: for `dataset=`.
        title: what tables call it.
        classes: their names.
    """

    def build(options: Component, data_dir: Path) -> Any:
        from fsbench.data.given import given_data

        return given_data(_called(function, options, data_dir=data_dir), name, classes)

    _declare("dataset", name, function, build, ("data_dir",), title=title)


@_decorator
def optimizer(
    name: str,
    given: Any,
    *,
    passes: float = 2,
    title: str | None = None,
    stackable: bool = False,
    search: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Declare a method.

    It is a `Geometry`, or a function that returns one; a class of `fsbench.optim.Descent` or `SharpnessAware`; or any
    class of `torch.optim.Optimizer` whose `step(closure)` does all passes, made as `kind(params, base, lr=..., ...)`
    with the options of the base among the rest if it takes `base`, else as `kind(params, lr=..., ...)` without a base.

    Args:
        name: for `optimizer=`.
        passes: forward-backward passes over the mini-batch that a step takes, for estimates of cost.
        title: what tables call it.
        stackable: whether a population can train it; a geometry can.
        search: the range of each option that `fsbench compare` searches, `{"rho": (0.01, 0.5)}`.
    """
    from fsbench.geometries import Geometry

    facts: dict[str, Any] = {"passes": passes, "title": title, "stackable": stackable, "recordable": False}
    facts["search"] = search
    if isinstance(given, Geometry) or not isinstance(given, type):
        _geometry(name, given, {**facts, "stackable": True, "recordable": True})
    else:
        _method(name, given, facts)


def _geometry(name: str, given: Any, facts: dict[str, Any]) -> None:
    """Declare a `Geometry`, or a function of options that returns one."""
    from fsbench.config.optimizer import NonNegative, SharpnessAwareOptions
    from fsbench.geometries import Geometry

    make: Any = (lambda: given) if isinstance(given, Geometry) else given
    own = _parameters(make, "optimizer", name, ())
    if needed := [key for key, (_, default) in own.items() if default is ...]:
        raise UsageError("", "", f"optimizer {name}: its parameter {needed[0]} needs a default")
    shape = make(**{key: default for key, (_, default) in own.items()})
    if not isinstance(shape, Geometry):
        raise UsageError("", "", f"optimizer {name} gives a {type(shape).__name__}, not a Geometry")
    if set(shape.defaults) not in ({"rho"}, {"rho", "eta"}):
        problem = f"its defaults are of {', '.join(shape.defaults) or 'nothing'}, not of rho, or of rho and eta"
        raise UsageError("", "", f"optimizer {name}: {problem}")
    shapes: dict[str, Geometry] = {}

    def build(params: Any, base: Any, **options: Any) -> Any:
        from fsbench.optim import SharpnessAware

        chosen = {key: options.pop(key) for key in own}
        # The members of a population share theirs.
        shape = shapes.setdefault(repr(chosen), make(**chosen))
        return SharpnessAware(params, base, geometry=shape, **options)

    defaults = {key: (NonNegative, value) for key, value in shape.defaults.items()}
    _record(SharpnessAwareOptions, name, given, build, own, facts, defaults)


def _method(name: str, kind: Any, facts: dict[str, Any]) -> None:
    """Declare a class of `Descent`, or one whose own `step(closure)` makes all passes."""
    from torch.optim import Optimizer

    from fsbench.config.component import components
    from fsbench.config.optimizer import NonNegative, OptimizerOptions, SharpnessAwareOptions
    from fsbench.optim import Descent, SharpnessAware
    from fsbench.optim.foreign import Foreign, base_parameter

    asked = inspect.signature(kind).parameters
    takes_lr = "lr" in asked or any(one.kind is one.VAR_KEYWORD for one in asked.values())
    if not takes_lr or not issubclass(kind, Optimizer):
        raise UsageError("", "", f"optimizer {name}: has to be a torch.optim.Optimizer whose constructor takes lr")
    below = {option for base in components("base").values() for option in base.model_fields}
    if not issubclass(kind, Descent):
        with_base = base_parameter(kind) is not None
        handed = ("params", "base", "base_optimizer", "lr", *(below if with_base else ()))
        own = _parameters(kind, "optimizer", name, handed)
        _record(OptimizerOptions, name, kind, partial(Foreign, kind=kind, own=tuple(own)), own, facts)
        return
    sharp = issubclass(kind, SharpnessAware)
    of_kind = SharpnessAwareOptions if sharp else OptimizerOptions
    handed = ("params", "base", "geometry", "max_norm", "model", "processes", "defaults", *below)
    own = _parameters(kind, "optimizer", name, (*handed, *of_kind.model_fields))
    shape = kind.geometry.defaults if sharp else {}
    defaults: dict[str, Any] = {key: (NonNegative, value) for key, value in shape.items()}
    for key, field in of_kind.model_fields.items():
        if key in asked and asked[key].default is not inspect.Parameter.empty and key != "lr":
            defaults[key] = (Annotated[field.annotation, *field.metadata], asked[key].default)
    _record(of_kind, name, kind, kind, own, facts, defaults)


@_decorator
def loss(name: str, function: Any) -> None:
    """Declare a loss: a function of logits (N, K) and labels (N,) that returns the mean over the examples.

    Training, evaluation and measures take it alike.
    """

    def build(**options: Any) -> Any:
        from fsbench.losses import Given

        return Given(name, function, options)  # type: ignore[arg-type]

    _declare("loss", name, function, build, 2)


@_decorator
def schedule(name: str, function: Any, *, drops: bool = True) -> None:
    """Declare a learning-rate schedule: a function that returns the factor on lr.

    It is handed those of `progress` (the share of the training after the warm-up that is over, 0 to 1), `step` and
    `steps` (of the whole training) that it asks for.

    Args:
        name: for `schedule=`.
        drops: whether the rate ever falls below its peak.
    """

    def at(options: Component, step: int, span: Any) -> Any:
        factor = _called(function, options, progress=span.progress(step), step=step, steps=span.total)
        try:
            if 0 <= (number := float(factor)) < math.inf:
                return number
        except (TypeError, ValueError):
            pass
        raise UsageError("schedule", name, f"its function returns {factor!r} at step {step}, not a number >= 0")

    _declare("schedule", name, function, "", ("progress", "step", "steps"), drops=drops, at=at)


@_decorator
def augmentation(name: str, function: Any) -> None:
    """Declare a change of training images: a function of uint8 images (B, C, H, W) and a generator of the CPU.

    It returns uint8 images of the same shape, after flip, crop and AutoAugment, which are options beside its own, and
    before images are normalised. All its randomness comes from the generator; None is torch's global one, for images
    that are streamed from files.
    """

    def build(options: Component) -> Any:
        def change(images: Any, generator: Any) -> Any:
            changed = _called(function, options, images, generator)
            like = getattr(changed, "dtype", type(changed)), tuple(getattr(changed, "shape", ()))
            if like != (images.dtype, tuple(images.shape)):
                made, given = (f"{kind} {shape}" for kind, shape in (like, (images.dtype, tuple(images.shape))))
                raise UsageError("augment", name, f"its function makes {made} of images {given}, not their like")
            return changed

        return change

    _declare("augment", name, function, build, 2)


@_decorator
def measure(name: str, function: Any, *, column: str | None = None, whole: bool = False) -> None:
    """Declare a measure: a function of a `Risk` that returns an `Estimate`, or a number that is exact.

    Args:
        name: for `measures=`.
        column: of tables; None: the name.
        whole: whether it takes all images of the split, not the `samples` drawn from it.
    """
    from fsbench.measuring.measures import Measure, add_measure

    _declare("measure", name, function, function, 1)
    line, (version, _) = _line(function), _source(function, f"measure {name}")
    add_measure(Measure(name, column or name, line, "a plugin", function, whole=whole, version=version))


def paper(name: str) -> Callable[[_Given], _Given]:
    """Declare a paper: a function that returns the tuple of its artefacts, called `<name>/...`.

    What they print lies in `numbers/*.csv` beside the file.
    """

    def declare(function: _Given) -> _Given:
        from fsbench.papers import add_paper

        file = _file()
        add_paper(name, function(), Path(file).parent if file else Path())  # type: ignore[operator]
        return function

    return declare


def _declare(group: str, name: str, function: Any, build: Any, handed: Sequence[str] | int, **facts: Any) -> None:
    from fsbench.config.component import group_of

    _record(group_of(group), name, function, build, _parameters(function, group, name, handed), facts)


def _record(
    kind: type[Component], name: str, given: Any, build: Any, own: dict[str, Any], facts: dict[str, Any],
    more: Mapping[str, Any] = {},
) -> None:  # fmt: skip
    """Define the record of a component's options, which puts it into the table.

    Args:
        own: annotation and default of the parameters of its function, by name.
        more: options that it has for another reason, which may give those of its kind other defaults.
    """
    from pydantic import create_model

    from fsbench.config.component import components

    what = f"{kind.group} {name}"
    source, file = _source(given, what)
    known = components(kind.group).get(name)
    if known is not None and (not known.source or file != known.file):
        owner = known.file if known.source else "fsbench"
        raise UsageError("", "", f"{what}: {owner} has a {kind.group} of this name; choose another")
    # Where images lie is each data set's own affair; all else is the record's, or the composition's.
    record = {*dir(kind), *kind.model_fields, "defaults", "plugin"} - {"root"}
    for option in own:
        if option in record or option in more or option.startswith("_"):
            raise UsageError("", "", f"{what}: its parameter {option} has a name of fsbench's; choose another")
    # The record of a run holds the source, which so belongs to its identity.
    made = create_model(
        name, __base__=kind, __cls_kwargs__={"name": name}, __module__=__name__, __doc__=_line(given),
        **{**more, **own}, plugin=(str, source),
    )  # fmt: skip
    for fact, value in {**facts, "builder": build, "source": source, "file": file, "own": tuple(own)}.items():
        if value is not None:
            setattr(made, fact, value)


def _parameters(function: Any, group: str, name: str, handed: Sequence[str] | int) -> dict[str, Any]:
    """A function's own options, (annotation, default) by name: its parameters but those that fsbench hands in."""
    target = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]  # its own, no subclass's
    try:
        hints = get_type_hints(target, include_extras=True)
        found = list(inspect.signature(function).parameters.values())
    except (NameError, TypeError, ValueError) as failure:
        raise UsageError("", "", f"the annotations of {group} {name} can't be read: {first_line(failure)}") from None
    if isinstance(handed, int):
        many = sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in found)
        if isinstance(function, type) or many < handed:
            allowed = f"a function is needed whose first {handed} parameters fsbench hands in"
            raise UsageError("", "", f"{group} {name}: {allowed}")
    found = found[handed:] if isinstance(handed, int) else [one for one in found if one.name not in handed]
    own: dict[str, Any] = {}
    for one in found:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        what = f"{group} {name}: its parameter {one.name}"
        if one.name not in hints:
            raise UsageError("", "", f"{what} has no annotation")
        annotation = _of_yaml(hints[one.name])
        own[one.name] = (annotation, ... if one.default is one.empty else one.default)
        _check_option(what, *own[one.name])
    return own


def _check_option(what: str, annotation: Any, default: Any) -> None:
    """Refuse an annotation that can't be checked, and a default that can't be written or does not keep to it."""
    from pydantic import create_model
    from pydantic.errors import PydanticUserError

    from fsbench.config.load import load
    from fsbench.config.options import Options

    try:
        record = create_model("option", __base__=Options, value=(annotation, ...))
    except PydanticUserError:
        allowed = "use numbers, text, bool, Literal, and lists, tuples, tables and None of them"
        raise UsageError("", "", f"{what} has an annotation that can't be checked; {allowed}") from None
    if default is ...:
        return
    try:
        load({"value": json.loads(json.dumps(default))}, record)
    except (TypeError, ValueError):
        raise UsageError("", "", f"{what} has the default {default!r}, which no command line can say") from None
    except UsageError as failure:
        raise UsageError("", "", f"{what} has the default {default!r}, which {failure.problem}") from None


def _of_yaml(annotation: Any) -> Any:
    """The annotation as YAML can keep to it: its tuples take lists, and of a union's classes those of Python count."""
    of, inner = get_origin(annotation), tuple(map(_of_yaml, get_args(annotation)))
    if annotation is tuple or of is tuple:
        from pydantic import Field

        return Annotated[tuple.__class_getitem__(inner) if inner else tuple, Field(strict=False)]
    if of in (Union, UnionType):
        plain = (bool, int, float, str, list, tuple, dict, type(None), Any)
        return Union[tuple(one for one in inner if one in plain or not isinstance(one, type)) or inner]  # noqa: UP007
    return of[inner] if of in (list, dict) else annotation


def _called(function: Any, options: Component, *inputs: Any, **handed: Any) -> Any:
    """Call a user's function with its own options, and of what is handed in with what it asks for."""
    asked = {key: value for key, value in handed.items() if key in inspect.signature(function).parameters}
    return function(*inputs, **asked, **options.arguments())


def _line(given: Any) -> str:
    """The first line of its docstring, else where it stands."""
    text = (getattr(given, "__doc__", None) or "").strip() if callable(given) else ""
    return text.partition("\n")[0] or f"of {getattr(given, '__module__', 'a plugin').removeprefix(PREFIX)}"


def _source(given: Any, what: str) -> tuple[str, str]:
    """sha256 of the file that declares it, and that file; where there is none (a notebook), of its own text."""
    if file := _file():
        return hashlib.sha256(Path(file).read_bytes()).hexdigest(), os.path.realpath(file)
    try:
        return hashlib.sha256(inspect.getsource(given).encode()).hexdigest(), ""
    except (OSError, TypeError):
        problem = "its text, which belongs to the identity of runs, can't be read; declare it in a file"
        raise UsageError("", "", f"{what}: {problem}") from None


def _file() -> str | None:
    """The file that calls a decorator."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    file = frame.f_globals.get("__file__") if frame is not None else None
    return file if file and os.path.isfile(file) else None
