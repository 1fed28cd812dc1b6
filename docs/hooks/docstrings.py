"""Docstrings of this project as Markdown: a listing an item where they say `name: text`, `Order: ...`, `Fails: ...`."""

from __future__ import annotations

import re
from collections.abc import Collection
from inspect import cleandoc

LABELS = ("Order", "Evaluations a step", "Evaluations", "Source", "Sources", "Shapes", "Fails")
_NAMED = re.compile(r"((?:[a-z_]\w*)(?:, [a-z_]\w*)*): +(.*)")
_CHOICE = re.compile(r"\s*(\w[\w, ]*?) {2,}(\S.*)")


def parts(text: str, names: Collection[str]) -> list[tuple[str, list[str]]]:
    """A docstring in its parts: (label, lines). The label is a name of `names`, one of LABELS, or "" for prose."""
    inside = re.compile(rf"(?<=[.;]) (?=(?:{'|'.join([*LABELS, *map(re.escape, names)])}): )")
    lines = [piece for line in cleandoc(text).split("\n") for piece in inside.split(line)]
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        label, _, rest = line.partition(": ")
        named = _NAMED.match(line)
        if label in LABELS:
            found.append((label, [rest]))
        elif named and set(named[1].split(", ")) <= set(names):
            found.append((named[1], [named[2]]))
        elif found[-1][0] and (not line.strip() or (found[-1][0] not in LABELS and not line.startswith(" "))):
            found.append(("", [line]))
        else:
            found[-1][1].append(line)
    return [part for part in found if any(line.strip() for line in part[1])]


def as_markdown(text: str, names: Collection[str], leave_out: Collection[str] = ()) -> str:
    """A docstring as Markdown. names: of parameters and attributes, which become items of a list."""
    out: list[str] = []
    for label, lines in parts(text, names):
        if label in leave_out:
            continue
        if not label:
            out += ["", *_prose(lines), ""]
            continue
        shown = f"**{label}:**" if label in LABELS else ", ".join(f"`{name}`" for name in label.split(", ")) + ":"
        out.append(f"- {shown}")
        indent = "    "
        for line in lines:
            choice = None if label in LABELS else _CHOICE.fullmatch(line)
            if choice:
                indent = "        "
                out.append(f"    - `{choice[1]}`: {choice[2]}")
            else:
                out.append(indent + line.strip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def _prose(lines: list[str]) -> list[str]:
    """Text with its indented blocks set off as code, and its own lists kept."""
    out: list[str] = []
    for line in lines:
        indented = line.startswith("    ")
        if out and out[-1].strip() and line.strip() and indented != out[-1].startswith("    "):
            out.append("")
        out.append(line)
    return out
