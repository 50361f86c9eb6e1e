"""Sentences and tables about figures, worded from a seed."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from document_parts import DraftSection, Findings, Mention, Paragraph, Table, context_of
from world import (
    COMPANIES,
    EXECUTIVE_COMPANIES,
    SECTORS,
    Figure,
    Period,
    bare,
    number,
    unit_label,
    written,
)

__all__ = [
    "MOST_WORDS",
    "Sentence",
    "capital",
    "comparison_table",
    "findings",
    "possessive",
    "prose",
    "sentence",
    "table_by_row",
    "table_by_year",
]

LEAST_WORDS = 40
MOST_WORDS = 90

_WIDEST_HEADER = 66  # characters, so that a table fits on a page

_MONTHS = {1: "March", 2: "June", 3: "September", 4: "December"}


@dataclass(frozen=True)
class Sentence:
    wording: str
    text: str
    mentions: tuple[Mention, ...]


def sentence(
    rng: random.Random,
    figure: Figure,
    *,
    named: bool = False,
    alone: bool = False,
    used: Collection[str] = (),
) -> Sentence:
    """A sentence that states a figure, in one of its metric's wordings.

    Args:
        rng: what chooses.
        figure: what it states.
        named: it calls the company by its name, not "the company".
        alone: it doesn't state the figure of a year before.
        used: wordings that are left out, as long as there are others.
    """
    value, before = written(figure), "" if figure.of.kind in _WITHOUT_PAST else written(figure.before)
    wordings = [
        text
        for text in figure.of.sentences
        if not ("{pv}" in text and (alone or not before or value in before or before in value))
        and not (named and "{c}" not in text and "{own}" not in text)
    ]
    wordings = wordings or [text for text in figure.of.sentences if "{pv}" not in text]
    wording = rng.choice([text for text in wordings if text not in used] or wordings)
    stated = [figure, figure.before] if "{pv}" in wording else [figure]
    text = capital(_filled(rng, wording, figure, value, before, named))
    return Sentence(wording, text, tuple(_mention(one, context_of(written(one), text)) for one in stated))


_WITHOUT_PAST = ("text", "range", "bps")


def _mention(figure: Figure, evidence: str) -> Mention:
    return Mention(figure.subject, figure.metric, figure.scope, figure.period, written(figure), evidence)


def _filled(rng: random.Random, text: str, figure: Figure, value: str, before: str, named: bool) -> str:
    company = COMPANIES.get(figure.subject) or EXECUTIVE_COMPANIES.get(figure.subject)
    sector = SECTORS[company.sector] if company else SECTORS[figure.subject]
    names = [company.name, company.short] if company else [figure.subject]
    if not named:
        names += ["the company", "the group"] if company else []
    name = rng.choice(names)
    rise = not before or _number(figure) >= _number(figure.before)
    if figure.metric == "gross margin change":
        rise = _number(figure) > 0
    words = {
        "v": value, "pv": before, "c": name, "own": possessive(name), "s": figure.scope,
        "market": sector.market, "y": _year(rng, figure.period), "py": _year(rng, figure.period.before),
        "at": _end(rng, figure.period),
        "moved": "rose" if rise else "fell", "widened": "widened" if rise else "narrowed",
        "up": "up" if rise else "down", "wider": "wider" if rise else "narrower",
    }  # fmt: skip
    return text.format_map(words)


def _number(figure: Figure) -> float:
    value = number(figure)
    return 0.0 if isinstance(value, str) else value


def _year(rng: random.Random, period: Period) -> str:
    if period.quarter:
        return rng.choice(
            (f"Q{period.quarter} {period.year}", f"the {_ORDINALS[period.quarter]} quarter of {period.year}")
        )
    return rng.choice((str(period.year), str(period.year), f"fiscal {period.year}", f"FY{period.year}"))


_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth"}


def _end(rng: random.Random, period: Period) -> str:
    if period.quarter:
        return rng.choice(
            (f"at the end of {period}", f"at the end of {_MONTHS[period.quarter]} {period.year}")
        )
    return rng.choice(
        (f"at the end of {period.year}", f"at year-end {period.year}", f"at the close of FY{period.year}")
    )


def possessive(name: str) -> str:
    """Of a name: "Tarrowby Foods'", "Korvex's"."""
    return name + ("'" if name.endswith("s") else "'s")


def capital(text: str) -> str:
    """The text with a capital at its start."""
    return text[:1].upper() + text[1:]


# ---- sections


def prose(
    rng: random.Random, heading: str, figures: Sequence[Figure], comments: Sequence[str]
) -> DraftSection:
    """A paragraph about the figures, with comments until it is long enough; figures that don't fit are left out."""
    stated: list[Sentence] = []
    for figure in figures:
        stated.append(sentence(rng, figure, named=not stated, used=[one.wording for one in stated]))
    while (
        len(stated) > 1
        and DraftSection("", (Paragraph(" ".join(one.text for one in stated)),), ()).words > 75
    ):
        stated.pop()
    texts = [one.text for one in stated]
    for comment in rng.sample(list(comments), len(comments)):
        section = DraftSection(
            heading,
            (Paragraph(" ".join(texts)),),
            tuple(mention for one in stated for mention in one.mentions),
        )
        if section.words >= LEAST_WORDS:
            return section
        texts.insert(rng.randint(1, len(texts)), comment)
    raise ValueError(f"section {heading!r} has too few comments to reach {LEAST_WORDS} words.")


def findings(rng: random.Random, heading: str, figures: Sequence[Figure]) -> DraftSection:
    """Three to five findings with numbers, as a list."""
    while True:
        stated = [sentence(rng, figure) for figure in rng.sample(list(figures), len(figures))][:5]
        texts = [one.text for one in stated]
        for count in rng.sample((3, 4, 4, 5, 5), 5):
            section = DraftSection(
                heading,
                (Findings(tuple(texts[:count])),),
                tuple(mention for one in stated[:count] for mention in one.mentions),
            )
            if LEAST_WORDS <= section.words <= MOST_WORDS:
                return section


# ---- tables


def comparison_table(
    rng: random.Random, heading: str, figures: Sequence[Figure], *, lead: str = ""
) -> DraftSection:
    """A table of figures, this year beside the year before, in one of the layouts."""
    if rng.random() < 0.35 and len(" ".join(_column_labels(figures))) <= _WIDEST_HEADER:
        return table_by_year(heading, figures, lead)
    return table_by_row(heading, figures, lead, rng.choice(("unit in label", "unit in cell", "unit column")))


def table_by_row(heading: str, figures: Sequence[Figure], lead: str, layout: str) -> DraftSection:
    """A row a figure; columns are this period and the one before, where there is one."""
    past = all(figure.of.kind not in _WITHOUT_PAST for figure in figures)
    first = figures[0]
    header = ["Item", *(["Unit"] if layout == "unit column" else [])]
    header += [str(first.period), str(first.period.before)] if past else [str(first.period)]
    rows = [tuple(header)]
    mentions = []
    for figure in figures:
        stated = [figure, figure.before] if past else [figure]
        cells = [written(one) if layout == "unit in cell" else bare(one) for one in stated]
        unit = unit_label(figure)
        label = _row_label(figure) + (f" ({unit})" if layout == "unit in label" and unit else "")
        rows.append((label, *([unit or "–"] if "Unit" in header else []), *cells))
        mentions += [_mention(one, cell) for one, cell in zip(stated, cells, strict=True)]
    return DraftSection(heading, (*_lead(lead), Table(tuple(rows))), tuple(mentions))


def table_by_year(heading: str, figures: Sequence[Figure], lead: str) -> DraftSection:
    """A row a period, a column a figure, with the unit in its header."""
    rows: list[tuple[str, ...]] = [("Period", *_column_labels(figures))]
    mentions = []
    for stated in ([figure.before for figure in figures], list(figures)):
        rows.append((str(stated[0].period), *(bare(figure) for figure in stated)))
        mentions += [_mention(figure, bare(figure)) for figure in stated]
    return DraftSection(heading, (*_lead(lead), Table(tuple(rows))), tuple(mentions))


def _lead(lead: str) -> tuple[Paragraph, ...]:
    return (Paragraph(lead),) if lead else ()


def _column_labels(figures: Sequence[Figure]) -> list[str]:
    return [_row_label(figure) + f" ({unit_label(figure)})" * bool(unit_label(figure)) for figure in figures]


def _row_label(figure: Figure) -> str:
    return figure.scope or capital(figure.metric)
