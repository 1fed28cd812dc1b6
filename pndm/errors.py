"""The errors that people meet, each with one sentence that says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OptionError(ValueError):
    """A value that the user chose cannot be used: one sentence with the option, the value, and what is accepted."""


class ModelError(RuntimeError):
    """A model gave an answer that cannot be used: the wrong shape, or a number that is not finite."""


def unknown_name(kind: str, name: object, accepted: Iterable[str]) -> OptionError:
    """The error for a name that no registry knows, with the nearest known name as a suggestion."""
    accepted = sorted(accepted)
    near = difflib.get_close_matches(str(name), accepted, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return OptionError(f"unknown {kind} {str(name)!r}: {hint}known names are {', '.join(accepted) or 'none'}")
