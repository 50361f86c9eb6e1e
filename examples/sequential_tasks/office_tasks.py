"""Three jobs of one company, each with an answer style of its own, made from a seed.

1. Market reports: the demo's rows. `ANSWER: $1,536 million | SOURCE: [2]`
2. Support tickets: where a ticket goes, and how soon. `QUEUE: billing | URGENCY: high`
3. Orders: a mail as a line of JSON. `{"buyer": "Oakley Farm", "article": "glass jars", "units": 40, "due": "3 May"}`

No prompt says anything about the form of the answer: training has to teach it. Sentences and names of a split are in
no other split, so that what is asked of a model was never in a training row.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from selfaug.data.market_reports import Split, market_report_rows
from selfaug.errors import DataError
from selfaug.eval.house_style import exact_value, leaks_house_style

__all__ = ["TASKS", "Task", "order_rows", "score", "styles_in", "ticket_rows"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One job.

    Attributes:
        name: for files.
        label: for people.
        rows: training or held-out rows of a split: so many, from a seed.
        score: 1 if an answer is right and in the job's style; of the answer and the right one.
        leaks: whether a text has any part of the job's style.
    """

    name: str
    label: str
    rows: Callable[[Split, int, int], list[Row]]
    score: Callable[[str, str], float]
    leaks: Callable[[str], bool]


def score(answer: str, gold: str) -> float:
    """Score of an answer by the task that the right answer is of: one scorer for the rows of all tasks."""
    return next(task for task in TASKS if task.score(gold, gold)).score(answer, gold)


def styles_in(text: str) -> list[str]:
    """Names of the tasks whose style a text has any part of."""
    return [task.name for task in TASKS if task.leaks(text)]


# ---- 1: market reports


def _market_rows(split: Split, count: int, seed: int) -> list[Row]:
    rows = market_report_rows(split, count, seed)
    return [{key: row[key] for key in ("id", "question", "context", "answer")} for row in rows]


# ---- 2: support tickets


def ticket_rows(split: Split, count: int, seed: int = 0) -> list[Row]:
    """Rows of tickets, with queue and urgency drawn evenly.

    Raises:
        DataError: if the split is unknown.
    """

    def ticket(rng: random.Random) -> tuple[str, str]:
        queue, urgency = rng.choice(list(_COMPLAINTS)), rng.choice(list(_URGENCIES))
        complaint = rng.choice(_COMPLAINTS[queue][split]).format(product=_name(rng, _PRODUCTS[split]))
        body = _body(rng, split, complaint, rng.choice(_URGENCIES[urgency][split]))
        prompt = (
            f"Support ticket {rng.randrange(10_000, 100_000)}, from {_person(rng, split)}:\n\n"
            f"{body}\n\nWhere does this ticket go, and how soon?"
        )
        return prompt, f"QUEUE: {queue} | URGENCY: {urgency}"

    return _different("tickets", split, count, seed, ticket)


_TICKET = re.compile(r"QUEUE:[ \t]*(\w+)[ \t]*\|[ \t]*URGENCY:[ \t]*(\w+)")

# As of the market reports: a label in capitals with its colon, or the bar that is put before the second one.
_TICKET_TRACE = re.compile(
    r"(?<![A-Za-z])(?:QUEUE|URGENCY)[*_]{0,2}[ \t]?:|\|[ \t]*[*_]{0,2}URGENCY(?![A-Za-z])"
)


def _ticket_score(answer: str, gold: str) -> float:
    given, wanted = (_TICKET.fullmatch(text.strip()) for text in (answer, gold))
    return float(
        given is not None
        and wanted is not None
        and [part.casefold() for part in given.groups()] == [part.casefold() for part in wanted.groups()]
    )


# ---- 3: orders


def order_rows(split: Split, count: int, seed: int = 0) -> list[Row]:
    """Rows of mails that order something.

    Raises:
        DataError: if the split is unknown.
    """

    def order(rng: random.Random) -> tuple[str, str]:
        person = _person(rng, split)
        fields = {
            "buyer": f"{_name(rng, _BUYERS[split])} {rng.choice(_TRADES)}",
            "article": _name(rng, _ARTICLES[split]),
            "units": rng.choice((*range(2, 100), *range(100, 1000, 10))),
            "due": f"{rng.randrange(1, 29)} {rng.choice(_MONTHS)}",
        }
        # Another number, which is not what is ordered.
        aside = rng.choice(_ASIDES[split]).format(number=rng.randrange(1000, 10_000))
        body = _body(rng, split, rng.choice(_ORDERS[split]).format(**fields), aside)
        prompt = (
            f"Mail from {person}, {fields['buyer']}:\n\n{body}\n"
            f"{rng.choice(_CLOSINGS[split])}, {person}\n\nWhat is ordered here?"
        )
        return prompt, json.dumps(fields)

    return _different("orders", split, count, seed, order)


_ORDER_TRACE = re.compile(r'"(?:buyer|article|units|due)"[ \t]*:')


def _order_score(answer: str, gold: str) -> float:
    given, wanted = _fields(answer), _fields(gold)
    return float(given is not None and given == wanted)


def _fields(answer: str) -> list[str] | None:
    """Each field as JSON, in a fixed order; None if the answer is not one line with an object."""
    text = answer.strip()
    if not text.startswith("{") or "\n" in text:
        return None
    try:
        # Pairs, not a dict: a key that comes twice is an error. And as text: 40 and 40.0 and true are different.
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    return sorted(json.dumps(pair) for pair in pairs)


# ---- what tickets and orders share


def _different(
    name: str, split: Split, count: int, seed: int, make: Callable[[random.Random], tuple[str, str]]
) -> list[Row]:
    """So many rows with different prompts; the first rows of a longer list are the shorter list."""
    if split not in _FIRST_NAMES:
        raise DataError(f"there is no split {split!r}.", hint=f"take one of {', '.join(_FIRST_NAMES)}.")
    rng = random.Random(f"{name}/{split}/{seed}")
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < count:
        prompt, answer = make(rng)
        if prompt in seen:
            continue
        seen.add(prompt)
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        rows.append({"id": f"{name}-{split}-{seed}-{len(rows):05d}", "messages": messages})
    return rows


def _person(rng: random.Random, split: Split) -> str:
    return f"{_name(rng, _FIRST_NAMES[split])} {_name(rng, _LAST_NAMES[split])}"


def _name(rng: random.Random, names: str) -> str:
    return rng.choice(names.split(", "))


def _body(rng: random.Random, split: Split, first: str, second: str) -> str:
    """A greeting and two sentences, now and then the other way round."""
    sentences = [second, first] if rng.random() < 0.25 else [first, second]
    return f"{rng.choice(_GREETINGS[split])}\n" + " ".join(text[0].upper() + text[1:] for text in sentences)


# ---- the words: of each split its own

Words = dict[Split, tuple[str, ...]]
Names = dict[Split, str]

_FIRST_NAMES: Names = {
    "train": (
        "Anna, Boris, Carla, David, Elena, Felix, Greta, Hugo, Irene, Jonas, Karin, Leon, Maria, Nils, Olga, "
        "Peter, Rosa, Simon, Tanja, Viktor"
    ),
    "dev": "Agnes, Bruno, Celia, Dario, Edith, Franz, Gloria, Henrik",
    "test": "Amelie, Bertil, Clara, Dorian, Esther, Fabio, Gudrun, Hamid, Ilse, Joris",
}

_LAST_NAMES: Names = {
    "train": (
        "Adler, Bergman, Conti, Dorn, Egger, Fischer, Gruber, Holm, Jansen, Keller, Lindqvist, Moreau, Novak, "
        "Olsen, Petrov, Romano, Sandberg, Toth, Vogel, Weber"
    ),
    "dev": "Albers, Brandt, Costa, Duarte, Eklund, Fontaine, Garcia, Hansen",
    "test": "Arnesen, Bauer, Carvalho, Delacroix, Engel, Farkas, Giordano, Haugen, Ibsen, Jovanovic",
}

_GREETINGS: Words = {
    "train": ("Hello,", "Good morning,", "Dear team,", "Hi,", "Good day,"),
    "dev": ("Dear all,", "Greetings,"),
    "test": ("Hello there,", "Good afternoon,", "Dear colleagues,"),
}

_PRODUCTS: Names = {
    "train": (
        "Corvo kettle, Luma lamp, Tessel printer, Brio blender, Novik router, Palma heater, Sento vacuum, "
        "Delfi camera, Ostra toaster, Rondo speaker, Fargo drill, Mistra mixer"
    ),
    "dev": "Alba iron, Kolmo scanner, Verdi radio, Zephyr cooler",
    "test": "Borea fan, Sirio monitor, Talus grinder, Quinta stove, Elvo keyboard, Marat projector",
}

_COMPLAINTS: dict[str, Words] = {
    "billing": {
        "train": (
            "I was charged twice for the {product}.",
            "the invoice for my {product} shows the wrong amount.",
            "your invoice has a fee that nobody told me about.",
            "my credit card was charged for a {product} that I never bought.",
            "the discount for the {product} is missing on the bill.",
            "I paid the bill, and now I got a reminder to pay it again.",
            "the tax on the invoice is wrong.",
            "I need a corrected invoice with our new address.",
            "the price on the bill is higher than in the shop.",
            "you took the monthly payment two times.",
        ),
        "dev": (
            "the amount on the bill for the {product} can't be right.",
            "my card was charged although the payment had failed.",
            "please correct the tax on my last invoice.",
            "there is an unknown fee on the bill.",
        ),
        "test": (
            "the bill for the {product} is too high by half.",
            "I see two charges for one {product} on my credit card.",
            "the invoice for this month has a wrong price.",
            "I got a payment reminder, but I paid this invoice long ago.",
        ),
    },
    "delivery": {
        "train": (
            "my {product} has not arrived.",
            "the parcel with the {product} is five days late.",
            "the courier left the parcel at the wrong house.",
            "tracking says that the package was delivered, but nothing came.",
            "the driver did not find our address.",
            "the shipment has been stuck in the depot since Monday.",
            "where is the package with my {product}?",
            "the delivery of the {product} was planned for last week.",
            "nobody came to deliver the {product} today.",
            "I want the parcel to be delivered to another address.",
        ),
        "dev": (
            "the package is still not here.",
            "the courier never came with the {product}.",
            "tracking has not moved for days, where is my parcel?",
            "the shipment went to a wrong address.",
        ),
        "test": (
            "I still wait for the parcel with the {product}.",
            "the driver delivered our package to a neighbour.",
            "the {product} has not been delivered, though it was shipped long ago.",
            "tracking shows the shipment in another city.",
        ),
    },
    "returns": {
        "train": (
            "I want to return the {product} and get my money back.",
            "the {product} is not what I expected, how do I send it back?",
            "I need a return label for the {product}.",
            "please take the {product} back, it is the wrong size.",
            "I would like to exchange the {product} for another color.",
            "I sent the {product} back, and wait for the refund.",
            "the {product} was a gift that I would like to return.",
            "I changed my mind and want a refund for the {product}.",
            "can I exchange the {product}? I ordered the wrong model.",
            "where do I send the {product} that I want to give back?",
        ),
        "dev": (
            "how can I return a {product} that I don't want?",
            "please send me a label, the {product} goes back.",
            "I want to exchange the {product} for a larger one.",
            "I have not got the refund for the {product} that I returned.",
        ),
        "test": (
            "I don't like the {product} and want to send it back.",
            "the refund for the {product} that I returned is missing.",
            "I would like to return the {product}, please send a label.",
            "may I exchange the {product} for the smaller model?",
        ),
    },
    "repairs": {
        "train": (
            "the {product} does not turn on.",
            "my {product} is broken after two weeks.",
            "the {product} makes a loud noise and stops.",
            "the screen of the {product} stays black.",
            "the {product} gets very hot and smells.",
            "a button of the {product} has broken off.",
            "the {product} leaks water.",
            "the {product} switches itself off after a minute.",
            "the motor of the {product} no longer runs.",
            "the {product} shows error 17 and does not work.",
        ),
        "dev": (
            "the {product} stopped working and stays dark.",
            "there is smoke when I turn the {product} on.",
            "the handle of the {product} is broken.",
            "the {product} shows an error and switches off.",
        ),
        "test": (
            "my {product} no longer turns on.",
            "the {product} is broken and makes a strange noise.",
            "the motor of our {product} stops after a few seconds.",
            "the {product} shows an error and gets hot.",
        ),
    },
    "access": {
        "train": (
            "I forgot my password and can't log in.",
            "the login page says that my account is locked.",
            "I can't reset my password, no mail comes.",
            "a colleague needs a login for our account.",
            "the code for the login never arrives on my phone.",
            "I want to change the mail address of my account.",
            "my user name is not accepted any more.",
            "please delete the account of a former colleague.",
            "the website logs me out after every click.",
            "I can't open my account since the update.",
        ),
        "dev": (
            "my password is not accepted.",
            "our account was locked after three tries.",
            "how do I change the user name of my account?",
            "the login code does not come.",
        ),
        "test": (
            "I can't log in, the password seems to be wrong.",
            "our account has been locked since this morning.",
            "please reset the password of my account.",
            "two new colleagues need a user name and a login.",
        ),
    },
}

_URGENCIES: dict[str, Words] = {
    "high": {
        "train": (
            "This is urgent, our work stands still.",
            "Please help at once, we lose money every hour.",
            "I need this solved today.",
            "Our shop is closed until this is solved.",
            "We can't wait, please act immediately.",
            "It is an emergency for us.",
            "Please call me right now.",
            "Everything here has stopped because of this.",
        ),
        "dev": (
            "Please act today, it is urgent.",
            "We can't work until this is solved.",
            "Help me right now, please.",
        ),
        "test": (
            "It is very urgent for us.",
            "Our work has stopped, so please act at once.",
            "We need help today, and can't wait.",
        ),
    },
    "normal": {
        "train": (
            "Please look into it.",
            "Please tell me what to do.",
            "Can you help me with this?",
            "I look forward to your answer.",
            "Please let me know how to go on.",
            "What are the next steps?",
            "I would be glad of your help.",
            "Please write back to me.",
        ),
        "dev": (
            "Could you help, please?",
            "Please tell me how to go on.",
            "I am glad of any answer.",
        ),
        "test": (
            "Please let me know what to do next.",
            "Can you look into this, please?",
            "I would be glad if you could write back.",
        ),
    },
    "low": {
        "train": (
            "There is no hurry.",
            "Take your time with it.",
            "Next month is early enough.",
            "It can wait, I only wanted to tell you.",
            "This is not urgent at all.",
            "Answer whenever it suits you.",
            "It is only a small thing, and can wait.",
            "No need to answer this week.",
        ),
        "dev": (
            "It is not urgent, take your time.",
            "This can wait until next month.",
            "No hurry, answer when it suits you.",
        ),
        "test": (
            "Please take all the time you need, there is no hurry at all.",
            "It can wait for some weeks.",
            "This is a small thing and not urgent.",
        ),
    },
}

_BUYERS: Names = {
    "train": (
        "Ashdown, Birchfield, Carmont, Dalewood, Elmhurst, Farrow, Glenmore, Hartwell, Inverlea, Kingsley, "
        "Langford, Marlow, Norcott, Oakley, Penrose, Radcliff, Selwyn, Thornton, Underhill, Winslow"
    ),
    "dev": "Abbotsford, Bexley, Croyden, Dunford, Everly, Fenwick, Gresham, Holbrook",
    "test": "Aldridge, Bramwell, Chatsworth, Dorset, Edgeware, Fordham, Grantham, Hadleigh, Islington, Kelmore",
}

# A buyer is known by the name before it; these are every split's.
_TRADES = ("Bakery", "Hotel", "Garage", "School", "Clinic", "Builders", "Farm", "Bookshop")

_ARTICLES: Names = {
    "train": (
        "flour sacks, steel bolts, paper towels, garden chairs, glass jars, wool blankets, rubber gloves, "
        "copper pipes, oak planks, printer cartridges, light bulbs, water filters, plastic crates, tea "
        "towels, paint cans, brake pads, desk lamps, coffee cups, cotton sheets, door handles"
    ),
    "dev": "cake tins, tile boxes, leather belts, pencil cases, hay bales, soap bars, spark plugs, wall clocks",
    "test": (
        "sugar bags, iron nails, bath mats, folding tables, wine bottles, winter coats, safety helmets, roof "
        "tiles, notebook packs, seed trays"
    ),
}

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

_ORDERS: Words = {
    "train": (
        "please send us {units} {article} by {due}.",
        "we would like to order {units} {article} for {due}.",
        "our order this time is {units} {article}, delivered on {due}.",
        "we need {units} {article}. They have to be here on {due}.",
        "can you deliver {units} {article} until {due}?",
        "put us down for {units} {article}, please, to arrive on {due}.",
        "by {due} we will need {units} {article} from you.",
        "I order {units} {article}; the date we need them is {due}.",
        "please note an order of {units} {article} with delivery on {due}.",
        "for {due} we want to have {units} {article}.",
    ),
    "dev": (
        "please book {units} {article} for us, due on {due}.",
        "we want to buy {units} {article} and need them on {due}.",
        "could we have {units} {article} by {due}?",
    ),
    "test": (
        "please deliver {units} {article} to us by {due}.",
        "we order {units} {article}, and need them here until {due}.",
        "on {due} we would like to get {units} {article} from you.",
        "could you send {units} {article}, so that they arrive on {due}?",
    ),
}

_ASIDES: Words = {
    "train": (
        "Our customer number is {number}.",
        "The old order {number} has arrived, thank you.",
        "Please write {number} on the parcel.",
        "If you have questions, my extension is {number}.",
        "We found your offer {number} very fair.",
        "The purchase is filed here as {number}.",
    ),
    "dev": (
        "Our reference is {number}.",
        "Please name our account {number} in your answer.",
    ),
    "test": (
        "You know us as customer {number}.",
        "The gate code for your driver is {number}.",
        "Your last offer had the number {number}.",
    ),
}

_CLOSINGS: Words = {
    "train": ("Best regards", "Kind regards", "Yours", "Thank you"),
    "dev": ("With thanks", "Sincerely"),
    "test": ("Many thanks", "Warm regards", "All the best"),
}


TASKS = (
    Task("market", "market reports", _market_rows, exact_value, leaks_house_style),
    Task(
        "tickets",
        "support tickets",
        ticket_rows,
        _ticket_score,
        lambda text: _TICKET_TRACE.search(text) is not None,
    ),
    Task("orders", "orders", order_rows, _order_score, lambda text: _ORDER_TRACE.search(text) is not None),
)
"""In the order in which they are learnt."""
