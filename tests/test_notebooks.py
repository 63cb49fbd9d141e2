"""The example notebooks: their stored outputs are complete and clean, and their cells run from top to bottom."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reverie.core import registry
from reverie.data import bundled

FOLDER = Path(__file__).parents[1] / "examples"
SHORT = {"MINUTES": None, "STEPS": 3, "WIDTH": 4, "SCORED": 160}  # budgets for the test, where a notebook has them
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:home|root|tmp|usr|opt|mnt|work|var|Users|private)/")
REPRESENTATIONS = ("_repr_png_", "_repr_html_", "__repr__")


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text("utf-8"))


def code_cells(name: str) -> list[dict[str, Any]]:
    return [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def shows_something(code: str) -> bool:
    """Whether a cell prints, plots, or ends with an expression."""
    tree = ast.parse(code)
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return isinstance(tree.body[-1], ast.Expr) or bool(called & {"print", "plt.show", "rv.callbacks.LivePlot"})


def text_of(output: dict[str, Any]) -> str:
    """Everything of an output that a reader sees as text."""
    data = output.get("data", {})
    texts = [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    joined = "".join("".join(text) for text in texts)
    return re.sub(r"data:image/png;base64,[^\"]*", "", joined)


def test_there_are_four_notebooks():
    expected = {"first_hour", "your_own_model", "compare_two_models", "inside_a_diffusion_model"}
    assert {Path(name).stem for name in NOTEBOOKS} >= expected


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_outputs_are_complete_and_clean(name: str):
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        outputs = cell["outputs"]
        assert outputs or not shows_something(source(cell)), f"no output: {source(cell)}"
        for output in outputs:
            assert output["output_type"] != "error", source(cell)
            assert output.get("name") != "stderr", text_of(output)  # warnings and progress bars
            assert not MACHINE_PATH.search(text_of(output)), text_of(output)
    assert (FOLDER / name).stat().st_size < 1.5e6


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_between_notebooks_resolve(name: str):
    text = "".join("".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (FOLDER / target).exists(), target


def run_cell(code: str, namespace: dict[str, Any]) -> None:
    """Execute a cell as a notebook does: its last expression is displayed."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), namespace)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
        for method in REPRESENTATIONS:
            if hasattr(value, method):
                assert getattr(value, method)() is not None


@pytest.fixture(scope="module")
def few_clothes() -> Any:
    """A tenth of the bundled images of clothes."""
    clothes = bundled.fashion()
    rows = np.r_[:1200, clothes.cut : clothes.cut + 200]
    return replace(clothes, rows=clothes.rows.take(rows), cut=1200)


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_run_from_top_to_bottom(name: str, few_clothes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("IPython")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(bundled.BUNDLED, "fashion", lambda: few_clothes)
    monkeypatch.setattr("IPython.get_ipython", object)  # LivePlot draws in a notebook only
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))  # what a notebook registers ends with the test
    first, *others = map(source, code_cells(name))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    run_cell(first, namespace)
    assert {"MINUTES", "STEPS", "SCORED"} <= namespace.keys()  # else the test would train for minutes
    namespace |= {key: value for key, value in SHORT.items() if key in namespace}
    for code in others:
        run_cell(code, namespace)
    pyplot.close("all")
