"""The stages of scripts/gpu/run, each in a process with its share of the minutes, and what collect makes of them."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import math
import os
import queue
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
SHARES = {"tests": 75, "step": 120, "study": 315, "population": 60}  # seconds of nine and a half minutes
GRACE = 8.0  # seconds that a stage told to stop has to write down what it knows
WEIGHTS = {".safetensors", ".pt"}
SEEDS, PAPERS_EPOCHS = 3, 200
TRAINING = 0.65  # of what is left of the study's time once a step is timed; measures and evaluations take the rest
# Table 1 of Kim et al. 2022 and, to tell the radius from the method, SAM at FSAM's; SGD for twice as many epochs.
METHODS = {
    "sgd": ("optimizer=sgd",),
    "sam": ("optimizer=sam",),
    "SAM at FSAM's rho": ("optimizer=sam", "optimizer.rho=0.1"),
    "asam": ("optimizer=asam",),
    "fsam": ("optimizer=fsam",),
}
ALPHAS = "alphas=[0.1,0.2,0.5,1.0,1.5,2.0,2.5,3.0,3.5,4.0,4.5,5.0]"
MEASURED = ("hessian_trace", "normalized_sharpness", "fisher_log_determinant")
PAPER = """from dataclasses import replace
from fsbench.papers.artefact import Scale
from fsbench.papers.kim2022 import FIGURE_4, METHODS, TABLE_1, trained
TABLE = replace(
    TABLE_1, name="study/accuracy", title="Test accuracy on CIFAR-10, ResNet-20", extras=TABLE_1.extras[:1],
    axes={{"dataset": ("cifar10",), "model": ("resnet20",), "optimizer": METHODS}},
    scales={{"small": Scale(seeds={seeds}, **trained({epochs}, *{overrides}))}},
)
ARTEFACTS = (
    TABLE,
    replace(TABLE, name="study/accuracy_beside_sam", shows=replace(TABLE.shows, baseline="SAM at FSAM's rho")),
    replace(FIGURE_4, name="study/adversarial", title="Test accuracy under adversarial perturbation, ResNet-20",
            axes={{"optimizer": METHODS}}, extras=TABLE.extras, measure=("{alphas}",), scales=TABLE.scales),
)
"""


@dataclass(frozen=True)
class Size:
    """How much the stages do.

    Args:
        tests, step, population: options of pytest, of bench step and of bench population.
        overrides, batch: of the runs of the study.
        probe: of the runs that a step is timed in.
        most: epochs, seeds, and processes side by side.
        measures: of the study's runs, the most telling first.
        curvature: network and options of the measures of the last stage.
    """

    label: str
    tests: Sequence[str]
    step: Sequence[str]
    overrides: Sequence[str]
    batch: int
    probe: Sequence[str]
    most: tuple[int, int, int]
    measures: Sequence[Sequence[str]]
    population: Sequence[str]
    curvature: Sequence[Sequence[str]]


WRN = ("model=wrn28_10", "samples=100")
FULL = Size(
    label="CIFAR-10 (JPEG copy)",
    tests=("-m", "gpu"),
    step=(
        "--networks", "resnet20,wrn28_10,vit_base_patch16", "--methods", "SGD,SAM,ASAM,FSAM,Fisher trace M=8",
        "--precisions", "bf16,tf32,fp32", "--forms", "plain,recorded,compiled,both", "--rounds", "7",
    ),
    overrides=("model=resnet20", "trainer.precision=tf32", "trainer.eval_every=10", "trainer.checkpoint_every=10"),
    batch=128,
    probe=("dataset.subset=6400", "trainer.epochs=4", "trainer.eval_every=4"),
    most=(PAPERS_EPOCHS, 10, 15),
    measures=(
        ("measures=[trace]",), ("measures=[adversarial]", ALPHAS), ("measures=[normalized]",),
        ("measures=[fisher_determinant]",),
    ),
    population=(
        "--networks", "fcnn_small,lenet", "--methods", "fsam", "--members", "32,128", "--alone", "6",
        "--rounds", "1", "--epochs", "20",
    ),
    curvature=(
        (*WRN, "measures=[trace]"), (*WRN, "measures=[trace_hutchinson]", "probes=20"),
        (*WRN, "measures=[eigenvalues]"),  # most of it on the CPU, with vectors of 36 million entries
    ),
)  # fmt: skip
SMALL = ("model=mlp", "model.widths=[8]")
TINY = Size(
    label="rehearsal",
    tests=("tests/report/test_text.py",),
    step=("--networks", "resnet20", "--methods", "SGD,SAM,Fisher trace M=8", "--precisions", "bf16,fp32",
          "--forms", "plain,recorded", "--rounds", "1", "--batch", "2", "--pixels", "16"),
    overrides=SMALL,
    batch=8,
    probe=("trainer.epochs=2",),
    most=(1, 2, 2),
    measures=(
        ("measures=[trace]", "samples=4"), ("measures=[adversarial]", ALPHAS),
        ("measures=[normalized]", "samples=4"), ("measures=[fisher_determinant]", "subset_size=4", "subsets=2"),
    ),
    population=("--networks", "fcnn_small", "--methods", "fsam", "--members", "2", "--rounds", "1", "--epochs", "1"),
    curvature=tuple(
        (*SMALL, "samples=4", *measure)
        for measure in (("measures=[trace]",), ("measures=[eigenvalues]",),
                        ("measures=[trace_hutchinson]", "probes=2"))
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Where a stage works and until when.

    Args:
        out: what is kept; stages work in another folder.
        root: of the images.
        until: of time.time().
    """

    size: Size
    out: Path
    root: str
    device: str
    until: float

    @property
    def left(self) -> float:
        return self.until - time.time()

    def write(self, name: str, record: Any) -> None:
        from fsbench.runs.atomic import write_json

        write_json(self.out / f"{name}.json", record)

    @property
    def images(self) -> tuple[str, ...]:
        return "dataset=folder", f"dataset.root={self.root}", f"dataset.label='{self.size.label}'"


def tests(stage: Stage) -> int:
    """The tests, each written down as it ends."""
    import pytest

    from fsbench.runs.provenance import available_cores

    rows: list[dict[str, Any]] = []

    class Kept:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.outcome != "passed":
                lines = report.longreprtext.strip().splitlines() if report.failed else []
                why = [line[1:].strip() for line in lines if line.startswith("E  ")][:1] or lines[-1:]
                row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration, "why": why}
                rows.append(row)
                stage.write("tests", rows)

    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # there may be many, and warnings are errors
    options = ["-p", "no:cacheprovider", "--continue-on-collection-errors", "--tb=short", *stage.size.tests]
    if "gpu" in options:
        # To import all the others takes a good part of the minute.
        options += sorted(str(path) for path in Path("tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
        if importlib.util.find_spec("xdist"):
            # One after the other they take minutes, most of it on the host.
            options += ["-p", "xdist.plugin", "-n", str(max(1, available_cores() // 2))]
            os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    return int(pytest.main(options, plugins=[Kept()]))


def bench(name: str, stage: Stage, options: Sequence[str], seconds: float) -> int:
    """A bench, for so long at most; it writes row by row."""
    command = [sys.executable, str(ROOT / f"scripts/bench_{name}.py"), *options, "--device", stage.device]
    command += ["--json", str(stage.out / f"{name}.json"), "--threads", "1" if stage.device == "cpu" else "4"]
    how = ""
    try:
        code = subprocess.run(command, timeout=max(1.0, seconds)).returncode
    except subprocess.TimeoutExpired:
        code, how = 0, f", stopped after {seconds:.0f} s"
    written = stage.out / f"{name}.json"
    rows = len(json.loads(written.read_text())["rows"]) if written.exists() else 0
    if not code:
        print(f"{rows} rows{how}", flush=True)
    return code or not rows


def step(stage: Stage) -> int:
    # A compilation may take long: what begins late is cut off.
    options = [*stage.size.step, "--regularised", "", "--update", "", "--seconds", f"{max(1.0, stage.left - 10):.0f}"]
    return bench("step", stage, options, stage.left)


class Workers:
    """Processes that each carry out one fsbench command after the other; what they imported and decoded they keep."""

    def __init__(self, count: int) -> None:
        self._idle: queue.Queue[subprocess.Popen[str]] = queue.Queue()
        self._all: list[subprocess.Popen[str]] = []
        self._stopped = False
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "worker"]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self._all.append(worker)
        self._idle.put(worker)

    def carry_out(self, command: Sequence[str], after: Future[Any] | None = None) -> int:
        """The exit code of a command, begun when another has ended; 1 of a worker that died, which is replaced."""
        if after is not None:
            after.result()
        if self._stopped:
            return 130
        worker = self._idle.get()
        answer = ""
        with contextlib.suppress(OSError, ValueError):
            worker.stdin.write(json.dumps(list(command)) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        if answer:
            self._idle.put(worker)
        elif not self._stopped:
            self._start()
        return int(answer or 1)

    def stop(self) -> None:
        """A run under way leaves a checkpoint."""
        self._stopped = True
        for worker in self._all:
            worker.terminate()
            with contextlib.suppress(OSError):
                worker.stdin.close()  # nothing comes after that run
        until = time.time() + GRACE / 2
        for worker in self._all:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, until - time.time()))
            worker.kill()


def worker() -> int:
    """Commands from stdin, an exit code each to stdout; what commands print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from fsbench.cli.main import main

    for line in sys.stdin:
        try:
            code = main(json.loads(line))
        except Exception:
            traceback.print_exc()
            code = 1
        print(code, file=answers, flush=True)
    return 0


@contextlib.contextmanager
def mps(device: str) -> Iterator[bool]:
    """Kernels of several processes at a time, where NVIDIA's service for that starts and takes a client."""
    own = {f"CUDA_MPS_{what}_DIRECTORY": str(Path("mps").resolve()) for what in ("PIPE", "LOG")}
    client = "import ctypes; c = ctypes.CDLL('libcuda.so.1'); p = ctypes.c_void_p()\n"
    client += "raise SystemExit(c.cuInit(0) or c.cuDevicePrimaryCtxRetain(ctypes.byref(p), 0))"
    control, started, serves = "nvidia-cuda-mps-control", False, False
    if device == "cuda" and shutil.which(control):
        Path("mps").mkdir()
        os.environ.update(own)
        with contextlib.suppress(subprocess.SubprocessError):
            started = subprocess.run([control, "-d"], timeout=20).returncode == 0
            serves = started and subprocess.run([sys.executable, "-c", client], timeout=30).returncode == 0
        if not serves:
            for name in own:
                del os.environ[name]
    try:
        yield serves
    finally:
        if started:
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run([control], input="quit\n", text=True, timeout=10, env={**os.environ, **own})


def chosen(
    seconds: float, step: Mapping[int, float], steps: int, most_epochs: int, most_seeds: int
) -> tuple[int, int, int]:
    """(seeds, epochs, how many runs side by side): three seeds if they can be, then epochs, then more seeds.

    Args:
        step: seconds of a step of a two-pass method, by how many processes make theirs at a time.
        steps: of an epoch.
    """

    def epochs(seeds: int, side: int) -> int:
        return int(seconds / (math.ceil(len(METHODS) * seeds / side) * steps * step[side]))

    def best(seeds: int) -> int:
        return max(step, key=lambda side: (epochs(seeds, side), -side))

    seeds = min(SEEDS, most_seeds)
    while seeds < most_seeds and epochs(seeds + 1, best(seeds + 1)) >= most_epochs:
        seeds += 1
    while seeds > 1 and not epochs(seeds, best(seeds)):
        seeds -= 1
    side = best(seeds)
    return seeds, min(most_epochs, max(1, epochs(seeds, side))), side


def study(stage: Stage) -> int:
    """Paired runs of all methods, then their measures; what is chosen, and what ends, is written at once."""
    from fsbench.runs.provenance import available_cores

    size = stage.size
    own = [*size.overrides, f"trainer.batch_size={size.batch}"]
    common = ["experiment=kim2022/table1", *stage.images, *own, f"trainer.device={stage.device}"]
    common.append("trainer.progress=false")
    if stage.device == "cuda":
        common.append("trainer.cuda_graph=true")
    record: dict[str, Any] = {"overrides": own, "root": stage.root, "label": size.label, "step": {}, "runs": []}
    most = min(available_cores(), size.most[2])
    with mps(stage.device) as record["mps"]:
        workers = Workers(most)
        try:
            # The first of each process decodes the images and has libraries choose their kernels.
            for name, count in [("warm", most), *((str(n), n) for n in sorted({1, max(1, most // 2), most}))]:
                seconds = timed_step(workers, [*common, *size.probe], name, count)
                if name != "warm" and seconds is not None:
                    record["step"][count] = seconds
            if not record["step"]:
                raise SystemExit("a step could not be timed")
            steps = math.ceil(sum(1 for _ in Path(stage.root, "train").glob("*/*")) / size.batch)
            available = TRAINING * stage.left
            seeds, epochs, side = chosen(available, record["step"], steps, *size.most[:2])
            record |= {"seeds": seeds, "epochs": epochs, "side": side}
            times = ", ".join(f"{1e3 * seconds:.2f} ms with {n} at a time" for n, seconds in record["step"].items())
            record["said"] = (
                f"A step of FSAM takes {times} ({'' if record['mps'] else 'no '}MPS). In {available:.0f} s that makes "
                f"{seeds} seeds of {len(METHODS)} methods for {epochs} epochs (SGD {2 * epochs}), {side} side by side."
            )
            print(record["said"], flush=True)
            stage.write("study", record)
            return carried_out(stage, workers, common, record)
        finally:
            workers.stop()


def timed_step(workers: Workers, common: Sequence[str], name: str, count: int) -> float | None:
    """Seconds of a step while `count` processes train: the median over their epochs after the first.

    None where one of them fails, so many being too many.
    """
    lines = [["train", *common, "optimizer=fsam", f"seed={i}", f"runs_dir=probe/{name}/{i}"] for i in range(count)]
    pool = ThreadPoolExecutor(count)
    try:
        codes = list(pool.map(workers.carry_out, lines))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if any(codes):
        print(f"{name}, {count} at a time: exit codes {codes}", flush=True)
        return None
    rows = [
        json.loads(line)
        for path in Path("probe", name).rglob("metrics.jsonl")
        for line in path.read_text().splitlines()[1:]
    ]
    return statistics.median(row["seconds"] / row["steps"] for row in rows)


def carried_out(stage: Stage, workers: Workers, common: Sequence[str], record: dict[str, Any]) -> int:
    """The runs, seed by seed, and behind them their measures, the most telling first, until the time is up."""
    from fsbench.config.compose import compose_jobs
    from fsbench.runs.directory import RunDirectory

    lines = {}
    for seed in range(record["seeds"]):
        for method, choice in METHODS.items():
            epochs = record["epochs"] * (2 if method == "sgd" else 1)
            line = [*common, *choice, f"seed={seed}", f"trainer.epochs={epochs}"]
            (job,) = compose_jobs(line, multirun=False)
            name = RunDirectory.of(job.config.model_dump(mode="json"), job.choices).path.name
            row = {"method": method, "seed": seed, "run": name, "training": "not ended", "measures": {}}
            record["runs"].append(row)
            lines[name] = line
    stage.write("study", record)
    pool, waiting = ThreadPoolExecutor(record["side"]), {}
    trained = {name: pool.submit(workers.carry_out, ["train", *line]) for name, line in lines.items()}
    for row in record["runs"]:
        waiting[trained[row["run"]]] = row, "training"
    for options in stage.size.measures:
        for row in record["runs"]:
            command = ["sharpness", f"run=runs/{row['run']}", *options, f"device={stage.device}", "progress=false"]
            future = pool.submit(workers.carry_out, command, trained[row["run"]])
            waiting[future] = row, options[0].removeprefix("measures=")
    total = len(waiting)
    while waiting and stage.left > 0:
        for future in wait(waiting, timeout=max(0.0, stage.left), return_when=FIRST_COMPLETED).done:
            row, what = waiting.pop(future)
            code = future.result()
            ended = "done" if code == 0 else f"exit code {code}"
            if what == "training":
                row["training"] = ended
            else:
                row["measures"][what] = ended
        stage.write("study", record)
    pool.shutdown(wait=False, cancel_futures=True)
    done = sum(row["training"] == "done" for row in record["runs"])
    late = f", {len(waiting)} of {total} runs and measures were too late" if waiting else ""
    print(f"{record['said']} {done} of {len(record['runs'])} runs finished{late}")
    return 0 if done else 1


def population(stage: Stage) -> int:
    """A population beside its runs one after the other; then measures of a large network, each written as it ends."""
    workers, pool = Workers(1), ThreadPoolExecutor(1)
    common = ["sharpness", *stage.images, "progress=false"]
    try:
        if stage.size.curvature:
            # Decodes the images meanwhile.
            pool.submit(
                workers.carry_out, [*common, *SMALL, "measures=[trace]", "samples=4", "device=cpu", "out=first"]
            )
        codes = [bench("population", stage, stage.size.population, 0.6 * stage.left)]
        for options in stage.size.curvature:
            command = [*common, *options, f"device={stage.device}", "out=curvature"]
            future = pool.submit(workers.carry_out, command)
            if not wait([future], timeout=max(0.0, stage.left)).done:
                break
            codes.append(future.result())
            if (found := Path("curvature/sharpness.json")).exists():
                stage.write("curvature", {"network": options[0], **json.loads(found.read_text())})
    finally:
        workers.stop()
    measured = sum(code == 0 for code in codes[1:])
    print(f"population: {'done' if codes[0] == 0 else 'failed'}; {measured} of {len(stage.size.curvature)} measures")
    return max(codes)


STAGES: dict[str, Callable[[Stage], int]] = {"tests": tests, "step": step, "study": study, "population": population}


def unpack(archive: Path, root: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(root, filter="data")


def rehearsal_images(scratch: Path) -> Path:
    """An archive of noise in two classes, one of them brighter."""
    import numpy as np
    from PIL import Image

    draw, place = np.random.default_rng(0), scratch / "made"
    for part, count in (("train", 16), ("test", 8)):
        for label in range(2):
            (place / part / f"class{label}").mkdir(parents=True)
            for i in range(count // 2):
                pixels = draw.integers(100 * label, 156 + 100 * label, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / part / f"class{label}" / f"{i}.jpg")
    archive = scratch / "images.tar.xz"
    with tarfile.open(archive, "w:xz") as packed:
        for part in ("train", "test"):
            packed.add(place / part, part)
    return archive


def run(given: argparse.Namespace, size: Size) -> int:
    """The stages one after the other; each has its part of the time that is left."""
    started = time.time()
    end = started + 60 * given.minutes * 0.97  # packing takes some
    if given.commit:
        os.environ["FSBENCH_COMMIT"] = given.commit
    from fsbench.runs.atomic import write_json
    from fsbench.runs.provenance import provenance

    out = Path(given.out or tempfile.mkdtemp(prefix="rehearsal-")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    record = {"rehearsal": given.rehearse, "minutes": given.minutes, "gpu": gpu(), **provenance(), "stages": []}
    with tempfile.TemporaryDirectory(prefix="stages-") as scratch, open(out / "log.txt", "w") as log:
        archive = rehearsal_images(Path(scratch)) if given.rehearse else Path(given.data).resolve()
        root = Path(scratch) / archive.name.partition(".")[0]
        # Beside the first stages. What is wrong with it the stages that need it find out.
        unpacking = Thread(target=unpack, args=(archive, root), daemon=True)
        unpacking.start()
        for i, name in enumerate(given.stages):
            if name in ("study", "population"):
                unpacking.join()
            seconds = (end - time.time()) * SHARES[name] / sum(SHARES[later] for later in given.stages[i:])
            how = {"out": str(out), "root": str(root), "device": "cpu" if given.rehearse else "cuda"}
            how |= {"seconds": seconds - 1.5 * GRACE, "size": asdict(size)}
            command = [sys.executable, __file__, "stage", name, json.dumps(how)]
            stage = ended(name, command, seconds, scratch, log)
            record["stages"].append(stage)
            print(told(stage), flush=True)
            write_json(out / "run.json", record)
            pack(Path(scratch), out)
            if stage["state"] == "interrupted":
                return 130
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))} in {time.time() - started:.0f} s")
    return 0 if all(stage["state"] == "done" for stage in record["stages"]) else 1


def told(stage: dict[str, Any]) -> str:
    return f"{stage['stage']}: {stage['state']} after {stage['seconds']:.0f} of {stage['share']:.0f} s: {stage['line']}"


def gpu() -> str | None:
    """The name of the first card and its driver."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]
    return None


def ended(name: str, command: Sequence[str], seconds: float, scratch: str, log: TextIO) -> dict[str, Any]:
    """How a stage ended, and its last line; at the end of its time it is told to stop, then its group is killed."""
    print(f"\n===== {name}, {seconds:.0f} s =====", file=log, flush=True)
    started, place = time.time(), log.tell()
    process, state = subprocess.Popen(command, cwd=scratch, stdout=log, stderr=log, start_new_session=True), ""
    try:
        process.wait(max(1.0, seconds - GRACE))
    except subprocess.TimeoutExpired:
        state = "out of time"
    except KeyboardInterrupt:
        state = "interrupted"
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    code = process.returncode
    state = state or ("done" if code == 0 else f"failed, {f'signal {-code}' if code < 0 else f'exit code {code}'}")
    with open(log.name, errors="replace") as said:
        said.seek(place)
        lines = [line.strip() for line in said if line.strip()]
    line = lines[-1] if lines else "said nothing"
    return {"stage": name, "state": state, "share": seconds, "seconds": time.time() - started, "line": line}


def pack(scratch: Path, out: Path) -> None:
    """The run directories without weights."""
    if (scratch / "runs").is_dir():
        with tarfile.open(out / "runs.part", "w:gz") as packed:
            packed.add(scratch / "runs", "runs", filter=lambda one: None if Path(one.name).suffix in WEIGHTS else one)
        (out / "runs.part").replace(out / "runs.tar.gz")


def collect(given: argparse.Namespace) -> int:
    """Tables, figures and provenance of what a run left, as far as it is there."""
    from fsbench.runs.atomic import write_json, write_text

    came = given.directory.resolve()
    if not (came / "run.json").is_file():
        print(f"scripts/gpu/collect: {given.directory} has no run.json: no stage has ended there", file=sys.stderr)
        return 2
    record = {path.stem: json.loads(path.read_text()) for path in came.glob("*.json")}
    whole = record.pop("run")
    if whole["rehearsal"] and not given.results:
        print("scripts/gpu/collect: a rehearsal, whose numbers mean nothing; --results DIR shows them", file=sys.stderr)
        return 2
    device = whole["gpu"] or whole["hardware"]["cpu"]
    name = re.sub(r"[^a-z0-9]+", "-", f"{device.partition(',')[0].lower()} {whole['started'][:10]}")
    results = (given.results or ROOT / "results/gpu").resolve() / name
    with tempfile.TemporaryDirectory(prefix="collect-") as scratch:
        os.chdir(scratch)
        made = Path("made")
        made.mkdir()
        lines = [f"# {device}, {whole['started'][:10]}", "", about(whole), ""]
        lines += [f"- {told(stage)}" for stage in whole["stages"]]
        for stage in (stage for stage in WRITERS if stage in record):
            lines += ["", f"## {stage}", "", *WRITERS[stage](record[stage], made, came)]
            write_json(made / f"{stage}.json", record[stage])
        write_text(made / "README.md", "\n".join(lines) + "\n")
        write_json(made / "provenance.json", whole)
        shutil.copytree(made, results, dirs_exist_ok=True)
    print(f"{results}: {', '.join(sorted(path.name for path in results.iterdir()))}")
    return 0


def about(whole: dict[str, Any]) -> str:
    return (
        f"{'A rehearsal: these numbers mean nothing. ' if whole['rehearsal'] else ''}Written by `scripts/gpu/collect` "
        f"from what `scripts/gpu/run --minutes {whole['minutes']:g}` measured. {whole['hardware']['cpu']} "
        f"({whole['hardware']['cores']} cores), {whole['gpu'] or 'no GPU'}, torch {whole['versions']['torch']}, commit "
        f"{whole['git_commit'] or 'unknown'}."
    )


Lines = Iterator[str]


def write_tests(rows: list[dict[str, Any]], made: Path, came: Path) -> Lines:
    outcomes = [row["outcome"] for row in rows]
    yield ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("passed", "skipped", "failed")) + "."
    yield from (f"- `{row['test']}`: {' '.join(row['why'])}" for row in rows if row["outcome"] == "failed")


def write_bench(name: str, record: dict[str, Any], made: Path, came: Path) -> Lines:
    from fsbench.runs.atomic import write_text

    write_text(made / f"{name}.md", importlib.import_module(f"bench_{name}").report(record))
    yield f"[{name}.md]({name}.md), {len(record['rows'])} rows."


def write_curvature(record: dict[str, Any], made: Path, came: Path) -> Lines:
    from benchmark import aligned

    lines = [["measure", "value", "±", "over", "images or draws", "seconds"]]
    for name, one in record["measures"].items():
        over, error = next(((over, one[key]) for over, key in (("draws", "stderr"), ("images", "example_stderr"))
                            if one.get(key)), ("", None))  # fmt: skip
        error = "" if error is None else f"{error:.2g}"
        lines.append([name, f"{one['value']:.5g}", error, over, str(one["samples"]), f"{one['seconds']:.2f}"])
    yield from (f"{record['network']}, weights: {record['weights']}.", "", *aligned(lines))


def write_study(record: dict[str, Any], made: Path, came: Path) -> Lines:
    from fsbench.cli.main import main
    from fsbench.runs.atomic import write_text

    yield record.get("said", "No step was timed.")
    if (came / "runs.tar.gz").is_file():
        with tarfile.open(came / "runs.tar.gz") as packed:
            packed.extractall(".", filter="data")
    unfinished = [row for row in record["runs"] if not Path("runs", row["run"], "summary.json").is_file()]
    if unfinished:
        names = (f"{row['method']} seed {row['seed']} ({row['training']})" for row in unfinished)
        yield from ("", f"Not finished: {', '.join(names)}.")
    if len(unfinished) == len(record["runs"]):
        return
    Path("papers").mkdir()
    Path("papers/study.py").write_text(PAPER.format(alphas=ALPHAS, **record))
    line = ["reproduce", "--papers", "papers", "study", "stands_for=cifar10", "dataset=folder", "render=true"]
    line += [f"dataset.root={record['root']}", f"dataset.label='{record['label']}'", f"results_dir={made}"]
    with contextlib.redirect_stdout(sys.stderr):
        main(line)
    known = [json.loads(path.read_text())["measures"] for path in Path("runs").glob("*/sharpness.json")]
    columns = ["test_accuracy", "generalization_gap", *(name for name in MEASURED if any(name in one for one in known))]
    # SGD alone has no radius.
    alone = all(row["method"] == "sgd" for row in record["runs"] if row not in unfinished)
    by = "optimizer" if alone else "optimizer,optimizer.rho"
    line = ["table", "runs", "--by", by, "--columns", ",".join(columns), "--format"]
    for name, form in (("study.csv", "csv"), ("study.md", "markdown")):
        with contextlib.redirect_stdout(io.StringIO()) as table:
            main([*line, form])
        write_text(made / name, table.getvalue())
    yield from ("", *table.getvalue().splitlines(), "")
    pages = [path.relative_to(made) for path in sorted((made / "study").glob("*/*.md"))]
    yield ", ".join(f"[{page.parent.name}]({page})" for page in pages)


WRITERS: dict[str, Callable[[Any, Path, Path], Lines]] = {
    "tests": write_tests,
    "step": partial(write_bench, "step"),
    "study": write_study,
    "population": partial(write_bench, "population"),
    "curvature": write_curvature,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu/run", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("run", prog="scripts/gpu/run").add_argument
    add("--minutes", type=float, default=None, help="in all (default: 9; 4 of a rehearsal)")
    add("--out", metavar="DIR", help="where eight files at most go (a rehearsal's: by default a new temporary folder)")
    add("--data", metavar="FILE", help="a tar archive of train/<class>/ and test/<class>/")
    add("--commit", help="of this copy of the checkout, where there is no .git")
    add("--stages", type=lambda text: text.split(","), default=list(SHARES), help=f"(default: {','.join(SHARES)})")
    add("--rehearse", action="store_true", help="every stage at tiny size, on the CPU")
    add = commands.add_parser("collect", prog="scripts/gpu/collect").add_argument
    add("directory", type=Path, metavar="DIR", help="what scripts/gpu/run left")
    add("--results", type=Path, metavar="DIR", help="(default: results/gpu)")
    add = commands.add_parser("stage").add_argument
    add("name")
    add("how", type=json.loads)
    commands.add_parser("worker")
    given = parser.parse_args()
    if given.command == "run":
        if unknown := [name for name in given.stages if name not in SHARES]:
            parser.error(f"--stages: no {', '.join(unknown)}; there are {', '.join(SHARES)}")
        if not given.rehearse and not (given.out and given.data and Path(given.data).is_file()):
            parser.error("--out DIR and --data FILE are needed (--rehearse does without)")
        given.minutes = given.minutes or (4 if given.rehearse else 9)
    return given


def main() -> int:
    given = arguments()
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    if given.command == "stage":
        # Told to stop, a stage leaves by way of its `finally` clauses.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        how = given.how
        stage = Stage(Size(**how["size"]), Path(how["out"]), how["root"], how["device"], time.time() + how["seconds"])
        try:
            return STAGES[given.name](stage)
        except KeyboardInterrupt:
            return 130
    if given.command == "run":
        return run(given, TINY if given.rehearse else FULL)
    return collect(given) if given.command == "collect" else worker()


if __name__ == "__main__":
    sys.exit(main())
