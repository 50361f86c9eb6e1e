"""Scorers of written answers by the name that a user gives: of the task's rows, and of suites from files.

exact, f1, contains        the text
value                      the text but for the sources that it cites
number, numeric            amounts: the last number that is no source's, alone; or with units, scale and rounding
numeric-or-f1              numeric where the right answer is an amount, else f1
numeric:SHARE              the same, and off by at most so large a share: numeric:0.01
citations                  F1 of the numbered sources
citation-precision         how many of the cited sources are right ones
citation-recall            how many of the right sources are cited
abstains                   the answer says that there is none exactly where the right one does: in English, German,
                           French, Spanish, Japanese or Chinese, or in the words that prepared rows have for it
grounded                   how much of the answer stands in the prompt; all, where it says that there is none
regex:PATTERN              the whole answer has a form
schema:FILE                the answer is JSON that a JSON schema accepts
module:function            a function of the user's, of answer and right answer, and of the prompt if it wants
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import jsonschema

from selfaug.core.digits import plain_digits
from selfaug.errors import ConfigError, DataError
from selfaug.eval.abstention import abstains
from selfaug.eval.amounts import CITATION, NAMED_PART, parse_quantities
from selfaug.eval.citations import citation_scores, cited_sources, same_value
from selfaug.eval.groundedness import groundedness
from selfaug.eval.numeric_scorers import numeric_match, numeric_or_f1
from selfaug.eval.text_parts import numbers
from selfaug.eval.text_scorers import contains, exact_match, token_f1
from selfaug.own_function import own_function

__all__ = [
    "SCORERS",
    "Scorer",
    "files_of_scorer",
    "knowing_no_answers",
    "named_scorer",
    "why_all_right",
    "why_unscorable",
]

Scorer = Callable[[str, str, str], float]
"""Score in [0, 1] of an answer, given the right answer and the prompt."""


@dataclass(frozen=True)
class _Numeric:
    tolerance: float = 0.0

    def __call__(self, answer: str, gold: str, prompt: str) -> float:
        return float(numeric_match(answer, gold, self.tolerance))


@dataclass(frozen=True)
class _Abstains:
    no_answers: tuple[str, ...] = ()

    def __call__(self, answer: str, gold: str, prompt: str) -> float:
        return float(self.says_none(answer) == self.says_none(gold))

    def says_none(self, text: str) -> bool:
        """Whether a text says that there is no answer, in words that are known or in one of the rows' own."""
        return abstains(text) or any(same_value(text, words) for words in self.no_answers)


def _last_number(text: str) -> list[str]:
    """The last number of a text that is no citation's; where all are, such as in "[7]", the last of these."""
    return (numbers(CITATION.sub(" ", plain_digits(text)), beside_letters=True) or numbers(text))[-1:]


def _grounded(answer: str, gold: str, prompt: str) -> float:
    """How much of an answer stands in the prompt; all of it where it says in the rows' own words that there is none.

    Those are known by the right answer: it states no amount, names no clause or the like, and cites no source.
    """
    claims = parse_quantities(gold) or NAMED_PART.search(gold) or cited_sources(gold)
    own_words = same_value(answer, gold) and not claims
    return 1.0 if own_words else groundedness(answer, prompt)


SCORERS: dict[str, Scorer] = {
    "exact": lambda answer, gold, prompt: float(exact_match(answer, [gold])),
    "f1": lambda answer, gold, prompt: token_f1(answer, [gold]),
    "contains": lambda answer, gold, prompt: float(contains(answer, gold)),
    "number": lambda answer, gold, prompt: float(_last_number(answer) == _last_number(gold) != []),
    "numeric": _Numeric(),
    "numeric-or-f1": lambda answer, gold, prompt: numeric_or_f1(answer, gold),
    "value": lambda answer, gold, prompt: float(same_value(answer, gold)),
    "citations": lambda answer, gold, prompt: citation_scores(answer, gold).f1,
    "citation-precision": lambda answer, gold, prompt: citation_scores(answer, gold).precision,
    "citation-recall": lambda answer, gold, prompt: citation_scores(answer, gold).recall,
    "abstains": _Abstains(),
    "grounded": _grounded,
}
"""Those that need nothing but their name."""

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", re.DOTALL)


def named_scorer(name: str) -> Scorer:
    """A scorer by its name, as above.

    Raises:
        ConfigError: if there is none, or its pattern, schema or function can't be used.
    """
    if name in SCORERS:
        return SCORERS[name]
    kind, separator, argument = name.partition(":")
    hint = (
        f"use one of {', '.join(SCORERS)}, numeric:SHARE, regex:PATTERN, schema:FILE, or module:function with a "
        "function of your own."
    )
    if not separator:
        raise ConfigError(f"there is no scorer {name!r}.", hint=hint)
    if kind == "numeric":
        return _numeric(argument)
    if kind == "regex":
        return _regex(argument)
    if kind == "schema":
        return _schema(Path(argument))
    return _function(name, hint)


def files_of_scorer(name: str) -> list[str]:
    """Files that a scorer of this name reads: answers are judged by what is in them."""
    kind, _, argument = name.partition(":")
    return [argument] if kind == "schema" and name not in SCORERS else []


def why_unscorable(scorer: Scorer, gold: str) -> str | None:
    """Why a right answer can't be what this scorer compares with, to be said before anything is generated; or None."""
    if not isinstance(scorer, _Numeric):  # a function of the user's may cost something
        return None
    try:
        scorer(gold, gold, "")
    except DataError as error:
        return error.message
    return None


def knowing_no_answers(scorer: Scorer, no_answers: Collection[str]) -> Scorer:
    """The scorer, which takes these words of rows for saying that there is no answer, if it looks at that."""
    return _Abstains(tuple(no_answers)) if isinstance(scorer, _Abstains) else scorer


def why_all_right(scorer: Scorer, golds: Sequence[str]) -> str | None:
    """Why an answer is right that only doesn't say what the scorer knows, whatever else it says; or None."""
    if not isinstance(scorer, _Abstains) or not golds or any(map(scorer.says_none, golds)):
        return None
    return (
        f"scorer 'abstains': none of {len(golds):,} right answers says that there is none, in English, German, "
        "French, Spanish, Japanese or Chinese, or as the `no_answer` of prepared rows. So every answer is right that "
        "doesn't say so: score rows in another language by `value`, or by a function of your own."
    )


def _numeric(share: str) -> Scorer:
    try:
        tolerance = float(share)
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance < 1:
        raise ConfigError(
            f"the tolerance of scorer 'numeric:{share}' is not a share.", hint="write numeric:0.01 for 1 %."
        )
    return _Numeric(tolerance)


def _regex(pattern: str) -> Scorer:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"the scorer's pattern {pattern!r} is not a regular expression: {error}.",
            hint="write it as Python's re has it, with a backslash before characters that are meant as they are.",
        ) from error
    return lambda answer, gold, prompt: float(compiled.fullmatch(answer.strip()) is not None)


def _schema(file: Path) -> Scorer:
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
        validator = jsonschema.validators.validator_for(schema)
        validator.check_schema(schema)
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        told = error.message if isinstance(error, jsonschema.SchemaError) else str(error)
        raise ConfigError(
            f"{file} can't be used as a JSON schema: {told}", hint="check the path and what is in it."
        ) from error
    checks = validator(schema)

    def score(answer: str, gold: str, prompt: str) -> float:
        fenced = _FENCE.fullmatch(answer)
        try:
            return float(checks.is_valid(json.loads(fenced[1] if fenced else answer)))
        except (ValueError, RecursionError):  # the latter where brackets open a thousand times
            return 0.0

    return score


def _function(name: str, hint: str) -> Scorer:
    """A function of the user's, by the module that it is imported from."""
    found = own_function(name, "scorer", hint)
    takes = len(inspect.signature(found).parameters)
    if takes not in (2, 3):
        raise ConfigError(
            f"scorer {name!r} takes {takes} arguments.",
            hint="it should take the answer and the right answer, and the prompt if it wants to.",
        )

    def score(answer: str, gold: str, prompt: str) -> float:
        value = float(found(*(answer, gold, prompt)[:takes]))
        if not 0.0 <= value <= 1.0:
            raise ConfigError(
                f"scorer {name!r} gave {value}, not a score between 0 and 1.",
                hint="let it give 1 for a right answer, 0 for a wrong one, and a share between for a part.",
            )
        return value

    return score
