"""A page a solver, made of the registry, the docstring, and the formula kept in docs/formulas/NAME.md."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import docstrings

import pndm

FORMULAS = Path(__file__).parent.parent / "formulas"
NO_FORMULA = "*The formula of this solver has not been written down yet: docs/formulas/{name}.md.*"
LEFT_OUT = ("Evaluations a step", "Evaluations")  # the page's table has them


def order_of(solver: pndm.solvers.Solver) -> str:
    """What a table says of a solver's order."""
    if solver.stochastic:
        return "– (stochastic)"
    running = getattr(solver, "running_order", solver.order)
    return str(running) if running == solver.order else f"{running} (start-up {solver.order})"


def cost_of(solver: pndm.solvers.Solver) -> str:
    """What a table says of evaluations a step, and of a whole run where those differ."""
    if solver.evaluations_per_step is None:
        return "as many as it takes"
    return str(solver.evaluations_per_step)


def of_a_run(solver: pndm.solvers.Solver, steps: int = 10) -> str:
    """Evaluations of a run of some steps, on a grid that ends with some noise and on one that ends without."""
    if solver.evaluations_per_step is None:
        return "as many as it takes"
    schedule = pndm.schedules.create("vp_linear")
    counts = []
    for end in (0.01, 0.0):
        times = pndm.grids.times("uniform", steps, schedule, None, end)
        counts.append(solver.begin(schedule, times, pndm.noise.as_noise(None)).evaluations())
    return str(counts[0]) if counts[0] == counts[1] else f"{counts[0]}; {counts[1]} where the run ends without noise"


def page(name: str) -> str:
    """The Markdown of one solver's page."""
    solver = pndm.solvers.create(name)
    kind = type(solver)
    options = pndm.solvers.solvers.options(name)
    formula = FORMULAS / f"{name}.md"
    steps = solver.evaluations_per_step is not None
    lines = [
        f"# `{name}`",
        "",
        pndm.solvers.solvers.about(name),
        "",
        "| order | evaluations a step | evaluations of 10 steps |",
        "|---|---|---|",
        f"| {order_of(solver)} | {cost_of(solver)} | {of_a_run(solver)} |",
        "",
        formula.read_text("utf-8").strip() if formula.is_file() else NO_FORMULA.format(name=name),
        "",
        "## Options",
        "",
        *(_options(options) if options else ["None."]),
        "",
        f"## `{kind.__name__}`, the method behind it",
        "",
        docstrings.as_markdown(kind.__doc__ or "", options, LEFT_OUT),
        "",
        f"Code: {_code(kind)}.",
        "",
        "## Use",
        "",
        "```python",
        f'pndm.solve(model, x, solver="{name}"{", steps=50" if steps else ""})',
        "```",
        "",
        "```",
        f"python run.py solver={name}{' steps=50' if steps else ''}",
        "```",
        "",
    ]
    return "\n".join(lines)


def index() -> str:
    """The Markdown of the table of all solvers."""
    lines = [
        "# Solvers",
        "",
        "The tests measure the order of every registered solver. Cost is evaluations of the network, never steps.",
        "",
        "| solver | method | order | evaluations a step |",
        "|---|---|---|---|",
    ]
    for name in pndm.solvers.names():
        solver = pndm.solvers.create(name)
        about = pndm.solvers.solvers.about(name)
        lines.append(f"| [`{name}`]({name}.md) | {about} | {order_of(solver)} | {cost_of(solver)} |")
    return "\n".join([*lines, ""])


def _options(options: dict[str, Any]) -> list[str]:
    lines = ["| option | type | default |", "|---|---|---|"]
    for option, (kind, default) in options.items():
        shown = "" if default is inspect.Parameter.empty else f"`{default}`"
        lines.append(f"| `{option}` | `{getattr(kind, '__name__', kind)}` | {shown} |")
    return lines


def _code(kind: type) -> str:
    """Where the class is, linked to its API page if it is ours."""
    module = kind.__module__
    if not module.startswith("pndm."):
        return f"`{inspect.getsourcefile(sys.modules[module])}`"
    return f"[`{module}`](../api/{module}.md)"
