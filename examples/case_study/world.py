"""The world beneath the case study: companies and sectors that don't exist, and one number for each figure.

A figure is a function of subject, metric, scope and period alone, so no two documents contradict each other. Sums and
ratios hold: revenue is the sum of its segments, regions and quarters, and a margin is the quotient of two figures
that are reported too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from metrics import METRICS, Metric

__all__ = [
    "COMPANIES",
    "EXECUTIVE_COMPANIES",
    "SECTORS",
    "Company",
    "Figure",
    "Period",
    "Sector",
    "bare",
    "number",
    "unit_label",
    "written",
]


@dataclass(frozen=True, order=True)
class Period:
    """A year, which is also the fiscal year, or a quarter of it."""

    year: int
    quarter: int | None = None

    def __str__(self) -> str:
        return f"Q{self.quarter} {self.year}" if self.quarter else f"FY{self.year}"

    @property
    def before(self) -> Period:
        """The same period of the year before."""
        return Period(self.year - 1, self.quarter)


@dataclass(frozen=True)
class Money:
    """How a company's amounts are written; without `billion`, large ones stay in millions."""

    sign: str
    million: str
    billion: str | None = None


@dataclass(frozen=True)
class Company:
    name: str
    ticker: str
    sector: str
    segments: tuple[str, ...]
    regions: tuple[str, ...]
    money: Money
    percent: str  # behind the number
    staff: str  # what its people are called
    first_year: int = 2021  # of the annual analyses

    @property
    def short(self) -> str:
        return self.name.split()[0]


@dataclass(frozen=True)
class Sector:
    name: str
    market: str  # what is sold
    sites: str  # where the work is done


@dataclass(frozen=True)
class Figure:
    """What one number in a document is about.

    Attributes:
        subject: name of a company or a sector.
        metric: its key in METRICS.
        period: that it is reported for.
        scope: a segment, a region, or "segment / region"; None for the whole.
    """

    subject: str
    metric: str
    period: Period
    scope: str | None = None

    @property
    def before(self) -> Figure:
        """The same figure a year earlier."""
        return Figure(self.subject, self.metric, self.period.before, self.scope)

    @property
    def of(self) -> Metric:
        """What is measured."""
        return METRICS[self.metric]


_DOLLARS = Money("$", " million")
_DOLLARS_LARGE = Money("$", " million", " billion")
_US_DOLLARS = Money("US$", " million")
_DOLLARS_SHORT = Money("$", "m", "bn")
_EUROS = Money("€", " million")
_EUROS_LARGE = Money("€", " million", " billion")
_EUR = Money("EUR ", " million")

_WEST = ("Europe", "North America", "Asia-Pacific")
_SOUTH = ("Europe", "Latin America", "Africa")
_WORLD = ("Europe", "North America", "Latin America", "Asia-Pacific")

SECTORS = {
    sector.name: sector
    for sector in (
        Sector("industrial automation", "factory automation", "plants"),
        Sector("medical technology", "medical devices", "plants"),
        Sector("food and beverages", "packaged food and drinks", "factories"),
        Sector("renewable energy", "renewable power equipment", "sites"),
        Sector("logistics", "freight and parcel services", "depots"),
        Sector("consumer goods", "goods for home and leisure", "sites"),  # of the executive's requests only
    )
}

_AUTOMATION, _MEDICAL, _FOOD, _ENERGY, _LOGISTICS, _CONSUMER = SECTORS

COMPANIES = {
    company.name: company
    for company in (
        Company("Veltrane Robotics", "VLTR", _AUTOMATION, ("Robots", "Drives", "Service"), _WORLD,
                _DOLLARS, " %", "employees"),
        Company("Korvex Automation", "KRVX", _AUTOMATION, ("Sensors", "Control Systems", "Software"), _WEST,
                _DOLLARS_LARGE, "%", "people"),
        Company("Stellhagen Motion", "STHM", _AUTOMATION, ("Linear Motion", "Grippers", "Retrofit"), _WEST,
                _EUROS, " %", "employees"),
        Company("Brunnwick Controls", "BRWK", _AUTOMATION, ("Switchgear", "Controllers", "Safety Systems"), _SOUTH,
                _US_DOLLARS, " percent", "staff", 2022),
        Company("Ostravel Medical", "OSTM", _MEDICAL, ("Scanners", "Monitoring", "Consumables"), _WORLD,
                _DOLLARS_LARGE, "%", "employees"),
        Company("Lumivara Diagnostics", "LMVD", _MEDICAL, ("Analysers", "Reagents", "Laboratory Services"), _WEST,
                _DOLLARS_SHORT, "%", "people"),
        Company("Pelhurst Implants", "PLHI", _MEDICAL, ("Hips and Knees", "Dental", "Surgical Tools"), _WEST,
                _DOLLARS, " %", "employees", 2022),
        Company("Nordhaven Imaging", "NDHV", _MEDICAL, ("Ultrasound", "X-Ray", "Image Software"), _SOUTH,
                _EUR, " %", "staff"),
        Company("Tarrowby Foods", "TRWB", _FOOD, ("Frozen Meals", "Sauces", "Bakery"), _WEST,
                _DOLLARS, "%", "employees"),
        Company("Quillmere Beverages", "QLMB", _FOOD, ("Juices", "Mineral Water", "Tea and Coffee"), _WORLD,
                _US_DOLLARS, " percent", "people"),
        Company("Casterline Dairy", "CSTD", _FOOD, ("Cheese", "Yoghurt", "Milk Powder"), _SOUTH,
                _EUROS_LARGE, " %", "employees", 2022),
        Company("Hollinfeld Snacks", "HLFD", _FOOD, ("Crisps", "Nuts", "Chocolate"), _WEST,
                _DOLLARS_SHORT, "%", "staff"),
        Company("Sunvarra Solar", "SNVR", _ENERGY, ("Modules", "Inverters", "Solar Parks"), _WORLD,
                _DOLLARS, " %", "employees"),
        Company("Zephyrine Wind", "ZPHW", _ENERGY, ("Onshore Turbines", "Offshore Turbines", "Maintenance"), _WEST,
                _EUROS, " percent", "people"),
        Company("Aquadane Hydro", "AQDH", _ENERGY, ("Turbines", "Pumps", "Modernisation"), _SOUTH,
                _EUR, "%", "staff", 2022),
        Company("Gridmark Storage", "GRDM", _ENERGY, ("Batteries", "Converters", "Energy Software"), _WEST,
                _DOLLARS_LARGE, " %", "employees", 2022),
        Company("Roveline Freight", "RVLN", _LOGISTICS, ("Road", "Rail", "Customs Services"), _WEST,
                _DOLLARS, "%", "people"),
        Company("Portanelle Shipping", "PRTN", _LOGISTICS, ("Containers", "Bulk", "Terminals"), _WORLD,
                _EUROS_LARGE, " %", "staff", 2022),
        Company("Swiftmarrow Parcel", "SWFM", _LOGISTICS, ("Domestic Parcels", "Express", "Returns"), _SOUTH,
                _DOLLARS_SHORT, " percent", "employees", 2022),
        Company("Depotrix Warehousing", "DPTX", _LOGISTICS, ("Storage", "Picking", "Cold Chain"), _WEST,
                _US_DOLLARS, "%", "people", 2022),
    )
}  # fmt: skip

EXECUTIVE_COMPANIES = {
    company.name: company
    for company in (
        Company(name, ticker, _CONSUMER, tuple(segments.split(", ")), _WEST, money, percent, staff)
        for name, ticker, segments, money, percent, staff in (
            ("Ambrelle Textiles", "AMBT", "Curtains, Carpets, Linen", _DOLLARS, " %", "employees"),
            ("Fenwarden Glass", "FNWG", "Bottles, Windows, Mirrors", _DOLLARS, "%", "employees"),
            ("Corvaline Toys", "CRVT", "Puzzles, Dolls, Board Games", _EUROS, " %", "people"),
            ("Brightmoor Cycles", "BRMC", "City Bikes, Electric Bikes, Helmets", _DOLLARS, "%", "employees"),
            ("Silvanter Furniture", "SLVF", "Sofas, Kitchens, Offices", _EUROS, " percent", "staff"),
            ("Marlowick Shoes", "MRLS", "Sports, Leather, Children", _DOLLARS, "%", "employees"),
            ("Teasdown Gardens", "TSDG", "Plants, Mowers, Sheds", _DOLLARS, " %", "people"),
            ("Ophirel Watches", "OPHW", "Classic, Diving, Repairs", _EUROS, " %", "employees"),
            ("Penbarrow Books", "PNBB", "Novels, Schoolbooks, Audio", _DOLLARS, "%", "staff"),
            ("Larchwell Tents", "LRCT", "Tents, Rucksacks, Stoves", _DOLLARS, " percent", "employees"),
            ("Vinterholm Skis", "VNTS", "Alpine, Nordic, Boots", _EUROS, " %", "employees"),
            ("Cobbleford Pans", "CBFP", "Pans, Knives, Ovens", _DOLLARS, "%", "people"),
            ("Rosenmarsh Cosmetics", "RSMC", "Skin Care, Perfume, Hair", _DOLLARS, " %", "employees"),
            ("Dellacourt Lamps", "DLCL", "Table Lamps, Ceilings, Bulbs", _EUROS, "%", "staff"),
            ("Harrowden Pianos", "HRWP", "Pianos, Keyboards, Lessons", _DOLLARS, " percent", "people"),
            ("Wexmoor Pets", "WXMP", "Food, Toys, Clinics", _DOLLARS, "%", "employees"),
            ("Tillerby Boats", "TLRB", "Sailing, Motor, Moorings", _EUROS, " %", "employees"),
            ("Osmington Paints", "OSMP", "Wall Paint, Varnish, Brushes", _DOLLARS, "%", "staff"),
            ("Greyfold Luggage", "GRFL", "Suitcases, Bags, Repairs", _DOLLARS, " %", "employees"),
            ("Kelvandra Fitness", "KLVF", "Studios, Machines, Courses", _EUROS, "%", "people"),
        )
    )
}

ANALYSTS = (
    "Imogen Hartwell",
    "Rasmus Tveit",
    "Priya Nandal",
    "Owen Castellan",
    "Mireille Aubry",
    "Tobias Lindgrave",
)


# ---- numbers


@cache
def number(figure: Figure) -> int | float | str:
    """The figure's number: millions, percent, people, and so on; a word for ratings and names."""
    return _NUMBERS[figure.metric](figure)


def _draw(low: float, high: float, *names: object) -> float:
    return random.Random("/".join(map(str, names))).uniform(low, high)


@cache
def _level(company: str, year: int) -> float:
    """About the revenue of a year, in millions."""
    level = math.exp(_draw(math.log(400), math.log(4200), company, "level"))
    for past in range(2020, year):
        level *= _draw(0.96, 1.14, company, "growth", past)
    return level


def _shares(company: str, kind: str, names: tuple[str, ...]) -> dict[str, float]:
    weights = {name: _draw(0.5, 1.5, company, kind, name) for name in names}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


@cache
def _revenue_cells(company: str, year: int) -> dict[tuple[str, str, int], int]:
    """Revenue by segment, region and quarter: what every other revenue is the sum of."""
    about = _company(company)
    segments = _shares(company, "segment", about.segments)
    regions = _shares(company, "region", about.regions)
    return {
        (segment, region, quarter): max(
            1,
            round(
                _level(company, year)
                * segments[segment]
                * regions[region]
                / 4
                * _draw(0.88, 1.12, company, "season", quarter)
                * _draw(0.92, 1.08, company, segment, region, year, quarter)
            ),
        )
        for segment in about.segments
        for region in about.regions
        for quarter in (1, 2, 3, 4)
    }


@cache
def _revenue(company: str, period: Period, scope: str | None = None) -> int:
    wanted = set(scope.split(" / ")) if scope else set()
    return sum(
        value
        for (segment, region, quarter), value in _revenue_cells(company, period.year).items()
        if period.quarter in (None, quarter) and wanted <= {segment, region}
    )


def _flow(name: str, low: float, high: float) -> Callable[[Figure], int]:
    """A share of revenue that varies by company, year and quarter; a year is the sum of its quarters."""

    def value(figure: Figure) -> int:
        company, period = figure.subject, figure.period
        quarters = (period.quarter,) if period.quarter else (1, 2, 3, 4)
        share = _draw(low, high, company, name) * _draw(0.9, 1.1, company, name, period.year)
        return sum(
            max(1, round(share * _draw(0.94, 1.06, company, name, period.year, quarter) * revenue))
            for quarter in quarters
            for revenue in (_revenue(company, Period(period.year, quarter)),)
        )

    return value


def _walk(name: str, low: float, high: float, step: float, digits: int) -> Callable[[Figure], float]:
    """A level of the subject's own, moved a little each year, and less within it."""

    def value(figure: Figure) -> float:
        subject, period, scope = figure.subject, figure.period, figure.scope
        level = _draw(low, high, subject, name, scope) + _draw(-step, step, subject, name, scope, period.year)
        if period.quarter:
            level += _draw(-step / 3, step / 3, subject, name, scope, period)
        return round(level, digits) if digits else round(level)

    return value


def _stock(at_year_end: Callable[[str, int], int]) -> Callable[[Figure], int]:
    """What stands on the books at the end of a period; within a year it moves evenly."""

    def value(figure: Figure) -> int:
        year, quarter = figure.period.year, figure.period.quarter or 4
        start, end = at_year_end(figure.subject, year - 1), at_year_end(figure.subject, year)
        return round(start + (end - start) * quarter / 4)

    return value


def _headcount_in(company: str, region: str, year: int) -> int:
    share = _shares(company, "people", _company(company).regions)[region]
    per_million = _draw(2.2, 4.4, company, "people per million")
    return round(
        _level(company, year) * per_million * share * _draw(0.97, 1.03, company, region, "staff", year)
    )


def _headcount(company: str, year: int) -> int:
    return sum(_headcount_in(company, region, year) for region in _company(company).regions)


def _staff(figure: Figure) -> int:
    if figure.scope:
        return _headcount_in(figure.subject, figure.scope, figure.period.year)
    return _stock(_headcount)(figure)


def _books(name: str, low: float, high: float) -> Callable[[str, int], int]:
    def value(company: str, year: int) -> int:
        share = _draw(low, high, company, name) * _draw(0.92, 1.08, company, name, year)
        return round(_level(company, year) * share)

    return value


_operating_income = _flow("operating income", 0.07, 0.17)
_gross_margin = _walk("gross margin", 31, 58, 1.2, 1)
_tax_rate = _walk("tax", 20, 29, 1.2, 1)


def _net_income(figure: Figure) -> int:
    company, period = figure.subject, figure.period
    kept = 1 - _tax_rate(Figure(company, "tax rate", Period(period.year))) / 100
    interest = _draw(0.86, 0.95, company, "interest")
    quarters = (period.quarter,) if period.quarter else (1, 2, 3, 4)
    incomes = (
        _operating_income(Figure(company, "operating income", Period(period.year, quarter)))
        for quarter in quarters
    )
    return sum(max(1, round(kept * interest * income)) for income in incomes)


def _operating_margin(figure: Figure) -> float:
    return round(100 * _operating_income(figure) / _revenue(figure.subject, figure.period), 1)


def _growth(figure: Figure) -> float:
    now, before = (_revenue(figure.subject, period) for period in (figure.period, figure.period.before))
    return round(100 * (now / before - 1), 1)


def _gross_margin_change(figure: Figure) -> int:
    return round(100 * (_gross_margin(figure) - _gross_margin(figure.before)))


def _per_share(figure: Figure) -> float:
    shares = max(4, round(_level(figure.subject, 2020) * 0.05 / _draw(1.4, 5.5, figure.subject, "shares")))
    return round(_net_income(figure) / shares, 2)


def _dividend(figure: Figure) -> float:
    return round(_per_share(figure) * _draw(0.3, 0.5, figure.subject, "payout"), 2)


def _share_price(figure: Figure) -> int:
    return max(8, round(_per_share(figure) * _draw(13, 22, figure.subject, "multiple", figure.period)))


def _target_price(figure: Figure) -> int:
    return round(_share_price(figure) * (1 + _draw(-0.14, 0.30, figure.subject, "upside", figure.period)))


def _rating(figure: Figure) -> str:
    upside = _target_price(figure) / _share_price(figure) - 1
    return "Buy" if upside > 0.12 else "Sell" if upside < -0.05 else "Hold"


def _analyst(figure: Figure) -> str:
    return random.Random(f"{figure.subject}/{figure.period}/analyst").choice(ANALYSTS)


def _guided_growth(figure: Figure) -> str:
    low = int(_draw(1, 7, figure.subject, "guidance", figure.period))
    return f"{low} to {low + 2}"


def _guided_margin(figure: Figure) -> float:
    return round(_operating_margin(figure.before) + _draw(0.2, 0.9, figure.subject, "goal", figure.period), 1)


def _planned(name: str, low: float, high: float) -> Callable[[Figure], int]:
    def value(figure: Figure) -> int:
        revenue = _revenue(figure.subject, figure.before.period)
        return max(2, round(revenue * _draw(low, high, figure.subject, name, figure.period)))

    return value


def _market_size(figure: Figure) -> float:
    size = _draw(30, 140, figure.subject, "market")
    for past in range(2020, figure.period.year):
        size *= _draw(1.02, 1.09, figure.subject, "market", past)
    return round(size, 1)


def _market_growth(figure: Figure) -> float:
    return round(100 * (_market_size(figure) / _market_size(figure.before) - 1), 1)


def _sector_staff(figure: Figure) -> int:
    return 100 * round(_market_size(figure) * _draw(30, 60, figure.subject, "staff"))


def _view(figure: Figure) -> str:
    return random.Random(f"{figure.subject}/{figure.period}/view").choice(
        ("Overweight", "Neutral", "Underweight")
    )


_NUMBERS: dict[str, Callable[[Figure], int | float | str]] = {
    "revenue": lambda figure: _revenue(figure.subject, figure.period),
    "segment revenue": lambda figure: _revenue(figure.subject, figure.period, figure.scope),
    "region revenue": lambda figure: _revenue(figure.subject, figure.period, figure.scope),
    "segment revenue in region": lambda figure: _revenue(figure.subject, figure.period, figure.scope),
    "revenue growth": _growth,
    "operating income": _operating_income,
    "operating margin": _operating_margin,
    "net income": _net_income,
    "earnings per share": _per_share,
    "gross margin": _gross_margin,
    "gross margin change": _gross_margin_change,
    "R&D spending": _flow("R&D", 0.02, 0.08),
    "capital expenditure": _flow("capex", 0.03, 0.08),
    "free cash flow": _flow("free cash flow", 0.03, 0.09),
    "net debt": _stock(_books("net debt", 0.2, 0.9)),
    "equity ratio": _walk("equity ratio", 28, 60, 2.5, 1),
    "dividend": _dividend,
    "order backlog": _stock(_books("backlog", 0.35, 1.2)),
    "book-to-bill ratio": _walk("book-to-bill", 0.96, 1.16, 0.06, 2),
    "headcount": _staff,
    "headcount in region": _staff,
    "staff turnover": _walk("turnover", 5, 14, 1.5, 1),
    "women in management": _walk("women", 18, 42, 1.6, 1),
    "training hours": _walk("training", 12, 40, 5, 0),
    "sites": _walk("sites", 8, 46, 2, 0),
    "largest customer": _walk("largest customer", 6, 21, 1.4, 1),
    "inventory days": _walk("inventory", 38, 96, 6, 0),
    "tax rate": _tax_rate,
    "return on capital employed": _walk("roce", 8, 19, 1.4, 1),
    "market share": _walk("market share", 4, 20, 0.9, 1),
    "guided growth": _guided_growth,
    "guided margin": _guided_margin,
    "planned investment": _planned("planned", 0.03, 0.09),
    "planned savings": _planned("savings", 0.008, 0.02),
    "target price": _target_price,
    "share price": _share_price,
    "rating": _rating,
    "lead analyst": _analyst,
    "market size": _market_size,
    "market growth": _market_growth,
    "expected market growth": _walk("expected market growth", 2, 8, 0.8, 1),
    "capacity utilisation": _walk("utilisation", 71, 90, 3, 1),
    "selling prices": _walk("selling prices", 1.5, 4.5, 1, 1),
    "input costs": _walk("input costs", 2, 6.5, 1.2, 1),
    "export share": _walk("exports", 30, 62, 2, 1),
    "investment ratio": _walk("investment ratio", 3.5, 8.5, 0.7, 1),
    "number of companies": _walk("number of companies", 140, 620, 12, 0),
    "sector employment": _sector_staff,
    "regional market share": _walk("regional market share", 14, 23, 1.2, 1),
    "house view": _view,
}


# ---- how a number is written


def written(figure: Figure) -> str:
    """The value as sentences and answers have it, the same in every document: "$1,536 million"."""
    kind, value = figure.of.kind, bare(figure)
    if kind == "money":
        money, large = _money(figure)
        return f"{money.sign}{value}{money.billion if large else money.million}"
    if kind in ("per share", "price"):
        return f"{_company(figure.subject).money.sign}{value}"
    if kind == "market":
        return f"${value} billion"
    return f"{value}{_ending(figure)}"


def bare(figure: Figure) -> str:
    """The value without its unit, as a cell of a table has it beside a label with the unit."""
    value, kind = number(figure), figure.of.kind
    if isinstance(value, str):
        return value
    if kind == "money":
        return f"{value / 1000:.2f}" if _money(figure)[1] else f"{value:,}"
    if kind in ("people", "count", "days", "hours", "price"):
        return f"{value:,}"
    if kind == "bps":
        return f"{abs(value)}"
    return f"{value:.2f}" if kind in ("per share", "times") else f"{value:.1f}"


def unit_label(figure: Figure) -> str:
    """The unit as a table's label has it: "$ million", "%"; empty where there is none."""
    kind = figure.of.kind
    if kind == "money":
        money, large = _money(figure)
        unit = (money.billion or "") if large else money.million
        return f"{money.sign.strip()} {unit.strip()}"
    if kind in ("per share", "price"):
        return _company(figure.subject).money.sign.strip()
    return "$ billion" if kind == "market" else _ending(figure).strip()


def _ending(figure: Figure) -> str:
    kind = figure.of.kind
    if kind in ("percent", "range"):
        return _company(figure.subject).percent if figure.subject not in SECTORS else " %"
    if kind == "people":
        return f" {_company(figure.subject).staff}" if figure.subject not in SECTORS else " people"
    if kind == "count":
        if figure.metric == "number of companies":
            return " companies"
        return f" {SECTORS[_company(figure.subject).sector].sites}"
    return {"days": " days", "hours": " hours", "bps": " bps"}.get(kind, "")


@cache
def _money(figure: Figure) -> tuple[Money, bool]:
    """The company's way to write money, and whether this figure is in billions: so in every year, or in none."""
    money = _company(figure.subject).money
    years = [Figure(figure.subject, figure.metric, Period(year), figure.scope) for year in range(2020, 2026)]
    whole = figure.period.quarter is None and figure.scope is None
    return money, bool(money.billion) and whole and all(int(number(year)) >= 1000 for year in years)


def _company(name: str) -> Company:
    return COMPANIES.get(name) or EXECUTIVE_COMPANIES[name]
