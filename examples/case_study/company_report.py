"""Annual and quarterly analyses of a company, as drafts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from comments import COMMENTS, LEADS, RISKS
from document_parts import Draft, DraftSection, Format, Mention, Table
from wording import capital, comparison_table, findings, prose, table_by_row
from world import Company, Figure, Period, bare, number, unit_label, written

__all__ = ["HOUSE", "annual_report", "quarterly_report"]

HOUSE = "Halloway Pike Research"

_HEADINGS = {
    "findings": ("Key findings", "Key findings at a glance", "Key findings of this analysis"),
    "results": ("Results", "Results and earnings", "Profit and loss", "Earnings"),
    "segments": ("Segments", "Business segments", "Revenue by segment", "The segments"),
    "regions": ("Regions", "Revenue by region", "Regional sales", "Where the sales were made"),
    "margins": ("Margins", "Profitability", "Margins and returns", "Margin development"),
    "balance": (
        "Balance sheet and cash flow",
        "Financial position",
        "Cash and debt",
        "Cash flow and balance sheet",
    ),
    "investment": (
        "Investment and research",
        "Capital expenditure and R&D",
        "Spending on the future",
        "Investment",
    ),
    "market": ("Market position", "Orders and market", "Orders and customers", "Demand"),
    "workforce": ("Workforce", "Employees", "People", "Staff"),
    "outlook": ("Outlook and risks", "Outlook", "Risks and outlook", "The year ahead"),
    "rating": ("Rating and target price", "Valuation and rating", "Our view", "Recommendation"),
}

_TITLES = (
    "{company} ({ticker}): annual analysis {period}",
    "{period} in review: {company} ({ticker})",
    "{company} ({ticker}) – analysis of fiscal year {year}",
    "Equity research: {company} ({ticker}), {period}",
    "{company} ({ticker}), annual report {year} analysed",
)
_QUARTER_TITLES = (
    "{company} ({ticker}): quarterly analysis {period}",
    "{period} results of {company} ({ticker})",
    "{company} ({ticker}) – first take on {period}",
    "Quarterly update: {company} ({ticker}), {period}",
)

_ORDERS = (
    ("findings", "results", "segments", "regions", "margins", "balance", "investment", "market", "workforce",
     "outlook", "rating"),
    ("rating", "findings", "results", "margins", "segments", "regions", "balance", "workforce", "investment",
     "market", "outlook"),
    ("findings", "market", "segments", "regions", "results", "margins", "investment", "balance", "outlook",
     "workforce", "rating"),
    ("results", "margins", "balance", "segments", "market", "regions", "workforce", "investment", "outlook",
     "rating", "findings"),
)  # fmt: skip

# What a section of an annual analysis may state: first what it always does, then what is drawn from.
_CONTENT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "results": (
        ("revenue", "operating income"),
        ("net income", "earnings per share", "tax rate", "revenue growth"),
    ),
    "margins": (("gross margin",), ("operating margin", "gross margin change", "return on capital employed")),
    "balance": (("net debt", "free cash flow"), ("equity ratio", "inventory days", "dividend")),
    "investment": (("R&D spending", "capital expenditure"), ("sites",)),
    "market": (("market share",), ("order backlog", "book-to-bill ratio", "largest customer")),
    "workforce": (("headcount",), ("staff turnover", "women in management", "training hours")),
    "outlook": (("guided growth", "guided margin"), ("planned investment", "planned savings")),
    "rating": (("rating", "target price"), ("share price", "lead analyst")),
}
_HEADLINES = (
    "revenue", "revenue growth", "operating margin", "net income", "free cash flow", "headcount", "order backlog",
    "dividend", "R&D spending", "market share", "equity ratio", "gross margin change",
)  # fmt: skip
_LOOKING_AHEAD = ("guided growth", "guided margin", "planned investment", "planned savings")
_ONLY_IN_PROSE = ("revenue growth", "gross margin change", *_LOOKING_AHEAD)
_QUARTERLY_HEADLINES = (
    "revenue",
    "operating income",
    "free cash flow",
    "net income",
    "order backlog",
    "headcount",
)


def annual_report(company: Company, year: int, format: Format, seed: int) -> Draft:
    """The analysis of a company's year."""
    period = Period(year)
    rng = random.Random(f"{company.name}/{period}/{seed}")
    make = _Sections(rng, company, period, format == "xlsx")
    order = rng.choice(_ORDERS)
    if format == "xlsx":
        sections = tuple(make.in_spreadsheet(part) for part in order if part != "regions")
    else:
        left_out = rng.choice(("investment", "market", None, None))
        sections = tuple(make.in_text(part) for part in order if part != left_out)
    return _draft(
        company, period, format, rng.choice(_TITLES), sections, f"{rng.randint(3, 28)} March {year + 1}"
    )


def quarterly_report(company: Company, period: Period, format: Format, seed: int) -> Draft:
    """The analysis of a company's quarter."""
    rng = random.Random(f"{company.name}/{period}/{seed}")
    make = _Sections(rng, company, period, format == "xlsx")
    parts: list[Callable[[], DraftSection]] = [
        lambda: make.findings(_QUARTERLY_HEADLINES),
        lambda: make.stated("results", ("revenue", "operating income", "net income"), table=format == "xlsx"),
        lambda: make.parts("segments", table=format == "xlsx" or rng.random() < 0.5),
        lambda: make.parts("regions", table=format == "xlsx" or rng.random() < 0.5),
        lambda: make.stated("margins", ("gross margin", "operating margin")),
        lambda: make.stated("balance", ("free cash flow", "net debt", "capital expenditure", "R&D spending")),
        lambda: make.stated("market", ("order backlog",)),
        lambda: make.stated("workforce", ("headcount",)),
    ]
    if rng.random() < 0.5:
        parts[4:] = reversed(parts[4:])
    sections = tuple(part() for part in parts)
    month = {1: "May", 2: "August", 3: "November", 4: "February"}[period.quarter or 4]
    published = f"{rng.randint(3, 28)} {month} {period.year + (period.quarter == 4)}"
    return _draft(company, period, format, rng.choice(_QUARTER_TITLES), sections, published)


def _draft(
    company: Company,
    period: Period,
    format: Format,
    title: str,
    sections: tuple[DraftSection, ...],
    date: str,
) -> Draft:
    folder = company.name.lower().replace(" ", "-")
    name = f"{period.year}-annual" if period.quarter is None else f"{period.year}-q{period.quarter}"
    return Draft(
        path=f"companies/{folder}/{name}.{format}",
        title=title.format(company=company.name, ticker=company.ticker, period=period, year=period.year),
        byline=f"{HOUSE}, {date}",
        company=company.name,
        period=period,
        format=format,
        sections=sections,
    )


class _Sections:
    """Makes the sections of one document."""

    def __init__(self, rng: random.Random, company: Company, period: Period, spreadsheet: bool) -> None:
        self.rng, self.company, self.period, self.spreadsheet = rng, company, period, spreadsheet

    def figure(self, metric: str, scope: str | None = None) -> Figure:
        ahead = metric in _LOOKING_AHEAD
        return Figure(
            self.company.name, metric, Period(self.period.year + 1) if ahead else self.period, scope
        )

    def heading(self, part: str) -> str:
        return self.rng.choice(_HEADINGS[part])

    def lead(self) -> str:
        return self.rng.choice(LEADS)

    def in_text(self, part: str) -> DraftSection:
        """A section of a document that is mostly prose."""
        if part == "findings":
            return self.findings(_HEADLINES)
        if part in ("segments", "regions"):
            return self.parts(part, table=self.rng.random() < 0.55)
        table = part not in ("outlook", "rating") and self.rng.random() < 0.35
        if part == "workforce" and self.rng.random() < 0.4:
            return self.people_by_region(table)
        return self.stated(part, self.chosen(part, 6 if table else 4), table=table)

    def in_spreadsheet(self, part: str) -> DraftSection:
        """A sheet: the figures as numbers, the rest as lines of text."""
        if part == "findings":
            return self.findings(_HEADLINES)
        if part == "results":
            return self.by_quarter()
        if part == "segments":
            return self.segments_by_region()
        if part == "outlook":
            return self.stated(part, self.chosen(part, 4))
        if part == "workforce" and self.rng.random() < 0.5:
            return self.people_by_region(table=True)
        return self.stated(part, self.chosen(part, 5), table=True)

    def chosen(self, part: str, count: int) -> list[str]:
        """Metrics of a section: those that it always states, and some of the others."""
        always, others = _CONTENT[part]
        drawn = [metric for metric in others if self.can_be_stated(metric)]
        drawn = self.rng.sample(drawn, min(len(drawn), count - len(always)))
        return [*always, *drawn]

    def can_be_stated(self, metric: str) -> bool:
        # A fall is not called growth, and a margin that hasn't moved has not changed.
        value = number(self.figure(metric))
        return metric not in ("revenue growth", "gross margin change") or (
            not isinstance(value, str) and (value > 0 or (metric != "revenue growth" and value != 0))
        )

    def findings(self, metrics: Sequence[str]) -> DraftSection:
        figures = [self.figure(metric) for metric in metrics if self.can_be_stated(metric)]
        return findings(self.rng, self.heading("findings"), figures)

    def stated(self, part: str, metrics: Sequence[str], *, table: bool = False) -> DraftSection:
        """The metrics in prose, or in a table."""
        if table:
            figures = [self.figure(metric) for metric in metrics if metric not in _ONLY_IN_PROSE]
            self.rng.shuffle(figures)
            if part == "rating":
                return table_by_row(self.heading(part), figures, self.lead(), "unit in cell")
            return self.table(part, figures)
        figures = [self.figure(metric) for metric in metrics]
        if part not in ("results", "rating"):
            self.rng.shuffle(figures)
        comments: tuple[str, ...] = COMMENTS[part]
        if part == "outlook":
            comments = (*comments, *RISKS[self.company.sector])
        return prose(self.rng, self.heading(part), figures, comments)

    def parts(self, part: str, *, table: bool) -> DraftSection:
        """Revenue of the segments, or of the regions."""
        names = self.company.segments if part == "segments" else self.company.regions
        figures = [
            self.figure("segment revenue" if part == "segments" else "region revenue", name) for name in names
        ]
        if table:
            return self.table(part, [*figures, self.figure("revenue")])
        self.rng.shuffle(figures)
        return prose(self.rng, self.heading(part), figures, COMMENTS[part])

    def people_by_region(self, table: bool) -> DraftSection:
        figures = [self.figure("headcount in region", region) for region in self.company.regions]
        if table:
            return self.table("workforce", [*figures, self.figure("headcount")])
        return prose(
            self.rng, self.heading("workforce"), [self.figure("headcount"), *figures], COMMENTS["workforce"]
        )

    def table(self, part: str, figures: Sequence[Figure]) -> DraftSection:
        if self.spreadsheet:
            return table_by_row(self.heading(part), figures, "", "unit column")
        return comparison_table(self.rng, self.heading(part), figures, lead=self.lead())

    def by_quarter(self) -> DraftSection:
        """Key figures per quarter, with the year."""
        metrics = ("revenue", "operating income", "net income", "free cash flow", "capital expenditure")
        year = self.period.year
        header = [
            "Item",
            "Unit",
            *(f"Q{quarter} {year}" for quarter in (1, 2, 3, 4)),
            str(self.period),
        ]
        periods = [*(Period(year, quarter) for quarter in (1, 2, 3, 4)), self.period]
        figures = [[Figure(self.company.name, metric, period) for period in periods] for metric in metrics]
        rows = [(capital(line[0].metric), unit_label(line[0])) for line in figures]
        return self.matrix(self.heading("results"), header, rows, figures)

    def segments_by_region(self) -> DraftSection:
        """Revenue of each segment in each region, with sums."""
        regions = self.company.regions
        header = ["Segment", "Unit", *regions, str(self.period)]
        unit = unit_label(self.figure("segment revenue", self.company.segments[0]))
        figures = [
            [
                *(self.figure("segment revenue in region", f"{segment} / {region}") for region in regions),
                self.figure("segment revenue", segment),
            ]
            for segment in self.company.segments
        ]
        figures.append(
            [*(self.figure("region revenue", region) for region in regions), self.figure("revenue")]
        )
        rows = [(str(name), unit) for name in (*self.company.segments, "All segments")]
        return self.matrix(self.heading("segments"), header, rows, figures)

    def matrix(
        self,
        heading: str,
        header: Sequence[str],
        labels: Sequence[tuple[str, str]],
        figures: Sequence[Sequence[Figure]],
    ) -> DraftSection:
        """A table of numbers, each in the unit of its row; what is reported in another unit has it in its cell."""
        rows: list[tuple[str, ...]] = [tuple(header)]
        mentions = []
        for (name, unit), line in zip(labels, figures, strict=True):
            cells = [bare(one) if unit_label(one) == unit else written(one) for one in line]
            rows.append((name, unit, *cells))
            mentions += [
                Mention(one.subject, one.metric, one.scope, one.period, written(one), cell)
                for one, cell in zip(line, cells, strict=True)
            ]
        return DraftSection(heading, (Table(tuple(rows)),), tuple(mentions))
