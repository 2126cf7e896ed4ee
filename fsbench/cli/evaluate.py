"""`fsbench evaluate`: loss and accuracy of a finished run's network, on its own images or on others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fsbench.cli.flags import Parser, parse_composed, show_instead
from fsbench.config.compose import compose_jobs
from fsbench.config.primary import EVALUATE
from fsbench.errors import failing_in_a_line
from fsbench.lines import say
from fsbench.runs.atomic import finite

if TYPE_CHECKING:
    from fsbench.config.evaluate import EvaluateConfig

HELP = """\
fsbench evaluate [-m] run=runs/ID [KEY=VALUE ...]: loss and accuracy of a finished run's network.

Without dataset= on the run's own images, where split=test and split=train give the numbers that the run recorded.
With dataset= on any data set of as many classes, in images of the same size (dataset.image_size=PIXELS resizes them).
They are normalised with the run's own mean and standard deviation; dataset.mean=[...] dataset.std=[...] says others.

  fsbench evaluate run=runs/ID
  fsbench evaluate run=runs/ID split=train
  fsbench evaluate run=runs/ID dataset=folder dataset.root=DIR
  fsbench evaluate -m 'run=glob(runs/*)' dataset=svhn --format json

The loss is that of the run, without label smoothing; from 100 classes on there is a top-5 accuracy too.
JSON has accuracies in [0, 1]; with -m it is a list. Nothing is written into the run's directory.
Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
Also: --format text|json, --cfg job (show the configuration), --config-dir DIR (groups of your own), --version.

With these choices:

"""


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="fsbench evaluate", add_help=False, allow_abbrev=False)
    parser.add_argument("--format", default="text", choices=["text", "json"])
    own, rest = parser.parse_known_args(list(arguments))
    options = parse_composed("fsbench evaluate", rest)
    if show_instead(options, HELP, EVALUATE):
        return 0
    jobs = compose_jobs(options.overrides, multirun=options.multirun, config_dir=options.config_dir, primary=EVALUATE)
    found = []
    for job in jobs:
        said = {override.lstrip("+").partition("=")[0] for override in job.overrides}
        found.append(_evaluated(job.config, bool(said & {"dataset.mean", "dataset.std"})))
        if own.format == "text":
            say(_line(found[-1]))
    if own.format == "json":
        print(json.dumps(finite(found if options.multirun else found[0]), indent=1))
    return 0


def _evaluated(config: EvaluateConfig, own_moments: bool) -> dict[str, Any]:
    from fsbench.config.sharpness import MovedDataset
    from fsbench.measuring.source import find_run

    moved = config.dataset.root if isinstance(config.dataset, MovedDataset) else None
    # Before torch is imported: what is wrong with a run is said at once.
    source = find_run(config.run, moved, config.data_dir, config.workers)
    from fsbench.measuring.evaluation import evaluated

    with failing_in_a_line(config.run):
        return evaluated(source, config, own_moments=own_moments)


def _line(found: dict[str, Any]) -> str:
    kind = {"train": "training"}.get(found["split"], found["split"])
    top5 = f", top-5 {100 * found['top5_accuracy']:.2f} %" if "top5_accuracy" in found else ""
    return (
        f"{found['run']}: {found['images']} {kind} images of {found['dataset']}: "
        f"accuracy {100 * found['accuracy']:.2f} %{top5}, loss {found['loss']:.4g}"
    )
