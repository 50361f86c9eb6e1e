"""The demo's corpus: market-analysis reports about companies that don't exist, made from a seed.

One fixed world lies beneath every row: a company's figure for a metric, a region and a year is a function of
these names alone, so no two reports contradict each other. The seed only chooses what is asked and how it is
worded. The test rows ask about companies that no training row mentions.

The prompt says nothing about the form of the answer. The house style (`ANSWER: $1,536 million | SOURCE: [2]`)
is what training has to teach.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from selfaug.data.template import RetrievalTemplate
from selfaug.errors import DataError

__all__ = [
    "Split",
    "house_style_answer",
    "market_report_rows",
    "market_report_template",
]

Split = Literal["train", "dev", "test"]


def house_style_answer(value: str, source: int) -> str:
    """The completion of a row: `ANSWER: $1,536 million | SOURCE: [2]`."""
    return f"ANSWER: {value} | SOURCE: [{source}]"


def market_report_template() -> RetrievalTemplate:
    """Template of the rows: numbered reports, then the question, and no word about the form of the answer."""
    return RetrievalTemplate(
        system=None,
        passage="[{number}] {text}",
        separator="\n",
        user="Reports:\n{passages}\n\nQuestion: {question}",
    )


def market_report_rows(split: Split, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Retrieval rows, each about a different figure of the split's own companies.

    The first rows of a longer list are the shorter list. A row has

    - `id`, `question`
    - `context`: three reports; one holds the figure beside another one, the others hold the same figure of other
      companies
    - `answer` in the house style, with its parts `value` ("$1,536 million") and `gold` (1-based number of the
      report that holds it)

    Raises:
        DataError: if the split is unknown, or has fewer figures than `count`.
    """
    if split not in _STEMS:
        raise DataError(f"there is no split {split!r}.", hint=f"take one of {', '.join(_STEMS)}.")
    companies = [_Company(stem, sector) for stem in _STEMS[split].split() for sector in _MARKETS]
    # Regional figures come on top, so drawing without repetition stays quick up to this count.
    available = len(companies) * len(_METRICS) * len(_YEARS)
    if count > available:
        raise DataError(
            f"split {split!r} has {available} figures to ask for, but {count} rows are wanted.",
            hint="take fewer rows.",
        )
    rng = random.Random(f"{split}/{seed}")
    rows: list[dict[str, Any]] = []
    asked: set[_Figure] = set()
    while len(rows) < count:
        figure = _any_figure(rng, companies)
        if figure in asked:
            continue
        asked.add(figure)
        rows.append({"id": f"market-{split}-{seed}-{len(rows):05d}", **_row(rng, figure, companies)})
    return rows


# The world: companies, metrics, and a number for each figure.


@dataclass(frozen=True)
class _Company:
    stem: str
    sector: str

    @property
    def name(self) -> str:
        return f"{self.stem} {self.sector}"

    @property
    def possessive(self) -> str:
        return self.name + ("'" if self.name.endswith("s") else "'s")

    @property
    def market(self) -> str:
        return _MARKETS[self.sector]


@dataclass(frozen=True)
class _Metric:
    names: tuple[str, ...]  # the first is the usual one
    unit: str  # as a table's label has it
    value: str  # how a number is written in sentences and answers
    low: float  # bounds of its level: per $ million of revenue, or in % where the unit is %
    high: float
    countable: bool = False  # takes an article
    regional: bool = False  # reported by region too
    sentences: tuple[str, ...] = ()  # wordings of its own; {number} is the bare number
    questions: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Figure:
    """What one number in a report is about."""

    company: _Company
    metric: _Metric
    region: str | None  # None: the whole company
    year: int

    @property
    def where(self) -> str:
        return f" in {self.region}" if self.region else ""

    @property
    def number(self) -> str:
        number = _number(self)
        return f"{number:.1f}" if self.metric.unit == "%" else f"{number:,.0f}"

    @property
    def value(self) -> str:
        return self.metric.value.format(self.number)


_LEADS = ("Analyst note: ", "Market update: ", "Key figures: ")

_YEARS = range(2015, 2025)
_REGIONS = ("Europe", "Asia", "North America", "Latin America")

_MARKETS = {
    "Robotics": "industrial robots",
    "Foods": "packaged food",
    "Motors": "electric motors",
    "Solar": "solar panels",
    "Optics": "optical sensors",
    "Medical": "medical scanners",
    "Paper": "packaging",
    "Steel": "specialty steel",
    "Marine": "marine engines",
    "Tools": "power tools",
    "Wireless": "wireless modules",
    "Lighting": "street lighting",
}

# First words of the companies' names, apart from each other, so that no company is in two splits.
_STEMS: dict[str, str] = {
    "train": "Eastgate Ironbridge Northgate Silverton Valmont Westbrook Yellowfin Ashford Blackwood "
    "Clearwater Evergreen Hawthorn Indigo Jasper Moonstone Primrose Quarry Stonebridge Upland Vanguard "
    "Willow Amber Cobalt Ember Harbor Jade Keystone Meridian Onyx Quill Raven Summit Topaz Unity Vertex Wren "
    "Zenith Beacon Cedar Dawn Norvane Altmere Brightwell Caldora Dunmore Fairholt Granvik Harcrest",
    "dev": "Eagle Fern Heron Iris Juno Lotus Magnet Nova Larkfield Maplewood Oakhurst Thornbury Tidewater "
    "Kestrel Juniper Lantern",
    "test": "Opal Pearl Quartz Rowan Violet Walnut Aspen Basalt Coral Dune Elm Flint Grove Nectar Osprey "
    "Redstone Goldcrest Kingfisher Lakeside Nightingale Orchard Riverside Nimbus Mistral Granite Saffron",
}

_DOLLARS: dict[str, Any] = {"unit": "$ million", "value": "${} million"}
_UNITS: dict[str, Any] = {"unit": "thousand units", "value": "{} thousand units"}
_PERCENT: dict[str, Any] = {"unit": "%", "value": "{}%"}

_METRICS = (
    _Metric(
        ("revenue", "sales"),
        **_DOLLARS,
        low=1.0,
        high=1.0,
        regional=True,
        sentences=(
            "{company} took in {value} of revenue{where} in {year}.",
            "Customers{where} brought {company} sales of {value} in {year}.",
        ),
        questions=(
            "How much revenue did {company} make{where} in {year}?",
            "What was {owner} revenue{where} in {year}?",
            "What sales did {company} record{where} in {year}?",
        ),
    ),
    _Metric(
        ("operating income", "operating profit"),
        **_DOLLARS,
        low=0.12,
        high=0.20,
        regional=True,
        sentences=(
            "{company} earned {value} before interest and tax{where} in {year}, its operating income.",
            "Operations{where} left {company} an operating profit of {value} in {year}.",
        ),
        questions=(
            "What was the operating income of {company}{where} in {year}?",
            "How large was {owner} operating profit{where} in {year}?",
        ),
    ),
    _Metric(
        ("net income", "net profit"),
        **_DOLLARS,
        low=0.05,
        high=0.10,
        sentences=(
            "After tax, {company} kept net income of {value} for {year}.",
            "{company} ended {year} with {value} of net profit.",
        ),
        questions=(
            "What was {owner} net income in {year}?",
            "How much net profit did {company} make in {year}?",
        ),
    ),
    _Metric(
        ("capital expenditure", "capex"),
        **_DOLLARS,
        low=0.04,
        high=0.11,
        sentences=(
            "{company} put {value} of capital expenditure into its plants in {year}.",
            "New plants and machines took {value} of capex at {company} in {year}.",
        ),
        questions=(
            "How much capital expenditure did {company} have in {year}?",
            "What was the capex of {company} in {year}?",
        ),
    ),
    _Metric(
        ("R&D spending", "research spending"),
        **_DOLLARS,
        low=0.02,
        high=0.12,
        sentences=(
            "{company} spent {value} on R&D in {year}.",
            "Research at {company} cost {value} in {year}.",
        ),
        questions=(
            "How much did {company} spend on R&D in {year}?",
            "What did research cost {company} in {year}?",
        ),
    ),
    _Metric(
        ("order backlog", "backlog"),
        **_DOLLARS,
        low=0.3,
        high=1.3,
        countable=True,
        sentences=(
            "At the end of {year}, {company} had orders worth {value} in its backlog.",
            "{company} left {year} with an order backlog of {value}.",
        ),
        questions=(
            "How large was {owner} order backlog at the end of {year}?",
            "What was the order backlog of {company} in {year}?",
        ),
    ),
    _Metric(
        ("free cash flow",),
        **_DOLLARS,
        low=0.03,
        high=0.10,
        sentences=(
            "{company} generated {value} of free cash flow in {year}.",
            "Free cash flow at {company} for {year} amounted to {value}.",
        ),
        questions=(
            "How much free cash flow did {company} generate in {year}?",
            "What was {owner} free cash flow in {year}?",
        ),
    ),
    _Metric(
        ("market share",),
        **_PERCENT,
        low=3,
        high=38,
        countable=True,
        regional=True,
        sentences=(
            "{company} held {value} of the market for {market}{where} in {year}.",
            "In {year}, {value} of all {market} sold{where} came from {company}.",
        ),
        questions=(
            "What share of the market for {market} did {company} hold{where} in {year}?",
            "What was {owner} market share{where} in {year}?",
        ),
    ),
    _Metric(
        ("gross margin",),
        **_PERCENT,
        low=25,
        high=60,
        countable=True,
        sentences=(
            "{company} worked at a gross margin of {value} in {year}.",
            "Of each dollar sold in {year}, {company} kept a gross margin of {value}.",
        ),
        questions=(
            "What was the gross margin of {company} in {year}?",
            "How high was {owner} gross margin in {year}?",
        ),
    ),
    _Metric(
        ("shipments", "unit shipments"),
        **_UNITS,
        low=0.1,
        high=0.85,  # under the capacity's least
        regional=True,
        sentences=(
            "{company} shipped {value}{where} in {year}.",
            "Customers{where} received {value} from {company} in {year}.",
        ),
        questions=(
            "How many units did {company} ship{where} in {year}?",
            "What were the shipments of {company}{where} in {year}?",
        ),
    ),
    _Metric(
        ("production capacity", "annual capacity"),
        **_UNITS,
        low=1.0,
        high=1.6,
        countable=True,
        sentences=(
            "The plants of {company} could make {value} in {year}.",
            "{company} had a production capacity of {value} in {year}.",
        ),
        questions=(
            "What production capacity did {company} have in {year}?",
            "How many units could {company} make in {year}?",
        ),
    ),
    _Metric(
        ("headcount", "workforce"),
        unit="employees",
        value="{} employees",
        low=1.5,
        high=4.5,
        countable=True,
        regional=True,
        sentences=(
            "{company} employed {number} people{where} in {year}.",
            "In {year}, {number} people worked for {company}{where}.",
        ),
        questions=(
            "How many people did {company} employ{where} in {year}?",
            "What was the headcount of {company}{where} in {year}?",
        ),
    ),
)


def _number(figure: _Figure) -> float:
    """The figure's number, a function of its names: levels differ by company, and move from year to year."""
    company, metric = figure.company.name, figure.metric.names[0]
    level = random.Random(f"{company}/{metric}").uniform(figure.metric.low, figure.metric.high)
    drift = random.Random(f"{company}/{metric}/{figure.region}/{figure.year}").uniform(0.94, 1.06)
    if figure.metric.unit == "%":
        return level * drift
    # Four regions of at most 0.22 * 1.06 each are together less than the company's least, 0.94.
    share = random.Random(f"{company}/{figure.region}").uniform(0.10, 0.22) if figure.region else 1.0
    return _revenue(company, figure.year) * level * drift * share


def _revenue(company: str, year: int) -> float:
    rng = random.Random(company)
    revenue = math.exp(rng.uniform(math.log(800), math.log(6000)))
    for _ in range(_YEARS.start, year):
        revenue *= rng.uniform(0.94, 1.12)
    return revenue


# The words: reports and questions.


@dataclass(frozen=True)
class _Report:
    text: str
    figures: tuple[_Figure, ...]


def _row(rng: random.Random, asked: _Figure, companies: Sequence[_Company]) -> dict[str, Any]:
    """Question, reports and answer about a figure that only the gold report holds."""
    while True:
        gold = _report(rng, asked)
        reports = [gold, *(_report(rng, other) for other in _same_figure_of_others(rng, asked, companies))]
        figures = [figure for report in reports for figure in report.figures]
        # A second figure of the same value would let the right value come from the wrong place.
        if sum(figure.value == asked.value for figure in figures) == 1:
            break
    rng.shuffle(reports)
    number = reports.index(gold) + 1
    return {
        "question": _question(rng, asked),
        "context": [report.text for report in reports],
        "answer": house_style_answer(asked.value, number),
        "value": asked.value,
        "gold": number,
    }


def _any_figure(rng: random.Random, companies: Sequence[_Company]) -> _Figure:
    metric = rng.choice(_METRICS)
    region = rng.choice(_REGIONS) if metric.regional and rng.random() < 0.25 else None
    return _Figure(rng.choice(companies), metric, region, rng.choice(_YEARS))


def _same_figure_of_others(
    rng: random.Random, asked: _Figure, companies: Sequence[_Company]
) -> list[_Figure]:
    """The figure of two other companies: what a model that doesn't read the name would answer."""
    others = [company for company in companies if company.stem != asked.company.stem]
    return [_Figure(other, asked.metric, asked.region, asked.year) for other in rng.sample(others, 2)]


def _question(rng: random.Random, figure: _Figure) -> str:
    general = (
        "What {metric} did {company} report{where} for {year}?",
        "State the {metric} of {company}{where} for {year}.",
        "In {year}, what did {company} report as its {metric}{where}?",
        "Look up {owner} {year} {metric}{where}.",
        "I need the {year} {metric} of {company}{where}.",
    )
    return _worded(rng, rng.choice((*general * 2, *figure.metric.questions)), figure)


def _report(rng: random.Random, figure: _Figure) -> _Report:
    """A report that holds the figure among others, in one of the forms that suit it."""
    forms: list[Callable[[random.Random, _Figure], _Report]] = [
        _two_metrics,
        _own_sentence,
        _table_of_metrics,
    ]
    report = rng.choice(forms)(rng, figure)
    if report.text.startswith("|") or rng.random() < 0.8:
        return report
    return replace(report, text=rng.choice(_LEADS) + report.text)


def _two_metrics(rng: random.Random, figure: _Figure) -> _Report:
    first, second = figures = _with_another_metric(rng, figure)
    text = rng.choice(
        (
            "{company} closed {year} with {article}{metric} of {value} "
            "and {article2}{metric2} of {value2}{where}.",
            "In {year}, {metric} at {company} came to {value}{where}, while {metric2} stood at {value2}.",
            "{company}{where}, fiscal {year}: {metric} {value}; {metric2} {value2}.",
            "{company} reported {article2}{metric2} of {value2} "
            "and {article}{metric} of {value}{where} for {year}.",
        )
    )
    return _Report(_worded(rng, text, first, second), figures)


def _own_sentence(rng: random.Random, figure: _Figure) -> _Report:
    first, second = _with_another_metric(rng, figure)
    text = rng.choice(first.metric.sentences)
    more = rng.choice(
        (
            " Its {metric2} stood at {value2}.",
            " It reported {article2}{metric2} of {value2}.",
        )
    )
    return _Report(_worded(rng, text + more, first, second), (first, second))


def _table_of_metrics(rng: random.Random, figure: _Figure) -> _Report:
    first, second = figures = _with_another_metric(rng, figure)
    text = (
        "| {company}{where} | {year} |\n| {Metric} ({unit}) | {number} |\n| {Metric2} ({unit2}) | {number2} |"
    )
    return _Report(_worded(rng, text, first, second), figures)


def _with_another_metric(rng: random.Random, figure: _Figure) -> tuple[_Figure, _Figure]:
    """The figure, and one in another unit: which of two dollar amounts is meant takes longer to learn."""
    metrics = [
        metric
        for metric in _METRICS
        if metric.unit != figure.metric.unit and (metric.regional or figure.region is None)
    ]
    return _shuffled(rng, figure, replace(figure, metric=rng.choice(metrics)))


def _shuffled(rng: random.Random, first: _Figure, second: _Figure) -> tuple[_Figure, _Figure]:
    return (first, second) if rng.random() < 0.5 else (second, first)


def _worded(rng: random.Random, text: str, first: _Figure, second: _Figure | None = None) -> str:
    """The text with the figures' words in it; those of the second figure end in 2."""
    company = first.company
    words = {"company": company.name, "owner": company.possessive, "market": company.market}
    for suffix, figure in (("", first), ("2", second)):
        if figure is None:
            continue
        name = figure.metric.names[0]
        words |= {
            f"metric{suffix}": name,
            f"Metric{suffix}": name[0].upper() + name[1:],
            f"article{suffix}": _article(figure.metric, name),
            f"unit{suffix}": figure.metric.unit,
            f"number{suffix}": figure.number,
            f"value{suffix}": figure.value,
            f"where{suffix}": figure.where,
            f"year{suffix}": str(figure.year),
        }
    return text.format_map(words)


def _article(metric: _Metric, name: str) -> str:
    if not metric.countable:
        return ""
    return "an " if name[0] in "aeiou" else "a "
