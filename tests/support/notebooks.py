"""The notebook of the documentation, executed. `python -m tests.support.notebooks` writes it."""

from __future__ import annotations

import os
from typing import Any

import nbformat
from nbclient import NotebookClient

from pipeline.stage import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def executed() -> Any:
    """The notebook with the outputs that its cells have now."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        # Progress is for whoever waits for it.
        cell["outputs"] = [o for o in cell.get("outputs", ()) if o.get("name") != "stderr"]
        if cell.cell_type != "code":
            del cell["outputs"]
    return notebook


def html_of(cell: Any) -> list[str]:
    """What a browser shows of a cell's outputs."""
    data = [output.get("data", {}) for output in cell.get("outputs", ())]
    return [one["text/html"] for one in data if "text/html" in one]


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
