"""The result that a folder holds from an earlier command: why it is not replaced, and its removal when that is forced.

It imports nothing of Hydra's, which training does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.runs import shards
from pndm.errors import OptionError

RECORD = "record.json"


def remove(out: Path) -> None:
    """Remove a result: its record and its samples."""
    (out / RECORD).unlink(missing_ok=True)
    shards.clear(out)


def of_another_run(out: Path, other: Sequence[str]) -> OptionError:
    """The refusal to replace the result of a run that differs in the options `other`."""
    return OptionError(
        f"output={out} holds the result of another run, with other {', '.join(other) or 'weights, device or code'}: "
        "choose another folder, or --force replaces it"
    )


def unreadable(out: Path, error: OptionError) -> OptionError:
    """The refusal to replace a record that cannot be read, and so may be of any run."""
    return OptionError(f"output={out}: {error}; choose another folder, or --force replaces it")
