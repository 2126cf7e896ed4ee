"""`fsbench help`: the guides, which lie in `fsbench/guides/`, as text."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from fsbench.errors import UsageError, did_you_mean
from fsbench.lines import aligned

# Topic, in the order of reading, and its line.
TOPICS = {
    "training": "runs and sweeps, data sets, resuming, executors, exit codes",
    "comparing": "methods compared: equal searches, paired seeds, verdicts",
    "sharpness": "measures of finished runs and of other networks, and what their numbers mean",
    "reproduce": "the papers' tables and figures",
    "library": "runs from Python, the optimizers and measures in a loop of your own",
    "conforming": "whether anyone's sharpness-aware optimizer does what its paper says",
    "extending": "your own model, data set, optimizer, loss, schedule, augmentation, measure or paper",
    "devices": "several devices, mixed precision, CUDA graphs, populations, speed",
    "contributing": "the code: its parts, the way of a step and of a number, recipes, rules",
}


def main(arguments: Sequence[str]) -> int:
    """List the topics, or print the guide of one."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: fsbench help TOPIC\n")
        print("\n".join(aligned([(f"  {topic}", line) for topic, line in TOPICS.items()])))
        return 0
    topic, *others = arguments
    if topic not in TOPICS:
        allowed = f"there are {', '.join(TOPICS)}"
        raise UsageError("", "", f"no help on '{topic}'{did_you_mean(topic, TOPICS)}; {allowed}")
    if others:
        raise UsageError("", "", f"help takes one topic, got {' '.join(arguments)}")
    print((files("fsbench") / "guides" / f"{topic}.md").read_text(encoding="utf-8"), end="")
    return 0
