"""The checks of an optimizer in a process of its own, with a time limit for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from queue import Empty, Queue
from threading import Thread
from typing import Any

from fsbench.conform.subject import Subject
from fsbench.conform.verdict import Verdict
from fsbench.errors import FsbenchError, UsageError

# Seconds that a process may take to import what it needs.
_START = 120.0


def verdicts(subject: Subject, method: str | None, timeout: float) -> Iterator[Verdict]:
    """The checks in turn. After one that does not end in time, or ends its process, a new process goes on.

    Raises:
        UsageError: there is no such class, or it can't be used as was said.
    """
    left: dict[str, str] | None = None
    while left is None or left:
        begun = None
        for line in _lines({"subject": asdict(subject), "method": method, "checks": left and list(left)}, timeout):
            if "refused" in line:
                raise UsageError("", "", line["refused"])
            if "sentences" in line:
                left = left or line["sentences"]
            elif "begun" in line:
                begun = line["begun"]
            else:
                assert left is not None
                del left[line["check"]]
                begun = None
                yield Verdict(**line)
        if left is None or (left and begun is None):
            raise FsbenchError(f"{subject.target}: its process ended before a check began")
        if begun is not None:
            yield Verdict(begun, left.pop(begun), "did not end", note=f"within {timeout:g} s, or it ended its process")


def _lines(asked: dict[str, Any], timeout: float) -> Iterator[dict[str, Any]]:
    """What a process says, until it ends, or is silent for too long and is killed."""
    command = [sys.executable, "-m", "fsbench.conform.worker"]
    # It finds the modules that this process does.
    found = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=found) as process:
        said: Queue[str] = Queue()
        reader = Thread(target=_read, args=(process.stdout, said), daemon=True)
        reader.start()
        try:
            with process.stdin or sys.stdin as stdin:
                json.dump(asked, stdin)
            line = said.get(timeout=max(timeout, _START))
            while line:
                yield json.loads(line)
                line = said.get(timeout=timeout)
        except Empty:
            pass
        finally:
            process.kill()


def _read(stream: Any, said: Queue[str]) -> None:
    for line in stream:
        said.put(line)
    said.put("")
