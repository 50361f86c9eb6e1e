"""What the documents report: the names of each metric, and the sentences that state it.

In a sentence `{v}` is the value and `{pv}` that of a year before; `{c}` and `{own}` the company; `{y}` and `{py}` the
period and the one before; `{at}` the end of the period; `{s}` a segment or region; `{market}` what its sector sells.
The words `{moved}`, `{widened}`, `{up}` and `{wider}` follow the direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "Kind", "Metric"]

Kind = Literal[
    "money", "per share", "price", "percent", "bps", "range", "people", "days", "hours", "count", "times",
    "market", "text",
]  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """What is measured.

    Attributes:
        key: its name, and the label of its row in a table.
        names: nouns for it; the first is the usual one.
        kind: how its numbers are written.
        stock: it holds at the end of a period, not over it.
        sentences: wordings, each with `{v}`; empty where it stands in tables only.
    """

    key: str
    names: tuple[str, ...]
    kind: Kind
    sentences: tuple[str, ...]
    stock: bool = False


def _metric(key: str, kind: Kind, names: str, *sentences: str, stock: bool = False) -> tuple[str, Metric]:
    return key, Metric(key, tuple(names.split(", ")), kind, sentences, stock)


METRICS = dict((
    # ---- results
    _metric(
        "revenue", "money", "revenue, sales revenue",
        "{c} took in {v} from its customers in {y}, after {pv} in {py}.",
        "Revenue {moved} to {v} in {y} from {pv} in {py}.",
        "Sales for {y} amounted to {v}.",
        "The top line of {c} stood at {v} for {y}.",
        "Customers paid {c} a total of {v} in {y}.",
        "In {y}, {own} revenue was {v}, while {py} had brought {pv}.",
    ),
    _metric(
        "revenue growth", "percent", "revenue growth, growth of sales",
        "Growth of sales for {y} worked out at {v}.",
        "Revenue grew by {v} in {y}.",
        "{own} sales were {v} above the level of {py}.",
        "The increase in revenue over {py} was {v}.",
    ),
    _metric(
        "operating income", "money", "operating income, operating profit, EBIT",
        "Operating income was {v}, compared with {pv} in {py}.",
        "Before interest and tax, {c} earned {v} in {y}.",
        "The operating profit for {y} came in at {v}.",
        "Operations left {c} with a profit of {v} in {y}.",
        "EBIT {moved} to {v} in {y}, from {pv} in {py}.",
    ),
    _metric(
        "net income", "money", "net income, net profit",
        "Net income amounted to {v} in {y}.",
        "After interest and tax, {v} remained for the owners in {y}.",
        "The bottom line of {c} showed {v} for {y}, against {pv} in {py}.",
        "{c} closed {y} with a net profit of {v}.",
    ),
    _metric(
        "earnings per share", "per share", "earnings per share, EPS",
        "Earnings per share were {v} in {y}.",
        "Each share earned {v} in {y}, after {pv} in {py}.",
        "On a per-share basis, {c} made {v}.",
        "Diluted earnings stood at {v} a share for {y}.",
    ),
    _metric(
        "tax rate", "percent", "tax rate, effective tax rate",
        "The tax rate was {v} in {y}.",
        "Taxes took {v} of the profit before tax in {y}.",
        "{c} handed over {v} of its profit as tax for {y}.",
        "The effective tax rate for {y} came to {v}.",
    ),
    # ---- margins
    _metric(
        "operating margin", "percent", "operating margin, EBIT margin",
        "The operating margin was {v} in {y}.",
        "{c} kept {v} of its sales as operating profit in {y}.",
        "Measured against sales, operating income made up {v}.",
        "The EBIT margin for {y} stood at {v}, after {pv} in {py}.",
    ),
    _metric(
        "gross margin", "percent", "gross margin",
        "The gross margin was {v}, after {pv} in {py}.",
        "Before overheads, {c} kept {v} of every sale in {y}.",
        "Gross profit made up {v} of revenue in {y}.",
        "At {v}, the gross margin for {y} was close to our estimate.",
    ),
    _metric(
        "gross margin change", "bps", "change in the gross margin",
        "The gross margin {widened} by {v} over the year.",
        "Compared with {py}, the gross margin is {v} {wider}.",
        "Pricing and mix moved the gross margin {up} by {v} against {py}.",
        "Year on year, the gross margin of {c} {widened} by {v}.",
    ),
    _metric(
        "return on capital employed", "percent", "return on capital employed, ROCE",
        "Return on capital employed was {v} in {y}.",
        "{c} earned {v} on its capital employed in {y}.",
        "Capital employed yielded {v} in {y}, against {pv} in {py}.",
        "ROCE for {y} stood at {v}.",
    ),
    # ---- spending
    _metric(
        "R&D spending", "money", "R&D spending, research spending",
        "Research and development took {v} in {y}.",
        "{c} spent {v} on R&D in {y}, against {pv} in {py}.",
        "New products cost {c} {v} in research during {y}.",
        "R&D spending for {y} was {v}.",
    ),
    _metric(
        "capital expenditure", "money", "capital expenditure, capex",
        "Capital expenditure was {v} in {y}.",
        "{c} invested {v} in plant and equipment in {y}, after {pv} in {py}.",
        "Buildings and machinery absorbed {v} in {y}.",
        "Capex for {y} added up to {v}.",
    ),
    # ---- balance sheet and cash
    _metric(
        "free cash flow", "money", "free cash flow",
        "Free cash flow was {v} in {y}.",
        "After investment, {v} of cash was left over in {y}.",
        "{c} generated free cash flow of {v}, against {pv} in {py}.",
        "The business threw off {v} in free cash during {y}.",
    ),
    _metric(
        "net debt", "money", "net debt, net financial debt",
        "Net debt stood at {v} {at}.",
        "{c} owed {v} net of cash {at}, after {pv} a year earlier.",
        "Borrowings less cash came to {v} {at}.",
        "{at}, net debt amounted to {v}.",
        stock=True,
    ),
    _metric(
        "equity ratio", "percent", "equity ratio",
        "The equity ratio was {v} {at}.",
        "Equity covered {v} of the balance sheet {at}.",
        "Shareholders financed {v} of total assets {at}.",
        "With an equity ratio of {v} {at}, {c} remains soundly financed.",
        stock=True,
    ),
    _metric(
        "inventory days", "days", "inventory reach in days, reach of inventories",
        "Stocks covered {v} of sales {at}.",
        "Inventories were worth {v} of sales {at}.",
        "{at}, goods in stock would have lasted {v}.",
        "The reach of inventories was {v} {at}, after {pv} a year earlier.",
        stock=True,
    ),
    _metric(
        "dividend", "per share", "dividend, dividend per share",
        "The board proposes a dividend of {v} a share for {y}.",
        "Shareholders are to receive {v} a share for {y}, after {pv} for {py}.",
        "For {y}, the proposed payout is {v} on each share.",
        "The dividend for {y} is set at {v} per share.",
    ),
    # ---- orders and market
    _metric(
        "order backlog", "money", "order backlog, order book",
        "The order backlog stood at {v} {at}.",
        "{c} had orders worth {v} on its books {at}.",
        "Unfilled orders added up to {v} {at}, against {pv} a year earlier.",
        "{at}, the order book was worth {v}.",
        stock=True,
    ),
    _metric(
        "book-to-bill ratio", "times", "book-to-bill ratio",
        "The book-to-bill ratio for {y} was {v}.",
        "New orders covered sales {v} times in {y}.",
        "Orders received were {v} times revenue in {y}.",
        "{c} ran at a book-to-bill ratio of {v} in {y}, after {pv} in {py}.",
    ),
    _metric(
        "market share", "percent", "market share",
        "{c} held {v} of the market for {market} in {y}.",
        "Its share of the market for {market} was {v} in {y}.",
        "In {y}, {v} of all sales of {market} went to {c}.",
        "We put the market share of {c} at {v} for {y}, after {pv} in {py}.",
    ),
    _metric(
        "largest customer", "percent", "share of sales with the largest customer",
        "The largest customer accounted for {v} of sales in {y}.",
        "In {y}, {v} of revenue came from a single customer.",
        "Dependence on one buyer remains: it stood for {v} of sales in {y}.",
        "The biggest account brought {v} of revenue in {y}, after {pv} in {py}.",
    ),
    # ---- people
    _metric(
        "headcount", "people", "headcount, size of the workforce",
        "{c} had a payroll of {v} {at}.",
        "The payroll counted {v} {at}, after {pv} a year earlier.",
        "{at}, {v} worked for {c}.",
        "The workforce numbered {v} {at}.",
        stock=True,
    ),
    _metric(
        "headcount in region", "people", "headcount, workforce",
        "Of these, {v} were based in {s}.",
        "In {s}, {v} were on the payroll {at}.",
        "The sites in {s} had {v}, after {pv} a year earlier.",
        "{c} counted {v} in {s}.",
        stock=True,
    ),
    _metric(
        "staff turnover", "percent", "staff turnover",
        "Staff turnover was {v} in {y}.",
        "In {y}, {v} of the staff left {c} of their own accord.",
        "The share of people who left was {v} in {y}, after {pv} in {py}.",
        "Fluctuation in the workforce ran at {v} in {y}.",
    ),
    _metric(
        "women in management", "percent", "share of women in management, share of women among managers",
        "Women held {v} of management posts {at}.",
        "The share of women among managers was {v} {at}.",
        "{at}, {v} of the managers were women.",
        "In management, women accounted for {v} {at}, after {pv} a year earlier.",
        stock=True,
    ),
    _metric(
        "training hours", "hours", "training per head, training time per head",
        "Everyone on the payroll received {v} of training in {y}, on average.",
        "Training averaged {v} a head in {y}.",
        "{c} trained its people for {v} on average in {y}.",
        "On average, {v} of instruction were given per head in {y}.",
    ),
    _metric(
        "sites", "count", "number of sites, number of locations",
        "{c} ran {v} {at}.",
        "Operations were spread over {v} {at}.",
        "The network comprised {v} {at}, after {pv} a year earlier.",
        "{at}, {v} belonged to the group.",
        stock=True,
    ),
    # ---- outlook; the period is the one that is looked forward to
    _metric(
        "guided growth", "range", "revenue growth expected, growth of sales expected",
        "Management expects revenue to grow by {v} in {y}.",
        "For {y}, the guidance is for sales growth of {v}.",
        "{c} guides to an increase in revenue of {v} in {y}.",
        "The forecast for {y} is growth of {v}.",
    ),
    _metric(
        "guided margin", "percent", "operating margin expected, EBIT margin aimed at",
        "The operating margin is to reach about {v} in {y}.",
        "For {y}, {c} aims at an operating margin of {v}.",
        "Management targets an EBIT margin of {v} in {y}.",
        "The margin goal for {y} is {v}.",
    ),
    _metric(
        "planned investment", "money", "investment planned, capital expenditure planned",
        "Capital expenditure of {v} is planned for {y}.",
        "{c} intends to invest {v} in {y}.",
        "The investment budget for {y} is {v}.",
        "For {y}, {v} has been set aside for plant and equipment.",
    ),
    _metric(
        "planned savings", "money", "savings planned, cost savings planned",
        "A cost programme is to save {v} in {y}.",
        "{c} wants to cut costs by {v} in {y}.",
        "Savings of {v} are planned for {y}.",
        "For {y}, management has promised to lower costs by {v}.",
    ),
    # ---- the house's opinion
    _metric(
        "target price", "price", "target price, price target",
        "Our target price is {v}.",
        "We set the target price at {v}.",
        "Twelve months ahead, we see the share at {v}.",
        "The target price of {v} rests on our cash flow model.",
    ),
    _metric(
        "share price", "price", "share price, closing price",
        "The share closed at {v} on the day before publication.",
        "The last close was {v}.",
        "Before this report, the share traded at {v}.",
        "At present the market pays {v} for a share.",
    ),
    _metric(
        "rating", "text", "rating, recommendation",
        "We rate the share {v}.",
        "Our rating is {v}.",
        "Our recommendation to clients is {v}.",
        "The share is rated {v} by this house.",
    ),
    _metric(
        "lead analyst", "text", "lead analyst",
        "The lead analyst is {v}.",
        "Lead analyst: {v}.",
        "Questions about this report go to {v}, the lead analyst.",
        "This coverage is led by {v}.",
    ),
    # ---- parts of a company
    _metric(
        "segment revenue", "money", "revenue, sales",
        "{s} brought in {v}.",
        "Revenue of {s} was {v}, after {pv} in {py}.",
        "The segment {s} sold for {v} in {y}.",
        "{s} contributed {v} to sales.",
    ),
    _metric(
        "region revenue", "money", "revenue, sales",
        "Customers in {s} bought for {v}.",
        "Sales in {s} were {v}, against {pv} in {py}.",
        "In {s}, revenue came to {v}.",
        "{s} contributed {v} to revenue in {y}.",
    ),
    _metric("segment revenue in region", "money", "revenue, sales"),
    # ---- sectors
    _metric(
        "market size", "market", "market size, size of the market",
        "The market for {market} was worth {v} in {y}, after {pv} in {py}.",
        "We put the size of the market for {market} at {v} for {y}.",
        "Sales of {market} added up to {v} worldwide in {y}.",
        "In {y}, buyers spent {v} on {market}.",
    ),
    _metric(
        "market growth", "percent", "market growth, growth of the market",
        "The market grew by {v} in {y}.",
        "Growth over {py} was {v}.",
        "That was {v} more than in {py}.",
        "Market growth for {y} came to {v}.",
    ),
    _metric(
        "expected market growth", "percent", "market growth expected, growth of the market expected",
        "For {y}, we expect the market to grow by {v}.",
        "Our forecast for {y} is market growth of {v}.",
        "We see demand rising by {v} in {y}.",
        "In {y}, the market should gain {v}.",
    ),
    _metric(
        "regional market share", "percent", "share of the world market",
        "{s} accounted for {v} of demand.",
        "In {s}, {v} of the market was sold.",
        "{s} stood for {v}, after {pv} in {py}.",
        "The share of {s} was {v}.",
    ),
    _metric(
        "capacity utilisation", "percent", "capacity utilisation",
        "Capacity utilisation was {v} in {y}.",
        "The sector used {v} of its capacity in {y}.",
        "Plants and depots were filled to {v}, after {pv} in {py}.",
        "On average, {v} of capacity was in use.",
    ),
    _metric(
        "selling prices", "percent", "rise in selling prices",
        "Selling prices rose by {v} in {y}.",
        "Customers had to pay {v} more than in {py}.",
        "List prices went up by {v}.",
        "The average price increase for {y} was {v}.",
    ),
    _metric(
        "input costs", "percent", "rise in input costs",
        "Input costs rose by {v} in {y}.",
        "Materials and energy became {v} dearer.",
        "Suppliers charged {v} more than in {py}.",
        "The cost of inputs went up by {v} in {y}.",
    ),
    _metric(
        "export share", "percent", "export share",
        "Exports made up {v} of sales.",
        "The export share was {v} in {y}.",
        "In {y}, {v} of sales crossed a border.",
        "Of total sales, {v} went abroad, after {pv} in {py}.",
    ),
    _metric(
        "investment ratio", "percent", "investment ratio, ratio of investment to sales",
        "The sector invested {v} of its sales in {y}.",
        "Investment came to {v} of sales.",
        "The investment ratio was {v} in {y}, after {pv} in {py}.",
        "Companies put {v} of sales into plant and equipment.",
    ),
    _metric(
        "number of companies", "count", "number of companies",
        "We count {v} in the sector.",
        "The field consisted of {v} {at}.",
        "{at}, {v} were active in it.",
        "There were {v} {at}, after {pv} a year earlier.",
        stock=True,
    ),
    _metric(
        "sector employment", "people", "employment, number of jobs",
        "The sector gave work to {v} {at}.",
        "Employment stood at {v} {at}.",
        "{at}, {v} earned their living in it.",
        "Its payrolls listed {v}, after {pv} a year earlier.",
        stock=True,
    ),
    _metric(
        "house view", "text", "view of the sector, stance on the sector",
        "Our view of the sector is {v}.",
        "We stay {v} on the sector.",
        "The sector is {v} in our allocation.",
        "Our stance for the months ahead is {v}.",
    ),
))  # fmt: skip
