"""What a run looks like in TensorBoard, in a browser: each page has its content drawn."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from metarl.cli.main import main

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium in PATH")

QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
"""For chromium to look for nothing outside this machine."""
RUN = [
    *("--family", "envs:Navigation2D-v0", "--meta-batch-size", "3", "--episodes", "4"),
    *("--horizon", "12", "--hidden-sizes", "8", "--device", "cpu"),
    *("--eval-every", "1", "--eval-tasks", "5"),
]
WAIT = 30_000
"""Milliseconds that a page may take on a busy machine."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained, resumed once, and evaluated."""
    path = tmp_path_factory.mktemp("runs") / "navigation"
    main(["train", *RUN, "--run-dir", str(path), "--iterations", "1"])
    main(["train", *RUN, "--run-dir", str(path), "--iterations", "3", "--resume"])
    main(["evaluate", str(path), "--steps", "2", "--clips", "2", "--tasks", "5"])
    return path


@pytest.fixture(scope="module")
def tensorboard(run):
    """Its address, once it has read the run."""
    logdir = str(run.parent)  # for `.` its table of hyperparameters would have no metrics
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--port", "0"]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line.decode())
                if address := re.search(r"at (http://\S+)", lines[-1]):
                    break
            else:
                pytest.fail(f"tensorboard ended: {''.join(lines)}")
            deadline = time.monotonic() + WAIT / 1000
            while "evaluation/clips" not in str(get(address[1], "data/plugin/images/tags")):
                assert time.monotonic() < deadline, "tensorboard reads no run"
                time.sleep(0.2)
            yield address[1]
        finally:
            process.terminate()


def get(address, path):
    with urllib.request.urlopen(address + path) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        expect.set_options(timeout=WAIT)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser.new_context(viewport={"width": 1600, "height": 1500})
        browser.close()


@pytest.fixture
def open_page(browser, tensorboard, tmp_path):
    """tab -> its page, of which a screenshot is kept at the end."""
    pages = {}

    def open_tab(tab):
        page = pages[tab] = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(f"{tensorboard}#{tab}")
        return page

    yield open_tab
    folder = Path(os.environ.get("METARL_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    for tab, page in pages.items():
        page.screenshot(path=folder / f"tensorboard-{tab}.png")
        page.close()


def test_a_resumed_and_evaluated_run_is_one_run(tensorboard):
    assert get(tensorboard, "data/runs") == ["navigation"]


CHARTS = {
    "Adaptation": ["return: line after, edge before", "gain of return"],
    "Evaluations in training": [
        "test: line after, edge before",
        *(f"test, step {k}, 95 % interval" for k in (0, 1)),
    ],
    "metarl evaluate": [f"{split}, over inner steps" for split in ("test", "train", "beyond")],
}
"""Titles of the charts of each category, in their order."""


LINES = ".line-plot:not(.ghost):not(.area-plot) path[d*=L]"
"""Of more than one point: a chart without data has none."""


def test_custom_scalars_has_the_charts_of_adaptation_with_curves_in_them(open_page):
    page = open_page("custom_scalars")
    expect(page.locator(".category-name")).to_have_text(list(CHARTS))
    titles = [title for charts in CHARTS.values() for title in charts]
    cards = page.locator("tf-custom-scalar-margin-chart-card")
    expect(cards.locator(".heading-label.name")).to_have_text(titles)
    for title in titles:
        card = cards.filter(has_text=title)
        expect(card).to_contain_text("Matches (1)")
        expect(card.locator(LINES)).to_have_count(1)


def test_the_first_page_begins_with_the_return_after_and_before_adaptation(open_page):
    titles = open_page("timeseries").locator("metrics-main-view card-view .tag")
    expect(titles.nth(1)).to_be_visible()
    names = [text.replace("\n", "") for text in titles.all_inner_texts()]
    assert names[:2] == ["adaptation/after", "adaptation/before"]


CELLS = """table => [...table.shadowRoot.querySelectorAll("thead tr, tbody tr")].map(
    row => [...row.children].map(
        cell => cell.querySelector("slot").assignedNodes().map(n => n.innerText.trim()).join("")
    )
)"""
"""The texts of a table, row by row; they lie beside the rows, which have slots for them."""


def test_hparams_has_the_run_with_its_algorithm_and_its_newest_return(open_page, run):
    table = open_page("hparams").locator("vaadin-grid").first
    expect(table).to_contain_text("maml-trpo")
    header, row = table.evaluate(CELLS)
    shown = dict(zip(header, row, strict=False))  # a row ends with a cell for its details
    assert header[2:7] == ["family", "algorithm", "seed", "inner_lr", "meta_batch_size"]
    assert shown["algorithm"] == "maml-trpo"
    newest = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for name, tag in {
        "after": "return/after",
        "before": "return/before",
        "held_out_after": "test/step_1/mean",
        "held_out_before": "test/step_0/mean",
    }.items():
        assert float(shown[f"adaptation/{name}"]) == pytest.approx(newest[tag], rel=1e-3)


FIGURES = [
    f"{group}adaptation/{figure}"
    for group in ("", "evaluation/")
    for figure in ("by_task", "by_task/goal/gain", "curve", "paths")
]


def test_images_has_the_figures_and_clips_that_move(open_page):
    page = open_page("images")
    cards = page.locator("tf-image-loader")
    expect(cards.locator("img")).to_have_count(len(FIGURES) + 2)
    frames = {}
    for card in cards.all():
        source = card.locator("img").evaluate("image => image.src")
        with urllib.request.urlopen(source) as answer:
            image = Image.open(io.BytesIO(answer.read()))
        name = card.locator(".heading-label.name").inner_text()
        frames[name] = (image.format, getattr(image, "n_frames", 1))
    clips = [name for name in frames if name.startswith("evaluation/clips/goal=")]
    assert len(clips) == 2
    assert sorted(set(frames) - set(clips)) == sorted(FIGURES)
    for name, (kind, number) in frames.items():
        if name in clips:
            assert kind == "GIF"
            assert number > 1
        else:
            assert kind == "PNG"


def test_text_has_the_configuration(open_page):
    card = open_page("text").locator("tf-text-loader")
    expect(card).to_contain_text("config")
    expect(card).to_contain_text('"family": "envs:Navigation2D-v0"')
