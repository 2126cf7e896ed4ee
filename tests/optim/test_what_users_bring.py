"""Weights of other types, options and states that are not a method's, batches of other sizes, lost gradients."""

from __future__ import annotations

import copy
import functools
import math
import warnings

import pytest
import torch
from problems import Closure, batches, network_without_batchnorm
from torch import Tensor, nn
from torch.nn import functional

from fsbench.optim import ASAM, FSAM, SAM, Descent, FisherTrace, perturbed_weights
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.precision import Precision

SGD = {"lr": 0.1, "momentum": 0.9}
METHODS = {
    "plain": lambda p, **o: Descent(p, torch.optim.SGD, **SGD, **o),
    "sam": lambda p, **o: SAM(p, rho=0.5, **SGD, **o),
    "asam": lambda p, **o: ASAM(p, rho=0.5, eta=0.1, **SGD, **o),
    "fsam": lambda p, **o: FSAM(p, rho=0.5, **SGD, **o),
    "sam-m": lambda p, **o: SAM(p, rho=0.5, m=5, **SGD, **o),
    "fsam-per-example": lambda p, **o: FSAM(p, rho=0.5, fisher="per_example", **SGD, **o),
    "fisher-trace": lambda p, **o: FisherTrace(p, alpha=0.01, start="immediately", **SGD, **o),
    "fisher-trace-mean": lambda p, **o: FisherTrace(p, alpha=0.01, start="immediately", full_batch="mean", **SGD, **o),
}


# Weights of other types


@pytest.mark.parametrize("in_place", [False, True], ids=["pointing-elsewhere", "in-place"])
@pytest.mark.parametrize("scale", [1e-4, 1e-6, 60.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["sam", "asam", "fsam"])
def test_norms_of_half_weights_neither_vanish_nor_overflow(method, dtype, scale, in_place, monkeypatch) -> None:
    if in_place:
        monkeypatch.setattr(perturbed_weights, "_swaps", lambda params: False)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(20_000, generator=generator).mul(0.05).to(dtype)
    slope = torch.randn(20_000, generator=generator).mul(scale).to(dtype)
    eps = []
    for of in (dtype, torch.float64):
        w, seen = nn.Parameter(start.to(of, copy=True)), []

        def closure(w=w, seen=seen, of=of) -> Tensor:
            seen.append(w.detach().clone())
            w.grad = slope.to(of, copy=True)
            return torch.zeros(())

        optimizer = METHODS[method]([("w.weight", w)])
        optimizer.step(closure)
        assert optimizer.skipped == 0
        eps.append((seen[1].double() - seen[0].double()).norm())
    torch.testing.assert_close(*eps, rtol=0.02, atol=0)


def assert_complex_is_real(method: str) -> None:
    torch.manual_seed(0)
    first, x, y = torch.randn(6, 5, dtype=torch.complex128), torch.randn(9, 6).to(torch.complex128), torch.arange(9) % 5
    found = []
    for real in (False, True):
        w = nn.Parameter(torch.view_as_real(first).clone() if real else first.clone())
        optimizer = METHODS[method]([("weight", w)])

        def closure(rows=None, w=w, real=real) -> Tensor:
            rows = rows or slice(None)
            loss = functional.cross_entropy((x[rows] @ (torch.view_as_complex(w) if real else w)).abs(), y[rows])
            loss.backward()
            return loss.detach()

        for _ in range(3):
            optimizer.step(closure, size=9)
        found.append(w.detach() if real else torch.view_as_real(w.detach()))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["sam", "fisher-trace"])
def test_complex_weights_are_their_real_and_imaginary_parts(method) -> None:
    assert_complex_is_real(method)


@pytest.mark.parametrize("method", ["asam", "fsam"])
def test_complex_weights_are_refused_where_they_are_not(method) -> None:
    with pytest.raises(ValueError, match=r"can't do with complex weights or gradients; hand in .*view_as_real"):
        assert_complex_is_real(method)


@pytest.mark.parametrize("method", ["sam", "asam", "fsam", "fisher-trace"])
def test_sparse_gradients_are_the_dense_ones_or_refused(method) -> None:
    found, x, y = [], torch.arange(40).view(10, 4) % 20, torch.arange(10) % 3
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.EmbeddingBag(20, 6, sparse=sparse, mode="sum"), nn.Linear(6, 3)).double()
        optimizer = METHODS[method](model.named_parameters())
        for _ in range(3):
            if sparse and method == "fsam":
                with pytest.raises(ValueError, match="FSAM can't do with sparse weights or gradients"):
                    optimizer.step(Closure(model, x, y), size=10)
                return
            optimizer.step(Closure(model, x, y), size=10)
        found.append(list(model.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_first_group_is_no_group(method) -> None:
    found = []
    for first in ([{"params": []}], []):
        model = network_without_batchnorm()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = METHODS[method]([*first, {"params": list(model.parameters())}])
        ((x, y),) = batches((8,))
        optimizer.step(Closure(model, x, y), size=8)
        found.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# The base


@pytest.mark.parametrize("method", ["sam", "asam", "fsam"])
def test_a_base_that_maximises_is_perturbed_downhill(method) -> None:
    """maximize=True on -L is descent on L."""
    found = []
    for sign in (1, -1):
        model = network_without_batchnorm()
        optimizer = METHODS[method](model.named_parameters(), maximize=sign < 0)
        for x, y in batches((8, 8, 8)):

            def closure(model=model, x=x, y=y, sign=sign) -> Tensor:
                loss = sign * functional.cross_entropy(model(x), y)
                loss.backward()
                return loss.detach()

            optimizer.step(closure)
        found.append(list(model.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_the_regulariser_and_a_base_that_maximises_are_refused() -> None:
    optimizer = METHODS["fisher-trace"](network_without_batchnorm().parameters(), maximize=True)
    with pytest.raises(ValueError, match="with maximize=True of the base negate the loss instead"):
        optimizer.step(lambda rows=None: torch.zeros(()))


BASES = [
    pytest.param("sgd", "base must be a class such as torch.optim.SGD, got 'sgd'; its options go to SAM", id="string"),
    pytest.param(functools.partial(torch.optim.SGD, lr=0.1), "base must be a class .*partial", id="partial"),
    pytest.param(torch.optim.SGD([torch.zeros(1)], lr=0.1), "base must be a class .*SGD", id="instance"),
    pytest.param(torch.optim.LBFGS, "LBFGS evaluates the closure itself", id="lbfgs"),
    pytest.param(torch.optim.Adadelta, "Adadelta can't be the base of SAM: both have an option rho", id="adadelta"),
]


@pytest.mark.parametrize(("base", "message"), BASES)
def test_what_can_not_be_a_base_is_explained(base, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        SAM(network_without_batchnorm().parameters(), base, lr=0.1)


def test_fused_sgd_after_unfreezing() -> None:
    model = network_without_batchnorm()
    model[1].requires_grad_(False)
    optimizer = SAM(model.parameters(), fused=True, **SGD)
    ((x, y),) = batches((8,))
    optimizer.step(Closure(model, x, y))
    model[1].requires_grad_(True)
    with pytest.raises(RuntimeError, match="add them as a group of their own, or use fused=False"):
        optimizer.step(Closure(model, x, y))
    apart = SAM(model[3].parameters(), fused=True, **SGD)
    apart.step(Closure(model, x, y))
    apart.add_param_group({"params": list(model[1].parameters())})
    apart.step(Closure(model, x, y))


# Options and states


IGNORED = [("fisher-trace", "alpha"), ("fisher-trace", "beta"), ("sam", "m"), ("asam", "natural"), ("asam", "scale"),
           ("fsam", "form"), ("fsam", "fisher"), ("plain", "max_norm"), ("sam", "perturbation")]  # fmt: skip


@pytest.mark.parametrize(("method", "option"), IGNORED)
def test_options_for_all_groups_are_refused_in_one(method, option) -> None:
    params = list(network_without_batchnorm().named_parameters())
    groups = [{"params": params[:2], option: 1}, {"params": params[2:]}]
    with pytest.raises(ValueError, match=f"{option} is one for all groups: hand it to "):
        METHODS[method](groups)
    optimizer = METHODS[method](params[:2])
    with pytest.raises(ValueError, match=f"{option} is one for all groups"):
        optimizer.add_param_group({"params": params[2:], option: 1})


def test_sams_radius_is_that_of_its_paper_if_not_given() -> None:
    assert SAM(network_without_batchnorm().parameters(), lr=0.1).param_groups[0]["rho"] == 0.05


STATES = [
    pytest.param("asam", "sam", "this is the state of ASAM, and its options would come with it", id="asam-into-sam"),
    pytest.param("asam", "fsam", "this is the state of ASAM", id="asam-into-fsam"),
    pytest.param("sam", "plain", "this is the state of SAM", id="sam-into-plain"),
    pytest.param("sam", "fisher-trace", "this is the state of SAM", id="sam-into-regulariser"),
    pytest.param("fisher-trace", "sam", "this is the state of FisherTrace", id="regulariser-into-sam"),
]


@pytest.mark.parametrize("named", [True, False], ids=["named", "by-its-options"])
@pytest.mark.parametrize(("of", "into", "message"), STATES)
def test_states_of_other_methods_are_refused(of, into, message, named) -> None:
    model = network_without_batchnorm()
    state = METHODS[of](model.named_parameters()).state_dict()
    if not named:  # as earlier versions wrote it
        del state["method"], state["base"]
        if {of, into} == {"asam", "fsam"}:
            return  # nothing tells them apart
        message = "this is the state of another method"
    optimizer = METHODS[into](model.named_parameters())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("named", [True, False], ids=["named", "by-its-options"])
def test_states_of_other_bases_are_refused(named) -> None:
    params = list(network_without_batchnorm().parameters())
    state = SAM(params, torch.optim.AdamW, lr=0.1).state_dict()
    if not named:
        del state["method"], state["base"]
    message = "a base of AdamW, not of SGD" if named else "not the state of a base of SGD: it has no dampening"
    with pytest.raises(ValueError, match=message):
        SAM(params, torch.optim.SGD, lr=0.1).load_state_dict(state)


def test_the_state_of_plain_descent_goes_on_under_any_method() -> None:
    model = network_without_batchnorm()
    optimizer = METHODS["plain"](model.named_parameters())
    ((x, y),) = batches((8,))
    optimizer.step(Closure(model, x, y))
    after = METHODS["asam"](model.named_parameters())
    after.load_state_dict(optimizer.state_dict())
    assert after.param_groups[0]["rho"] == 0.5
    assert len(after.state) == 4


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_bare_state_after_the_drop_and_the_regulariser(scheduled) -> None:
    params = list(network_without_batchnorm().parameters())
    base = torch.optim.SGD(params, lr=0.1)
    if scheduled:
        torch.optim.lr_scheduler.StepLR(base, 1)
    base.param_groups[0]["lr"] = 0.01
    optimizer = FisherTrace(params, lr=0.1)
    if scheduled:
        optimizer.load_state_dict(base.state_dict())
    else:
        with pytest.warns(UserWarning, match="the state does not tell the peak of the learning rate"):
            optimizer.load_state_dict(base.state_dict())
    assert optimizer.active == scheduled


# Batches and losses


SLICED = ["sam-m", "fsam-per-example", "fisher-trace", "fisher-trace-mean"]


@pytest.mark.parametrize("method", SLICED)
def test_a_slice_of_no_rows_is_an_error(method) -> None:
    model = network_without_batchnorm()
    ((x, y),) = batches((20,))
    before = copy.deepcopy(model.state_dict())
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=r"as over no rows: has the closure's mini-batch size=30 rows\?"),
    ):
        warnings.simplefilter("ignore")
        METHODS[method](model.named_parameters()).step(Closure(model, x, y), size=30)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_not_finite_is_a_skipped_step_whatever_the_gradient(method, value, masked) -> None:
    if masked and method == "fsam-per-example":
        pytest.skip("never recorded")
    model = network_without_batchnorm()
    ((x, y),) = batches((20,))
    optimizer = METHODS[method](model.named_parameters(), fused=True)
    optimizer.step(Closure(model, x, y), size=20)
    before = copy.deepcopy(model.state_dict())
    inner = Closure(model, x, y)

    def closure(rows=None) -> Tensor:
        return inner(rows) * 0 + value

    if masked:
        optimizer.begin()
        assert not optimizer.masked_step(closure, 20)[1]
    else:
        optimizer.step(closure, size=20)
        assert optimizer.skipped == 1
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_that_is_none_is_explained(size) -> None:
    model = network_without_batchnorm()
    with pytest.raises(ValueError, match=f"size is the number of rows of the mini-batch, >= 1, or None; got {size}"):
        METHODS["sam"](model.named_parameters()).step(lambda: torch.zeros(()), size=size)


def test_a_closure_that_returns_a_number_is_told_so() -> None:
    with pytest.raises(RuntimeError, match=r"step needs a closure(.|\n)*this one returned 3.0, not a tensor"):
        METHODS["sam"](network_without_batchnorm().named_parameters()).step(lambda: 3.0)


# Fisher information


@pytest.mark.parametrize("m", [None, 4])
def test_labels_are_drawn_anew_in_every_step_and_group(m) -> None:
    model = network_without_batchnorm()
    ((x, y),) = batches((16,))
    closure = BatchClosure(model, nn.CrossEntropyLoss(), Precision("fp32", torch.device("cpu")))
    drawn: list[tuple[int, ...]] = []
    draws = closure._labels

    def labels(logits: Tensor, rows: slice, sampled: bool) -> Tensor:
        found = draws(logits, rows, sampled)
        if sampled:
            drawn.append(int(found))
        return found

    closure._labels = labels
    optimizer = FSAM(model.parameters(), fisher="true", m=m, lr=0.0)
    torch.manual_seed(0)
    for _ in range(6):
        closure.load(x, y)
        optimizer.step(closure, size=16)
    each = m or 16
    groups = [tuple(drawn[i : i + each]) for i in range(0, len(drawn), each)]
    assert len(groups) == 6 * 16 // each
    assert len(set(groups)) > 0.6 * len(groups)


@pytest.mark.parametrize("fisher", ["per_example", "true"])
def test_the_fisher_information_is_of_the_likelihood_and_not_of_the_smoothed_loss(fisher) -> None:
    model = network_without_batchnorm()
    ((x, y),) = batches((8,))
    closure = BatchClosure(model, nn.CrossEntropyLoss(label_smoothing=0.3), Precision("fp32", torch.device("cpu")))
    closure.load(x, y)
    optimizer = FSAM(model.parameters(), fisher=fisher, eta=3.0, lr=0.1)
    optimizer.one_pass(closure)
    torch.manual_seed(1)
    with torch.no_grad():
        found = optimizer.inverse_metric(closure, None, 8)(optimizer.trained(), None)
    torch.manual_seed(1)
    information = [torch.zeros_like(p) for p in model.parameters()]
    for i in range(8):
        logits = model(x[i : i + 1])
        label = (
            y[i : i + 1] if fisher == "per_example" else torch.multinomial(logits.detach().float().softmax(-1), 1)[0]
        )
        gradients = torch.autograd.grad(functional.cross_entropy(logits, label), model.parameters())
        torch._foreach_add_(information, torch._foreach_mul(gradients, gradients), alpha=1 / 8)
    for d, f in zip(found, information, strict=True):
        torch.testing.assert_close(d, 1 / (1 + 3.0 * f), rtol=1e-10, atol=0)


def test_a_closure_that_only_takes_rows_is_not_told() -> None:
    model = network_without_batchnorm()
    ((x, y),) = batches((8,))
    inner = Closure(model, x, y)
    METHODS["fsam-per-example"](model.named_parameters()).step(lambda rows=None: inner(rows), size=8)


# Gradients that are there, compiled networks


@pytest.mark.parametrize("method", METHODS)
def test_gradients_that_somebody_has_added_are_not_lost_in_silence(method) -> None:
    model = network_without_batchnorm()
    optimizer = METHODS[method](model.named_parameters())
    ((x, y),) = batches((20,))
    for zeroed in (lambda: None, optimizer.zero_grad, lambda: optimizer.zero_grad(set_to_none=False)):
        optimizer.step(Closure(model, x, y), size=20)
        zeroed()
    Closure(model, x, y)()
    with pytest.warns(UserWarning, match="are thrown away.*inside the closure .*trainer.micro_batch_size"):
        optimizer.step(Closure(model, x, y), size=20)


@pytest.mark.parametrize("how", ["a-new-module", "in-place"])
@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_a_compiled_network_that_is_not_handed_in_is_told_of(how) -> None:
    model = network_without_batchnorm()
    if how == "in-place":
        model.compile(backend="eager")
    compiled = model if how == "in-place" else torch.compile(model, backend="eager")
    ((x, y),) = batches((8,))
    with pytest.warns(UserWarning, match="hand the network to the optimizer as `model=`"):
        METHODS["sam"](model.named_parameters()).step(Closure(compiled, x, y))
    METHODS["sam"](model.named_parameters(), model=model).step(Closure(compiled, x, y))
