"""The documentation: a whole page for every solver, pictures that exist; and, slow, the site without a warning."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pndm

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FORMULAS = sorted((DOCS / "formulas").glob("*.md"))
NODE = shutil.which("node")
OWN = [name for name in pndm.solvers.names() if type(pndm.solvers.create(name)).__module__.startswith("pndm.")]


@pytest.fixture(scope="module")
def hooks():
    """The modules that make pages, by name."""
    sys.path.insert(0, str(DOCS / "hooks"))
    try:
        import docstrings
        import solver_pages

        yield {"docstrings": docstrings, "solver_pages": solver_pages}
    finally:
        sys.path.remove(str(DOCS / "hooks"))


@pytest.mark.parametrize("name", OWN)
def test_solver_has_a_whole_page(name, hooks, mixture, noise):
    formula = DOCS / "formulas" / f"{name}.md"
    assert formula.is_file(), f"write {formula.relative_to(ROOT)}: the formula, and when to use it"
    page = hooks["solver_pages"].page(name)
    assert page.count("$$") >= 2
    assert "**When to use.**" in page
    assert "**Source" in page, f"the docstring of {name} names no source"
    assert "**Fails:**" in page, f"the docstring of {name} does not say when it fails"
    order, cost, run = re.search(
        r"^\| (.+) \| (.+) \| (.+) \|$", page.split("|---|---|---|\n")[1], re.MULTILINE
    ).groups()
    solver = pndm.solvers.create(name)
    assert order.startswith("–" if solver.stochastic else str(getattr(solver, "running_order", solver.order)))
    if solver.evaluations_per_step is None:
        assert cost == run == "as many as it takes"
        return
    for end, said in zip((0.01, 0.0), (*run.split(";"), run.split(";")[0]), strict=False):
        spent = pndm.solve(mixture, noise, solver=name, steps=10, schedule="vp_linear", t_end=end).nfe
        assert said.split()[0] == str(spent), f"at the end {end}: {run}"


def test_formulas_are_of_solvers():
    assert {path.stem for path in FORMULAS} <= set(pndm.solvers.names())


def test_docstring_becomes_a_list(hooks):
    text = """What it is.

    clock: steps  the paper's;
           t, rho  the polynomial
           in it.
    tol: how exact, in
        units. pair: which.
    Order: 2. Source: someone. Fails: often,
    and again.
    """
    assert hooks["docstrings"].as_markdown(text, ("clock", "tol", "pair"), ("Source",)).split("\n") == [
        "What it is.",
        "",
        "- `clock`:",
        "    - `steps`: the paper's;",
        "    - `t, rho`: the polynomial",
        "        in it.",
        "- `tol`:",
        "    how exact, in",
        "    units.",
        "- `pair`:",
        "    which.",
        "- **Order:**",
        "    2.",
        "- **Fails:**",
        "    often,",
        "    and again.",
    ]


def test_pictures_exist_and_are_shown():
    shown = set()
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).is_file(), f"{page.name} shows {target}"
            shown.add((page.parent / target).stem)
    assert {path.stem for path in (DOCS / "images").iterdir()} == shown  # a PNG may have its SVG beside it


@pytest.mark.skipif(NODE is None, reason="KaTeX runs in node, which is not installed")
def test_formulas_are_typeset():
    """By the KaTeX that the site uses, with its errors as errors."""
    script = """
        const katex = require(process.argv[1]);
        const formulas = JSON.parse(require("fs").readFileSync(0));
        for (const formula of formulas) katex.renderToString(formula, {displayMode: true, throwOnError: true});
    """
    texts = [path.read_text("utf-8") for path in [*FORMULAS, DOCS / "idea.md"]]
    formulas = [formula for text in texts for formula in re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)]
    assert len(formulas) > len(FORMULAS)
    katex = DOCS / "assets/katex/katex.min.js"
    done = subprocess.run([NODE, "-e", script, str(katex)], input=json.dumps(formulas), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python", "nbconvert"):
        pytest.importorskip(module, reason="pip install 'pndm[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in pndm.solvers.names():
        assert "arithmatex" in (tmp_path / f"site/solvers/{name}.html").read_text("utf-8")
    home = (tmp_path / "site/index.html").read_text("utf-8")
    for page in DOCS.glob("*.md"):
        assert (tmp_path / f"site/{page.stem}.html").is_file()
    assert "notebooks/4_pndm_in_diffusers.html" in home
    assert 'href="pndm.solve.html"' in (tmp_path / "site/api/index.html").read_text("utf-8")
    for file in (tmp_path / "site").rglob("*.html"):
        assert not re.search(r'<(script|link)[^>]+(src|href)="https?://(?!squidfunk)', file.read_text("utf-8")), file
