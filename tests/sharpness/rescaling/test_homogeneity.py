"""Whether a network is a chain of layers that a scale passes through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.rescaling.homogeneity import ChainLayer, layer_chain, refuse_unscalable
from sharpness.networks import NETWORKS, SMOOTH, batches


def example() -> Tensor:
    return batches((6,))[0][0]


def check(model: nn.Module) -> list[ChainLayer]:
    layers, _ = layer_chain(model, example())
    refuse_unscalable(model, layers, example())
    return layers


class Chain(nn.Module):
    """Layers that are declared in another order than they are called in, with a function somewhere."""

    def __init__(self, forward: Callable[[Chain, Tensor], Tensor]) -> None:
        super().__init__()
        self.third = nn.Linear(5, 4)
        self.second = nn.Linear(5, 5)
        self.first = nn.Linear(72, 5)
        self.act = nn.ReLU()
        self.how = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x.flatten(1))


def built(forward: Callable[[Chain, Tensor], Tensor], **modules: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Chain(forward)
        for name, module in modules.items():
            setattr(model, name, module)
        return model.double().eval()


def through(of: Callable[[Tensor], Tensor]) -> Callable[[Chain, Tensor], Tensor]:
    """The function after the second layer."""
    return lambda m, x: m.third(of(m.second(m.act(m.first(x)))))


CHAINS = {
    "fcnn": ["1", "3", "5"],
    "fcnn_bias": ["1", "3", "5"],
    "lenet": ["0", "3", "6", "8"],
    "lenet_no_bias": ["0", "3", "6", "8"],
    "frozen": ["1", "3", "5"],
    "unused": ["used.1", "used.3", "used.5"],
    "tokens": ["embed", "mix", "head"],
}


@pytest.mark.parametrize(("name", "expected"), CHAINS.items(), ids=CHAINS)
def test_chains_pass(name, expected):
    assert [layer.name for layer in check(NETWORKS[name]())] == expected


def test_single_precision_passes():
    x = batches((6,))[0][0].float()
    model = NETWORKS["lenet"]().float()
    layers, _ = layer_chain(model, x)
    refuse_unscalable(model, layers, x)


def test_layers_come_in_the_order_of_execution_with_their_tensors():
    assert check(built(through(torch.relu))) == [
        ChainLayer("first", "first.weight", "first.bias"),
        ChainLayer("second", "second.weight", "second.bias"),
        ChainLayer("third", "third.weight", "third.bias"),
    ]


HOLDING = {
    "identity": lambda x: x,
    "leaky relu": functional.leaky_relu,
    "prelu": nn.PReLU(dtype=torch.float64).requires_grad_(False),
    "maxout": lambda x: torch.maximum(x, -x),
    "max-pooling": lambda x: functional.max_pool1d(x[:, None], 3, 1, 1)[:, 0],
    "average-pooling": lambda x: functional.avg_pool1d(x[:, None], 3, 1, 1)[:, 0],
    "in place": lambda x: x.relu_(),
    "norm of the example": lambda x: x.norm(dim=1, keepdim=True).expand(-1, 5),
}


@pytest.mark.parametrize("of", HOLDING.values(), ids=HOLDING)
def test_homogeneous_functions_pass(of):
    assert len(check(built(through(of)))) == 3


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (nn.GELU(), r"in act \(GELU\)"),
        (nn.Tanh(), r"in act \(Tanh\)"),
        (nn.Sigmoid(), r"in act \(Sigmoid\)"),
        (nn.SiLU(), r"in act \(SiLU\)"),
        (nn.ReLU6(), r"in act \(ReLU6\)"),
        (nn.LayerNorm(5, elementwise_affine=False), r"in act \(LayerNorm\)"),
        (nn.BatchNorm1d(5).requires_grad_(False), r"in act \(BatchNorm1d\)"),
        (nn.Softmax(1), r"in act \(Softmax\)"),
        (nn.Softplus(), r"in act \(Softplus\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_module_that_breaks_the_chain_is_named(act, named):
    if isinstance(act, nn.BatchNorm1d):
        act.running_mean.fill_(0.2)
    model = built(through(torch.relu), act=act)
    with pytest.raises(Refused, match=r"the logits change when first is multiplied and third divided .* lost " + named):
        check(model)


PLACES = {
    "function": (through(functional.gelu), "first is multiplied and third divided by 2 .* between second and third"),
    "residual sum": (
        lambda m, x: (lambda h: m.third(m.act(h + m.second(h))))(m.act(m.first(x))),
        "second is multiplied .* lost between second and act .a residual sum",
    ),
    "constant": (through(lambda x: x + 1.0), "first is multiplied .* lost between second and third"),
    "late shortcut": (
        lambda m, x: m.third(m.second(m.act(m.first(x)))) + x[:, :4],
        None,
    ),
    "sum of branches": (
        lambda m, x: m.third(m.act(m.first(x)) + m.second(x[:, :5])),
        "first is multiplied .* lost between act and second",
    ),
    "bend away from zero": (through(lambda x: x.clamp(max=300.0)), "by 1024"),
    "sum at the end": (lambda m, x: m.third(m.act(m.first(x))) + m.second(x[:, :5])[:, :4], "lost"),
}


@pytest.mark.parametrize(("forward", "message"), PLACES.values(), ids=PLACES)
def test_the_place_where_the_scale_is_lost_is_named(forward, message):
    model = built(forward)
    if message is None:
        # A sum with the input after the last layer is no part of the chain, and no obstacle.
        assert len(check(model)) == 3
        return
    if "1024" in message:
        for p in model.parameters():
            p.data.abs_()
    with pytest.raises(Refused, match=message):
        check(model)


def test_a_layer_used_twice_is_refused():
    with pytest.raises(Refused, match=r"second \(Linear\) is used 2 times"):
        check(built(lambda m, x: m.third(m.second(m.second(m.act(m.first(x)))))))
    with pytest.raises(Refused, match=r"shared \(Linear\) is used 2 times"):
        check(NETWORKS["tied"]())


def test_layers_that_share_a_weight_are_refused():
    model = built(lambda m, x: m.third(m.act(m.fourth(m.act(m.second(m.act(m.first(x))))))), fourth=nn.Linear(5, 5))
    model.fourth.weight = model.second.weight
    with pytest.raises(Refused, match=r"second and fourth share the tensor second\.weight"):
        check(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (NETWORKS["functional"], r"shift \(Functional\) is trained, but is neither weight nor bias"),
        (SMOOTH["gelu"], r"4\.weight \(LayerNorm\) is trained, but is neither"),
        (
            lambda: built(lambda m, x: m.third(functional.linear(m.first(x), m.second.weight))),
            r"second\.weight \(Linear\) is trained, but is neither weight nor bias of .* that is called",
        ),
        (
            lambda: built(
                lambda m, x: m.third(m.first(x)), first=nn.utils.parametrizations.weight_norm(nn.Linear(72, 5))
            ),
            r"the weight of first \(ParametrizedLinear\) is computed from other tensors",
        ),
        (lambda: built(lambda m, x: m.shift + x[:, :4], shift=nn.Parameter(torch.ones(4))), "calls no linear or conv"),
    ],
    ids=["bare", "layer norm", "layer not called", "weight norm", "no layer"],
)
def test_weights_outside_of_the_chain_are_refused(model, message):
    with pytest.raises(Refused, match=message):
        check(model())


def test_what_the_logits_do_not_depend_on_is_left_out():
    """A layer that is not called, and one whose output is not used."""
    model = built(through(torch.relu), spare=nn.Linear(2, 2), aside=nn.Linear(5, 3))
    model.how = lambda m, x: (lambda h: (m.aside(h), m.third(m.act(m.second(m.act(h)))))[1])(m.first(x))
    layers, others = layer_chain(model, example())
    assert [layer.name for layer in layers] == ["first", "second", "third"]
    assert others == {f"{name}.{tensor}": "unused" for name in ("spare", "aside") for tensor in ("weight", "bias")}
    refuse_unscalable(model, layers, example())


def test_the_slope_of_a_prelu_is_no_part_of_the_chain():
    model = built(through(torch.relu), act=nn.PReLU(5))
    layers, others = layer_chain(model, example())
    assert others == {"act.weight": "slope"}
    refuse_unscalable(model, layers, example())


@pytest.mark.parametrize("name", ["resnet", "lenet"])
def test_leaves_the_network_as_it_was(name):
    model = NETWORKS[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if name == "resnet":
        with pytest.raises(Refused):
            check(model)
    else:
        check(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
