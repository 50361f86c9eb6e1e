"""Scorers of answers by their words: exact match, overlap, and whether an answer has the right one in it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from selfaug.eval.amounts import MINUS, SIGNS
from selfaug.retrieval.plain_text import UNSPACED

__all__ = [
    "ALPHABETS",
    "HANGUL",
    "IDEOGRAPHS",
    "KATAKANA",
    "PARTICLES",
    "contains",
    "exact_match",
    "normalize_answer",
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
HANGUL = "\uac00-\ud7a3"  # syllables of Korean
KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
IDEOGRAPHS = "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # of Chinese and Japanese
ALPHABETS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_LETTER_ALONE = re.compile(
    "|".join(f"(?<![{letters}])[{letters}](?![{letters}])" for letters in (KATAKANA, IDEOGRAPHS))
)
# What Korean writes behind a noun, without a space: particles, and "is". Some stand behind a vowel, some behind a
# consonant. Not 도 and 만, which are "province" and "bay" as well.
_OPEN = "".join(chr(code) for code in range(0xAC00, 0xD7A4, 28))
_CLOSED = "".join(chr(code) for code in range(0xAC00, 0xD7A4) if (code - 0xAC00) % 28)
_CLOSED_BUT_L = "".join(sign for sign in _CLOSED if (ord(sign) - 0xAC00) % 28 != 8)
PARTICLES = (
    rf"(?:(?<![{_CLOSED}])(?:는|가|를|와|다|였다|였습니다|예요)|(?<![{_CLOSED_BUT_L}])로|"
    rf"(?<![{_OPEN}])(?:은|이|을|과|으로|이었다|이었습니다|이에요)|"
    "이다|이고|이며|이지만|입니다|이라고|라고|의|에|에서|에게|께서|까지|부터|보다|처럼)"
)
_PARTICLE = re.compile(rf"{PARTICLES}(?!\S)")
_NOUN = re.compile(r"\w{2,}\Z")  # 네 of 네가 is another word
# "No" and "not" directly before a word, and the words that they deny: 有 in 没有, ได้ in ไม่ได้. Longer words of
# ideographs may follow another one by chance.
_DENIALS = (
    ("[不没沒無无非未]", re.compile(f"[{IDEOGRAPHS}]{{1,2}}")),
    ("ไม่", re.compile(f"[{ALPHABETS}]+")),
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
