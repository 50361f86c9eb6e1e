"""Questions about the case study's reports, with answers and the places that hold them; and some without an answer.

python examples/case_study/questions.py FOLDER [--companies COUNT]

writes the reports into FOLDER/reports, and FOLDER/questions.jsonl and FOLDER/unanswerable.jsonl beside them.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from house_documents import HOUSE_SUBJECT
from metrics import METRICS
from question_wording import GENERAL, MEMO, SPECIFIC, WITHOUT_GENERAL
from reports import LAST_YEAR, Fact, Report, write_reports
from wording import capital, possessive
from world import COMPANIES, SECTORS, Period

__all__ = ["PER_DOCUMENT", "UNANSWERABLE", "questions", "unanswerable"]

PER_DOCUMENT = 22
"""Questions about each document; fewer where it has fewer figures."""

UNANSWERABLE = 120

Key = tuple[str, str, str | None, str]


def questions(reports: Sequence[Report], seed: int = 0) -> list[dict[str, Any]]:
    """Questions that the reports answer, about as many for each document, each about another figure.

    A question has

    - `id`, `question`
    - `answer`: the value, the same in every document that has it
    - `document`: relative path of a report that holds it, with `section`, `page` (of a PDF) and `evidence` there (a
      short string from the section's text; of a table, the cell)
    - `documents`: all reports that hold it, such as the next year's, which quotes it; `places` are all their sections,
      each with `document`, `section`, `page` and `evidence`
    - `subject`, `metric`, `scope` and `period` of the figure
    """
    places: dict[Key, list[tuple[Report, Fact]]] = {}
    for report in reports:
        for fact in report.facts:
            places.setdefault(fact.key, []).append((report, fact))
    rng = random.Random(f"questions/{seed}")
    asked: set[str] = set()
    rows: list[dict[str, Any]] = []
    for report in reports:
        own = [fact for fact in report.facts if _home(places[fact.key]) is report]
        for fact in _spread_over_metrics(rng, own)[:PER_DOCUMENT]:
            text = _asked_anew(rng, fact, asked)
            rows.append(
                {"id": f"case-{len(rows):04d}", "question": text, **_answer(report, fact, places[fact.key])}
            )
    return rows


def unanswerable(reports: Sequence[Report], seed: int = 0) -> list[dict[str, Any]]:
    """Questions that no report answers: a company that doesn't exist, a year not covered, a figure not reported.

    They have the fields of `questions`, with nothing in those of the answer, and `why`.
    """
    rng = random.Random(f"unanswerable/{seed}")
    known = {fact.key for report in reports for fact in report.facts}
    asked: set[str] = set()
    rows: list[dict[str, Any]] = []
    for number in range(UNANSWERABLE):
        why = ("no such company", "year not covered", "figure not reported")[number % 3]
        text, (subject, metric, period) = _unknown(rng, why)
        while text in asked or any((key[0], key[1], key[3]) == (subject, metric, period) for key in known):
            text, (subject, metric, period) = _unknown(rng, why)
        asked.add(text)
        rows.append(
            {
                "id": f"case-unanswerable-{number:03d}",
                "question": text,
                "answer": None,
                "document": None,
                "section": None,
                "page": None,
                "evidence": None,
                "documents": [],
                "places": [],
                "subject": subject,
                "metric": metric,
                "scope": None,
                "period": period,
                "why": why,
            }
        )
    return rows


def _home(places: Sequence[tuple[Report, Fact]]) -> Report:
    """The document that a figure is asked from: that of its company and period, or else the first that quotes it."""
    for report, fact in places:
        if (report.company, report.period) == (fact.subject, fact.period):
            return report
    return places[0][0]


def _spread_over_metrics(rng: random.Random, facts: Sequence[Fact]) -> list[Fact]:
    """One fact a figure, in an order that takes the metrics in turn."""
    by_metric: dict[str, list[Fact]] = {}
    for fact in rng.sample(
        list({fact.key: fact for fact in facts}.values()), len({fact.key for fact in facts})
    ):
        by_metric.setdefault(fact.metric, []).append(fact)
    groups = rng.sample(list(by_metric.values()), len(by_metric))
    turns = max(map(len, groups), default=0)
    return [group[turn] for turn in range(turns) for group in groups if turn < len(group)]


def _answer(report: Report, fact: Fact, places: Sequence[tuple[Report, Fact]]) -> dict[str, Any]:
    here = next(one for holder, one in places if holder is report)
    return {
        "answer": fact.value,
        "document": report.path,
        "section": here.section,
        "page": here.page,
        "evidence": here.evidence,
        "documents": list(dict.fromkeys(holder.path for holder, _ in places)),
        "places": [
            {"document": holder.path, "section": one.section, "page": one.page, "evidence": one.evidence}
            for holder, one in places
        ],
        "subject": fact.subject,
        "metric": fact.metric,
        "scope": fact.scope,
        "period": fact.period,
    }


# ---- words


def _asked_anew(rng: random.Random, fact: Fact, asked: set[str]) -> str:
    while True:
        text = _question(rng, fact)
        if text not in asked:
            asked.add(text)
            return text


def _question(rng: random.Random, fact: Fact) -> str:
    period = _period(fact.period)
    if fact.subject == HOUSE_SUBJECT:
        return rng.choice(MEMO).format(topic=fact.scope, m=fact.metric, year=period.year)
    # The roundabout wordings of a metric are asked about as often as the general ones.
    general = () if fact.metric in WITHOUT_GENERAL else GENERAL
    wordings = rng.choice([kind for kind in (general, SPECIFIC[fact.metric]) if kind])
    name = rng.choice(METRICS[fact.metric].names)
    return _worded(
        rng, rng.choice(wordings), fact.subject, name, period, fact.scope, METRICS[fact.metric].stock
    )


def _worded(
    rng: random.Random,
    wording: str,
    subject: str,
    metric: str,
    period: Period,
    scope: str | None,
    stock: bool,
) -> str:
    company = COMPANIES.get(subject)
    names = [company.name, company.name, company.short, company.ticker] if company else [subject]
    name = rng.choice(names)
    sector = SECTORS.get(company.sector if company else subject)
    during, end = _during(rng, period), _end(rng, period)
    first, _, second = (scope or "").partition(" / ")
    report = _report(rng, period, overview=subject in SECTORS)
    text = wording.format(
        c=name, own=possessive(name) if company or subject not in SECTORS else f"the {name} sector's",
        m=metric, p=_short_period(rng, period), in_p=end if stock and rng.random() < 0.6 else f"in {during}",
        for_p=f"for {during}", at_p=end, s=first, s2=second, market=sector.market if sector else "",
        report=report, report_cap=capital(report),
    )  # fmt: skip
    return capital(text)


def _period(text: str) -> Period:
    quarter = re.fullmatch(r"Q([1-4]) (\d{4})", text)
    return Period(int(quarter[2]), int(quarter[1])) if quarter else Period(int(text.removeprefix("FY")))


_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth"}


def _during(rng: random.Random, period: Period) -> str:
    year, quarter = period.year, period.quarter
    if quarter:
        return rng.choice(
            (f"Q{quarter} {year}", f"the {_ORDINALS[quarter]} quarter of {year}", f"Q{quarter} of {year}",
             f"Q{quarter} FY{year % 100}")
        )  # fmt: skip
    return rng.choice(
        (str(year), str(year), f"fiscal {year}", f"FY{year % 100}", f"FY{year}", f"the {year} financial year")
    )


def _short_period(rng: random.Random, period: Period) -> str:
    year, quarter = period.year, period.quarter
    if quarter:
        return rng.choice((f"Q{quarter} {year}", f"{quarter}Q{year % 100}"))
    return rng.choice((str(year), f"fiscal {year}", f"FY{year % 100}", f"FY{year}"))


def _end(rng: random.Random, period: Period) -> str:
    if period.quarter:
        return rng.choice((f"at the end of {period}", f"when {period} ended"))
    year = period.year
    return rng.choice(
        (
            f"at the end of {year}",
            f"at year-end {year}",
            f"at the close of FY{year % 100}",
            f"when fiscal {year} ended",
        )
    )


def _report(rng: random.Random, period: Period, overview: bool) -> str:
    kind = "overview" if overview else "analysis"
    return rng.choice(
        (f"our {kind} of FY{period.year}", f"our {kind} of {period.year}", f"our FY{period.year % 100} {kind}",
         f"the {kind} of fiscal {period.year}")
    )  # fmt: skip


# ---- what no report says

_NO_COMPANIES = (
    "Morvane Aerospace", "Tressel Robotics", "Haverlund Pharma", "Quinnovar Chips", "Bellstrand Foods",
    "Oxterra Mining", "Drummock Steel", "Palisandre Hotels", "Vexley Software", "Corrigan Vale Wind",
    "Lindmarsh Parcel", "Sorrelby Dairy",
)  # fmt: skip
_NOT_REPORTED = (
    "advertising expenditure", "carbon footprint", "pay of the chief executive", "number of patents", "pension deficit",
    "volume of share buybacks", "water consumption", "number of shareholders", "goodwill impairment", "insurance cost",
    "customer satisfaction score", "number of apprentices", "revenue from China", "average age of the staff",
    "interest expense", "accident rate", "fee of the auditor", "share of recycled material",
)  # fmt: skip
_ASKED_ANYWHERE = (
    "revenue", "operating income", "net income", "gross margin", "headcount", "free cash flow", "net debt",
    "R&D spending", "capital expenditure", "dividend", "order backlog", "equity ratio",
)  # fmt: skip


def _unknown(rng: random.Random, why: str) -> tuple[str, tuple[str, str, str]]:
    """A question of the kind, and subject, metric and period that it is about."""
    subject, metric = rng.choice(list(COMPANIES)), rng.choice(_ASKED_ANYWHERE)
    year = rng.randint(LAST_YEAR - 2, LAST_YEAR)
    wordings: tuple[str, ...] = GENERAL
    if why == "no such company":
        subject = rng.choice(_NO_COMPANIES)
    elif why == "year not covered":
        year = rng.choice((*range(LAST_YEAR - 9, LAST_YEAR - 4), LAST_YEAR + 3, LAST_YEAR + 4))
    else:
        metric = rng.choice(_NOT_REPORTED)
    name, stock = metric, False
    if metric in METRICS:
        name, stock = rng.choice(METRICS[metric].names), METRICS[metric].stock
        wordings = rng.choice((GENERAL, SPECIFIC[metric]))
    text = _worded(rng, rng.choice(wordings), subject, name, Period(year), None, stock)
    return text, (subject, metric, str(Period(year)))


# ---- files


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where everything is written")
    parser.add_argument(
        "--companies",
        type=int,
        choices=range(1, len(COMPANIES) + 1),
        default=len(COMPANIES),
        metavar="COUNT",
        help="that the reports cover, for a smaller collection",
    )
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    reports = write_reports(folder / "reports", companies=given.companies)
    for name, rows in (("questions", questions(reports)), ("unanswerable", unanswerable(reports))):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{len(rows)} lines in {folder / name}.jsonl")


if __name__ == "__main__":
    main(sys.argv[1:])
