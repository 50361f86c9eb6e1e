"""Suites of the user's own: a JSONL file with a prompt and its right answer in each line.

    {"question": "What is the capital of Peru?", "answer": "Lima"}
    {"question": "Which is a bird?", "choices": ["a hen", "a cat"], "answer_index": 0}

`prompt` is another name of `question`; `id` is optional. A question with choices is answered by log-likelihood.
A written answer is scored as `scorer` of its line says: "contains" (the answer's words are in it), "number" (its last
number is the answer's), or another of `eval/scorers.py`. Without it: "number" if the answer is one, else "contains".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfaug.errors import ConfigError, DataError
from selfaug.eval.scorers import Scorer, files_of_scorer, named_scorer, why_unscorable
from selfaug.eval.text_parts import is_number

__all__ = ["SuiteRow", "read_suite"]


@dataclass(frozen=True)
class SuiteRow:
    """One line.

    Attributes:
        id: its own, or "line N".
        prompt: the user's words.
        answer: the right one; of a multiple choice, its text.
        choices: empty where the answer is written.
        scorer: of written answers; with choices, the right one's text is what counts.
        judged_by: files that the scorer reads.
    """

    id: str
    prompt: str
    answer: str
    choices: tuple[str, ...]
    scorer: Scorer
    judged_by: tuple[str, ...] = ()

    def score(self, answer: str) -> float:
        """Of an answer, in [0, 1]."""
        return float(answer == self.answer) if self.choices else self.scorer(answer, self.answer, self.prompt)


def read_suite(path: str | Path) -> list[SuiteRow]:
    """Rows of a suite's file.

    Raises:
        DataError: naming every line that can't be used, and why.
    """
    if not str(path):  # a path without a name is the current folder
        raise DataError(
            "an empty name was given for a suite.", hint="perhaps a variable is not set; name a JSONL file."
        )
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"suite {path} does not exist.", hint="check the path given to --suite.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"suite {path} can't be read: {error}", hint="save it as UTF-8 text.") from error
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line), number))
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
    ids = [row.id for row in rows]
    problems += [
        f"{path}: id {name!r} is there twice" for name in sorted({i for i in ids if ids.count(i) > 1})
    ]
    if not rows and not problems:
        problems.append(f"{path}: has no lines")
    if problems:
        raise DataError(
            "the suite can't be used:",
            problems=problems,
            hint='a line is {"question": …, "answer": …} or {"question": …, "choices": [...], "answer_index": …}.',
        )
    return rows


def _row(row: Any, number: int) -> SuiteRow:
    if not isinstance(row, Mapping):
        raise ValueError("not an object")
    prompt = row.get("question", row.get("prompt"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"no question; it has {', '.join(map(str, row)) or 'no fields'}")
    name = str(row.get("id", f"line {number}"))
    if "choices" in row:
        choices, right = row["choices"], row.get("answer_index")
        if (
            not isinstance(choices, list)
            or len(choices) < 2
            or not all(isinstance(one, str) for one in choices)
        ):
            raise ValueError("choices should be a list of two or more texts")
        if any(not choice.strip() for choice in choices) or len(set(choices)) < len(choices):
            raise ValueError("choices should be different from each other, and not empty")
        if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(choices):
            raise ValueError(f"answer_index should be 0 to {len(choices) - 1}, got {right!r}")
        return SuiteRow(name, prompt, choices[right], tuple(choices), named_scorer("exact"))
    answer = row.get("answer")
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError("no answer, and no choices")
    scorer = row.get("scorer") or ("number" if is_number(answer) else "contains")
    try:
        found = named_scorer(scorer)
    except ConfigError as error:
        raise ValueError(str(error).replace("\n", " ")) from error
    if reason := why_unscorable(found, answer):
        raise ValueError(f"scorer {scorer!r} can't be used: {reason}")
    return SuiteRow(name, prompt, answer, (), found, tuple(files_of_scorer(scorer)))
