"""Figures are looked at as a reader would: names on the axes, nothing on top of anything else, the same each time."""

from __future__ import annotations

import dataclasses
import itertools
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from declared import (
    KINDS,
    PANELS,
    PERTURBED,
    SCATTER,
    TABLE,
    kind_results,
    panel_results,
    perturbed_results,
    runs,
    scatter_results,
    table_results,
)
from matplotlib.colors import to_rgb

from fsbench.papers.artefact import Scatter
from fsbench.report.artefact import render, write
from fsbench.report.style import style, styles

MANY = dataclasses.replace(
    TABLE,
    axes={
        "dataset": ("cifar10", "cifar100"),
        "model": ("resnet20", "densenet_bc_k12", "resnext29_32x4d"),
        "dataset.noise": ("0.2",),
        "optimizer": TABLE.axes["optimizer"],
    },
    shows=dataclasses.replace(TABLE.shows, rows=("dataset", "model")),
    published=(),
)
BY_METHOD = dataclasses.replace(
    SCATTER,
    axes={"optimizer": ("sgd", "sam"), "dataset.random_labels": SCATTER.axes["dataset.random_labels"]},
    shows=Scatter("generalization_gap", "accuracy gap (%)", SCATTER.shows.measures, (), "optimizer"),
)
BATCHES = dataclasses.replace(
    PANELS,
    axes={"trainer.batch_size": ("128", "256", "512", "1024")},
    shows=dataclasses.replace(PANELS.shows, x="trainer.batch_size", x_label="batch size (images)", log_x=True),
)
THREE = ("test_error", "train_error", "validation_error")
KINDS_OF_THREE = dataclasses.replace(
    KINDS, shows=dataclasses.replace(KINDS.shows, panels=tuple((result, "error (%)") for result in THREE))
)
ONE_MEASURE = dataclasses.replace(
    SCATTER,
    axes={**SCATTER.axes, "model": ("lenet", "wrn16_4")},
    shows=dataclasses.replace(SCATTER.shows, measures=SCATTER.shows.measures[:1]),
)


def batch_results(where, seed):
    return panel_results({"dataset.confusion": where["trainer.batch_size"]}, seed)


DRAWN = {
    "table": (TABLE, runs(TABLE, table_results)),
    "table of models and data sets": (MANY, runs(MANY, table_results)),
    "lines": (PERTURBED, runs(PERTURBED, perturbed_results)),
    "panels": (PANELS, runs(PANELS, panel_results)),
    "kinds": (KINDS, runs(KINDS, kind_results)),
    "scatter": (SCATTER, runs(SCATTER, scatter_results)),
    "batch sizes": (BATCHES, runs(BATCHES, batch_results)),
    "kinds in three panels": (
        KINDS_OF_THREE,
        runs(KINDS_OF_THREE, lambda where, seed: dict.fromkeys(THREE, kind_results(where, seed)["test_error"])),
    ),
    "scatter of one measure": (ONE_MEASURE, runs(ONE_MEASURE, scatter_results)),
    "scatter by method": (BY_METHOD, runs(BY_METHOD, scatter_results)),
}


@pytest.fixture(scope="module", params=DRAWN.values(), ids=list(DRAWN))
def drawn(request):
    artefact, frame = request.param
    _, figure = render(artefact, frame, [])
    with style():
        figure.canvas.draw()
    return artefact, figure


def texts(figure):
    """What is written in a figure, with its box; marks beyond an axis's limits are not drawn."""
    found = []
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
            for minor in (False, True):
                for place, label in zip(axis.get_ticklocs(minor=minor), axis.get_ticklabels(minor=minor), strict=False):
                    if low <= place <= high:
                        found.append(label)
            found += [axis.label, axis.get_offset_text()]
        found += [axes.title, axes._left_title, *axes.texts]
    for legend in figure.legends:
        found += legend.get_texts()
    shown = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


def test_no_text_meets_another_or_leaves_the_figure(drawn) -> None:
    _, figure = drawn
    boxes = texts(figure)
    assert len(boxes) > 6
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert not (width > 0.5 and height > 0.5), (one, other)
    for text, box in boxes:
        assert box.x0 >= -0.5, text
        assert box.y0 >= -0.5, text
        assert box.x1 <= figure.bbox.x1 + 0.5, text
        assert box.y1 <= figure.bbox.y1 + 0.5, text


def test_legends_cover_no_data(drawn) -> None:
    _, figure = drawn
    for legend, axes in itertools.product(figure.legends, figure.axes):
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_axes_are_named_and_there_is_no_title(drawn) -> None:
    _, figure = drawn
    assert figure.get_suptitle() == ""
    for axes in figure.axes:
        assert axes.get_title() == ""
        colour_bar = hasattr(axes, "_colorbar")
        assert axes.get_xlabel() or colour_bar
        assert axes.get_ylabel() or axes is not figure.axes[0]
    assert figure.get_figwidth() in (3.3, 6.9)


def figure_of(name: str):
    return render(*DRAWN[name], [])[1]


LABELS = {
    "table": ([("test accuracy (%)", "Label noise")], ["SGD", "SAM", "ASAM", "FSAM", "published"]),
    "lines": ([("perturbation strength α", "test accuracy (%)")], ["SGD", "SAM", "FSAM"]),
    "kinds": ([("augmentation", "test error (%)")], []),
    "scatter by method": (
        [("accuracy gap (%)", "trace of the Hessian"), ("accuracy gap (%)", "normalized sharpness")],
        ["SGD", "SAM"],
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_and_legend(name) -> None:
    figure = figure_of(name)
    labels, legend = LABELS[name]
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes] == labels
    assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == legend


def test_lines_have_their_means_and_bands() -> None:
    _, frame = DRAWN["lines"]
    (axes,) = figure_of("lines").axes
    assert (len(axes.lines), len(axes.collections)) == (3, 3)
    sgd = frame[frame["optimizer"] == "sgd"].filter(like="adversarial_accuracy_")
    assert axes.lines[0].get_xdata() == pytest.approx([0.1, 0.5, 1, 2, 5])
    assert axes.lines[0].get_ydata() == pytest.approx(100 * sgd.mean().to_numpy())
    band = axes.collections[0].get_paths()[0].vertices
    at_one = sorted(band[band[:, 0] == 1.0][:, 1])
    mean, std = 100 * sgd.mean()["adversarial_accuracy_1"], 100 * sgd.std(ddof=1)["adversarial_accuracy_1"]
    assert (at_one[0], at_one[-1]) == pytest.approx((mean - std, mean + std))


def test_values_over_decades_have_a_logarithmic_axis() -> None:
    scales = [axes.get_yscale() for axes in figure_of("panels").axes]
    assert scales == ["linear", "linear", "log", "linear"]


def test_dots_of_a_table_are_the_cells_and_the_paper() -> None:
    (axes,) = figure_of("table").axes
    points = {
        (round(line.get_xdata()[0], 6), line.get_markerfacecolor())
        for line in axes.lines
        if line.get_marker() in "os^D"
    }
    published = {x for x, face in points if face == "white"}
    assert published == {87.97, 93.12, 92.26, 93.03, 83.6, 90.54, 88.47, 90.95}
    assert len(points) == 16


def test_points_and_correlation_of_a_scatter() -> None:
    artefact, frame = DRAWN["scatter"]
    _, figure = render(artefact, frame, [])
    panels = figure.axes[:4]
    assert [sum(len(line.get_xdata()) for line in axes.lines) for axes in panels] == [20] * 4
    r = frame[frame["dataset"] == "mnist"][["generalization_gap", "normalized_sharpness"]].corr().iloc[0, 1]
    assert panels[1].get_title(loc="left").startswith(f"(b) MNIST\nr = {r:.2f} [")
    assert panels[1].get_title(loc="left").endswith("], n = 20")
    assert figure.axes[4].get_ylabel() == "Share of random labels"


def test_a_missing_cell_breaks_the_line() -> None:
    frame = runs(PANELS, panel_results, lambda where, seed: "not run" if where["dataset.confusion"] == "2000" else "")
    axes = render(PANELS, frame, [])[1].axes[0]
    drawn = axes.lines[0].get_ydata()
    assert [value != value for value in drawn] == [False, False, True, False, False, False]


@pytest.mark.parametrize("count", [2, 4, 7, 12])
def test_styles_differ_in_more_than_colour(count) -> None:
    for names in ([f"method {i}" for i in range(count)], [str(i) for i in range(count)]):
        looks = list(styles(names).values())
        assert len({(look.colour, look.marker) for look in looks}) == count
        assert len({look.marker for look in looks[:8]}) == min(count, 8)
        assert len({str(look.dashes) for look in looks[:7]}) == min(count, 7)


def test_ordered_values_darken_in_order() -> None:
    looks = styles(["0.5", "0.01", "0.1"])
    light = [
        sum(w * c for w, c in zip((0.3, 0.59, 0.11), to_rgb(looks[v].colour), strict=True))
        for v in ("0.01", "0.1", "0.5")
    ]
    assert light == sorted(light)
    assert light[-1] < 0.8


@pytest.mark.parametrize("name", ["kinds", "scatter by method"])
def test_the_same_runs_give_the_same_bytes(name, tmp_path) -> None:
    artefact, frame = DRAWN[name]
    one = [path.read_bytes() for path in write(artefact, frame, tmp_path / "a", ["x"])]
    other = [path.read_bytes() for path in write(artefact, frame, tmp_path / "b", ["x"])]
    assert one == other


def test_files_hold_no_date_and_svg_text_is_text(tmp_path) -> None:
    paths = {path.suffix: path for path in write(*DRAWN["lines"], tmp_path, [])}
    root = ElementTree.parse(paths[".svg"]).getroot()
    words = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"perturbation strength α", "test accuracy (%)", "FSAM"} <= words
    assert "date" not in paths[".svg"].read_text()
    png = paths[".png"].read_bytes()
    assert b"Software" not in png
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (660, 480)  # 3.3 x 2.4 inches at 200 dpi


def test_matplotlib_is_left_as_it_was(tmp_path) -> None:
    with matplotlib.rc_context({"font.size": 31, "axes.grid": True, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        paths = write(*DRAWN["table"], tmp_path / "a", [])
        assert dict(matplotlib.rcParams) == before
    import sys

    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    # What the caller had set does not show in the figure either.
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in write(*DRAWN["table"], tmp_path / "b", [])]
