"""The notebook runs from its first cell to its last."""

import json
import re
from pathlib import Path

import matplotlib
import pytest

NOTEBOOK = Path(__file__).parents[1] / "experiments" / "notebook.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


@pytest.fixture
def no_window(monkeypatch):
    matplotlib.use("agg")


def test_every_cell_runs_in_order(tmp_path, monkeypatch, no_window):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metarl.runs.run.evaluation_figures", lambda *_: {})
    monkeypatch.setattr("metarl.runs.report.evaluation_figures", lambda *_: {})
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            source = re.sub(r"ITERATIONS = \d+", "ITERATIONS = 3", "".join(cell["source"]))
            smaller = re.sub(r"(meta_batch_size|tasks|horizon)=\d+", r"\1=4", source)
            exec(compile(smaller, f"{NOTEBOOK.name}, {cell['id']}", "exec"), names)
    assert names["learner"].iteration == 3
    assert (tmp_path / "policy" / "policy.pt2").exists()
    assert json.loads((tmp_path / "runs/notebook/evaluation.json").read_text())["splits"]
    assert names["model"](names["points"][:2]).shape == (2, 2)


def test_it_holds_no_outputs_and_no_magic_that_needs_ipython():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            assert not any(line.startswith(("%", "!")) for line in cell["source"])
