"""From a composed configuration to a checked one; every problem becomes a usage error."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fsbench.config.options import Options
from fsbench.errors import UsageError, did_you_mean

Record = TypeVar("Record", bound=Options)


def load(values: dict[str, Any], kind: type[Record]) -> Record:
    """Check values and types against a record such as `TrainConfig`.

    Raises:
        UsageError: naming the first offending key, its value and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as failure:
        raise _usage_error(failure.errors(include_url=False)[0], values) from None


def _usage_error(error: ErrorDetails, values: dict[str, Any]) -> UsageError:
    path: list[str] = []
    node: Any = values
    absent = error["loc"][-1] if error["type"] in ("missing", "extra_forbidden") else None
    for part in error["loc"]:
        # pydantic adds the tag of optional types to the location, and the place of what a tuple lacks.
        within = range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else ()
        if part not in within and (part != absent or not isinstance(node, dict)):
            continue
        path.append(str(part))
        node = node[part] if part in within else None
    key = ".".join(path)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        problem = str(context["error"])
        # Checks of several keys name the one at fault themselves.
        named = "=" in problem.partition(":")[0]
        return UsageError("", "", problem) if named else UsageError(key, override_value(node), problem)
    if kind == "extra_forbidden":
        parent = values
        for part in path[:-1]:
            parent = parent[part]
        siblings = [name for name in parent if name != path[-1]]
        return UsageError(key, override_value(node), f"no such key{did_you_mean(path[-1], siblings)}")
    if kind == "missing" and isinstance(node, list):
        return UsageError(key, override_value(node), "has too few entries")
    if kind == "missing":
        return UsageError(key, "(missing)", "has to be given")
    if kind == "unknown":
        return UsageError(f"{key}.{context['key']}", context["name"], context["allowed"])
    if kind == "unnamed":
        return UsageError(f"{key}.{context['key']}", "(missing)", "has to be given")
    if kind == "literal_error":
        expected = context["expected"].replace("'", "").replace(" or ", ", ")
        context = {"expected": expected.replace("True", "true").replace("False", "false")}
    context = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in context.items()}
    return UsageError(key, override_value(node), _WORDS.get(kind, error["msg"]).format(**context))


_WORDS = {
    "greater_than_equal": "must be >= {ge}",
    "greater_than": "must be > {gt}",
    "less_than_equal": "must be <= {le}",
    "less_than": "must be < {lt}",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list, such as [1,2]",
    "tuple_type": "must be a list, such as [1,2]",
    "dict_type": "must be a table, such as {{a: 1}}",
    "literal_error": "must be one of {expected}",
    "finite_number": "must be a finite number",
    "too_short": "must have at least {min_length} entries",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "string_pattern_mismatch": "must begin with a letter or digit and be made of letters, digits and . _ = , + - only",
    "model_type": "must be a config group with keys of its own",
}


def override_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def short_value(value: Any) -> str:
    """The same with a number's first six digits; 0.10 and 0.1 are alike."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if plain else override_value(value)
