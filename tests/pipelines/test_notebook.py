"""The notebook among the examples: it runs from top to bottom, and is kept without what it printed."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path("examples/duration-prediction.ipynb")


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_it_names_every_level(notebook):
    headings = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for heading in ("## Level 0", "## Levels 1 and 2", "### The registry", "## Level 3", "## Level 4"):
        assert heading in headings


@pytest.mark.slow
def test_it_runs_from_the_notebooks_model_to_the_loop(notebook, tmp_path, monkeypatch):
    monkeypatch.delenv("TRIPCAST_TLC_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # its home
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()

    said = "\n".join(
        output.get("text") or output["data"].get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "promoted: lightgbm is good enough to serve" in said
    assert "'version': 1" in said  # by the service, before the loop
    assert "'version': 2" in said  # and after it
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in data for data in shown) == 3
