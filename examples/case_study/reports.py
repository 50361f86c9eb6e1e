"""The case study's collection: reports of an investment research house, as real files in five formats.

python examples/case_study/reports.py FOLDER

Annual and quarterly analyses of companies, overviews of sectors, and memos. Companies, sectors and numbers are
invented; one fixed world lies beneath (world.py), and the seed chooses only words, layouts and what is left out.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from company_report import annual_report, quarterly_report
from document_parts import Draft, Format
from house_documents import MEMOS, memo, sector_overview
from report_files import write_draft
from world import COMPANIES, SECTORS, Company, Period

__all__ = ["LAST_YEAR", "Fact", "Report", "Section", "draft_reports", "write_reports"]

LAST_YEAR = 2024

# Every company has some of each; the last year's analyses are what most questions of the day are about.
_FORMATS: tuple[Format, ...] = (
    "pdf",
    "docx",
    "html",
    "md",
    "pdf",
    "xlsx",
    "html",
    "pdf",
    "docx",
    "md",
    "xlsx",
)
_QUARTERS = (
    Period(2024, 1), Period(2024, 2), Period(2024, 3), Period(2025, 1), Period(2023, 3), Period(2025, 1),
    Period(2023, 2), Period(2024, 3),
)  # fmt: skip
_QUARTERLY = 16
_OVERVIEWS = (("industrial automation", 2023), ("medical technology", 2023))


@dataclass(frozen=True)
class Section:
    """A heading, and the text below it as it can be read: a line a paragraph, finding, or row of a table."""

    heading: str
    text: str


@dataclass(frozen=True)
class Fact:
    """A figure that a document states.

    Attributes:
        subject: a company, a sector, or "the house".
        metric: its name.
        scope: a segment, a region, "segment / region", or a memo's topic; None for the whole.
        period: "FY2023", "Q3 2024": of the figure, which may be the year before the document's.
        value: with its unit, the same in every document that has it; a table has the unit in its label.
        section: heading of the section that it is in.
        page: of a PDF, from 1; else None.
        evidence: what stands in the section's text: the value with some words before it, or the table's cell.
    """

    subject: str
    metric: str
    scope: str | None
    period: str
    value: str
    section: str
    page: int | None
    evidence: str

    @property
    def key(self) -> tuple[str, str, str | None, str]:
        """What it is about: the same key has the same value everywhere."""
        return self.subject, self.metric, self.scope, self.period


@dataclass(frozen=True)
class Report:
    """A document that was written.

    Attributes:
        path: relative to the folder, with forward slashes.
        title: its first line.
        company: or None, if it is about a sector or the house.
        period: that it is about: "FY2023", "Q3 2024".
        format: "pdf", "docx", "xlsx", "html" or "md".
        sections: in reading order.
        facts: every figure in them.
    """

    path: str
    title: str
    company: str | None
    period: str
    format: Format
    sections: tuple[Section, ...]
    facts: tuple[Fact, ...]


def write_reports(folder: Path, seed: int = 0, companies: int = len(COMPANIES)) -> list[Report]:
    """Write the collection, and say what is in it.

    Args:
        folder: made if it isn't there; files of the same names are overwritten.
        seed: of words and layouts; the figures don't depend on it.
        companies: that are covered, the first so many; four of a sector follow each other.
    """
    return [_report(draft, write_draft(draft, Path(folder))) for draft in draft_reports(seed, companies)]


def draft_reports(seed: int = 0, companies: int = len(COMPANIES)) -> list[Draft]:
    """The collection before it is written."""
    formats = cycle(_FORMATS)
    covered = list(COMPANIES.values())[:companies]
    return [
        *(annual_report(*about, next(formats), seed) for about in _annual(covered)),
        *(
            quarterly_report(company, period, next(formats), seed)
            for company, period in zip(covered[:_QUARTERLY], cycle(_QUARTERS), strict=False)
        ),
        *(sector_overview(*about, next(formats), seed) for about in _overviews(covered)),
        *(memo(topic, next(formats), seed) for topic in MEMOS),
    ]


def _annual(covered: Sequence[Company]) -> Iterator[tuple[Company, int]]:
    for company in covered:
        for year in range(company.first_year, LAST_YEAR + 1):
            yield company, year


def _overviews(covered: Sequence[Company]) -> Iterator[tuple[str, int]]:
    sectors = {company.sector for company in covered}
    yield from (about for about in _OVERVIEWS if about[0] in sectors)
    yield from ((sector, LAST_YEAR) for sector in SECTORS if sector in sectors)


def _report(draft: Draft, pages: dict[str, int]) -> Report:
    return Report(
        path=draft.path,
        title=draft.title,
        company=draft.company,
        period=str(draft.period),
        format=draft.format,
        sections=tuple(Section(section.heading, section.text) for section in draft.sections),
        facts=tuple(
            Fact(
                mention.subject,
                mention.metric,
                mention.scope,
                str(mention.period),
                mention.value,
                section.heading,
                pages.get(section.heading),
                mention.evidence,
            )
            for section in draft.sections
            for mention in section.mentions
        ),
    )


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("give one folder to write the reports into: python examples/case_study/reports.py FOLDER")
    reports = write_reports(Path(arguments[0]))
    formats = ", ".join(f"{count} {name}" for name, count in Counter(one.format for one in reports).items())
    print(f"{len(reports)} reports in {arguments[0]}: {formats}")


if __name__ == "__main__":
    main(sys.argv[1:])
