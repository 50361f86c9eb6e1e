"""Documents that aren't about one company: sector overviews, and the house's memos."""

from __future__ import annotations

import random

from comments import COMMENTS, LEADS
from company_report import HOUSE
from document_parts import Block, Draft, DraftSection, Format, Mention, Paragraph, Table, context_of
from wording import LEAST_WORDS, capital, comparison_table, findings, prose
from world import COMPANIES, Figure, Period, written

__all__ = ["HOUSE_SUBJECT", "MEMOS", "memo", "sector_overview"]

_REGIONS = ("Europe", "North America", "Asia-Pacific", "Latin America")

_HEADLINES = ("market size", "market growth", "selling prices", "input costs", "export share")

_SECTOR_TITLES = (
    "Sector overview: {sector}, {period}",
    "{Sector} – the sector in {year}",
    "The {sector} sector in {period}",
    "{Sector}: sector review {year}",
)


def sector_overview(sector: str, year: int, format: Format, seed: int) -> Draft:
    """The overview of a sector's year."""
    period = Period(year)
    rng = random.Random(f"{sector}/{period}/{seed}")

    def figure(metric: str, scope: str | None = None) -> Figure:
        return Figure(sector, metric, Period(year + 1) if metric.startswith("expected") else period, scope)

    shares = [
        Figure(company.name, "market share", period)
        for company in COMPANIES.values()
        if company.sector == sector
    ]
    spreadsheet = format == "xlsx"
    comments = COMMENTS["sector"]
    sections = [
        findings(
            rng,
            "Key findings",
            [figure(name) for name in _HEADLINES],
        ),
        prose(
            rng,
            rng.choice(("Size and growth of the market", "The market", "Demand")),
            [figure("market size"), figure("market growth"), figure("expected market growth")],
            comments,
        ),
        _parts(rng, [figure("regional market share", region) for region in _REGIONS], comments, spreadsheet),
        _shares(rng, shares, spreadsheet),
        prose(
            rng,
            rng.choice(("Prices and costs", "Costs", "Prices, costs and capacity")),
            [figure("selling prices"), figure("input costs"), figure("capacity utilisation")],
            comments,
        ),
        prose(
            rng,
            rng.choice(("Structure", "Companies and people", "Structure of the sector")),
            [
                figure(name)
                for name in ("number of companies", "sector employment", "export share", "investment ratio")
            ],
            comments,
        ),
        prose(
            rng, rng.choice(("Our stance", "House view", "What we advise")), [figure("house view")], comments
        ),
    ]
    if rng.random() < 0.5:
        sections[2:4] = reversed(sections[2:4])
    title = rng.choice(_SECTOR_TITLES).format(sector=sector, Sector=capital(sector), period=period, year=year)
    return Draft(
        path=f"sectors/{sector.replace(' ', '-')}-{year}.{format}",
        title=title,
        byline=f"{HOUSE}, {rng.randint(3, 28)} April {year + 1}",
        company=None,
        period=period,
        format=format,
        sections=tuple(sections),
    )


def _parts(
    rng: random.Random, figures: list[Figure], comments: tuple[str, ...], spreadsheet: bool
) -> DraftSection:
    heading = rng.choice(("Demand by region", "Regions", "Where the demand is"))
    if spreadsheet or rng.random() < 0.5:
        return comparison_table(rng, heading, figures, lead=rng.choice(LEADS))
    return prose(rng, heading, figures, comments)


def _shares(rng: random.Random, figures: list[Figure], spreadsheet: bool) -> DraftSection:
    """Market shares of the companies: a row a company, in the company's own way to write percentages."""
    heading = rng.choice(("Shares of the companies", "Who holds what", "Market shares"))
    header = ("Company", f"Market share {figures[0].period}", f"Market share {figures[0].period.before}")
    rows, mentions = [header], []
    for figure in figures:
        stated = [_mention_in_cell(figure), _mention_in_cell(figure.before)]
        rows.append((figure.subject, stated[0].value, stated[1].value))
        mentions += stated
    lead = "" if spreadsheet else rng.choice(LEADS)
    blocks: list[Block] = [Paragraph(lead)] if lead else []
    return DraftSection(heading, (*blocks, Table(tuple(rows))), tuple(mentions))


def _mention_in_cell(figure: Figure) -> Mention:
    return Mention(
        figure.subject, figure.metric, figure.scope, figure.period, written(figure), written(figure)
    )


# ---- memos

HOUSE_SUBJECT = "the house"

# Topic, year that it holds for, and sections: heading, and figures as "name = value".
MEMOS: dict[str, tuple[str, int, dict[str, str]]] = {
    "planning assumptions": (
        "Planning assumptions for our models",
        2025,
        {
            "Interest and exchange rates": "policy rate of the central bank = 3.25 %; yield of ten-year bonds = 3.9 %; "
            "exchange rate of the euro = $1.12; exchange rate of the pound = $1.31",
            "Commodities": "oil price = $78 a barrel; copper price = $9,400 a tonne; steel price = $690 a tonne; "
            "gas price = €34 per megawatt hour",
            "Economy": "rise in consumer prices = 2.4 %; rise in wages = 3.6 %; growth of world trade = 2.9 %; "
            "growth of the economy = 1.7 %",
        },
    ),
    "coverage rules": (
        "Coverage rules of the research department",
        2025,
        {
            "What we cover": "least market value of a company = $500 million; least daily turnover of a share = "
            "$2 million; number of companies an analyst covers = 5 companies; number of sectors = 5 sectors",
            "Ratings": "expected return for a Buy = more than 12 %; expected loss for a Sell = more than 5 %; "
            "horizon of a target price = 12 months; review of a rating after = 90 days",
            "Publication": "deadline after annual results = 10 working days; deadline after quarterly results = "
            "3 working days; length of a first take = 2 pages; quiet period before publication = 48 hours",
        },
    ),
    "model portfolio": (
        "Model portfolio of the house",
        2025,
        {
            "Weights of the sectors": "weight of industrial automation = 24 %; weight of medical technology = 22 %; "
            "weight of food and beverages = 17 %; weight of renewable energy = 15 %; weight of logistics = 12 %",
            "Limits": "highest weight of one company = 8 %; highest number of holdings = 30 holdings; "
            "lowest number of holdings = 18 holdings; loss at which a holding is sold = 20 %",
            "Cash and costs": "cash quota = 10 %; fee for management = 0.65 %; yearly turnover limit = 40 %; "
            "tracking error allowed = 4.5 %",
        },
    ),
    "client survey": (
        "Client survey of the house",
        2024,
        {
            "Who took part": "number of clients asked = 640 clients; number of answers = 312 answers; "
            "share of pension funds = 38 %; share of family offices = 21 %",
            "How satisfied they are": "overall mark = 4.3 of 5; share that would recommend us = 81 %; "
            "share that reads every report = 27 %; mark for the quarterly updates = 3.9 of 5",
            "What they want": "share that asks for shorter reports = 54 %; share that wants data as spreadsheets = "
            "46 %; share that wants more on small companies = 33 %; average time spent on a report = 9 minutes",
        },
    ),
}

_MEMO_WORDINGS = (
    "The {name} is {v}.",
    "As to the {name}, {v} applies.",
    "We put the {name} at {v}.",
    "{Name}: {v}.",
)
_SURVEY_WORDINGS = (
    "The {name} was {v}.",
    "As to the {name}, we found {v}.",
    "We put the {name} at {v}.",
    "{Name}: {v}.",
)


def memo(topic: str, format: Format, seed: int) -> Draft:
    """A memo of the house."""
    title, year, contents = MEMOS[topic]
    rng = random.Random(f"{topic}/{seed}")
    wordings = _SURVEY_WORDINGS if topic == "client survey" else _MEMO_WORDINGS
    sections = []
    for heading, text in contents.items():
        figures = [tuple(part.split(" = ")) for part in text.split("; ")]
        make = _memo_table if format == "xlsx" or rng.random() < 0.4 else _memo_prose
        sections.append(make(rng, heading, topic, Period(year), figures, wordings))
    return Draft(
        path=f"memos/{topic.replace(' ', '-')}-{year}.{format}",
        title=rng.choice(("House memo: {title}, {year}", "{title} {year}", "Memo {year}: {title}")).format(
            title=title, year=year
        ),
        byline=f"{HOUSE}, {rng.randint(3, 28)} January 2025",
        company=None,
        period=Period(year),
        format=format,
        sections=tuple(sections),
    )


def _memo_prose(
    rng: random.Random,
    heading: str,
    topic: str,
    period: Period,
    figures: list[tuple[str, ...]],
    wordings: tuple[str, ...],
) -> DraftSection:
    texts, mentions = [], []
    for name, value in figures:
        text = rng.choice(wordings).format(name=name, Name=capital(name), v=value)
        texts.append(text)
        mentions.append(Mention(HOUSE_SUBJECT, name, topic, period, value, context_of(value, text)))
    comments = rng.sample(COMMENTS["memo"], len(COMMENTS["memo"]))
    section = DraftSection(heading, (Paragraph(" ".join(texts)),), tuple(mentions))
    while section.words < LEAST_WORDS:
        texts.append(comments.pop())
        section = DraftSection(heading, (Paragraph(" ".join(texts)),), tuple(mentions))
    return section


def _memo_table(
    rng: random.Random,
    heading: str,
    topic: str,
    period: Period,
    figures: list[tuple[str, ...]],
    wordings: tuple[str, ...],
) -> DraftSection:
    rows = [("Item", str(period.year)), *((capital(name), value) for name, value in figures)]
    mentions = [Mention(HOUSE_SUBJECT, name, topic, period, value, value) for name, value in figures]
    lead = rng.choice(LEADS)
    blocks: list[Block] = [Paragraph(lead)] if lead else []
    return DraftSection(heading, (*blocks, Table(tuple(rows))), tuple(mentions))
