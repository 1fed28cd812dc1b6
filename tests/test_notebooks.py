"""The notebooks: as committed they are whole and open with pictures, and run again they print the same figures."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SLOW = ("1_the_paper_in_20_minutes", "2_which_solver_for_my_model")  # 20 seconds each on one core
NUMBER = re.compile(r"\d+\.?\d*(?:e[+-]\d+)?")


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook) -> list[str]:
    """What each cell prints."""
    return ["".join(out.text for out in cell.outputs if out.output_type == "stream") for cell in code(notebook)]


def test_there_are_four():
    assert [name[0] for name in NAMES] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("name", NAMES)
def test_as_committed(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1)), "run it whole"
    outputs = [out for cell in code(notebook) for out in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]
    assert any("image/png" in out.get("data", {}) for out in code(notebook)[0].outputs), "it opens with pictures"
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 400_000


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES]
)
def test_prints_what_is_committed(name):
    """Words exactly, numbers to a tenth or 0.002: `make notebooks` writes them anew."""
    notebook = read(name)
    expected = printed(notebook)
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=300, coalesce_streams=True, resources=resources).execute()
    for now, then in zip(printed(notebook), expected, strict=True):
        assert NUMBER.sub("#", now).split() == NUMBER.sub("#", then).split()
        values, committed = ([float(number) for number in NUMBER.findall(text)] for text in (now, then))
        np.testing.assert_allclose(values, committed, rtol=0.1, atol=2e-3, err_msg=then)
