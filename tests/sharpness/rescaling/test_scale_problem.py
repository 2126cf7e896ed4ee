"""The scales of a chain of layers at which the trace is least."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from fsbench.sharpness.rescaling.scale_problem import least_scales


def trace_at(weights, biases, log_scales) -> float:
    """The objective, a term at a time."""
    total, product = 0.0, 1.0
    for t, b, scale in zip(weights, biases, log_scales, strict=True):
        alpha = math.exp(scale)
        product *= alpha
        total += t * alpha**-2 + b * product**-2
    return total


def reference(weights, biases) -> float:
    """The infimum by a general optimiser, over the free ln alpha."""
    t, b = np.array(weights), np.array(biases)
    if len(t) == 1:
        return float(t[0] + b[0])

    def value_and_gradient(z: np.ndarray) -> tuple[float, np.ndarray]:
        c = np.concatenate([[0.0], np.clip(z, -300, 300), [0.0]])
        layer, bias = t * np.exp(c[:-1] - c[1:]), b * np.exp(-c[1:])
        return layer.sum() + bias.sum(), layer[1:] - layer[:-1] - bias[:-1]

    options = {"maxiter": 20000, "maxfun": 100000, "ftol": 1e-16, "gtol": 1e-12}
    return float(minimize(value_and_gradient, np.zeros(len(t) - 1), jac=True, method="L-BFGS-B", options=options).fun)


def drawn(seed: int, zeros_weights: float = 0.0, zeros_biases: float = 0.0) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    depth = 1 + seed % 6
    t = np.exp(2 * generator.normal(size=depth)) * (generator.random(depth) >= zeros_weights)
    b = np.exp(2 * generator.normal(size=depth)) * (generator.random(depth) >= zeros_biases)
    return t.tolist(), b.tolist()


@pytest.mark.parametrize("seed", range(12))
def test_without_biases_is_the_closed_form(seed):
    t, _ = drawn(seed)
    found = least_scales(t)
    assert found.value == pytest.approx(len(t) * math.prod(t) ** (1 / len(t)), rel=1e-12)
    assert found.weights == pytest.approx([found.value / len(t)] * len(t), rel=1e-12)
    assert trace_at(t, [0.0] * len(t), found.log_scales) == pytest.approx(found.value, rel=1e-12)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize(("zeros_weights", "zeros_biases"), [(0, 0), (0, 0.5), (0.3, 0), (0.3, 0.5)], ids=str)
def test_equals_a_general_optimiser(seed, zeros_weights, zeros_biases):
    t, b = drawn(seed, zeros_weights, zeros_biases)
    found = least_scales(t, b)
    assert found.value == pytest.approx(reference(t, b), rel=1e-9, abs=1e-9)
    assert found.value == pytest.approx(sum(found.weights) + sum(found.biases), rel=1e-14)
    if found.attained:
        assert trace_at(t, b, found.log_scales) == pytest.approx(found.value, rel=1e-11)
        assert math.fsum(found.log_scales) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(1, 6))
def test_is_stationary(seed):
    t, b = drawn(seed)
    found = least_scales(t, b)
    before, after = np.array(found.weights), np.array(found.weights[1:])
    assert np.abs(before[:-1] + np.array(found.biases[:-1]) - after).max() <= 2e-12 * found.value


LIMITS = {
    # All goes to zero at the cost of the layer without a trace; the last bias is a constant.
    "first": ([0, 2, 3], [0, 0, 5], 5.0, False, [-math.inf, math.inf, math.inf]),
    "last": ([2, 3, 0], [1, 1, 5], 5.0, False, [math.inf, math.inf, -math.inf]),
    "all": ([0, 0], [0, 0], 0.0, True, [0.0, 0.0]),
    # The first layer costs nothing, its bias does: with c = alpha_1^2, 4 / c + 9 c.
    "first with its bias": ([0, 9], [4, 0], 12.0, True, [math.log(4 / 9) / 4, -math.log(4 / 9) / 4]),
    # What comes before the second layer is free; its bias holds what comes after.
    "middle with its bias": ([7, 0, 9], [8, 4, 1], 13.0, False, [math.inf, -math.inf, math.log(9 / 4) / 4]),
    # The weight between the free layer and the first bias after it vanishes too.
    "middle with a later bias": ([7, 0, 6, 9], [8, 0, 4, 1], 13.0, False, None),
    "one layer": ([0], [3], 3.0, True, [0.0]),
}


@pytest.mark.parametrize(("t", "b", "value", "attained", "scales"), LIMITS.values(), ids=LIMITS)
def test_traces_of_zero(t, b, value, attained, scales):
    found = least_scales(t, b)
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.attained == attained
    if scales is not None:
        assert found.log_scales == pytest.approx(scales)
    # From above, ever closer, as the zeros are approached.
    near = [least_scales([max(x, tiny) for x in t], b).value for tiny in (1e-6, 1e-12, 1e-60)]
    assert all(v >= value * (1 - 1e-12) for v in near)
    assert near == sorted(near, reverse=True)
    assert near[-1] == pytest.approx(value, abs=1e-6)


def test_magnitudes_far_apart():
    t, b = [1e-30, 1e30, 1.0], [1e20, 1e-50, 3.0]
    found = least_scales(t, b)
    assert trace_at(t, b, found.log_scales) == pytest.approx(found.value, rel=1e-10)
    flow = np.array(found.weights)
    assert np.abs(flow[:-1] + np.array(found.biases[:-1]) - flow[1:]).max() <= 1e-11 * found.value


@pytest.mark.parametrize(
    ("t", "b", "message"),
    [
        ([], None, "no layers"),
        ([1.0], [1.0, 2.0], "1 traces of weights and 2 of biases"),
        ([-1.0], None, "a trace is -1.0: must be finite and not negative"),
        ([1.0], [math.nan], "a trace is nan"),
    ],
)
def test_nonsense_is_an_error(t, b, message):
    with pytest.raises(ValueError, match=message):
        least_scales(t, b)
