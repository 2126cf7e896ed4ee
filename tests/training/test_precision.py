"""The arithmetic of runs and measures, autocast and loss scaling with two passes a step, and what TF32 would spoil."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fsbench.errors import UsageError
from fsbench.optim import FSAM, SAM, Descent, FisherTrace
from fsbench.optim.fisher_trace import rounds_products
from fsbench.reproduce.computed import gaussian_toy
from fsbench.training import run as run_module
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.precision import Precision, arithmetic, arithmetic_in_force

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))
    return model, torch.randn(30, 12), torch.randint(5, (30,))


@pytest.mark.parametrize("scale", [1.0, 2.0**10, 2.0**16])
def test_the_scale_leaves_gradients_as_they_are_in_both_passes(scale) -> None:
    """Scaling by powers of two is exact in fp32, so the step must not depend on the scale at all."""
    model, x, y = problem()
    reference = copy.deepcopy(model)
    weights = []
    for network, used in ((model, scale), (reference, 1.0)):
        precision = Precision("fp32", CPU)
        precision.scale = used
        closure = BatchClosure(network, nn.CrossEntropyLoss(), precision, micro_batch_size=8)
        closure.load(x, y)
        optimizer = SAM(network.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
        optimizer.step(closure, size=len(y))
        weights.append(torch.cat([p.flatten() for p in network.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_is_near_full_precision(name) -> None:
    model, x, y = problem()
    reference = copy.deepcopy(model)
    for network, precision in ((model, Precision(name, CPU)), (reference, Precision("fp32", CPU))):
        closure = BatchClosure(network, nn.CrossEntropyLoss(), precision)
        optimizer = FSAM(network.parameters(), torch.optim.SGD, lr=0.1)
        for _ in range(5):
            closure.load(x, y)
            optimizer.step(closure, size=len(y))
        assert optimizer.skipped == 0
        assert all(p.dtype == torch.float32 for p in network.parameters())
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("bad_pass", [1, 2])
def test_overflow_in_either_pass_skips_the_step_and_halves_the_scale(bad_pass) -> None:
    model, x, y = problem()
    precision = Precision("fp16", CPU)
    closure = BatchClosure(model, nn.CrossEntropyLoss(), precision)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
    passes = []

    def overflowing(rows=None):
        loss = closure(rows)
        passes.append(rows)
        if len(passes) == bad_pass:
            model[0].weight.grad[0, 0] = math.inf
        return loss

    before = [p.clone() for p in model.parameters()]
    closure.load(x, y)
    optimizer.step(overflowing)
    precision.after_step(skipped=optimizer.skipped == 1)
    assert precision.scale == 2.0**15
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_the_scale_grows_after_enough_good_steps_and_is_resumed() -> None:
    precision = Precision("fp16", CPU)
    precision.growth_interval = 3
    for _ in range(3):
        precision.after_step(skipped=False)
    assert precision.scale == 2.0**17
    again = Precision("fp16", CPU)
    again.load_state_dict(precision.state_dict())
    assert (again.scale, again.good_steps) == (2.0**17, 0)


def test_micro_batches_and_hits_at_w() -> None:
    """The gradient is that of the whole batch; answers are counted once, where the weights are w."""
    model, x, y = problem()
    reference = copy.deepcopy(model)
    right_at_w = int((reference(x).argmax(-1) == y).sum())
    closure = BatchClosure(model, nn.CrossEntropyLoss(), Precision("fp32", CPU), micro_batch_size=7)
    closure.load(x, y)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=50.0, lr=0.0)
    loss = optimizer.step(closure, size=len(y))
    expected = nn.functional.cross_entropy(reference(x), y)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    assert int(closure.hits) == right_at_w
    closure.load(x, y)
    Descent(model.parameters(), torch.optim.SGD, lr=0.0).step(closure)
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-7)


def in_force(tf32: bool, benchmark: bool, deterministic: bool = False) -> dict[str, bool]:
    return {
        "cudnn_tf32": tf32, "matmul_tf32": tf32, "cudnn_benchmark": benchmark, "cudnn_deterministic": deterministic,
    }  # fmt: skip


ARITHMETIC = [
    pytest.param("fp32", GPU, {}, in_force(False, True), id="fp32"),
    pytest.param("tf32", GPU, {}, in_force(True, True), id="tf32"),
    pytest.param("bf16", GPU, {}, in_force(False, True), id="bf16"),
    pytest.param("fp16", GPU, {}, in_force(False, True), id="fp16"),
    pytest.param("fp32", CPU, {}, in_force(False, False), id="cpu"),
    pytest.param("fp32", GPU, {"repeatable": True}, in_force(False, False, True), id="measures"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize(("name", "device", "options", "expected"), ARITHMETIC)
def test_the_switches_of_a_precision_hold_inside_and_are_put_back(
    name, device, options, expected, before, monkeypatch
) -> None:
    """torch's older and newer switches agree all along, or reading one of them would raise."""

    def switches() -> list[object]:
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        both = [torch.get_float32_matmul_precision(), cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark_limit]
        return [arithmetic_in_force(), *both, cudnn.conv.fp32_precision, cudnn.enabled]

    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)
    default = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        outside = switches()
        assert outside[0]["cudnn_tf32"]  # torch's own choice
        with pytest.raises(ZeroDivisionError), arithmetic(name, device, **options):
            inside = switches()
            raise ZeroDivisionError
        assert inside[0] == expected
        assert inside[2] is inside[3] is expected["cudnn_tf32"]
        assert switches() == outside
    finally:
        torch.set_float32_matmul_precision(default)


def test_nothing_is_timed_where_determinism_is_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with arithmetic("fp32", GPU):
        assert arithmetic_in_force() == in_force(False, False)
    monkeypatch.undo()
    with torch.backends.cudnn.flags(enabled=True, deterministic=True), arithmetic("fp32", GPU):
        assert arithmetic_in_force() == in_force(False, False, True)


@pytest.mark.parametrize(("device", "here"), [(CPU, "the CPU"), (GPU, "a GPU without TF32")], ids=["cpu", "old-gpu"])
def test_tf32_needs_a_gpu_that_has_it(device, here, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    with pytest.raises(UsageError) as failure, arithmetic("tf32", device):
        pass
    assert str(failure.value) == f"trainer.precision=tf32: needs a GPU with TF32, and the run is on {here}; use fp32"


COMMANDS = {
    "train": ["train", "optimizer=sam"],
    "train-bf16": ["train", "trainer.precision=bf16"],
    "population": ["train", "-m", "trainer.population=true", "seed=0,1"],
    "sharpness": ["sharpness", "dataset=digits", "model=mlp", "measures=[trace,worst_case]", "samples=20"],
    "reproduce": ["reproduce", "kim2022/fig1"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_network_runs_in_tf32_that_was_not_asked_for(fsbench, quick, command, monkeypatch) -> None:
    """Whatever the device: the switches are the process's. (Networks on the meta device only tell shapes.)"""
    seen, linear, figure = [], functional.linear, gaussian_toy.figure1

    def noted(do: Callable[..., object]) -> Callable[..., object]:
        def act(*args, **kwargs):
            if not getattr(args[0], "is_meta", False):
                seen.append(rounds_products(GPU))
            return do(*args, **kwargs)

        return act

    monkeypatch.setattr(functional, "linear", noted(linear))
    monkeypatch.setattr(gaussian_toy, "figure1", noted(figure))
    words = COMMANDS[command]
    ended = fsbench(*words, *(quick if words[0] == "train" else ()))
    assert ended.code == 0, ended.err
    assert seen
    assert not any(seen)
    assert rounds_products(GPU)


def test_provenance_says_what_was_in_force_on_a_gpu(fsbench, quick, tmp_path, monkeypatch) -> None:
    recorded = {}
    monkeypatch.setattr(run_module, "arithmetic_in_force", lambda: in_force(False, True))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(run_module, "write_json", lambda path, record: recorded.update(record))

    class There:
        provenance = tmp_path / "provenance.json"

    class Job:
        class config:
            seed = 0

        choices, overrides = {}, ()

    class OnGpu:
        device, count = GPU, 1

    run_module.record_provenance(There, Job, OnGpu, {})
    assert recorded["arithmetic"] == in_force(False, True)
    assert recorded["hardware"]["gpu"] == "a GPU"


class Tf32(TorchDispatchMode):
    """Rounds what goes into convolutions and matrix products, forward and backward, to 10 bits of mantissa."""

    aten = torch.ops.aten
    PRODUCTS = (aten.convolution.default, aten.convolution_backward.default, aten.addmm.default, aten.mm.default)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in self.PRODUCTS:  # not what is added to them: biases
            args = [rounded(a) if isinstance(a, Tensor) and a.ndim > 1 else a for a in args]
        return function(*args, **(kwargs or {}))


def rounded(values: Tensor) -> Tensor:
    """To nearest, as the hardware does it."""
    return (values.contiguous().view(torch.int32) + (1 << 12) & ~((1 << 13) - 1)).view(torch.float32)


def test_rounding_to_ten_bits() -> None:
    """1 + 2^-10 is the next number after 1; and the mode reaches the backward pass."""
    exact = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11 - 2**-20, 1 + 2**-11 + 2**-20, -3.1415927])
    assert rounded(exact).tolist() == [1.0, 1 + 2**-10, 1.0, 1 + 2**-10, -3.140625]
    weight = torch.full((1, 1), 1 + 2**-12, requires_grad=True)
    x = torch.full((1, 1), 1 + 2**-12, requires_grad=True)
    with Tf32():
        y = functional.linear(x, weight)
        y.backward()
    assert (float(y.detach()), float(x.grad), float(weight.grad)) == (1.0, 1.0, 1.0)


def convolutional() -> nn.Module:
    torch.manual_seed(1)
    blocks = [(nn.Conv2d(a, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()) for a in (3, 16, 16, 16, 16)]
    return nn.Sequential(
        *(layer for block in blocks for layer in block), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 4)
    )


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(64, 3, 8, 8, generator=generator), torch.randint(4, (64,), generator=generator)


def passes(model: nn.Module, x: Tensor, y: Tensor) -> Callable[..., Tensor]:
    def closure(rows: slice | None = None) -> Tensor:
        chosen = slice(None) if rows is None else rows
        loss = functional.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        return loss.detach()

    return closure


def flat(tensors: object) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def regularised(
    model: nn.Module, dtype: torch.dtype, tf32: bool = False, **options: object
) -> tuple[Tensor, FisherTrace]:
    """What the regulariser adds to the gradient with beta = 1, and the optimizer that did."""
    model, (x, y) = copy.deepcopy(model).to(dtype), images()
    closure = passes(model, x.to(dtype), y)
    optimizer = FisherTrace(model.parameters(), beta=1.0, sub_batches=4, start="immediately", lr=0.0, **options)
    optimizer.compare = True
    with Tf32() if tf32 else nullcontext():
        optimizer.step(closure, size=len(y))
        both = flat(p.grad for p in model.parameters())
        optimizer.zero_grad()
        closure()
    return both - flat(p.grad for p in model.parameters()), optimizer


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def cosine(found: Tensor, exact: Tensor) -> float:
    return float(found @ exact / found.norm() / exact.norm())


def test_tf32_would_lose_the_regulariser_and_nobody_would_see_it() -> None:
    """Why `optimizer=fisher_trace` refuses tf32. Here: off by 160 %, at a right angle, and R by 0.1 %."""
    model = convolutional()
    exact, reference = regularised(model, torch.float64)
    single, _ = regularised(model, torch.float32)
    found, optimizer = regularised(model, torch.float32, tf32=True)
    assert error(single, exact) < 1e-3
    assert error(found, exact) > 0.5
    assert abs(cosine(found, exact)) < 0.7
    assert float(optimizer.penalty) == pytest.approx(float(reference.penalty), rel=0.05)


def test_tf32_hardly_turns_the_perturbation_of_sam() -> None:
    """Why SAM may be trained in tf32: eps is a gradient, not a difference of two. Here: cosine 0.9997."""
    moved = []
    for dtype, scope in ((torch.float64, nullcontext()), (torch.float32, Tf32())):
        model, (x, y) = convolutional().to(dtype), images()
        visited, closure = [], passes(model, x.to(dtype), y)

        def noting(rows=None, model=model, visited=visited, closure=closure):
            visited.append(flat(model.parameters()))
            return closure(rows)

        with scope:
            SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1).step(noting)
        moved.append(visited[1] - visited[0])
    exact, found = moved
    assert cosine(found, exact) > 0.999
    assert error(found, exact) < 0.05


def fitted(model: nn.Module, steps: int) -> nn.Module:
    x, y = images()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        passes(model, x, y)()
        optimizer.step()
    return model


LEFT = [
    pytest.param(0, 3, 7, id="initial"),
    pytest.param(10, 2, 6, id="trained"),
    pytest.param(200, 0, 1, id="fitted"),
]


@pytest.mark.parametrize(("steps", "least", "most"), LEFT)
def test_the_digits_that_are_left_of_the_difference(steps, least, most) -> None:
    """As many as the difference in float32 has in common with that in float64; there it has nine more."""
    model = fitted(convolutional(), steps)
    exact, reference = regularised(model, torch.float64)
    found, optimizer = regularised(model, torch.float32)
    digits = float(optimizer.difference_digits)
    assert least <= digits <= most
    assert digits == pytest.approx(max(0.0, -math.log10(error(found, exact))), abs=1.3)
    if digits:
        assert float(reference.difference_digits) == pytest.approx(digits + math.log10(2**29), abs=1.3)


def test_comparing_leaves_everything_as_it_is() -> None:
    """Weights, running statistics, draws of dropout, the rows answered rightly: those of steps that do not compare."""
    left = []
    for compare in (False, True):
        torch.manual_seed(0)
        model = convolutional().append(nn.Dropout(0.3))
        closure = BatchClosure(model, nn.CrossEntropyLoss(), Precision("fp32", CPU))
        optimizer = FisherTrace(model.parameters(), start="immediately", lr=0.1, model=model)
        optimizer.compare, told = compare, []
        for _ in range(3):
            closure.load(*images())
            told += [float(optimizer.step(closure, size=64)), float(optimizer.penalty), int(closure.hits)]
            assert (optimizer.difference_digits is not None) == compare
        left.append([told, *model.state_dict().values()])
    assert left[0][0] == left[1][0]
    assert all(torch.equal(*pair) for pair in zip(left[0][1:], left[1][1:], strict=True))


def test_no_digit_is_left_where_the_weights_do_not_move() -> None:
    assert regularised(convolutional(), torch.float32, alpha=1e-12)[1].difference_digits == 0


@pytest.mark.parametrize("alpha", [1e-4, 1e-9])
def test_an_epoch_says_how_many_digits_are_left_and_the_log_when_it_is_none(fsbench, quick, alpha) -> None:
    line = [*quick, "optimizer=fisher_trace", "optimizer.start=immediately", f"optimizer.alpha={alpha}"]
    assert fsbench("train", *line, "run_name=r", "trainer.compare_every=3").code == 0
    digits = [json.loads(row)["difference_digits"] for row in Path("runs/r/metrics.jsonl").read_text().splitlines()]
    log = Path("runs/r/train.log").read_text()
    if alpha == 1e-4:
        assert all(2 < one < 7 for one in digits)
        assert "digits left" not in log
    else:
        assert all(0 <= one < 1 for one in digits)
        assert log.count(f"difference of gradients has {digits[0]:.1f} digits left") == 1
    assert fsbench("train", *line, "run_name=none", "trainer.compare_every=0").code == 0
    assert "difference_digits" not in Path("runs/none/metrics.jsonl").read_text()


def test_a_loop_of_ones_own_is_told_that_tf32_is_on(monkeypatch) -> None:
    """torch's own choice on a GPU; once, and only where the step is regularised."""
    assert rounds_products(GPU)
    assert not rounds_products(CPU)
    with arithmetic("fp32", CPU):
        assert not rounds_products(GPU)
    monkeypatch.setattr("fsbench.optim.fisher_trace.rounds_products", lambda device: True)
    optimizer = FisherTrace([nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.begin()  # not regularised yet
    optimizer.start = "immediately"
    with pytest.warns(UserWarning, match="TF32 rounds away the difference of gradients"):
        optimizer.begin()
    optimizer.begin()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers', one of them that TF32 would be faster
@pytest.mark.parametrize("compiling", [False, True], ids=["", "compiled"])
def test_products_on_a_gpu_are_as_exact_as_their_precision(compiling) -> None:
    generator = torch.Generator().manual_seed(0)
    # Large enough that kernels of TF32 are the fastest where they are allowed.
    shapes = (32, 128, 32, 32), (128, 128, 3, 3), (1024, 1024), (1024, 1024)
    x, weight, a, b = (torch.randn(shape, generator=generator).to(GPU) for shape in shapes)

    def products(x: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return functional.conv2d(x, weight), a @ b

    exact = products(x.double(), weight.double(), a.double(), b.double())
    for name, least, most in (("fp32", 0, 1e-5), ("tf32", 1e-5, 1e-2)):
        torch.compiler.reset()
        act = torch.compile(products) if compiling else products
        with arithmetic(name, GPU):
            found = act(x, weight, a, b)
        for mine, theirs in zip(found, exact, strict=True):
            assert least <= error(mine.double(), theirs) < most


@pytest.mark.gpu
def test_a_run_in_tf32_on_a_gpu(fsbench, quick) -> None:
    assert fsbench("train", *quick, "optimizer=sam", "trainer.precision=tf32", "run_name=r").code == 0
    record = json.loads(Path("runs/r/provenance.json").read_text())
    assert record["arithmetic"] == in_force(True, True)
    assert rounds_products(GPU)
