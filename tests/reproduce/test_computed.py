"""The computed artefacts: their numbers against other ways to them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from fsbench.reproduce.computed import Context, diagonal_error, mnist_networks, rescaling_example, step_time, trace_time
from fsbench.sharpness import Risk, hessian_diagonal


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, torch.device("cpu"), lambda line: None, ("A cut.",))


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images of MNIST's shape in place of MNIST itself."""

    def risk_of(network: str, n: int, seed: int, context: Context, dtype: torch.dtype) -> Risk:
        torch.manual_seed(seed)
        hidden = 3 if network == "FCNN" else 4
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(16, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10)
        )
        data = [(torch.rand(n, 1, 4, 4, dtype=dtype), torch.randint(10, (n,)))]
        return Risk(model.to(dtype).eval(), torch.nn.functional.cross_entropy, data)

    monkeypatch.setattr(trace_time, "risk_of", risk_of)
    monkeypatch.setattr(diagonal_error, "risk_of", risk_of)


def test_norms_of_the_running_example() -> None:
    """What methods.md and the printed text say, and that the function is the same."""
    frame = rescaling_example.norms().set_index(["matrix", "rescaling", "norm"])
    assert frame.loc[("W(2)", "after", "Frobenius"), "recomputed"] == pytest.approx(7401.0**0.5, abs=1e-3)
    assert frame.loc[("W(2)", "after", "spectral"), "recomputed"] == pytest.approx(86.03, abs=5e-3)
    assert frame.loc[("W(1)", "after", "Frobenius"), "recomputed"] == pytest.approx(2500.05**0.5, abs=1e-3)
    first, second = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[5.0, 6], [7, 8]])
    x = torch.randn(2, 5)
    a, b = rescaling_example.rescaled(first, second)
    torch.testing.assert_close(b @ torch.relu(a @ x), second @ torch.relu(first @ x))


def test_naive_entries_are_the_diagonal(small_images, context) -> None:
    risk = trace_time.risk_of("FCNN", 6, 0, context, torch.float64)
    entries = [("1.weight", 0), ("1.weight", 37), ("3.bias", 2)]
    exact = hessian_diagonal(risk).values
    expected = [float(exact[name].flatten()[i]) for name, i in entries]
    assert trace_time.naive_entries(risk, entries) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("naive", [None, 5], ids=["all weights", "some"])
def test_trace_time(small_images, context, tmp_path, naive) -> None:
    written = trace_time.compute("tiny", {"seeds": 2, "sizes": (10,), "naive": naive}, tmp_path / "out", context)
    assert {path.suffix for path in written} == {".csv", ".md", ".tex", ".png", ".svg"}
    runs = pd.read_csv(tmp_path / "out" / "fig1_runs.csv")
    assert len(runs) == 4
    assert runs["difference"].max() < 1e-4
    if naive is None:
        assert runs["naive_sum"].tolist() == pytest.approx(runs["trace"].tolist(), rel=1e-4)
    text = (tmp_path / "out" / "fig1.md").read_text()
    assert "11.11" in text
    assert "A cut." in text
    assert ("drawn at random" in text) == (naive is not None)


def test_diagonal_error(small_images, context, tmp_path) -> None:
    rows = pd.DataFrame(diagonal_error.errors("FCNN", 8, 0, 64, context))
    assert rows["probes"].tolist() == [1, 2, 4, 8, 16, 32, 64] * 2
    mean = rows.query("form == '2019'").set_index("probes")["error"]
    assert mean[64] < mean[1]
    written = diagonal_error.compute("tiny", {"seeds": 1, "sizes": (8,), "probes": 2}, tmp_path / "out", context)
    assert all(path.is_file() for path in written)


def test_step_time_compares_one_network_with_two_optimizers(context, tmp_path) -> None:
    options = {"model": ["model=wrn16_4", "model.width=1"], "batch": 4, "rounds": 2}
    step_time.fsam_against_sam("tiny", options, tmp_path / "out", context)
    frame = pd.read_csv(tmp_path / "out" / "sec5.7.csv")
    assert frame["method"].tolist() == ["SAM", "FSAM"]
    assert frame["published s"].tolist() == [0.2322, 0.2334]
    assert frame["relative to SAM"][0] == 1
    assert (frame["least"] <= frame["s per batch"]).all()


def test_mnist_networks_are_the_papers() -> None:
    assert mnist_networks.NETWORKS["FCNN"].model == "fcnn_small"
    assert mnist_networks.NETWORKS["CNN"].model == "small_cnn"
