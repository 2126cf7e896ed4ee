"""The lines for a reader: what stands behind the ±, and what is cut short."""

from __future__ import annotations

import pytest

from fsbench.lines import shortened
from fsbench.measuring.display import changes, lines

SOME, ALL = {"used": 10, "of": 20, "split": "train"}, {"used": 20, "of": 20, "split": "train"}


def entry(**given) -> dict:
    return {
        "value": 2.0, "stderr": 0.0, "exact": True, "seed": None, "example_stderr": None, "method": "exact",
        "images": SOME, "settings": {}, "seconds": 1.0, "notes": [], **given,
    }  # fmt: skip


GAUSS_NEWTON = {"exact": False, "method": "gauss-newton"}
DRAWN = {"exact": False, "seed": 0, "method": "5 draws"}
SHOWN = [
    ("exact-of-some", entry(example_stderr=0.3), "2 ± 0.3  ± over images"),
    ("exact-of-all", entry(example_stderr=0.3, images=ALL), "2  exact"),
    ("exact-no-mean", entry(), "2  exact for these images"),
    ("exact-all-alike", entry(example_stderr=0.0), "2  exact for these images"),
    ("exact-lanczos", entry(seed=0, method="lanczos"), "2  exact for these images"),
    ("gauss-newton", entry(**GAUSS_NEWTON, example_stderr=0.3), "2 ± 0.3  Gauss-Newton, ± over images"),
    ("gauss-newton-of-all", entry(**GAUSS_NEWTON, example_stderr=0.3, images=ALL), "2  Gauss-Newton"),
    ("gauss-newton-no-mean", entry(**GAUSS_NEWTON), "2  Gauss-Newton"),
    ("gauss-newton-drawn", entry(**GAUSS_NEWTON | {"method": "gauss-newton, 3 sampled classes"}, seed=0, stderr=0.4,
                                 example_stderr=0.3), "2 ± 0.5  Gauss-Newton, ± over images and draws"),
    ("drawn", entry(**DRAWN, stderr=0.4, images=ALL, example_stderr=0.3), "2 ± 0.4  ± over draws"),
    ("drawn-of-some", entry(**DRAWN, stderr=0.4, example_stderr=0.3), "2 ± 0.5  ± over images and draws"),
    ("one-draw", entry(**DRAWN, stderr=None, example_stderr=0.3), "2  5 draws"),
    ("draws-alike", entry(**DRAWN, stderr=0.0), "2  5 draws"),
    ("bound", entry(exact=False, stderr=None, method="one step"), "2  one step"),
    ("worst-case", entry(exact=False, stderr=None, method="one step",
                         settings={"neighbourhood": "sam", "rho": 0.05, "eta": None}), "2  sam, rho 0.05, one step"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "line"), [pytest.param(*case[1:], id=case[0]) for case in SHOWN])
def test_what_stands_behind_the_plus_minus(given, line) -> None:
    assert lines({"a": given}) == [f"  a  {line}    1.00 s"]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("left out: " + ", ".join(f"layers.{i}.weight" for i in range(26)),
         "left out: layers.0.weight, layers.1.weight, layers.2.weight and 23 more"),
        ("not trained (a.b, c, d, e, f, g.0); more", "not trained (a.b, c, d and 3 more); more"),
        ("a, b, c, d, e, f: nothing", "a, b, c and 3 more: nothing"),
        ("five: a, b, c, d, e", "five: a, b, c, d, e"),
        ("a clause, another one, and this one, all of many words, as prose has, and more, and more",) * 2,
    ],
    ids=["names", "brackets", "colon", "few", "prose"],
)  # fmt: skip
def test_long_lists_are_shortened(text, short) -> None:
    assert shortened(text) == short
    assert lines({"a": entry(notes=[text])})[-1] == f"  note: a: {short}"


def test_what_changed() -> None:
    old = entry(settings={"samples": 10, "seed": 0, "classes": 3, "rho": 0.05}, value=99.4)
    new = entry(settings={"logit_norm": 25.0, "rho": 0.1}, images=ALL)
    said = ["  note: a: before: 10 images, classes 3, rho 0.05, no logit_norm, 99.4"]
    assert changes({"a": new}, {"a": old}, {"a": new}) == said
    assert changes({"a": new}, {"a": new}, {"a": new}) == []
    assert changes({"a": new}, {}, {"a": new}) == []
    assert changes({"a": new}, {"a": entry(refused="no")}, {"a": new}) == []
    assert changes({"a": new}, {"a": new | {"value": 3.0}}, {"a": new}) == ["  note: a: before: 3"]
    assert changes({"a": new | {"refused": "no"}}, {"a": old}, {"a": old}) == [
        "  note: a: tables keep 10 images, classes 3, rho 0.05, no logit_norm, 99.4"
    ]
