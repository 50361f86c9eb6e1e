"""How questions about figures are asked: straight, and the roundabout way in which people speak.

In a wording `{c}` and `{own}` are the company (its name, short name or ticker); `{m}` a name of the metric; `{p}` the
period ("FY23"), `{in_p}` and `{for_p}` with their prepositions, `{at_p}` its end; `{report}` the analysis of the
period; `{s}` and `{s2}` segment and region; `{market}` what the sector sells.
"""

from __future__ import annotations

__all__ = ["GENERAL", "MEMO", "SPECIFIC", "WITHOUT_GENERAL"]

# For every metric of a company or sector that has a number for a period.
GENERAL: tuple[str, ...] = (
    "What was {own} {m} {in_p}?",
    "What {m} did {c} report {for_p}?",
    "State {own} {m} {for_p}.",
    "Please give me the {m} of {c} {for_p}.",
    "{c}: what was the {m} {in_p}?",
    "I'm looking for {own} {m} {in_p}.",
    "Which figure does our research give for the {m} of {c} {in_p}?",
    "A client asks for the {p} {m} of {c}. What is it?",
    "Can you tell me the {m} of {c} {in_p}?",
    "Look up the {p} {m} of {c}, please.",
)

_REPORTED = (
    "What is {own} {m}, according to {report}?",
    "{report_cap}: which {m} does it give for {c}?",
    "Which {m} did we publish for {c} in {report}?",
    "State the {m} of {c} from {report}.",
)

SPECIFIC: dict[str, tuple[str, ...]] = {
    "revenue": (
        "How much did {c} take in from its customers {in_p}?",
        "How large was {own} top line {in_p}?",
        "What did {c} sell in total {in_p}?",
        "How much money did customers pay {c} {in_p}?",
    ),
    "revenue growth": (
        "By how much did {own} sales rise {in_p} compared with the year before?",
        "How fast did {c} grow {in_p}?",
        "By what percentage was {own} {p} revenue above that of the previous year?",
    ),
    "operating income": (
        "What did {c} earn before interest and tax {in_p}?",
        "How much profit did operations leave {c} {in_p}?",
        "What was left of {own} sales after all operating costs {in_p}?",
    ),
    "net income": (
        "What did {c} earn after interest and tax {in_p}?",
        "How much was {own} bottom line {for_p}?",
        "How much profit remained for the owners of {c} {in_p}?",
    ),
    "earnings per share": (
        "How much did one share of {c} earn {in_p}?",
        "What did {c} make on a per-share basis {in_p}?",
        "How high were the diluted earnings of {c} per share {in_p}?",
    ),
    "tax rate": (
        "What share of its profit did {c} pay as tax {in_p}?",
        "How heavily was the profit of {c} taxed {in_p}?",
        "What part of {own} profit before tax went to the tax office {in_p}?",
    ),
    "operating margin": (
        "How much of each sale did {c} keep as operating profit {in_p}?",
        "What percentage of sales was {own} operating income {in_p}?",
        "Measured against sales, how large was {own} EBIT {in_p}?",
    ),
    "gross margin": (
        "What part of every sale did {c} keep before overheads {in_p}?",
        "What share of revenue was {own} gross profit {in_p}?",
        "How profitable was {c} {in_p} before overheads, in percent of sales?",
    ),
    "gross margin change": (
        "By how many basis points did {own} gross margin move {in_p}?",
        "How far did the gross margin of {c} shift {in_p} against the year before?",
        "How many bps lie between {own} {p} gross margin and the one of the previous year?",
    ),
    "return on capital employed": (
        "What did {c} earn on its capital employed {in_p}?",
        "How well did the capital employed at {c} pay off {in_p}?",
        "What yield did {c} get on capital employed {in_p}?",
    ),
    "R&D spending": (
        "How much did {c} spend on research and development {in_p}?",
        "What did new products cost {c} in research {in_p}?",
        "How expensive were the laboratories of {c} {in_p}?",
    ),
    "capital expenditure": (
        "How much did {c} invest in plant and equipment {in_p}?",
        "What did {c} put into buildings and machinery {in_p}?",
        "How much money went into {own} plants {in_p}?",
    ),
    "free cash flow": (
        "How much cash was left to {c} after investment {in_p}?",
        "How much free cash did {c} generate {in_p}?",
        "What did the business of {c} throw off in cash {in_p}, once investment was paid?",
    ),
    "net debt": (
        "How much did {c} owe net of cash {at_p}?",
        "What were {own} borrowings less cash {at_p}?",
        "How deep was {c} in debt {at_p}, with cash deducted?",
    ),
    "equity ratio": (
        "How much of {own} balance sheet was covered by equity {at_p}?",
        "What share of the total assets of {c} did shareholders finance {at_p}?",
        "How solid was {own} balance sheet {at_p}, in terms of equity?",
    ),
    "inventory days": (
        "For how many days of sales would {own} stocks have lasted {at_p}?",
        "How long would the goods in stock at {c} have lasted {at_p}?",
        "What was the reach of {own} inventories {at_p}?",
    ),
    "dividend": (
        "What payout per share does the board of {c} propose {for_p}?",
        "How much are shareholders of {c} to receive for each share {for_p}?",
        "What do I get for one share of {c} as a dividend {for_p}?",
    ),
    "order backlog": (
        "What were the unfilled orders of {c} worth {at_p}?",
        "How full was {own} order book {at_p}?",
        "For how much money did {c} have orders on its books {at_p}?",
    ),
    "book-to-bill ratio": (
        "How many times did new orders cover sales at {c} {in_p}?",
        "How did {own} orders received compare with its revenue {in_p}, as a ratio?",
        "What was the ratio of orders to sales at {c} {in_p}?",
    ),
    "market share": (
        "How much of the market for {market} did {c} hold {in_p}?",
        "What percentage of {market} came from {c} {in_p}?",
        "How strong was {own} position in the market for {market} {in_p}, in percent?",
    ),
    "largest customer": (
        "How much of {own} sales came from its largest customer {in_p}?",
        "How dependent was {c} on one buyer {in_p}?",
        "What share of revenue did the biggest account bring {c} {in_p}?",
    ),
    "headcount": (
        "How many people worked for {c} {at_p}?",
        "How large was {own} workforce {at_p}?",
        "How many names were on the payroll of {c} {at_p}?",
    ),
    "headcount in region": (
        "How many people did {c} employ in {s} {at_p}?",
        "How many were on the payroll of {c} in {s} {at_p}?",
        "What was {own} headcount in {s} {at_p}?",
        "How large was the workforce of {c} in {s} {at_p}?",
        "State {own} headcount in {s} {for_p}.",
        "{c}, {s}: how many people {at_p}?",
        "How many of the people at {c} were based in {s} {at_p}?",
        "I need to know how many people {c} had in {s} {at_p}.",
    ),
    "staff turnover": (
        "What share of the staff left {c} {in_p}?",
        "How many percent of its people walked away from {c} {in_p}?",
        "How strong was the fluctuation in {own} workforce {in_p}?",
    ),
    "women in management": (
        "How many percent of the managers of {c} were women {at_p}?",
        "What part of its management posts did {c} give to women, as of {p}?",
        "How well were women represented in {own} management {at_p}?",
    ),
    "training hours": (
        "For how long did {c} train each of its people {in_p}, on average?",
        "How much training did a member of {own} staff receive {in_p}?",
        "How many hours of instruction were given per head at {c} {in_p}?",
    ),
    "sites": (
        "How many locations did {c} run {at_p}?",
        "Over how many locations were the operations of {c} spread {at_p}?",
        "How large was the network of {c} {at_p}?",
    ),
    "guided growth": (
        "By how much does the management of {c} expect revenue to grow {in_p}?",
        "What is {own} guidance for growth of sales {in_p}?",
        "What increase in revenue does {c} forecast {for_p}?",
        "Which revenue growth does {c} guide to {for_p}?",
        "How fast does {c} want to grow {in_p}, according to its guidance?",
        "What does the board of {c} promise for revenue growth {in_p}?",
        "State {own} forecast of revenue growth {for_p}.",
        "{c}: what growth does the guidance {for_p} foresee?",
    ),
    "guided margin": (
        "Which operating margin does {c} aim at {for_p}?",
        "What is {own} margin goal {for_p}?",
        "What EBIT margin does the management of {c} target {for_p}?",
        "To what level is {own} operating margin to rise {in_p}, according to management?",
        "State the operating margin that {c} has set as its goal {for_p}.",
        "How profitable does {c} want to be {in_p}, measured by operating margin?",
        "{c}: which margin does the plan {for_p} foresee?",
        "What margin has {c} promised {for_p}?",
    ),
    "planned investment": (
        "How much does {c} plan to invest {in_p}?",
        "What is {own} investment budget {for_p}?",
        "How much has {c} set aside for plant and equipment {for_p}?",
        "Which capital expenditure has {c} planned {for_p}?",
        "What does {c} intend to spend on plants {in_p}?",
        "State {own} planned capital expenditure {for_p}.",
        "{c}: how large is the capex budget {for_p}?",
        "How much investment has the board of {c} announced {for_p}?",
    ),
    "planned savings": (
        "How much does {c} want to save {in_p}?",
        "By how much is the cost programme of {c} to lower costs {in_p}?",
        "What savings has {c} planned {for_p}?",
        "What cost cuts has the management of {c} promised {for_p}?",
        "State the savings that {c} plans {for_p}.",
        "{c}: what is the cost programme to bring {in_p}?",
        "How large are the cost savings that {c} expects {in_p}?",
        "What is {own} savings target {for_p}?",
    ),
    "target price": (
        *_REPORTED,
        "Where did {report} see the share of {c} in twelve months?",
        "What did we think the share of {c} would be worth a year ahead, in {report}?",
        "What price target did our house set for {c} in {report}?",
        "How high was our target price for {c} in {report}?",
    ),
    "share price": (
        *_REPORTED,
        "At what price had the share of {c} last closed when we published {report}?",
        "What did a share of {c} cost just before {report}?",
        "What did the market pay for a share of {c} at the time of {report}?",
        "What was the last close of {c} in {report}?",
    ),
    "rating": (
        *_REPORTED,
        "What did we advise clients to do with the share of {c} in {report}?",
        "How did our house rate {c} in {report}?",
        "Was {c} a Buy, a Hold or a Sell in {report}?",
        "What is our verdict on the share of {c} in {report}?",
    ),
    "lead analyst": (
        "Who is the lead analyst for {c} in {report}?",
        "Who leads our coverage of {c}, according to {report}?",
        "Whom can a client ask about {report} on {c}?",
        "Which analyst is responsible for {c} in {report}?",
        "Name the lead analyst of {report} on {c}.",
        "Who signed as lead analyst for {c} in {report}?",
        "Under whose lead was {c} covered in {report}?",
        "Which of our colleagues led the work on {c} for {report}?",
    ),
    "segment revenue": (
        "How much revenue did the {s} segment of {c} make {in_p}?",
        "What did {s} contribute to {own} sales {in_p}?",
        "How large were the sales of {own} segment {s} {in_p}?",
        "What did {c} sell in {s} {in_p}?",
        "State the revenue of {s} at {c} {for_p}.",
        "{c}, segment {s}: what were the sales {in_p}?",
        "How much did {s} bring in for {c} {in_p}?",
        "I need {own} {p} revenue in the segment {s}.",
        "What was the {p} revenue of {s}, the segment of {c}?",
    ),
    "region revenue": (
        "How much revenue did {c} make in {s} {in_p}?",
        "What were {own} sales in {s} {in_p}?",
        "For how much did customers in {s} buy from {c} {in_p}?",
        "What did {s} contribute to the revenue of {c} {in_p}?",
        "State {own} revenue in {s} {for_p}.",
        "{c}, region {s}: what were the sales {in_p}?",
        "How much did {c} take in across {s} {in_p}?",
        "I need {own} {p} sales in {s}.",
        "How large was the business of {c} in {s} {in_p}?",
    ),
    "segment revenue in region": (
        "How much did the {s} segment of {c} sell in {s2} {in_p}?",
        "What was the revenue of {own} segment {s} in {s2} {in_p}?",
        "What did customers in {s2} buy from the {s} segment of {c} {in_p}?",
        "In {s2}, how large were the sales of {own} segment {s} {in_p}?",
        "State the {p} revenue of {s} in {s2} at {c}.",
        "{c}, {s}, {s2}: which revenue {in_p}?",
        "Which sales did {c} make with {s} in {s2} {in_p}?",
        "How much revenue did {s2} bring {own} segment {s} {in_p}?",
    ),
    "market size": (
        "How large was the world market for {market} {in_p}?",
        "What did buyers spend on {market} {in_p}?",
        "What was the market for {market} worth {in_p}?",
        "How much {market} were sold worldwide {in_p}, in dollars?",
    ),
    "market growth": (
        "By how much did the market for {market} grow {in_p}?",
        "How fast did worldwide demand for {market} rise {in_p}?",
        "How much larger was the market for {market} {in_p} than a year before?",
    ),
    "expected market growth": (
        "How fast do we expect the market for {market} to grow {in_p}?",
        "What is our forecast for the growth of the market for {market} {in_p}?",
        "By how much should demand for {market} rise {in_p}, in our view?",
        "What growth does our overview of {c} foresee {for_p}?",
        "State our forecast of market growth in {c} {for_p}.",
        "How much should the market for {market} gain {in_p}?",
        "{c}: what market growth do we forecast {for_p}?",
        "Which increase in the market for {market} have we pencilled in {for_p}?",
    ),
    "regional market share": (
        "How much of the world market for {market} did {s} account for {in_p}?",
        "What share of demand for {market} came from {s} {in_p}?",
        "What was the share of {s} in the market for {market} {in_p}?",
        "In {c}, what part of the world market was sold in {s} {in_p}?",
        "State the share of {s} in world demand for {market} {for_p}.",
        "How important was {s} for sales of {market} {in_p}, in percent?",
        "What percentage of {market} was sold in {s} {in_p}?",
        "{c}, {s}: what share of the world market {in_p}?",
    ),
    "capacity utilisation": (
        "How much of its capacity did the sector of {c} use {in_p}?",
        "How busy were the makers of {market} {in_p}, in percent of capacity?",
        "To what degree was capacity in {c} filled {in_p}?",
    ),
    "selling prices": (
        "By how much did prices of {market} rise {in_p}?",
        "How much more did buyers of {market} have to pay {in_p} than the year before?",
        "What was the average price increase in {c} {in_p}?",
    ),
    "input costs": (
        "By how much did materials and energy become dearer in {c} {in_p}?",
        "How much more did suppliers charge the makers of {market} {in_p}?",
        "What was the increase in the cost of inputs in {c} {in_p}?",
    ),
    "export share": (
        "How much of the sales of {market} crossed a border {in_p}?",
        "What part of its sales did the sector of {c} export {in_p}?",
        "What percentage of sales in {c} went abroad {in_p}?",
    ),
    "investment ratio": (
        "What part of its sales did the sector of {c} invest {in_p}?",
        "How much of their sales did the makers of {market} put into plant and equipment {in_p}?",
        "What was investment in {c} as a percentage of sales {in_p}?",
    ),
    "number of companies": (
        "How many companies were active in {c} {at_p}?",
        "How many firms do we count in {c} {at_p}?",
        "How crowded was the field in {c} {at_p}, in number of companies?",
    ),
    "sector employment": (
        "How many people earned their living in {c} {at_p}?",
        "To how many people did the sector of {c} give work {at_p}?",
        "How many jobs were there in {c} {at_p}?",
    ),
    "house view": (
        "What is our view of {c} in {report}?",
        "Does {report} advise to overweight or underweight {c}?",
        "How does our house stand on {c}, according to {report}?",
        "Which stance on {c} does {report} take?",
        "What weight do we give {c} in {report}?",
        "State the house view of {c} in {report}.",
        "{c}: what do we advise in {report}?",
        "How should clients position themselves in {c}, according to {report}?",
    ),
}  # fmt: skip

# Their period is looked forward to, they are words, or they need segment and region: only their own wordings fit.
WITHOUT_GENERAL = frozenset(
    ("guided growth", "guided margin", "planned investment", "planned savings", "target price", "share price", "rating",
     "lead analyst", "segment revenue", "region revenue", "segment revenue in region", "headcount in region",
     "regional market share", "expected market growth", "house view")
)  # fmt: skip

# `{m}` is a figure of the memo on `{topic}`.
MEMO: tuple[str, ...] = (
    "According to our memo on the {topic}, what is the {m}?",
    "What does the house memo {year} on the {topic} say about the {m}?",
    "Our {topic} for {year}: what is the {m}?",
    "Which figure holds for the {m} in our {topic} of {year}?",
    "I can't find the {m} in the {topic} of {year}. What is it?",
    "In the {year} memo on the {topic}, what is the {m}?",
    "A colleague asks for the {m}. What does the memo on the {topic} say?",
    "State the {m} from the house's {topic}, {year}.",
    "Please look up the {m} in our {topic} ({year}).",
)
