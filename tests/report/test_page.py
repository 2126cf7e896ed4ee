"""The page of `fsbench report`: its numbers and links, nothing of a file as markup, and what a browser says."""

from __future__ import annotations

import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

NASTY = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Tables as lists of texts, links and images, and every tag that there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.open: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.open = self.tables[-1][-1]
        elif tag == "a":
            self.links.append(found["href"])
        elif tag == "img":
            self.images.append(found)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open = None

    def handle_data(self, data):
        if self.open is not None:
            self.open[-1] += data


@pytest.fixture
def study(fsbench, quick) -> Path:
    fsbench("train", "-m", *quick, "optimizer=sgd,sam", "seed=0,1", "runs_dir=a study")
    fsbench("sharpness", "-m", "run=glob(a study/*)", "measures=[fisher_trace]", "samples=20")
    return Path("a study")


def rewritten(run: Path, name: str, **changes) -> None:
    """A run under another name, with other results."""
    target = run.parent / name
    shutil.copytree(run, target)
    summary = json.loads((target / "summary.json").read_text())
    summary["results"] |= changes.pop("results", {})
    for key, value in changes.items():
        node = summary["config"]
        *parts, last = key.split(".")
        for part in parts:
            node = node[part]
        node[last] = value
    (target / "summary.json").write_text(json.dumps(summary))


def test_numbers_links_and_figures(fsbench, study) -> None:
    ended = fsbench("report", "a study", "-o", "out/page.html")
    assert ended.code == 0, ended.err
    found = Page(Path("out/page.html").read_text())
    means, runs = found.tables
    assert means[0][:5] == ["dataset", "model", "optimizer", "n", "test accuracy %"]
    summaries = {run.name: json.loads((run / "summary.json").read_text())["results"] for run in study.iterdir()}
    assert {line[0]: line[5] for line in runs[1:]} == {
        name: f"{100 * results['test_accuracy']:.2f}" for name, results in summaries.items()
    }
    assert [line[2:4] for line in means[1:]] == [["sam", "2"], ["sgd", "2"]]
    assert {(Path("out") / unquote(link)).resolve() for link in found.links} == {
        run.resolve() for run in study.iterdir()
    }
    assert [image["alt"] for image in found.images] == [
        "test accuracy by epoch", "train accuracy by epoch", "test accuracy against fisher trace",
    ]  # fmt: skip
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in found.images)


def test_nothing_of_a_run_is_markup(fsbench, study) -> None:
    run = next(study.iterdir())
    rewritten(run, NASTY.replace("/", "|"), run_name=NASTY)
    fsbench("report", "a study", "-o", "page.html", "--by", "run_name,optimizer")
    text = Path("page.html").read_text()
    found = Page(text)
    assert found.tags.count("script") == 1
    assert "alert(1)</script>" not in text
    assert any(NASTY in line for line in found.tables[0])
    assert all(link.startswith("./") for link in found.links)
    assert not re.search(r"(src|href)=\"(?!data:|\./)", text)


def test_written_tables(fsbench, study) -> None:
    fsbench("correlate", "a study", "-o", "results/mine")
    Path("results/mine/more.csv").write_text(f'name,value\n"{NASTY.replace(chr(34), chr(34) * 2)}",0.25\n')
    ended = fsbench("report", "results", "-o", "page.html")
    assert "0 runs, 1 tables" in ended.out
    found = Page(Path("page.html").read_text())
    assert found.tags.count("script") == 1
    assert found.tables[1] == [["name", "value"], [NASTY, "0.25"]]
    assert found.links == ["./results/mine"]


def test_links_and_long_tables(fsbench, study) -> None:
    fsbench("correlate", "a study", "-o", "results/mine")
    Path("secret.csv").write_text("secret\n1\n")
    Path("results/mine/link.csv").symlink_to(Path("secret.csv").absolute())
    Path("results/mine/long.csv").write_text("n\n" + "".join(f"{i}\n" for i in range(900)))
    fsbench("report", "results", "-o", "page.html")
    text = Path("page.html").read_text()
    assert "secret" not in text
    assert "<summary>long.csv, 500 of 900 lines</summary>" in text


def test_what_is_refused(fsbench, study) -> None:
    Path("empty").mkdir()
    refused = {
        ("a study", "-o", "page.pdf"): "-o=page.pdf: must end in .html",
        ("nowhere",): "runs=nowhere: no such directory",
        ("empty",): "runs=empty: no finished run there, and no table",
        ("a study", "empty"): "runs=empty: ",
        ("a study", "--where", "seed=9"): "--where=seed=9: none of 4 finished runs is like that",
        ("a study", "--by", "optimiser"): "--by=optimiser: no run has such a key (did you mean 'optimizer'?)",
    }
    for words, message in refused.items():
        ended = fsbench("report", *words)
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.err
    assert not list(Path().glob("*.html"))


def test_five_hundred_runs(fsbench, study) -> None:
    run = next(study.iterdir())
    for i in range(500 - 4):
        differs = {"dataset.noise": i % 7 / 10, "optimizer.rho": i % 31 / 100}
        rewritten(run, f"copy-{i}", seed=i + 2, **differs, results={"test_accuracy": 0.5 + i / 1000})
    begun = time.process_time()
    assert fsbench("report", "a study").code == 0
    assert time.process_time() - begun < 10
    assert Path("report.html").stat().st_size < 5e6


def test_in_a_browser(fsbench, study) -> None:
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    run = next(study.iterdir())
    for i, accuracy in enumerate((0.095, 0.5)):
        rewritten(run, f"copy-{i}", seed=5 + i, results={"test_accuracy": accuracy})
    fsbench("report", "a study")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for width in (375, 1280):
            page = browser.new_page(viewport={"width": width, "height": 800})
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on(
                "request", lambda asked, said=said: said.append(asked.url) if asked.url.startswith("http") else None
            )
            page.goto(Path("report.html").absolute().as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            head = page.locator("table").nth(1).locator("th", has_text="test accuracy")
            for order in ("ascending", "descending"):
                head.locator("button").click()
                assert head.get_attribute("aria-sort") == order
                shown = [
                    float(text)
                    for text in page.locator("table").nth(1).locator("tbody td:nth-child(6)").all_inner_texts()
                ]
                assert shown == sorted(shown, reverse=order == "descending")
            assert said == []
        browser.close()
