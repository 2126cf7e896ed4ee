"""Networks that others have wrapped, on two processes: `fully_shard`, DistributedDataParallel."""

from __future__ import annotations

import pytest
import torch
from problems import batches, network_without_batchnorm
from two_processes import WRAPPED, _pass, wrapped

REFUSED = {"fsam-per-example": "FSAM", "regulariser": "FisherTrace"}


@pytest.mark.parametrize("method", [method for method in WRAPPED if method not in {*REFUSED, "sam-m"}])
def test_sharded_weights_train_as_on_one_process(two, method) -> None:
    model = network_without_batchnorm()
    optimizer, expected = wrapped(method, model, slice(None), 8)
    optimizer.compare = True
    optimizer.step(lambda: _pass(model, *batches((8,))[0]))
    for told in two["sharded"]:
        weights, alignment = told[method]
        for mine, theirs in zip(weights, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(alignment, optimizer.alignment, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", REFUSED)
def test_what_does_not_do_with_sharded_weights_is_refused(two, method) -> None:
    for told in two["sharded"]:
        assert told[method] == f"{REFUSED[method]} can't do with sharded weights or gradients"


@pytest.mark.parametrize("method", WRAPPED)
def test_gradients_in_memory_that_each_pass_overwrites(two, method) -> None:
    for told in two["buckets"]:
        in_views, in_memory_of_their_own = told[method]
        for mine, theirs in zip(in_views, in_memory_of_their_own, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("method", WRAPPED)
def test_a_closure_with_one_flat_gradient(method) -> None:
    """Also where each parameter's part is memory of its own, used again and again."""
    expected = wrapped(method, network_without_batchnorm(), slice(None), 8)[1]
    for flat in (True, False):
        model = network_without_batchnorm()
        params = list(model.parameters())
        memory = torch.zeros(sum(p.numel() for p in params), dtype=torch.float64).split([p.numel() for p in params])
        places = {p: (part if flat else part.clone()).view(p.shape) for p, part in zip(params, memory, strict=True)}

        def into_place(p: torch.Tensor, places=places) -> None:
            p.grad = places[p].copy_(p.grad)

        for p in params:
            p.register_post_accumulate_grad_hook(into_place)
        for mine, theirs in zip(wrapped(method, model, slice(None), 8)[1], expected, strict=True):
            assert torch.equal(mine, theirs)
