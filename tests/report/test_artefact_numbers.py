"""The numbers of a written artefact against ones computed here."""

from __future__ import annotations

import dataclasses
import math
from io import StringIO

import pandas as pd
import pytest
from declared import METHODS, PANELS, PERTURBED, SCATTER, TABLE, perturbed_results, runs, scatter_results, table_results
from scipy import stats

from fsbench.papers.artefact import Extra, Lines, Published, Scatter, Table
from fsbench.report.artefact import render, write

# Accuracies whose means and deviations are easy: 90, 91, 92 % has mean 91 and deviation 1.
PLAIN = {
    ("0.2", "sgd"): (0.86, 0.87, 0.88),
    ("0.2", "sam"): (0.92, 0.935, 0.94),
    ("0.2", "asam"): (0.91, 0.92, 0.93),
    ("0.2", "fsam"): (0.89, 0.91, 0.9),
    ("0.4", "sgd"): (0.85, 0.84, 0.83),
    ("0.4", "sam"): (0.82, 0.81, 0.79),
    ("0.4", "asam"): (0.8401, 0.8501, 0.8301),
}


def plain_runs() -> pd.DataFrame:
    return runs(
        TABLE,
        lambda where, seed: {"test_accuracy": PLAIN[where["dataset.noise"], where["optimizer"]][seed]},
        lambda where, seed: "diverged in epoch 3" if (where["dataset.noise"], where["optimizer"]) not in PLAIN else "",
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    paths = write(TABLE, plain_runs(), directory, ["20 of 200 epochs", "Images of JPEG quality 75."])
    return {path.name: path for path in paths}


def test_what_is_written(plain) -> None:
    texts = ["table4.csv", "table4_runs.csv", "table4.md", "table4.tex", "table4_order.csv"]
    assert list(plain) == [*texts, "table4.png", "table4.svg"]
    directory = plain["table4.csv"].parent
    assert sorted(path.name for path in directory.iterdir()) == sorted(plain)


def test_csv_has_every_cell(plain) -> None:
    table = pd.read_csv(plain["table4.csv"], dtype={"dataset.noise": str}).set_index(["dataset.noise", "optimizer"])
    assert len(table) == 8
    sgd, sam, fsam = table.loc[("0.2", "sgd")], table.loc[("0.2", "sam")], table.loc[("0.4", "fsam")]
    assert (sgd["n"], sgd["mean"], sgd["std"]) == pytest.approx((3, 87, 1))
    assert (sgd["published_mean"], sgd["published_std"], sgd["difference"]) == pytest.approx((87.97, 0.04, -0.97))
    # 92, 93.5, 94: mean 93.1667, deviation 1.0408.
    assert (sam["mean"], sam["std"]) == pytest.approx((279.5 / 3, 1.040833), rel=1e-6)
    assert (fsam["n"], fsam["planned"], fsam["published_mean"]) == (0, 3, 90.95)
    assert math.isnan(fsam["mean"])


def test_csv_of_runs_has_no_directory(plain) -> None:
    table = pd.read_csv(plain["table4_runs.csv"], dtype={"dataset.noise": str})
    assert list(table.columns) == ["dataset.noise", "optimizer", "seed", "status", "run", "test_accuracy"]
    assert (len(table), table["run"][0], table["test_accuracy"][0]) == (24, "0.2-sgd-s0", 0.86)
    assert set(table["status"]) == {"done", "diverged in epoch 3"}


TABLE_TEXT = """\
| label noise |            |              sgd |                  sam |                 asam |             fsam |
| ----------- | ---------- | ---------------: | -------------------: | -------------------: | ---------------: |
| 0.2         | measured   | 87.00 ± 1.00 (3) | **93.17 ± 1.04 (3)** |     92.00 ± 1.00 (3) | 90.00 ± 1.00 (3) |
|             | paper      |     87.97 ± 0.04 |     **93.12 ± 0.24** |         92.26 ± 0.33 |     93.03 ± 0.11 |
|             | difference |            -0.97 |                +0.05 |                -0.26 |            -3.03 |
| 0.4         | measured   | 84.00 ± 1.00 (3) |     80.67 ± 1.53 (3) | **84.01 ± 1.00 (3)** |          missing |
|             | paper      |     83.60 ± 0.59 |         90.54 ± 0.19 |         88.47 ± 0.06 | **90.95 ± 0.17** |
|             | difference |            +0.40 |                -9.87 |                -4.46 |                - |
"""


def test_markdown_sets_the_paper_beside_the_measured(plain) -> None:
    assert TABLE_TEXT in plain["table4.md"].read_text()


def test_caption_says_what_was_cut(plain) -> None:
    lines = plain["table4.md"].read_text().splitlines()
    assert lines[0] == "# kim2022/table4"
    assert lines[2] == (
        "Test accuracy of ResNet-32 on CIFAR-10 with symmetric label noise. Kim et al. 2022, table 4. "
        "20 of 200 epochs. Images of JPEG quality 75."
    )
    assert lines[4] == "![kim2022/table4](table4.png)"
    tex = plain["table4.tex"].read_text()
    assert "20 of 200 epochs. Images of JPEG quality 75. Mean $\\pm$ sample standard deviation" in tex
    assert "Missing: dataset.noise=0.4 optimizer=fsam, seeds 0, 1, 2: diverged in epoch 3." in tex


def test_nothing_cut_nothing_said() -> None:
    texts, _ = render(TABLE, plain_runs(), [])
    caption = texts["table4.md"].splitlines()[2]
    assert caption == f"{TABLE.title}. {TABLE.source}."


def test_gaps_have_their_reason(plain) -> None:
    text = plain["table4.md"].read_text()
    assert text.endswith("## Missing\n\n- dataset.noise=0.4 optimizer=fsam, seeds 0, 1, 2: diverged in epoch 3\n")


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_order_against_the_paper(plain) -> None:
    text = plain["table4.md"].read_text()
    order = text[text.index("## Order") : text.index("## Missing")]
    found = {tuple(cells_of(line)[:2]): cells_of(line)[2:] for line in order.splitlines() if line.startswith("| 0.")}

    assert {key: line[:2] + line[3:5] for key, line in found.items()} == {
        ("0.2", "best: sam, then asam"): ["not decided", "+0.86", "yes", "+1.17"],
        ("0.2", "sam - sgd"): ["agrees", "+5.15", "yes", "+6.17"],
        # Every seed differs by 5: no spread, no test.
        ("0.2", "asam - sgd"): ["not decided", "+4.29", "yes", "+5.00"],
        ("0.2", "fsam - sgd"): ["not decided", "+5.06", "yes", "+3.00"],
        # The paper's best was not run; of those that were, its best is sam.
        ("0.4", "best: asam (paper, of these: sam)"): ["not decided", "-2.07", "no", "+3.34"],
        ("0.4", "sam - sgd"): ["not decided", "+6.94", "no", "-3.33"],
        ("0.4", "asam - sgd"): ["not decided", "+4.87", "yes", "+0.01"],
        ("0.4", "fsam - sgd"): ["missing", "+7.35", "-", "-"],
    }
    # Eight comparisons in the table, of which this has the least p.
    sam = stats.ttest_rel(PLAIN["0.2", "sam"], PLAIN["0.2", "sgd"])
    low, high = (100 * end for end in sam.confidence_interval(0.95))
    assert found["0.2", "sam - sgd"][5:] == [f"{low:+.2f} to {high:+.2f}", "1.00", f"{8 * sam.pvalue:.3f}", "2.67", "3"]
    numbers = pd.read_csv(plain["table4_order.csv"])
    # Kim et al., table 4, three runs each: SGD 87.97 ± 0.04 and FSAM 93.03 ± 0.11 differ most surely, of eight.
    surest = stats.ttest_ind_from_stats(93.03, 0.11, 3, 87.97, 0.04, 3, equal_var=False).pvalue
    assert min(numbers["paper's p"]) == pytest.approx(8 * surest)
    assert (
        "Of 5 comparisons that the paper has too, 4 have the paper's sign. "
        "With p ≤ 0.05: agrees: 1, disagrees: 0, not decided: 4, missing: 1."
    ) in order


def one_row(**methods: tuple[float, ...]) -> pd.DataFrame:
    rows = [
        {"optimizer": name, "seed": seed, "status": "done", "run": name, "test_error": value}
        for name, values in methods.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


ERRORS = dataclasses.replace(
    TABLE,
    shows=Table("test_error", (), "optimizer", "sgd", False, "test error (%)"),
    axes={"optimizer": METHODS},
    published=(),
)


def test_lower_can_be_better_and_the_paper_can_be_silent() -> None:
    frame = one_row(sgd=(0.10, 0.11, 0.105), sam=(0.08, 0.0901, 0.0847), asam=(0.12, 0.1305, 0.125))
    texts, _ = render(ERRORS, frame, [])
    text = texts["table4.md"]
    assert "| 10.50 ± 0.50 (3) | **8.49 ± 0.51 (3)** | 12.52 ± 0.53 (3) |" in text
    assert "A difference is measured less published" not in text
    found = {cells_of(line)[0]: cells_of(line)[1] for line in text.splitlines() if " sgd " in line and " to " in line}
    assert found == {"sam - sgd": "better", "asam - sgd": "worse"}


def test_columns_stand_as_declared_unless_one_was_not() -> None:
    heads = []
    for frame in (one_row(sam=(0.1,), sgd=(0.2,)), one_row(sam=(0.1,), mine=(0.3,), sgd=(0.2,))):
        texts, _ = render(ERRORS, frame, [])
        heads.append(cells_of(texts["table4.md"].splitlines()[8]))
    assert heads == [["sgd", "sam"], ["sam", "mine", "sgd"]]


def test_one_seed_decides_nothing() -> None:
    texts, _ = render(ERRORS, one_row(sgd=(0.1,), sam=(0.05,)), [])
    text = texts["table4.md"]
    line = next(line for line in text.splitlines() if line.startswith("| sam - sgd"))
    assert cells_of(line)[1:] == ["not decided", "-5.00", "-", "-", "-", "-", "1"]
    assert "| 10.00 (1) | **5.00 (1)** |" in text


def test_what_is_written_alike_is_equally_best() -> None:
    texts, _ = render(ERRORS, one_row(sgd=(0.10001,), sam=(0.1,), asam=(0.11,)), [])
    assert "| **10.00 (1)** | **10.00 (1)** | 11.00 (1) |" in texts["table4.md"]
    assert r"\textbf{\boldmath 10.00 (1)} & \textbf{\boldmath 10.00 (1)} & 11.00 (1) \\" in texts["table4.tex"]


def test_a_tie_in_the_paper_is_no_order() -> None:
    # Kim et al., table 3: SGD and ASAM both have 87.97 on CIFAR-100.
    artefact = dataclasses.replace(
        ERRORS,
        shows=Table("test_accuracy", (), "optimizer", "sgd", True, "test accuracy (%)"),
        published=(
            Published("kim2022_table3.csv", {"optimizer": "optimizer"}, where={"dataset": "cifar100"}, factor=100),
        ),
    )
    frame = one_row(sgd=(0.8, 0.81, 0.805), asam=(0.85, 0.8603, 0.855)).rename(columns={"test_error": "test_accuracy"})
    texts, _ = render(artefact, frame, [])
    text = texts["table4.md"]
    line = next(line for line in text.splitlines() if line.startswith("| asam - sgd"))
    assert cells_of(line)[1:6] == ["better", "0.00", "1.000", "-", "+5.01"]


def test_a_single_comparison_is_counted() -> None:
    artefact = dataclasses.replace(TABLE, axes={"dataset.noise": ("0.2",), "optimizer": ("sgd", "sam")})
    texts, _ = render(artefact, runs(artefact, table_results), [])
    assert (
        "Of 1 comparisons that the paper has too, 1 have the paper's sign. "
        "With p ≤ 0.05: agrees: 1, disagrees: 0, not decided: 0.\n"
    ) in texts["table4.md"]


def test_an_added_line_and_an_unplanned_cell() -> None:
    extra = Extra("optimizer", "fsam, rho = 0.5", {"optimizer": "fsam"}, ("optimizer.rho=0.5",), "as in the text")
    artefact = dataclasses.replace(TABLE, extras=(extra,))
    frame = plain_runs()
    added = frame[(frame["dataset.noise"] == "0.2") & (frame["optimizer"] == "fsam")]
    frame = pd.concat([frame, added.assign(optimizer=extra.label)], ignore_index=True)
    texts, _ = render(artefact, frame, [])
    lines = texts["table4.md"].splitlines()
    head = next(line for line in lines if line.startswith("| label noise"))
    assert cells_of(head)[2:] == [*METHODS, "fsam, rho = 0.5"]
    measured = [cells_of(line)[-1] for line in lines if "| measured " in line and "comparison" not in line]
    assert measured == ["90.00 ± 1.00 (3)", "-"]  # at 0.4 it was never planned: no gap, and no reason


def test_measured_but_for_some() -> None:
    frame = plain_runs()
    frame.loc[1, "test_accuracy"] = math.nan
    texts, _ = render(TABLE, frame, [])
    text = texts["table4.md"]
    assert "87.00 ± 1.41 (2 of 3)" in text
    assert "- dataset.noise=0.2 optimizer=sgd, seed 1: has no test_accuracy\n" in text
    line = next(line for line in text.splitlines() if line.startswith("| 0.2") and "sam - sgd" in line)
    assert cells_of(line)[-1] == "2"  # the seeds that both have


def test_nothing_was_run(tmp_path) -> None:
    write(TABLE, plain_runs(), tmp_path, [])
    paths = write(TABLE, runs(TABLE, table_results, lambda where, seed: "not run"), tmp_path, [])
    assert [path.suffix for path in paths] == [".csv", ".csv", ".md", ".tex", ".csv"]
    assert not (tmp_path / "table4.png").exists()  # one that was there before would be of other runs
    assert "missing" in paths[2].read_text()
    assert "dataset.noise=0.4 optimizer=fsam, seeds 0, 1, 2: not run" in paths[2].read_text()


def test_long_lists_of_gaps_are_counted() -> None:
    artefact = dataclasses.replace(TABLE, axes={**TABLE.axes, "model": tuple(f"m{i}" for i in range(4))})
    texts, _ = render(artefact, runs(artefact, table_results, lambda where, seed: "not run"), [])
    lines = [line for line in texts["table4.md"].splitlines() if line.startswith("- ")]
    assert len(lines) == 13
    assert lines[-1] == "- and 60 runs of 20 more cells: not run"


def test_an_axis_that_the_form_leaves_out_is_a_row() -> None:
    artefact = dataclasses.replace(TABLE, axes={**TABLE.axes, "model": ("resnet20", "wrn28_2")}, published=())
    texts, _ = render(artefact, runs(artefact, table_results), [])
    text = texts["table4.md"]
    assert "| model    | label noise |" in text
    assert all(f"({n})" not in text for n in (6, 12))


def test_several_results_are_several_tables() -> None:
    shows = Table("a", (), "optimizer", "sgd", False, "test error (%)", more=(("b", "top-5 error (%)"),))
    artefact = dataclasses.replace(ERRORS, shows=shows)
    frame = (
        one_row(sgd=(0.1, 0.12), sam=(0.2, 0.25)).rename(columns={"test_error": "a"}).assign(b=[0.01, 0.02, 0.03, 0.04])
    )
    texts, _ = render(artefact, frame, [])
    text = texts["table4.md"]
    assert text.index("**test error (%)**") < text.index("**top-5 error (%)**") < text.index("## Order")
    assert "| **1.50 ± 0.71 (2)** | 3.50 ± 0.71 (2) |" in text
    assert list(pd.read_csv(StringIO(texts["table4.csv"]))["result"]) == ["a", "a", "b", "b"]
    frame.loc[1, "b"] = math.nan
    texts, _ = render(artefact, frame, [])
    assert texts["table4.md"].endswith("## Missing\n\n- optimizer=sgd, seed 1: has no b\n")


def test_the_published_number_that_names_most_axes_is_meant() -> None:
    (exact,) = TABLE.published
    for_all = dataclasses.replace(exact, columns={"optimizer": "optimizer"}, where={**exact.where, "noise_rate": "0.2"})
    for published in ((for_all, exact), (exact, for_all), (for_all,)):
        # 0.40 is the paper's 0.4.
        frame = plain_runs().replace({"dataset.noise": {"0.4": "0.40"}})
        texts, _ = render(dataclasses.replace(TABLE, published=published), frame, [])
        table = pd.read_csv(StringIO(texts["table4.csv"]), dtype={"dataset.noise": str}).set_index("optimizer")
        found = table[table["dataset.noise"] == "0.40"].loc["sgd", "published_mean"]
        assert found == pytest.approx(87.97 if published == (for_all,) else 83.6)


def test_strengths_of_a_perturbation_become_an_axis() -> None:
    frame = runs(PERTURBED, perturbed_results).rename(columns={"adversarial_accuracy_5": "adversarial_accuracy_10"})
    texts, _ = render(PERTURBED, frame, [])
    table = pd.read_csv(StringIO(texts["fig4.csv"]))
    assert list(table["alpha"]) == [0.1, 0.5, 1, 2, 10] * 3
    assert list(table["optimizer"]) == ["sgd"] * 5 + ["sam"] * 5 + ["fsam"] * 5
    sam = frame[frame["optimizer"] == "sam"]["adversarial_accuracy_0.5"]
    found = table[(table["optimizer"] == "sam") & (table["alpha"] == 0.5)].iloc[0]
    assert (found["mean"], found["std"]) == pytest.approx((100 * sam.mean(), 100 * sam.std(ddof=1)), rel=1e-8)
    assert "adversarial_accuracy_10" in pd.read_csv(StringIO(texts["fig4_runs.csv"])).columns
    assert "| α   |" in texts["fig4.md"]


def test_lines_without_measures_say_so() -> None:
    frame = runs(PERTURBED, lambda where, seed: {"test_accuracy": 0.9})
    texts, _ = render(PERTURBED, frame, [])
    text = texts["fig4.md"]
    assert "- optimizer=sgd, seeds 0, 1, 2: has no adversarial_accuracy\n" in text
    assert "nan" not in text


def test_correlations() -> None:
    frame = runs(
        SCATTER, scatter_results, lambda where, seed: "not run" if where["dataset"] == "cifar10" and seed else ""
    )
    texts, _ = render(SCATTER, frame, [])
    table = pd.read_csv(StringIO(texts["fig3.csv"]))
    for _, row in table.iterrows():
        points = frame[(frame["dataset"] == row["dataset"]) & (frame["status"] == "done")]
        expected = stats.pearsonr(points["generalization_gap"], points[row["measure"]])
        interval = expected.confidence_interval(0.95)
        assert (row["r"], row["low"], row["high"]) == pytest.approx(
            (expected.statistic, interval.low, interval.high), rel=1e-8
        )
        assert row["n"] == {"mnist": 20, "cifar10": 5}[row["dataset"]]
    first = table.iloc[0]
    text = texts["fig3.md"]
    assert "| data set | model | measure              |" in text
    assert f"{first['r']:.3f} | {first['low']:.3f} to {first['high']:.3f} |  20 |" in text
    assert "Pearson's correlation with accuracy gap (%) over n runs" in text


def test_a_published_correlation_stands_in_the_caption() -> None:
    shows = Scatter("generalization_gap", "accuracy gap (%)", SCATTER.shows.measures, (), "dataset.random_labels")
    artefact = dataclasses.replace(SCATTER, shows=shows)
    frame = runs(artefact, scatter_results)
    assert "paper" not in render(artefact, frame, [])[0]["fig3.md"].lower()
    # 81.97, as if it were one times 100.
    where = {"optimizer": "sgd", "metric": "top1_accuracy_percent"}
    published = Published("kim2022_table2.csv", {}, where=where, factor=100, value="normalized_sharpness")
    texts, _ = render(dataclasses.replace(artefact, published=(published,)), frame, [])
    assert "Published correlations with accuracy gap (%): normalized sharpness 0.820." in texts["fig3.md"]
    table = pd.read_csv(StringIO(texts["fig3.csv"])).set_index("measure")
    assert table.loc["normalized_sharpness", "published_r"] == pytest.approx(0.8197)
    assert math.isnan(table.loc["trace", "published_r"])


def test_a_scatter_says_how_well_its_runs_are_fitted() -> None:
    frame = runs(SCATTER, lambda where, seed: scatter_results(where, seed) | {"train_accuracy": 0.9 + seed / 100})
    texts, _ = render(SCATTER, frame, [])
    done = frame["train_accuracy"].dropna() * 100
    said = f"Training accuracy of the runs: {done.min():.1f} % at least, {done.median():.1f} % in the median."
    assert said in texts["fig3.md"]
    kept = pd.read_csv(StringIO(texts["fig3_runs.csv"]))["train_accuracy"].dropna()
    assert list(kept) == pytest.approx(list(frame["train_accuracy"].dropna()))


def test_a_table_that_means_an_infinity() -> None:
    shows = Lines("dataset.confusion", "confusion set (images)", (("fisher_determinant", "ln det"),))
    artefact = dataclasses.replace(PANELS, shows=shows)
    texts, _ = render(
        artefact,
        runs(
            artefact,
            lambda where, seed: {"fisher_determinant": -math.inf if where["dataset.confusion"] == "0" else -9.0},
        ),
        [],
    )
    assert "| 0                      |           -inf (5) |" in texts["fig2.md"]


@pytest.mark.parametrize("name", ["markdown is not broken by | or *"])
def test_reasons_are_one_line(name) -> None:
    frame = runs(TABLE, table_results, lambda where, seed: f"{name}\nsecond line" if seed == 1 else "")
    texts, _ = render(TABLE, frame, [])
    text = texts["table4.md"]
    assert r"seed 1: markdown is not broken by \| or \* second line" in text
