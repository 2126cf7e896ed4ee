"""scripts/bench step: the order in which a limited time is spent, ratios and shares of a card's peak."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
if not SCRIPTS.is_dir():
    pytest.skip("not a checkout", allow_module_level=True)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import bench_step

    return bench_step


def row(method: str, ms: float, **more) -> dict:
    times = [ms / 1e3] * 4
    return {"group": "step", "case": "wrn28_10", "method": method, "precision": "bf16", "times": times} | more


@pytest.mark.parametrize(
    ("device", "share"),
    [("NVIDIA H200", "50.6 %"), ("NVIDIA GeForce RTX 2080 Ti", None)],
    ids=["known", "unknown"],
)
def test_ratios_and_share_of_peak(bench, device, share) -> None:
    rows = [
        row("SGD (fsbench)", 8.0, flop=1e12, kernels=300, launches=290),
        row("SGD (fsbench)", 2.0, form="recorded", launches=1),
        row("SAM (fsbench)", 3.0, form="recorded"),
        row("textbook SAM, NCHW", 12.0),
        row("textbook SAM, NCHW", 24.0, precision="fp32"),
    ]
    known = {"device": device, "cpu_time": False, "threads": 1, "versions": {"torch": "2"}, "peers": {}, "seconds": 9.0}
    known |= {"rounds": 4, "load_average": 0.0, "batch": 128}
    text = bench.report({"provenance": known, "rows": rows, "notes": []})
    head, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in head.split("|")[1:-1]]
    cells = {}
    for line in lines:
        found = dict(zip(columns, (cell.strip() for cell in line.split("|")[1:-1]), strict=True))
        cells[found.pop("way")] = found
    sgd, sam = cells["SGD (fsbench), bf16, recorded"], cells["SAM (fsbench), bf16, recorded"]
    # 1e12 FLOP of the plain step in 2 ms, of 989 TFLOP/s
    assert sgd.get("share of peak") == share
    assert (sgd["images/s"], sgd["launches"], sgd["/ its plain form"]) == ("64000", "1", "0.25")
    assert sam["/ SGD (fsbench)"].startswith("1.50 ")
    assert sam["/ textbook SAM, NCHW"].startswith("0.25 ")  # of the same precision
    assert "met: SAM / SGD, recorded, bf16: 1.500 (at most 2)" in text
    assert ("met: share of the peak in bf16: 0.51 (at least 0.4)" in text) == (share is not None)


def test_the_most_telling_first(bench) -> None:
    ways = [
        bench.Row("step", network, f"{method} (fsbench)", precision, form)
        for network in ("resnet20", "wrn28_10") for method in ("SGD", "ASAM", "FSAM")
        for precision in bench.PRECISIONS for form in bench.FORMS
    ]  # fmt: skip
    ways.sort(key=lambda one: bench.worth(one, ["resnet20", "wrn28_10"]))
    first = [(one.case, one.name) for one in ways]
    assert first[:5] == [
        ("resnet20", "SGD (fsbench), bf16"),
        ("resnet20", "FSAM (fsbench), bf16"),
        ("resnet20", "SGD (fsbench), bf16, recorded"),
        ("resnet20", "FSAM (fsbench), bf16, recorded"),
        ("wrn28_10", "SGD (fsbench), bf16"),
    ]
    place = first.index
    assert place(("wrn28_10", "FSAM (fsbench), recorded")) < place(("resnet20", "SGD (fsbench), bf16, compiled"))
    assert place(("resnet20", "ASAM (fsbench), bf16, both")) < place(("resnet20", "ASAM (fsbench), bf16"))
    assert first[-1] == ("wrn28_10", "FSAM (fsbench), both")
