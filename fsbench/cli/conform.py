"""`fsbench conform MODULE:CLASS`: whether anyone's sharpness-aware optimizer does what its paper says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from fsbench.cli.flags import Parser
from fsbench.errors import UsageError
from fsbench.lines import printable, say, tell

if TYPE_CHECKING:
    from fsbench.conform.verdict import Verdict


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="fsbench conform",
        description="Checks a sharpness-aware optimizer of any package in float64, on networks of a few weights, in a "
        "process of its own. Each check that fails comes with a script that needs torch and the package alone.",
        epilog="Example: fsbench conform pytorch_optimizer:SAM --method sam. Exit code 3: some checks failed.",
    )
    parser.add_argument("target", metavar="MODULE:CLASS", help="the optimizer")
    parser.add_argument("--method", choices=["sam", "asam", "fsam"], help="whose perturbation it should have")
    parser.add_argument("--base", default="torch.optim.SGD", help="the class that it wraps (default: %(default)s)")
    api = "closure, first_second, backward_first, or a Python file that defines make(params, **options) and "
    parser.add_argument("--api", help=f"{api}step(optimizer, closure) (default: by the methods of the class)")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an argument of the class")
    parser.add_argument("--format", default="table", choices=["table", "markdown", "json"])
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each check (default: %(default)g)")
    options = parser.parse_intermixed_args(list(arguments))

    from fsbench.conform.process import verdicts
    from fsbench.conform.subject import Subject

    given = dict(map(_pair, options.option))
    subject = Subject(options.target, options.base, options.api, given)
    found = []
    for verdict in verdicts(subject, options.method, options.timeout):
        found.append(verdict)
        if options.format == "table":
            say(printable(f"{verdict.verdict:<11}  {verdict.sentence}{_more(verdict)}"))
    if options.format == "json":
        record = {"package": subject.package, "target": subject.target, "method": options.method, "options": given}
        print(json.dumps(record | {"checks": [asdict(verdict) for verdict in found]}, indent=1))
    elif options.format == "markdown":
        print(printable(_markdown(found)), end="")
    failed = [verdict for verdict in found if verdict.failed]
    for verdict in failed if options.format == "table" else ():
        say(printable(f"\n# {verdict.check}: {verdict.sentence}\n{verdict.script}"))
    tell(f"{subject.package}: {len(failed)} of {len(found)} checks failed")
    return 3 if failed else 0


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError("--option", word, "must read KEY=VALUE")
    return key, value


def _more(verdict: Verdict) -> str:
    """` (by 0.0021; equal to: eta = 0)`."""
    far = f"by {verdict.difference:.2g}" if verdict.difference is not None and verdict.failed else ""
    said = "; ".join(filter(None, (far, verdict.note)))
    return f" ({said})" if said else ""


def _markdown(found: Sequence[Verdict]) -> str:
    from fsbench.report.table import Grid, markdown

    lines = [[one.check.replace("_", " "), f"{one.verdict}{_more(one)}", one.sentence] for one in found]
    return markdown(Grid(["check", "verdict", "what is checked"], lines, left=3))
