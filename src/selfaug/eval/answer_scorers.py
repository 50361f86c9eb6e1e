"""Scorers of answers to retrieval questions: text, amounts with units, sources cited, and saying that there is none.

Amounts are compared as a careful reader would: "$1.2 billion" is "1,200 million", a sign or a unit that differs is
wrong, and an answer that states many amounts has not answered.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import product
from typing import NamedTuple

from selfaug.errors import DataError
from selfaug.eval.amounts import (
    CITATION,
    LENGTHS,
    MINUS,
    NAMED_PART,
    SCALES,
    SIGNS,
    UNITS,
    Quantity,
    names_thousands,
    parse_quantities,
    read_triangles,
    units_agree,
)
from selfaug.eval.plain_latex import plain_latex
from selfaug.eval.results import boxed_amount, result_among
from selfaug.retrieval.plain_text import UNSPACED

__all__ = [
    "HANGUL",
    "CitationScores",
    "abstains",
    "citation_scores",
    "cited_sources",
    "contains",
    "exact_match",
    "groundedness",
    "normalize_answer",
    "numeric_match",
    "numeric_or_f1",
    "same_value",
    "token_f1",
]

_ARTICLES = frozenset(("a", "an", "the"))
# What of a number is punctuation and yet says which number it is: its point, its sign, and that it is a percentage.
# A comma between thousands says nothing.
_THOUSANDS = re.compile(r"(?<=\d)[,'’](?=(?:\d{2},){0,5}\d{3}(?!\d))")
_OF_A_NUMBER = re.compile(rf"(?<![^\W\d_])\.(?=\d)|(?<![\w.,)\]%])(?<!\d\s)[{MINUS}](?=[.\d{SIGNS}])|%")
_PERCENT = re.compile(r"(?<=\d)\s*(?:percent|per\s+cent|pct)\b")
_IN_WORDS_MINUS = re.compile(rf"(?<!double\s)\b(?:minus|negative)\s+(?=[.\d{SIGNS}])")


# The points of "U.S." and "p.m.", and the apostrophe of "O'Neill", but not of "Lima's".
_WITHIN_WORDS = re.compile(r"(?<=\b[^\W\d_])\.(?=[^\W\d_]\b)|(?<=[^\W\d_])['’](?=[^\W\d_])(?!s\b)")
# "l'Allemagne", "dell'Aquila": an article or the like that has lost its vowel. Not pronouns: "J'ai" has no "AI" in it.
_ELIDED = r"(?:l|d|qu|un|all|coll|dall|dell|nell|sull|quell|quest)"
# "Ankara'dır": endings of Turkish behind a name; no contraction of English ends so.
_ENDING = (
    r"(?:[ny]?[aeıiuü]|n?[ıiuü]n(?:ki)?|n?[dt][ae](?:n|ki|[dt][ıiuü]r|y[dm]\w+)?|[dt][ıiuü]r|y?l[ae]|l[ıiuü]|"
    r"l[ae]r\w*|y[dm][ıiuü]\w*)"
)
# "D'Angelo" and "the firm L'Oréal" are whole names; where a sentence begins, "L'Allemagne" is as "l'Allemagne".
_OF_A_NAME = r"(?-i:D['’][A-ZÀ-ÖØ-ÞŒ]|(?<!\A)(?<![.!?:]\s)(?<![\n*])L['’][A-ZÀ-ÖØ-ÞŒ])"
_DIVIDING = re.compile(
    rf"(?<![^\W\d_])(?!{_OF_A_NAME})(?P<elided>{_ELIDED})['’](?=[^\W\d_])|"
    rf"(?<=[^\W\d_]{{2}})['’](?={_ENDING}(?!\w))",
    re.IGNORECASE,
)
_DIVIDED_OFF = re.compile(f"{_ELIDED}|{_ENDING}")
_SHORTEST_DIVIDED = 3
_UNSPACED_RUN = re.compile(f"[{UNSPACED}]+")
_KANA = re.compile("[\u3041-\u30ff\u31f0-\u31ff]")
_HIRAGANA = "\u3041-\u309f"
HANGUL = "\uac00-\ud7a3"
"""Syllables of Korean, for a character class of a pattern."""
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_IDEOGRAPHS = "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # of Chinese and Japanese
_ALPHABETS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_LETTER_ALONE = re.compile(
    "|".join(f"(?<![{letters}])[{letters}](?![{letters}])" for letters in (_KATAKANA, _IDEOGRAPHS))
)
# "No" and "not" directly before a word, and the words that they deny: 有 in 没有, ได้ in ไม่ได้. Longer words of
# ideographs may follow another one by chance.
# What Korean writes behind a noun, without a space: particles, and "is". Some stand behind a vowel, some behind a
# consonant. Not 도 and 만, which are "province" and "bay" as well.
_OPEN = "".join(chr(code) for code in range(0xAC00, 0xD7A4, 28))
_CLOSED = "".join(chr(code) for code in range(0xAC00, 0xD7A4) if (code - 0xAC00) % 28)
_CLOSED_BUT_L = "".join(sign for sign in _CLOSED if (ord(sign) - 0xAC00) % 28 != 8)
_PARTICLES = (
    rf"(?:(?<![{_CLOSED}])(?:는|가|를|와|다|였다|였습니다|예요)|(?<![{_CLOSED_BUT_L}])로|"
    rf"(?<![{_OPEN}])(?:은|이|을|과|으로|이었다|이었습니다|이에요)|"
    "이다|이고|이며|이지만|입니다|이라고|라고|의|에|에서|에게|께서|까지|부터|보다|처럼)"
)
_PARTICLE = re.compile(rf"{_PARTICLES}(?!\S)")
_NOUN = re.compile(r"\w{2,}\Z")  # 네 of 네가 is another word
# And behind a verb.
_ENDING_OF_KOREAN = re.compile(
    rf"(?<=[{HANGUL}])(?:{_PARTICLES}|도|만|(?:었|았|였|했|됐)?(?:습니다|니다|어요|아요|해요|요|다))(?![{HANGUL}])"
)
_DENIALS = (
    ("[不没沒無无非未]", re.compile(f"[{_IDEOGRAPHS}]{{1,2}}")),
    ("ไม่", re.compile(f"[{_ALPHABETS}]+")),
)


def normalize_answer(text: str) -> str:
    """Lower case, without articles and punctuation, one space between words (as in SQuAD; unicode-aware).

    As there, points between single letters, apostrophes in a word and backticks are left out: "U.S." is "US", "O'Neill"
    is "ONeill". Unlike there, every other mark divides words, as does the apostrophe of "'s" ("well-known" is "well
    known", and "Lima's" has "Lima" in it), other symbols stay ("C+", "$5"), and numbers stay what they are: their
    decimal point, sign and "%" are kept, so that "12.5%" is neither "5" nor "-12.5%". A text of articles or of
    punctuation alone is kept too: the answer "A" is no empty one.

    Each letter of scripts that put no spaces between words (Japanese, Chinese, Thai) is a word of its own.
    """
    words = _plain(text).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _plain(text: str) -> str:
    """Lower case, without punctuation; articles are kept, and punctuation where there is nothing else."""
    # Lower case of the Turkish İ is an i with a dot of its own.
    text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).lower().replace("i\u0307", "i"))
    text = _WITHIN_WORDS.sub("", text)
    text = _IN_WORDS_MINUS.sub("-", _PERCENT.sub("%", text))
    kept, end = [], 0
    for match in _OF_A_NUMBER.finditer(text):
        kept += [_without_punctuation(text[end : match.start()]), _KEPT_SIGNS.get(match[0], match[0])]
        end = match.end()
    plain = _UNSPACED_RUN.sub(_letters_apart, "".join([*kept, _without_punctuation(text[end:])]))
    return " ".join(plain.split()) or " ".join(text.split())


_KEPT_SIGNS = {"%": " % "} | dict.fromkeys(MINUS, "-")


def _without_punctuation(text: str) -> str:
    return "".join(" " if unicodedata.category(sign)[0] == "P" or sign in "−`" else sign for sign in text)


def _letters_apart(run: re.Match[str]) -> str:
    """A run of letters with spaces between them; marks of vowels and tones stay at their letter."""
    apart = "".join(sign if unicodedata.category(sign)[0] == "M" else f" {sign}" for sign in run[0])
    return f"{apart} "


def _without_elisions(text: str) -> str:
    """A text in which an elided word stands apart ("d Allemagne"); an article ("l'Allemagne", "un'area") is left out.

    It is another reading of the text beside the usual one, in which "L'Oréal" is one word.
    """
    return _DIVIDING.sub(
        lambda match: (
            match[0]
            if match["elided"] is None
            else " "
            if match["elided"].lower() in ("l", "un")
            else f"{match['elided']} "
        ),
        text,
    )


def exact_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether the normalised answer is one of the golds, with elided words ("l'Allemagne") or without these."""
    return any(
        normalize_answer(read(answer)) in {normalize_answer(read(gold)) for gold in golds}
        for read in (str, _without_elisions)
    )


def contains(answer: str, gold: str) -> bool:
    """Whether the gold's words are in the answer, in their order and next to each other; both normalised.

    Where no spaces divide words, the gold's letters are looked for, though they may be a part of another word (京都 of
    東京都). A single ideograph or katakana is found in Japanese only where none of its kind is beside it: 東 is not in
    東京, and not in 東側 either. In Chinese it is found anywhere, as is a single letter of Thai.

    Hiragana are found where no other is beside them: はい is not in してはいけません, and not in はいです either. A
    word behind a "not" is not found: 可以 of 不可以 (up to two ideographs), ได้ of ไม่ได้.

    What is elided before a word or added to one behind an apostrophe, where three letters or more are looked for, or
    in Korean to a noun of two letters or more, is none of the word: "Allemagne" is in "l'Allemagne", "Ankara" in
    "Ankara'dır", 서울 in 서울입니다. "D'Angelo" is a name of one word, as is "L'Oréal" within a sentence.
    """
    wanted = normalize_answer(gold)
    letters = wanted.replace(" ", "")
    if re.fullmatch(f"[{_HIRAGANA}]+", letters):
        alone = f"(?<![{_HIRAGANA}]){letters}(?![{_HIRAGANA}])"
        return re.search(alone, unicodedata.normalize("NFKC", answer)) is not None
    if _LETTER_ALONE.fullmatch(wanted) and _KANA.search(answer):
        return wanted in _LETTER_ALONE.findall(unicodedata.normalize("NFKC", answer))
    for denial, word in _DENIALS:
        if word.fullmatch(letters):
            answer = re.sub(f"(?<={denial}){letters}", " ", unicodedata.normalize("NFKC", answer))
    # Articles are what is asked for: "The answer is A."
    only_articles = set(wanted.split()) <= _ARTICLES
    if _has_words(_plain(answer) if only_articles else normalize_answer(answer), wanted):
        return True
    if len(letters) < _SHORTEST_DIVIDED or _DIVIDING.search(answer) is None or _DIVIDED_OFF.fullmatch(wanted):
        return False
    return _has_words(normalize_answer(_divided(answer)), normalize_answer(_divided(gold)))


def _divided(text: str) -> str:
    return _DIVIDING.sub(lambda match: f"{match['elided'] or ''} ", text)


def _has_words(text: str, wanted: str) -> bool:
    """Whether words are in a text, both normalised; the last one may have a particle of Korean behind it."""
    if f" {wanted} " in f" {text} ":
        return True
    if not wanted or _NOUN.search(wanted) is None or re.search(f"[{HANGUL}]", text) is None:
        return False
    text, wanted = f" {text}", f" {wanted}"
    start = text.find(wanted)
    while start >= 0:
        if _PARTICLE.match(text, start + len(wanted)):
            return True
        start = text.find(wanted, start + 1)
    return False


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """Best F1 of the answer's words against a gold's, in [0, 1]; 1 if both are empty. Elisions as in `exact_match`."""
    return max(
        (
            _f1(normalize_answer(read(answer)).split(), normalize_answer(read(gold)).split())
            for gold in golds
            for read in (str, _without_elisions)
        ),
        default=0.0,
    )


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    shared = sum((Counter(answer) & Counter(gold)).values())
    return 2 * shared / (len(answer) + len(gold))


# ---- amounts


_COMMITTED = re.compile(
    r"\b(?:final\s+)?answer[*_]*\s*(?:is\b\s*:?|:)[*_\s]*(?P<rest>[^\n|]*)", re.IGNORECASE
)
# "Source of the answer: clause 9" and "30 days (answer: clause 9)" say where an answer stands.
_BEFORE_SOURCE_OF_ANSWER = re.compile(
    r"(?:\b(?:of|for|to|with|behind|supporting|containing|giving|stating)\s{1,4}(?:the|this|that|my)\s{1,4}"
    r"|[(\[](?:the\s{1,4})?)[*_]{0,4}\Z",
    re.IGNORECASE,
)
_SOURCE_REACH = 20
_FALL = re.compile(
    r"\b(?:loss(?:es)?|lost|decreas\w*|declin\w*|fell|fall\w*|drop\w*|down|lower|negative|minus|reduc\w*|shrank)\b",
    re.IGNORECASE,
)
_FALL_REACH = 40
# "Revenue fell, but net income was $5 million": what fell is another thing. A comma begins a clause where a subject and
# a verb follow, not in "fell sharply, by 5%", nor in "the loss, which was $5 million"; a full stop where a capital
# letter does, not in "fell vs. 2022 by 5%".
_OTHER_CLAUSE = re.compile(
    r";\s|(?<!\bapprox)(?<!\bca)\.\s+(?=[*_]*[A-Z])|\b(?:but|while|whereas|though|although|yet)\b|"
    r",(?=\s+(?!(?:which|that|this|was|were|is|are)\b)(?=[^\W\d])"
    r"[^,;]*\b(?:was|were|is|are|rose|grew|increased|reached|stood|total+ed)\b)"
)
# "3.4% decrease", "$5 million net loss", "5% lower"; not "$5 million after losses".
_FALL_AFTER = re.compile(
    r"\s*(?:(?!(?:after|and|as|because|before|despite|due|for|from|in|of|on|or|than|to|up|with|without)\b)[\w-]+\s+)?"
    r"(?:loss(?:es)?|decreases?|declines?|drops?|falls?|reductions?|contractions?|lower|down(?!\s+from))\b",
    re.IGNORECASE,
)
_YEAR = re.compile(r"\W*((?:19|20)\d\d)\W*")
_NAMED = re.compile(r"([^\W\d_]+)[^\w:]*\Z")  # "Revenue: 12" names nothing
# What names nothing, and may stand before an amount with a capital letter.
_BEFORE_AMOUNTS = frozenset((
    "about", "above", "almost", "answer", "approx", "approximately", "around", "at", "below", "ca", "circa", "declined",
    "decrease", "decreased", "down", "dropped", "exactly", "fell", "gained", "grew", "increase", "increased", "just",
    "loss", "lost", "nearly", "of", "only", "over", "revenue", "rose", "roughly", "some", "than", "total", "under",
    "up",
))  # fmt: skip
# "Passages: 12" alone is their number. "Source: 2" and "[4]" are sources, without an amount.
_HOW_MANY = re.compile(r"[*_\s]*(?:sources|passages)[*_\s]*+(?::[*_\s]*+)?(\d{1,3})[.*_\s]*", re.IGNORECASE)
_MOST_AMOUNT_WORDS = 3
"""Longer right answers are sentences in which numbers occur."""


# "In Schedule 3" is where the answer stands.
_BEGINS_WITH_PART = re.compile(
    rf"\W*(?!(?:in|see|from|of|per|under)\b)(?:the\s+)?(?:{NAMED_PART.pattern})", re.IGNORECASE
)


def numeric_match(answer: str, gold: str, tolerance: float = 0.0) -> bool:
    r"""Whether an answer states the gold's amount.

    The values may differ by half of one in the last place that gold shows (gold "1.2 billion" is met by "1,204
    million"), or by `tolerance` if that is more; an answer coarser than gold needs a tolerance.

    A unit stands next to the number. Two that are known and differ are wrong: "three years" is neither "three months"
    nor "36 months", as nothing is converted but scales and basis points. Known are common currencies (a bare "$" is the
    US dollar), percentages, measures of time, length and weight, times, shares, and employees or people. A unit that is
    missing, or any other word, agrees with all: "9 plants" may be "9 sites".

    "a loss of $5 million" and "$5 million loss" agree with a negative gold: a word of a fall stands right behind the
    amount, or before it in the same clause. What follows "answer:" or "the answer is" counts alone, if it has an amount
    or says that there is none, and so does one amount in `\boxed{}`, with a fall that is said beside it, whichever is
    last; else an answer that states more
    than two amounts of the unit has not committed itself, unless one of them is the result (see `result_among`).

    A percentage is met by no fraction: "0.5" may be half a percent. A gold below 1 without a unit is met by "36%" for
    "0.36".

    Where gold has a unit and names no clause, version or the like, an answer is right too if it is without all that it
    names so ("Clause 12.1", "Article 12"). Else such numbers are amounts as any other, but for those of whole sections:
    "12" is met by "Step 12 sets it to 5", as it may be the step that is asked for.

    Args:
        answer: any text.
        gold: a text with one amount, or with a range's two.
        tolerance: largest relative deviation.

    Raises:
        DataError: if gold states no amount.
    """
    answer, gold = (
        _HOW_MANY.sub(r"\1", text) if _HOW_MANY.fullmatch(text) else plain_latex(text)
        for text in (answer, gold)
    )
    if year := _YEAR.fullmatch(gold):
        return set(re.findall(r"(?<!\d)(?:19|20)\d\d\b", answer)) == {year[1]}
    answer, gold = read_triangles(answer, gold)
    wanted = parse_quantities(gold, years=True) or parse_quantities(gold, years=True, dates=True)
    if not wanted:
        raise DataError(
            f"the right answer {gold[:80]!r} states no amount.",
            hint="score it as text, or by `numeric-or-f1` where some right answers are amounts and others aren't.",
        )
    committed = _committed_part(answer)
    if _meets(committed, gold, tolerance):
        return True
    is_measured = all(quantity.unit for quantity in wanted) and NAMED_PART.search(gold) is None
    # "The answer is clause 9" has answered with that, and with what it says of it; "the answer is based on clause 9"
    # and "source of the answer: clause 9" have not.
    is_part = _BEGINS_WITH_PART.match(committed) is not None
    starts = [
        one.start("rest")
        for one in _COMMITTED.finditer(answer)
        if is_part and one["rest"] == committed and not _is_of_source(answer, one)
    ]
    without_parts = NAMED_PART.sub(" ", answer[starts[-1] :] if starts else answer)
    return is_measured and _meets(_committed_part(without_parts), gold, tolerance)


def _is_of_source(answer: str, committed: re.Match[str]) -> bool:
    start = committed.start()
    return _BEFORE_SOURCE_OF_ANSWER.search(answer[max(0, start - _SOURCE_REACH) : start]) is not None


def _meets(text: str, gold: str, tolerance: float) -> bool:
    metres = (False, True) if _tells_a_length(text) or _tells_a_length(gold) else (False,)
    points = (False, True) if names_thousands(text) or names_thousands(gold) else (False,)
    dates = not parse_quantities(gold, years=True)  # gold is such a date itself
    parsers = (
        partial(parse_quantities, dates=dates, metres=metre, points=point)
        for metre, point in product(metres, points)
    )
    return any(_agrees(text, gold, tolerance, parse) for parse in parsers)


def _tells_a_length(text: str) -> bool:
    return any(quantity.unit in LENGTHS for quantity in parse_quantities(text))


def _agrees(text: str, gold: str, tolerance: float, parse: Callable[..., list[Quantity]]) -> bool:
    """Whether a text states the amount of gold, where "m" and points stand for the same in both."""
    wanted = parse(gold) or parse(gold, years=True)
    # An amount may be written like a year ("1950" for "1,950"); most numbers that are, are years.
    return any(_states(text, parse(text, years=years), wanted, tolerance) for years in (False, True))


def _committed_part(answer: str) -> str:
    """What an answer calls its answer; all of it where it does so of nothing that could be one."""
    box = boxed_amount(answer)
    fall = "down " if box and _tells_a_fall(answer, *box.span()) else ""
    committed = list(_COMMITTED.finditer(answer))
    if box and (not committed or committed[-1].start() < box.start()):
        return fall + box["rest"]
    if committed and (
        parse_quantities(committed[-1]["rest"], years=True, dates=True) or abstains(committed[-1][0])
    ):
        return committed[-1]["rest"]
    return fall + box["rest"] if box else answer


def numeric_or_f1(answer: str, gold: str) -> float:
    """Whether the amount is right where gold is one, of three words at most; else the overlap of words (token F1).

    A number word is an amount where it leads and no name follows: "three months", not "Four Seasons" or "Formula One".
    Digits are one unless they stand alone behind a word with a capital letter: "Up 12%", not "Boeing 737".
    """
    if len(gold.split()) <= _MOST_AMOUNT_WORDS and _is_amount(gold):
        return float(numeric_match(answer, gold))
    return token_f1(answer, [gold])


def _is_amount(gold: str) -> bool:
    if _YEAR.fullmatch(gold):
        return True
    amounts = parse_quantities(gold)
    if not amounts:
        return False
    if any(sign.isdigit() for sign in gold):
        named = _NAMED.search(gold[: amounts[0].start])
        bare = re.fullmatch(r"[\d.]+", gold[amounts[0].start : amounts[0].end]) is not None
        return not (bare and named and not named[1].islower() and named[1].lower() not in _BEFORE_AMOUNTS)
    leads = amounts[0].start == len(gold) - len(gold.lstrip())
    return leads and all(word.islower() for word in gold.split()[1:])


def _states(text: str, found: Sequence[Quantity], wanted: Sequence[Quantity], tolerance: float) -> bool:
    """Whether amounts of a text are those that are wanted."""
    stated = [quantity for quantity in found if any(units_agree(quantity.unit, one.unit) for one in wanted)]
    if len({quantity.value for quantity in stated}) > max(2, len(wanted)):
        result = result_among(text, found) if len(wanted) == 1 else None
        return result in stated and _same(text, result, wanted[0], tolerance)
    if len(wanted) > 1:
        return len(stated) == len(wanted) and all(
            units_agree(a.unit, b.unit) and _same(text, a, b, tolerance)
            for a, b in zip(stated, wanted, strict=True)
        )
    return any(_same(text, quantity, wanted[0], tolerance) for quantity in stated)


def _same(text: str, stated: Quantity, wanted: Quantity, tolerance: float) -> bool:
    value, resolution = stated.value, stated.resolution
    if stated.unsure and wanted.value > 0:
        value = abs(value)
    if wanted.unit is None and stated.unit == "%" and abs(wanted.value) < 1:
        value, resolution = value / 100, resolution / 100  # gold as a fraction
    if wanted.value < 0 < value and _tells_a_fall(text, stated.start, stated.end):
        value = -value
    slack = Decimal(str(tolerance)) * abs(wanted.value)
    deviation = abs(value - wanted.value)
    if deviation <= slack:
        return True
    return resolution <= wanted.resolution and deviation <= wanted.resolution / 2


def _tells_a_fall(text: str, start: int, end: int) -> bool:
    """Whether words of a fall stand in the same clause before an amount, or right behind it."""
    before = text[max(0, start - _FALL_REACH) : start]
    return (
        _FALL.search(_OTHER_CLAUSE.split(before)[-1]) is not None or _FALL_AFTER.match(text, end) is not None
    )


# ---- sources


class CitationScores(NamedTuple):
    """How well an answer's sources are those of the gold, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


_SOURCES = re.compile(rf"(\d+)(?:\s*(?:[{MINUS}]|to|through)\s*#?(\d+))?", re.IGNORECASE)
_LONGEST_SPAN = 19


def citation_scores(answer: str, gold: str | Iterable[int]) -> CitationScores:
    """Precision, recall and F1 of the numbered sources that an answer cites.

    They are cited like `[2]`, `[1, 3]`, `[1-3]`, `[Passage 2]`, `(Source 2)`, `passage 2` or `Sources: 1 and 3`, and
    numbered from 1: `[0]` cites none. Nor do subscripts and lists of code between backticks ("row[2]", "x = [2]",
    "f([2])"), nor what is directly behind `argv`, `args` or `arr` anywhere. All else is a source, as in "Europe[2]", so
    that "row[2]" is one too where no backticks are.

    An answer that cites nothing has precision 0, unless gold cites nothing either: then all are 1.

    Args:
        answer: any text.
        gold: numbers of the right sources, or a text that cites them.
    """
    cited = cited_sources(answer)
    right = cited_sources(gold) if isinstance(gold, str) else set(gold)
    if not cited and not right:
        return CitationScores(1.0, 1.0, 1.0)
    hits = len(cited & right)
    precision = hits / len(cited) if cited else 0.0
    recall = hits / len(right) if right else 0.0
    return CitationScores(precision, recall, 2 * hits / (len(cited) + len(right)))


# "``Net income'' rose [1]" has quotation marks of TeX.
_CODE = re.compile(r"```.*?(?:```|\Z)|(?<!`)`(?!`)[^`\n]+`(?!`)", re.DOTALL)
_SUBSCRIPT = re.compile(r"\b(?:argv|args|arr)\[")
# "x = row[1]", "f(x)[1]", "x = [1]", "f([1])"; "30 days[1]" and "ANSWER: yes[1]" are text, in code formatting too.
_SUBSCRIPT_OF_CODE = re.compile(
    r"(?<![\w:.|] )(?<!\w)[a-z_]\w*(?:\[[^\[\]\n]*\]|\([^()\n]*\))*\[|(?:=\s?|\w\()\["
)
_NO_BRACKET = "\0"


def _without_subscripts(text: str) -> str:
    """A text in which lists and subscripts of code have another sign for their bracket, so that none is a source."""

    def closed(found: re.Match[str]) -> str:
        return found[0].replace("[", _NO_BRACKET)

    def of_code(found: re.Match[str]) -> str:
        return _SUBSCRIPT_OF_CODE.sub(closed, found[0])

    return _SUBSCRIPT.sub(closed, _CODE.sub(of_code, text))


def same_value(answer: str, gold: str) -> bool:
    """Whether an answer is the gold but for case, spaces, and which sources it cites: the value, in its form."""

    def bare(text: str) -> str:
        plain = "".join(CITATION.sub("", _without_subscripts(text)).split())
        return unicodedata.normalize("NFC", plain).casefold()  # an accent may be a character of its own

    return bare(answer) == bare(gold)


def cited_sources(text: str) -> set[int]:
    """Numbers of the sources that a text cites, as in `citation_scores`."""
    found: set[int] = set()
    for match in CITATION.finditer(_without_subscripts(text)):
        for first, last in _SOURCES.findall(match["marks"] or match["several"] or match["one"]):
            begin, end = int(first), int(last or first)
            # A span of more is none of sources.
            found |= {begin, end} | (set(range(begin, end)) if end - begin <= _LONGEST_SPAN else set())
    return found - {0}


# ---- what stands in the context

_SHORTEST_WORD = 4
# What stands for words where no spaces divide them. Hiragana are left out, as short words are: particles and endings
# are written in it.
_PIECE = re.compile(
    rf"(?=([{_IDEOGRAPHS}{_KATAKANA}]{{2}}|[{HANGUL}]{{2}}|[{_ALPHABETS}]{{{_SHORTEST_WORD}}}))"
)


def groundedness(answer: str, context: str) -> float:
    """How much of an answer stands in its context, in [0, 1]: by overlap, so a paraphrase counts as little.

    The lower of two shares: of its words of four letters and more, and of its amounts, each of which has to stand in
    the context with the same unit, in any scale; an answer may round it, but not add digits. An amount that the answer
    computed is not grounded. An answer without words or amounts is, and so is one that says that there is none: it
    claims nothing.

    Where no spaces divide words, two ideographs or katakana in a row stand for one, or four letters of Thai and the
    like. So do two syllables of Korean, whose words are short: particles and endings behind them don't count.
    """
    if abstains(answer):
        return 1.0
    answer, context = read_triangles(answer, context)
    # An invented day is one more amount that isn't there.
    amounts = parse_quantities(answer, dates=True)
    known = {*normalize_answer(context).split(), *_pieces(context)}
    words = [
        word
        for word in normalize_answer(answer).split()
        # Words of amounts count with these.
        if len(word) >= _SHORTEST_WORD
        and _is_of_letters(word)
        and re.search(f"[{HANGUL}]", word) is None
        and word not in SCALES
        and word.upper() not in UNITS
    ]
    words += _pieces(
        _ENDING_OF_KOREAN.sub("", unicodedata.normalize("NFKC", _without_amounts(answer, amounts)))
    )
    shares = [1.0]
    if words:
        shares.append(sum(word in known for word in words) / len(words))
    if amounts:
        stated = parse_quantities(context, dates=True)
        shares.append(sum(_stands_in(amount, answer, stated, context) for amount in amounts) / len(amounts))
    return min(shares)


def _is_of_letters(word: str) -> bool:
    """Whether a word has letters alone; vowels of Hindi and the like are marks at these."""
    return "".join(sign for sign in word if unicodedata.category(sign)[0] != "M").isalpha()


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(unicodedata.normalize("NFKC", text))


def _without_amounts(text: str, amounts: Sequence[Quantity]) -> str:
    ends = [0, *(amount.end for amount in amounts)]
    starts = [*(amount.start for amount in amounts), len(text)]
    return " ".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _stands_in(amount: Quantity, answer: str, stated: Sequence[Quantity], context: str) -> bool:
    """Whether a text states an amount of an answer, which may have rounded it."""
    claimed = [amount]
    if amount.value > 0 and _tells_a_fall(answer, amount.start, amount.end):
        claimed.append(replace(amount, value=-amount.value))
    # A share may stand there as a fraction.
    fractions = [
        replace(one, value=100 * one.value, resolution=100 * one.resolution)
        for one in stated
        if amount.unit == "%" and one.unit is None and abs(one.value) < 1
    ]
    return any(
        units_agree(amount.unit, one.unit) and _same(context, one, claim, 0.0)
        for one in (*stated, *fractions)
        for claim in claimed
    )


# ---- no answer in the context

_DOCUMENTS = (
    r"(?:documents?|passages?|sources?|reports?|texts?|excerpts?|tables?|filings?|context|information)\b"
)
_TURNS = r"\b(?:but|however|although|though|nevertheless)\b"
_PARTS = {
    "documents": _DOCUMENTS,
    "of_documents": r"(?:in|by|within|from)\s+(?:(?:any|either|all)\s+of\s+)?"
    r"(?:the(?:se)?|this|those|any|either|your|my|given|provided)\s+(?:[\w-]+\s+){0,2}?" + _DOCUMENTS,
    "not": r"(?:\bnot|n't|\bnever)",
    # "must not be disclosed" is what a text says.
    "is_not": r"(?:(?<!\bmust\s)(?<!\bmay\s)(?<!\bshall\s)(?<!\bshould\s)(?<!\bneed\s)\bnot|n't|\bnever)",
    "does_not": r"\b(?:do|does|did)(?:\s+not|n't)",
    "cannot": r"(?:\b(?:cannot|can't|can\s+not|could\s+not|couldn't)|"
    r"\b(?:(?:is|am|are|was|were)\s+|'m\s+|'re\s+)?(?:unable|not\s+able)\s+to)",
    "states": r"(?:address(?:es)?|answers?|contains?|covers?|discloses?|discuss(?:es)?|explains?|gives?|includes?|"
    r"indicates?|lists?|mentions?|provides?|reports?|says?|shows?|specif(?:y|ies)|states?|tells?)\b",
    # "No data is stored there" has data for a thing.
    "information": r"(?:information|answers?|figures?|details?|data)\b(?:(?=\s*(?:\Z|[.;:,!?)|*\n]))|"
    r"(?=\s+(?:about|available|concerning|for|found|given|how|in|on|provided|regarding|that|to|what|when|whether|which|"
    r"why)\b)|(?=\s+(?:is|are|was|were|has\s+been|have\s+been)\s+(?:\w+ly\s+)?(?:available|contained|disclosed|found|given|"
    r"included|mentioned|present|provided(?!\s+to\b)|reported|specified|stated)\b))",
    "asked_for": r"\b(?:amounts?|answers?|causes?|costs?|data|dates?|details?|earnings|figures?|income|information|"
    r"margins?|names?|numbers?|percentages?|prices?|profits?|reasons?|revenues?|sales|totals?|values?)\b",
    # "not stated in dollars", "not given back": something else is denied.
    "otherwise": r"\s+(?:to|back|away|"
    r"in\s+(?:US\s+|U\.S\.\s+)?(?:dollars|euros|pounds|yen|cash|full|advance|writing))\b",
    "in_the_clause": rf"(?:(?!{_TURNS})(?:[^.;,\n]|[.,](?=\d))){{0,80}}?",
    "begins": r"(?:\A|[.:|\n(*\"])\s?(?:sorry,?\s+)?",
    "ends": r"(?=\s*(?:\Z|[.;,!|)*\n])|\s+for\s+(?:fiscal\s+|FY\s?)?\d)",
}
# Of words that documents alone do, any sentence ("not stated"); of words that things do too ("not included"), one that
# names documents or information; and what the answer says of itself ("I can't find it").
_ABSTENTION = re.compile(
    re.sub(
        r"\{([a-z_]+)\}",
        lambda name: _PARTS[name[1]],
        r"""
      {is_not}\s+(?:(?!well\b)\w+\s+){0,2}?(?:answered|disclosed|known|mentioned|reported|specified|stated)\b
          (?!{otherwise})
    | {does_not}\s+(?:\w+\s+){0,2}?(?:disclose|mention|say|specify|state)\b
    | \bnever\s+(?:\w+ly\s+)?(?:discloses|mentions|says|specifies|states)\b
    | \b(?:is|are|remains?)\s+(?:unclear|unknown|missing\s+from)
    | \bunanswerable

    | {not}\s+(?!only\b|just\b|merely\b)(?:[\w-]+\s+){0,3}?{of_documents}
    | \bcannot\s+be\s+(?:\w+\s+){1,2}?{of_documents}
    | \b{documents}(?:\s+(?:above|below|given|here|itself|listed|provided|retrieved|shown|supplied|you\s+\w+|
          \[?\d{1,3}\]?)){0,3}?\s+(?:(?:{does_not}|{cannot})\s+(?:\w+\s+)?(?:{states}|have\b)|
          (?:\w+ly\s+)?(?:lacks?|(?:is|are|remains?)\s+silent|{states}\s+nothing)\b)
    | \b{documents}\s+omits?\s+(?:it|(?:any|such|that|the|these|this)\s+(?:\w+\s+){0,2}?{asked_for})\b
    | \b(?:none|neither)\s+of\s+(?:(?:the(?:se)?|those)\s+(?:\w+\s+){0,2}?{documents}|them|these|those)\s+
          (?:\w+ly\s+)?{states}
    | \b(?:no|neither)\s+(?:\w+\s+)?{documents}\s+(?:\w+ly\s+)?{states}
    | \bno\s+(?:\w+\s+)?{documents}\s+(?:is|are|was|were)\s+found\b
    | \bnothing\s+(?:\w+\s+){0,4}?{of_documents}
    | \bnothing\s+(?:(?:is|was)\s+)?(?:said|stated|mentioned)\b(?!\s+to\b)

    | \bno\s+(?:(?:additional|clear|detailed|direct|exact|explicit|further|other|relevant|specific|such)\s+)?
          {information}
    | \bno\s+mention\b|\bmakes?\s+no\s+reference\b
    | \bno\s+indication(?:\s*(?:\Z|[.;,!\n])|\s+{of_documents}|(?:\s+(?:about|as\s+to|for|of|regarding))?\s+
          (?:any|how|its|the|their|this|what|when|where|whether|which|who|why)\b)
    | {not}\s+(?:contain\s+|give\s+|have\s+|include\s+|provide\s+)?(?:any|enough|sufficient)\s+(?:\w+\s+)?
          (?:context\b|{information})
    | \binsufficient\s+(?:information|context|data)
    | {does_not}\s+(?:\w+ly\s+)?(?:contain|find|give|have|include|provide|see)\s+(?:\w+\s+){0,3}?{information}
    | \black(?:s|ing)?\s+(?:\w+\s+){0,2}?{information}
    | {asked_for}{in_the_clause}(?:{not}\s+(?:\w+\s+)?(?:available|found|given|located|provided)|
          {cannot}\s+be\s+(?:found|located)|\b(?:is|are)\s+missing)\b(?!{otherwise})
    | \b(?:19|20)\d\d\s+(?:is|was)\s*{not}\s+(?:\w+\s+)?(?:available|covered|given|included|provided)\b(?!{otherwise})
    | \b(?:information|answer|figure)\b{in_the_clause}{not}\s+(?:\w+\s+)?(?:contained|here|included|present|there)\b
    | {begins}(?:not|never)\s+(?:\w+ly\s+)?(?:available|found|given|provided)\b{ends}

    | {cannot}\s+be\s+(?:answered|determined|inferred)\b
    | (?:\b(?:I|we|one)\b\s?(?:\w+ly\s+)?{cannot}|{begins}{cannot}|,\s{cannot}|\b(?:im|not\s+)possible\s+to)\s+
          (?:\w+ly\s+)?(?:answer|determine|infer|say|tell)\b
    | (?:\bI\b\s?(?:\w+ly\s+)?{cannot}|{begins}{cannot})\s+(?:\w+ly\s+)?(?:find|locate|see)\b
    | {cannot}\s+(?:find|give|locate|provide)\s+(?:\w+\s+){0,3}?(?:{information}|{of_documents})
    | (?:\b(?:I|we)\s+(?:\w+ly\s+)?|{begins})(?:do\s+not|don't|did\s+not|didn't)\s+(?:\w+ly\s+)?know\b
    """,
    ),
    re.VERBOSE | re.IGNORECASE,
)
# An answer that is no more than this, in house style too: "ANSWER: N/A | SOURCE: none".
_NOTHING_ELSE = re.compile(
    r"\W*(?:answer\W+)?(?:unknown|unclear|n/?a|n\.\s?a|no\s+answer)\W*(?:source\W+none\W*)?", re.IGNORECASE
)
# "The passages, which cover 12 plants, do not state it."
_OF_WHICH = re.compile(rf"(\b{_DOCUMENTS}),\s+(?:which|that|all)\b[^.;,\n]*,", re.IGNORECASE)
_BUT = re.compile(rf"{_TURNS}|[.;,]", re.IGNORECASE)
# "They only mention Norvik, with $3 million": not what was asked for.
_ONLY = re.compile(
    rf"\b(?:they|it|{_DOCUMENTS})\s+only\s+(?:{_PARTS['states']}|refers?\s+to)"
    rf"(?:(?!{_TURNS})(?:[^.;\n]|\.(?=\d)))*",
    re.IGNORECASE,
)

# "But it is probably version 3.2": a clause or the like is what was asked for.
_CLAIMED_PART = re.compile(
    r"(?:\b(?:(?:it|this|that|which)(?:\s+(?:is|was)|'s)|(?:could|may|might|must|should|would)\s+be|"
    r"answer(?:\s+is)?|I\s+(?:think|believe|guess)|apparently|likely|maybe|perhaps|presumably|probably)[:*_]*\s+)"
    r"(?:(?:apparently|in|it\s+is|it's|likely|most|of|perhaps|presumably|probably|the|to\s+be|under)\s+){0,3}"
    rf"(?:{NAMED_PART.pattern})",
    re.IGNORECASE,
)


def abstains(answer: str) -> bool:
    """Whether an answer says, in English, that the context holds none.

    "Not stated" says so of anything; "not included", "not available", "cannot find" and the like only where documents
    or information are named beside, as things are not included either. A text that goes on to state an amount after
    "but", or in another clause, has answered, unless it says that the documents only mention that. The number of a
    clause, a version or the like is such an amount only where it is claimed ("but it is probably version 3.2"), which
    that of a whole section never is.
    """
    answer = _OF_WHICH.sub(r"\1", answer.replace("’", "'"))
    if _NOTHING_ELSE.fullmatch(answer):
        return True
    match = _ABSTENTION.search(answer)
    if match is None:
        return False
    start = max((one.end() for one in _BUT.finditer(answer[: match.start()])), default=0)
    after = _BUT.search(answer, match.end())
    others = [_ONLY.sub("", part) for part in (answer[:start], answer[after.end() :] if after else "")]
    if not any(_states_an_amount(part) for part in others):
        return True
    return not any(
        _CLAIMED_PART.search(part) or _states_an_amount(NAMED_PART.sub(" ", part)) for part in others
    )


def _states_an_amount(part: str) -> bool:
    return any(_OF_DOCUMENTS.match(part, quantity.end) is None for quantity in parse_quantities(part))


# "I checked all three documents": no amount that was asked for.
_OF_DOCUMENTS = re.compile(rf"\s+(?:\w+\s+)?{_DOCUMENTS}", re.IGNORECASE)
