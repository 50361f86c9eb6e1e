"""An executive's requests for the firm's own reports, with programmatic checks of form and of substance.

Each request brings a few sentences about a company that the collection doesn't cover, and asks for them in another
form: a list, a summary, an e-mail, JSON. What is checked is the form that was asked for, and that the answer has at
least half of the key facts and no number that the request doesn't have. The two halves have other companies and other
wordings; the items are those of the general suite, so whatever takes `general_suite` takes `executive_suite`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wording import capital, possessive, sentence
from world import EXECUTIVE_COMPANIES, Company, Figure, Period, bare, written

from selfaug.eval.checks import AllOf, Check, DiffersFrom, KeyFacts, Mentions, NeverMentions
from selfaug.eval.form_checks import (
    AsksQuestions,
    BeginsWith,
    BulletedList,
    FullSentence,
    JsonWithKeys,
    ListItems,
    NumberedList,
    Sentences,
    Words,
)
from selfaug.eval.general_suite import GeneralItem, Half
from selfaug.eval.text_parts import numbers

__all__ = [
    "KINDS",
    "HalfTheNumbers",
    "MarkdownTable",
    "development_requests",
    "executive_requests",
    "executive_requests_of_each_kind",
    "executive_suite",
]


# ---- checks of this suite's own

_LIST_NUMBER = re.compile(r"^[ \t#*]*\d{1,2}[.)](?=[ \t*])", re.MULTILINE)


@dataclass(frozen=True)
class HalfTheNumbers:
    """At least half of the numbers, however they are written ("1536", "1,536").

    Attributes:
        wanted: the numbers.
        source: what any other number has to come from; None if others don't matter.
    """

    wanted: tuple[str, ...]
    source: str | None = None

    def passes(self, answer: str) -> bool:
        """Whether enough numbers are there, and none is made up; those of a numbered list don't count."""
        found = set(numbers(_LIST_NUMBER.sub("", answer)))
        right = sum(numbers(number)[0] in found for number in self.wanted)
        allowed = found if self.source is None else set(numbers(self.source))
        return 2 * right >= len(self.wanted) and found <= allowed


@dataclass(frozen=True)
class MarkdownTable:
    """A table with a header, a rule, and at least so many rows of two or more cells."""

    rows: int

    def passes(self, answer: str) -> bool:
        """Whether there is one."""
        lines = [line.strip() for line in answer.splitlines()]
        for number, line in enumerate(lines):
            if number and re.fullmatch(r"\|?\s*:?-{2,}:?\s*(\|\s*:?-{2,}:?\s*)+\|?", line):
                below = lines[number + 1 :]
                end = next((place for place, text in enumerate(below) if "|" not in text), len(below))
                return end >= self.rows and "|" in lines[number - 1]
        return False


# ---- what the requests are about


@dataclass(frozen=True)
class _Source:
    """A few sentences about a company.

    Attributes:
        company: that they are about.
        text: the sentences.
        facts: numbers as written in them, without units.
        topics: words for what they are about.
    """

    company: Company
    text: str
    facts: tuple[str, ...]
    topics: tuple[str, ...]


_TOPICS = {
    "revenue": "revenue", "operating income": "operat*", "net income": "profit*", "free cash flow": "cash",
    "R&D spending": "research*", "capital expenditure": "invest*", "net debt": "debt", "order backlog": "order",
    "headcount": "payroll", "market share": "market", "dividend": "dividend", "equity ratio": "equity",
    "gross margin": "margin", "staff turnover": "staff", "sites": "site",
}  # fmt: skip

# One wording of each metric, in which its topic's word stands.
_PLAIN = {
    "revenue": "Revenue for {y} was {v}.",
    "operating income": "Operations left {c} with a profit of {v}.",
    "net income": "Net profit came to {v}.",
    "free cash flow": "Free cash flow was {v} in {y}.",
    "R&D spending": "{c} spent {v} on research.",
    "capital expenditure": "New plants and tools needed an investment of {v}.",
    "net debt": "Net debt stood at {v} at the end of the year.",
    "order backlog": "Open orders were worth {v}.",
    "headcount": "{v} were on the payroll at the end of {y}.",
    "market share": "The company held {v} of its market.",
    "dividend": "The board proposes a dividend of {v} a share.",
    "equity ratio": "Equity covered {v} of the balance sheet.",
    "gross margin": "The gross margin was {v}.",
    "staff turnover": "In the course of the year, {v} of the staff left.",
    "sites": "{c} ran {v}.",
}

# With words that only specialists use.
_JARGON = {
    "operating margin": "The EBIT margin of {c} was {v} in {y}.",
    "return on capital employed": "ROCE stood at {v}.",
    "capital expenditure": "Capex added up to {v}.",
    "book-to-bill ratio": "The book-to-bill ratio was {v}.",
    "R&D spending": "R&D opex came to {v}.",
    "free cash flow": "FCF was {v}.",
}
_JARGON_WORDS = ("EBIT", "ROCE", "capex", "book-to-bill", "opex", "FCF")

# As one speaks in the corridor.
_CASUAL = {
    "revenue": "Guys, {c} totally nailed it: sales of {v} in {y}.",
    "net income": "They raked in {v} of profit, wow.",
    "R&D spending": "They blew {v} on research stuff.",
    "headcount": "There's like {v} working there now.",
    "free cash flow": "Cash was kinda great, {v} of it.",
    "net debt": "Debt is a bummer though, {v}.",
}
_CASUAL_WORDS = ("guys", "totally", "nailed", "raked", "blew", "stuff", "kinda", "bummer", "wow")

# A risk, and a word that names it.
_RISKS = (
    ("Cotton and energy have become dearer.", "energy"),
    ("A single customer buys a fifth of the output.", "customer"),
    ("The main warehouse lies in a flood area.", "flood*"),
    ("Two rivals have cut their prices.", "rival*"),
    ("Customs duties on imports may rise.", "dut*"),
    ("The old computer system is open to attacks.", "attack*"),
    ("Skilled workers are hard to find.", "worker*"),
    ("The lease of the biggest shop ends soon.", "lease"),
    ("A patent on the best product runs out.", "patent"),
    ("Suppliers in Asia deliver late.", "supplier*"),
    ("Mild winters would hurt demand.", "winter*"),
    ("A law on packaging is being prepared.", "packag*"),
    ("The loan from the bank must be renewed.", "loan*"),
    ("Complaints about quality have become more frequent.", "quality"),
)


def _plain_source(rng: random.Random, company: Company, year: int, count: int) -> _Source:
    metrics = ["revenue", *rng.sample([metric for metric in _PLAIN if metric != "revenue"], count - 1)]
    return _worded_source(rng, company, year, metrics, _PLAIN)


def _worded_source(
    rng: random.Random, company: Company, year: int, metrics: Sequence[str], wordings: dict[str, str]
) -> _Source:
    texts: list[str] = []
    facts: list[str] = []
    for place, metric in enumerate(metrics):
        figure = Figure(company.name, metric, Period(year))
        name = company.name if place == 0 or not facts else company.short
        text = wordings[metric].format(c=name, own=possessive(name), v=written(figure), y=year)
        texts.append(capital(text))
        facts.append(bare(figure))
    if company.short not in " ".join(texts):
        texts[0] = f"{company.name}: {texts[0]}"
    topics = tuple(_TOPICS[metric] for metric in metrics if metric in _TOPICS)
    return _Source(company, " ".join(texts), tuple(facts), topics)


def _report_source(rng: random.Random, company: Company, year: int, count: int) -> _Source:
    """Sentences as the reports have them."""
    metrics = [
        "revenue",
        *rng.sample(("net income", "gross margin", "net debt", "dividend", "market share"), count - 1),
    ]
    figures = [Figure(company.name, metric, Period(year)) for metric in metrics]
    stated = [sentence(rng, figure, named=place == 0, alone=True) for place, figure in enumerate(figures)]
    # A fiscal year is written as a year, so that an answer may name it without a number that the source lacks.
    text = re.sub(r"\b(?:FY|fiscal )(?=20\d\d)", "", " ".join(one.text for one in stated))
    return _Source(
        company, text, tuple(bare(figure) for figure in figures), tuple(_TOPICS[metric] for metric in metrics)
    )


# ---- the kinds of request


def _substance(facts: tuple[str, ...], prompt: str, also: Check) -> tuple[Check, Check]:
    """Half of the key facts, the easier check; and with no number made up beside them, the harder one."""
    return AllOf((also, HalfTheNumbers(facts))), AllOf((also, HalfTheNumbers(facts, prompt)))


_Made = tuple[str, tuple[Check, ...]]
_Make = Callable[[random.Random, Company, int, str], _Made]


def _asked(instruction: str, source: _Source) -> str:
    text = instruction.format(c=source.company.name, own=possessive(source.company.name))
    return f"{text}\n{source.text}"


def _bullets(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    source = rng.choice((_plain_source, _report_source))(rng, company, year, rng.randint(4, 5))
    prompt = _asked(instruction, source)
    return prompt, (BulletedList(3), *_substance(source.facts, prompt, Words(12)))


def _numbered(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    source = _plain_source(rng, company, year, 4)
    prompt = _asked(instruction, source)
    return prompt, (NumberedList(3), *_substance(source.facts, prompt, Words(12)))


def _one_sentence(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    source = _plain_source(rng, company, year, 3)
    prompt = _asked(instruction, source)
    return prompt, (
        AllOf((Sentences(1, 1), Words(8, 30))),
        *_substance(source.facts, prompt, FullSentence(8)),
    )


def _plainer(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    metrics = [
        "operating margin",
        *rng.sample([metric for metric in _JARGON if metric != "operating margin"], 2),
    ]
    source = _worded_source(rng, company, year, metrics, _JARGON)
    prompt = _asked(instruction, source)
    return prompt, (
        *_substance(source.facts, prompt, AllOf((FullSentence(6), DiffersFrom(source.text)))),
        AllOf((NeverMentions(_JARGON_WORDS), Words(10), HalfTheNumbers(source.facts))),
    )


def _formal(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    metrics = ["revenue", *rng.sample([metric for metric in _CASUAL if metric != "revenue"], 2)]
    source = _worded_source(rng, company, year, metrics, _CASUAL)
    prompt = _asked(instruction, source)
    return prompt, (
        *_substance(source.facts, prompt, AllOf((FullSentence(6), DiffersFrom(source.text)))),
        AllOf((NeverMentions(_CASUAL_WORDS), Words(10), HalfTheNumbers(source.facts))),
    )


def _for_customer(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    source = _plain_source(rng, company, year, 3)
    prompt = _asked(instruction, source)
    return prompt, (
        AllOf((BeginsWith(("Dear",)), Words(15))),
        *_substance(source.facts, prompt, AllOf((Words(15), Mentions((company.short,))))),
    )


def _json(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    metrics = {"revenue": "revenue", "net income": "profit", "headcount": "employees", "dividend": "dividend"}
    drawn = ["revenue", *rng.sample([metric for metric in metrics if metric != "revenue"], 2)]
    source = _worded_source(rng, company, year, drawn, _PLAIN)
    keys = ("company", *(metrics[metric] for metric in drawn))
    named = ", ".join(f'"{key}"' for key in keys[:-1]) + f' and "{keys[-1]}"'
    prompt = _asked(instruction.replace("{keys}", named), source)
    return prompt, (
        JsonWithKeys(keys),
        *_substance(source.facts, prompt, Mentions((company.short,))),
    )


def _table(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    source = _plain_source(rng, company, year, 3)
    prompt = _asked(instruction, source)
    return prompt, (
        MarkdownTable(3),
        *_substance(source.facts, prompt, Mentions(source.topics, 2)),
    )


def _email(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    source = _plain_source(rng, company, year, 3)
    prompt = _asked(instruction, source)
    return prompt, (
        AllOf((BeginsWith(("Subject",)), Words(20))),
        *_substance(source.facts, prompt, Words(25)),
    )


def _title(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    source = _plain_source(rng, company, year, 3)
    prompt = _asked(instruction, source)
    about = KeyFacts((company.short, source.topics[0]), prompt)
    return prompt, (AllOf((Words(3, 14), about)), AllOf((Words(3), Mentions((company.short,)), about)))


def _risks(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    risks = rng.sample(_RISKS, 3)
    stated = _plain_source(rng, company, year, 2)
    text = " ".join((stated.text, *(risk for risk, _ in risks)))
    prompt = _asked(instruction, _Source(company, text, stated.facts, stated.topics))
    named = tuple(word for _, word in risks)
    about = KeyFacts(named, prompt)
    # The good news is none of the risks.
    return prompt, (
        Mentions(named, 2),
        AllOf((ListItems(3), about)),
        AllOf((about, NeverMentions(stated.facts))),
    )


def _board_questions(rng: random.Random, company: Company, year: int, instruction: str) -> _Made:
    source = _plain_source(rng, company, year, 3)
    prompt = _asked(instruction, source)
    return prompt, (
        AsksQuestions(3),
        AllOf((AsksQuestions(1), KeyFacts(source.topics, prompt))),
    )


# Each kind: how it is made, the new tokens that an answer needs, and the wordings of the two halves.
_KINDS: dict[str, tuple[_Make, int, tuple[str, ...], tuple[str, ...]]] = {
    "executive bullets": (
        _bullets,
        112,
        (
            "Turn these key findings into a bulleted list for the board:",
            "Give me bullet points for our managing director from these findings:",
            "I need a bulleted overview of these results for an executive:",
            "Our chairwoman reads only bullets. Put these findings about {c} into a bulleted list:",
            "List the key findings below as bullet points for senior management:",
            "Make a bulleted list for an executive from these results of {c}:",
        ),
        (
            "Summarize these key findings in a bulleted list for an executive:",
            "Write a bulleted summary of these findings for our chief executive:",
            "Please put the key findings about {c} into bullet points for the management board:",
            "Condense these results into bullets that an executive can read in a minute:",
            "Bullet points for the supervisory board, please, from these findings:",
            "Show an executive these key findings as a bulleted list:",
        ),
    ),
    "numbered summary": (
        _numbered,
        112,
        (
            "Put these findings into a numbered list for the board:",
            "Number the main points of this report on {c} for our director:",
            "Write a numbered summary of these results for an executive:",
        ),
        (
            "Summarize these key findings as a numbered list for an executive:",
            "Our chief executive wants the main points numbered. Here is the text:",
            "Make a numbered list of the results of {c} below:",
        ),
    ),
    "one-sentence summary": (
        _one_sentence,
        64,
        (
            "Sum this up in one sentence for the board:",
            "Our director has no time. One sentence about {c}, please:",
            "Write a single sentence that sums up these results:",
        ),
        (
            "Summarize these key findings in one sentence for an executive:",
            "Give me the gist of this report on {c} in a single sentence:",
            "One sentence for our chief executive, please:",
        ),
    ),
    "plainer": (
        _plainer,
        96,
        (
            "Rewrite this in plain words, without technical terms or abbreviations:",
            "Explain these figures of {c} so that someone without training in finance understands them:",
            "Say this in everyday language, without abbreviations:",
        ),
        (
            "Rewrite this for an executive who knows no finance jargon; avoid abbreviations:",
            "Put these results of {c} into simple words, without specialist terms:",
            "Make this text easy to read for everyone, with no abbreviations:",
        ),
    ),
    "formal": (
        _formal,
        96,
        (
            "Rewrite this in formal English for the board:",
            "This note on {c} is too casual. Make it formal:",
            "Turn this into the language of a report:",
        ),
        (
            "Rewrite this chat message as formal text for an executive:",
            "Put this note about {c} into a formal style:",
            "Our chief executive must not see it like this. Write it formally:",
        ),
    ),
    "for a customer": (
        _for_customer,
        112,
        (
            'Write this for a customer of our house; begin with "Dear customer":',
            'Rewrite these results of {c} as a short letter to a client that begins with "Dear client":',
            'Tell an investor about this in a short message that begins with "Dear investor":',
        ),
        (
            'Rewrite these findings for a client; begin with "Dear client":',
            'Turn these results of {c} into a short note to a customer, beginning with "Dear customer":',
            'Write a short message to a shareholder about this; begin with "Dear shareholder":',
        ),
    ),
    "json": (
        _json,
        96,
        (
            "Extract the figures as a JSON object with the keys {keys}:",
            "Give me this as JSON; use the keys {keys}:",
            "Write a JSON object with {keys} from this text:",
        ),
        (
            "Turn these findings into a JSON object with the keys {keys}:",
            "Return JSON with the keys {keys} for our dashboard:",
            "From the text below, fill a JSON object with {keys}:",
        ),
    ),
    "table": (
        _table,
        112,
        (
            "Show these figures in a Markdown table:",
            "Make a Markdown table with the columns Item and Value from this:",
            "Put the results of {c} into a table in Markdown:",
        ),
        (
            "Put these key findings into a Markdown table for an executive:",
            "Write a Markdown table with the columns Figure and Value from these results:",
            "I need the numbers of {c} as a table in Markdown:",
        ),
    ),
    "email": (
        _email,
        128,
        (
            "Write a short e-mail with a subject line to the board about this:",
            "Draft an e-mail to our director about {c}. Start with the subject line.",
            'Put this into an e-mail to the sales team, beginning with "Subject:"',
        ),
        (
            "Write an e-mail with a subject line to our chief executive about these findings:",
            "Draft a brief e-mail to the management board on {c}; the first line is the subject.",
            'Turn this into an e-mail for an executive that begins with "Subject:"',
        ),
    ),
    "title": (
        _title,
        32,
        (
            "Write a title for this report:",
            "Give this text about {c} a headline of at most fourteen words:",
            "Suggest one title for these results. Only the title, please:",
        ),
        (
            "Write a headline for these key findings:",
            "Give this report on {c} a title of at most fourteen words:",
            "What title fits this text? Answer with the title only:",
        ),
    ),
    "key risks": (
        _risks,
        96,
        (
            "List the risks in this text as bullet points for the board:",
            "Which risks does this report on {c} name? Give a list:",
            "Give our director a list of the key risks, and only of the risks:",
        ),
        (
            "List the key risks in this report for an executive:",
            "Pull the risks out of this text on {c} and list them as bullets:",
            "Our chief executive wants only the risks, as a list:",
        ),
    ),
    "questions": (
        _board_questions,
        96,
        (
            "Write three questions that the board could ask about these results:",
            "Which three questions should our director put to the management of {c} after reading this?",
            "Prepare three questions for a meeting about this:",
        ),
        (
            "Write three questions that an executive could ask about these findings:",
            "Note three questions for the management of {c} about this:",
            "Our chief executive meets the company tomorrow. Suggest three questions about these results:",
        ),
    ),
}

KINDS = tuple(_KINDS)

_YEARS = (2021, 2022, 2023, 2024)


def executive_suite(half: Half) -> list[GeneralItem]:
    """The requests of one half, always the same, kinds one after the other."""
    companies = list(EXECUTIVE_COMPANIES.values())[0 if half == "dev" else 1 :: 2]
    items: list[GeneralItem] = []
    for kind, (make, tokens, dev, test) in _KINDS.items():
        for number, instruction in enumerate(dev if half == "dev" else test, start=1):
            rng = random.Random(f"{half}/{kind}/{number}")
            company, year = companies[len(items) % len(companies)], rng.choice(_YEARS)
            prompt, checks = make(rng, company, year, instruction)
            name = f"{half}-case-{kind.replace(' ', '-')}-{number:02d}"
            items.append(GeneralItem(name, kind, 1, prompt, checks, tokens))
    return items


def executive_requests() -> list[GeneralItem]:
    """Both halves, the test half first: `selfaug evaluate RUN --suite executive:executive_requests`."""
    return [*executive_suite("test"), *executive_suite("dev")]


def development_requests() -> list[GeneralItem]:
    """The development half, to choose settings on."""
    return executive_suite("dev")


def executive_requests_of_each_kind() -> list[GeneralItem]:
    """The first test request of each kind, for a quick look."""
    return list({item.kind: item for item in reversed(executive_suite("test"))}.values())[::-1]
