"""The errors that selfaug raises on purpose.

    SelfAugError            exit code 1: something failed at run time
    ├── ConfigError         exit code 2: flags, YAML or arguments are wrong
    ├── DataError           exit code 2: rows, files or templates are wrong
    ├── ModelError          exit code 2: a model or tokeniser that can't be used as asked
    ├── DivergedError       exit code 1: a training, or the model it made, computes no finite numbers any more
    ├── CacheError          exit code 1: a reference cache that is damaged or belongs to something else
    └── StorageError        exit code 1: disk full, folder not writable, run exists already
        └── PathError       exit code 2: a path leads to nothing, or to something else than is wanted

Each says what was given, why it fails and what to do: `message`, then every problem in `problems`
(all at once; its text has the first ones), then `hint`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CacheError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "ModelError",
    "PathError",
    "SelfAugError",
    "StorageError",
]


PROBLEMS_SHOWN = 20
"""An error's text has so many problems, and how many more there are."""


class SelfAugError(Exception):
    """Base of all errors that are meant for the user's eyes."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, problems: Sequence[str] = ()) -> None:
        self.message = message
        self.hint = hint
        self.problems = list(problems)
        super().__init__(message)

    def __str__(self) -> str:
        return self.text()

    def text(self, *, every_problem: bool = False) -> str:
        """Message, problems and hint, a line each; of many problems the first ones unless every one is wanted."""
        shown = self.problems if every_problem else self.problems[:PROBLEMS_SHOWN]
        lines = [self.message, *(f"  - {problem}" for problem in shown)]
        if more := len(self.problems) - len(shown):
            lines.append(
                f"  - and {more:,} more: --debug shows all; in Python, the error's `problems` has them"
            )
        if self.hint:
            lines.append(f"Hint: {self.hint}")
        return "\n".join(lines)


class ConfigError(SelfAugError):
    """Flags, YAML or arguments are wrong."""

    exit_code = 2


class DataError(SelfAugError):
    """Rows, files or templates are wrong."""

    exit_code = 2


class ModelError(SelfAugError):
    """A model or tokeniser that can't be used as asked."""

    exit_code = 2


class DivergedError(SelfAugError):
    """A training, or the model that it made, computes no finite numbers any more: due to its settings."""


class CacheError(SelfAugError):
    """A reference cache that is damaged, incomplete or made for something else."""


class StorageError(SelfAugError):
    """The disk is full, a folder can't be written, or something is there already."""


class PathError(StorageError):
    """A path was given that leads to nothing, or to something else than is wanted."""

    exit_code = 2
