"""MkDocs hooks: the pages that are made of something else (solvers, API, notebooks), and the navigation.

A solver, a module, a notebook or a page in docs/ that is added turns up by itself.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE)]  # this repository's pndm, and the modules beside this one

import solver_pages  # noqa: E402

import pndm  # noqa: E402

FIRST = ["index.md", "idea.md", "experiments.md"]
NOTEBOOKS = ROOT / "notebooks"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: the pages of docs/ by name, and what is made here."""
    written = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    others = [name for name in written if name not in FIRST]
    config.nav = [
        {"Home": "index.md"},
        "idea.md",
        {"Notebooks": [f"notebooks/{path.stem}.md" for path in _notebooks()]},
        {"Solvers": ["solvers/index.md", *(f"solvers/{name}.md" for name in pndm.solvers.names())]},
        {"Guides": ["experiments.md", *others]},
        {"API": ["api/index.md", *(f"api/{module}.md" for module in modules())]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of something else."""

    def add(place: str, content: str | bytes) -> None:
        files.append(File.generated(config, place, content=content))

    add("solvers/index.md", solver_pages.index())
    for name in pndm.solvers.names():
        add(f"solvers/{name}.md", solver_pages.page(name))
    add("api/index.md", api_index())
    for module in modules():
        add(f"api/{module}.md", f"# `{module}`\n\n::: {module}\n")
    for path in _notebooks():
        text, pictures = notebook_page(path)
        add(f"notebooks/{path.stem}.md", text)
        for name, content in pictures.items():
            add(f"notebooks/{name}", content)
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Links to files of the repository outside docs/: to their page where they have one, else as plain text."""
    if page.parent is None:
        page.meta["hide"] = ["navigation"]  # which would list this page alone
    if "/" in page.file.src_uri:
        return markdown

    def within(match: re.Match[str]) -> str:
        text, target = match[1], match[2].partition("#")[0]
        if target.endswith(".ipynb"):
            return f"[{text}](notebooks/{Path(target).stem}.md)"
        return f"[{text}](index.md)" if target == "README.md" else text

    return re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./([^)\s]+)\)", within, markdown)


def modules() -> dict[str, Path]:
    """Every module of the package that has something to show, with its file."""
    paths = [path for path in sorted((ROOT / "pndm").rglob("*.py")) if path.stat().st_size]
    dotted = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(dotted, paths, strict=True)}


def api_index() -> str:
    """The Markdown of the table of all modules."""
    lines = ["# API", "", "| module | |", "|---|---|"]
    for module, path in modules().items():
        about = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")[0]
        lines.append(f"| [`{module}`]({module}.md) | {about} |")
    return "\n".join([*lines, ""])


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, with its pictures by name."""
    text, resources = MarkdownExporter().from_notebook_node(nbformat.read(path, as_version=4))
    text = re.sub(r"\.ipynb\b", ".md", text)
    text = re.sub(r"\s*(\$\$.+?\$\$)\s*", r"\n\n\1\n\n", text, flags=re.DOTALL)  # a formula is a paragraph of its own
    for name in resources["outputs"]:
        text = text.replace(f"({name})", f"({path.stem}_{name})").replace("![png]", "![figure]")
    return text, {f"{path.stem}_{name}": content for name, content in resources["outputs"].items()}


def _notebooks() -> list[Path]:
    return sorted(NOTEBOOKS.glob("*.ipynb"))
