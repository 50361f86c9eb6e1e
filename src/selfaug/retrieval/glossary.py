"""A glossary: words and phrases that mean the same, as the people of a firm or a field use them.

A text file, a group a line, with commas between its words and phrases; what follows a # is a comment:

    revenue, sales, top line, turnover
    Norvik Shipping, Norvik, NVKS

A question with "top line" then finds a passage that says "revenue": each group has a word of its own, its meaning,
which texts and questions get beside their words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from selfaug.errors import ConfigError

__all__ = ["Glossary", "read_glossary"]

_MARK = "="  # no word of a text has it


class Glossary:
    """Finds what texts mean.

    Args:
        groups: of words and phrases that mean the same.
        stems: a text to all its words, without their endings.
    """

    def __init__(self, groups: Sequence[Sequence[str]], stems: Callable[[str], list[str]]) -> None:
        self._phrases: dict[str, list[tuple[list[str], str]]] = {}
        for group in groups:
            for phrase in map(stems, group):
                self._phrases.setdefault(phrase[0], []).append((phrase, _MARK + group[0]))
        for found in self._phrases.values():
            found.sort(key=lambda one: -len(one[0]))

    def meanings(self, words: Sequence[str]) -> list[str]:
        """The meanings of a text's words, in order: "gross margin" has its own, and not that of "margin" as well."""
        found: list[str] = []
        place = 0
        while place < len(words):
            phrase, meaning = self._at(words, place)
            if meaning:
                found.append(meaning)
            place += len(phrase) or 1
        return found

    def _at(self, words: Sequence[str], place: int) -> tuple[list[str], str]:
        """The longest phrase that begins at a place, and its meaning; empty if there is none."""
        for phrase, meaning in self._phrases.get(words[place], ()):
            if words[place : place + len(phrase)] == phrase:
                return phrase, meaning
        return [], ""


def read_glossary(file: Path, stems: Callable[[str], list[str]]) -> list[list[str]]:
    """The groups of a glossary's file.

    Args:
        file: a group a line.
        stems: a text to all its words, without their endings.

    Raises:
        ConfigError: if it can't be read, has no group, or a line is none, with all problems.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"can't read the glossary {file}: {reason}.", hint="retrieval.glossary is a text file."
        ) from error
    groups: list[list[str]] = []
    problems: list[str] = []
    lines: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        group = [phrase.strip() for phrase in line.partition("#")[0].split(",")]
        if group == [""]:
            continue
        problems += [f"{file}:{number}: {problem}" for problem in _problems(group, number, lines, stems)]
        groups.append(group)
    if problems or not groups:
        raise ConfigError(
            f"the glossary {file} can't be used.",
            problems=problems or ["it has no group"],
            hint="a line has words and phrases that mean the same, with commas between them: revenue, sales, top line.",
        )
    return groups


def _problems(
    group: Sequence[str],
    number: int,
    lines: dict[tuple[str, ...], int],
    stems: Callable[[str], list[str]],
) -> list[str]:
    """What is wrong with a group; `lines` has the line of each phrase so far, and gets those of this one."""
    if len(group) == 1:
        return [f"{group[0]!r} has nothing that means the same"]
    problems = []
    for phrase in group:
        words = tuple(stems(phrase))
        if not words:
            problems.append(f"{phrase!r} is no word" if phrase else "there is nothing between two commas")
        elif (other := lines.setdefault(words, number)) != number:
            problems.append(f"{phrase!r} is in line {other} too; join the lines, or say it in more words")
    return problems
