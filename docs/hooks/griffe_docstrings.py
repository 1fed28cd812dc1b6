"""What mkdocstrings reads: every docstring through `docstrings.as_markdown`."""

from __future__ import annotations

from typing import Any

import docstrings
import griffe


class Docstrings(griffe.Extension):
    """Replaces each docstring by its Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        names = set(obj.members)
        called = obj.members.get("__init__", obj) if obj.is_class else obj
        names |= {parameter.name for parameter in getattr(called, "parameters", [])}
        obj.docstring.value = docstrings.as_markdown(obj.docstring.value, names)
