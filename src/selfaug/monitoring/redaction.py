"""Removes what identifies people and what opens doors from a text, before it is kept.

Patterns find what has a form: addresses, numbers, keys. They don't find names; whoever keeps texts keeps some of those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfaug.core.digits import plain_digits

__all__ = ["MOST_CHARACTERS", "redacted"]

MOST_CHARACTERS = 20_000
"""Of a text that is kept."""
_MOST_CUT = 256
"""Characters of what is replaced, at most: what the end of a text has cut in two matches no pattern."""

# Names of what opens doors, as a part of a longer name too: DB_PASSWORD, clientSecret. `max_tokens` is none.
_NAME = (
    r"(?:(?:api|access|secret|private|account|signing|encryption|shared|master|auth)[-_ ]?key"
    r"|passw(?:or)?ds?|passwort|kennwort|passphrase|(?<=[-_\"'])pass|pwd|secret|token|authorization"
    r"|mots?\s{1,4}de\s{1,4}passe|contrase[nñ]as?|senhas?|palavra[-\s]passe|has[lł]o|[sş]ifre(?:m|si|miz|niz)?|wachtwoord"
    r"|l[oö]senord|adgangskode|passord|пароль)"
)
_UNSPACED_NAME = "(?:密码|密碼|口令|パスワード|暗証番号|비밀번호|암호)"
# In quotes whatever stands there; else up to the next space or mark.
_IN_QUOTES = r"""(?:"(?:[^"\\\n]|\\.){4,}|'(?:[^'\\\n]|\\.){4,}|\\["'][^"'\n]{4,})"""
_VALUE = rf"""(?:{_IN_QUOTES}|[^\s"',;，。；、]{{4,}})"""
# password=…, "client_secret": "…", Authorization: Bearer …
_ASSIGNED = rf"\\?[\"']?\s{{0,16}}(?::=|=>|[:=])\s{{0,16}}(?:(?:bearer|basic|token)\s{{1,16}})?{_VALUE}"
# "the password is hunter22", "… is: hunter22"
_BEHIND_IS = r"(?:\s{1,16}|\s{0,16}:\s{0,16})"
# In sentences only what looks like no word: "the password is case-sensitive" and "token embeddings" tell nobody's.
_IS = rf"\s{{1,16}}(?:is|was|ist|lautet|est|es|é|è|jest){_BEHIND_IS}[\"']?"
# Nor is a short number a secret or a token, as it may be a password: "the secret is: 100% cotton", "the token is 2024".
_SHORT_NUMBER = r"(?:\d[.%!?)]{0,3}){1,5}(?![^\s\"',;])"
_SAID = (
    rf"(?:(?<!secret)(?<!token)|(?!{_IS}{_SHORT_NUMBER})){_IS}"
    r"(?=[^\s\"',;]*[\d@#$%^&*_+=~])[^\s\"',;]{4,}"
)
# Signs of full width, and what they are read as here. Behind these, and behind words of Japanese, Chinese and Korean, a
# sentence may stand ("什么是Token：…吗？"), or go on directly behind a value.
_WIDE_SIGNS = {"\uff1a": "\ufe55", "\uff1d": "\ufe66"}
_WIDE = f"[{''.join(_WIDE_SIGNS.values())}]"
_OF_ASCII = r"""[!#-&(-+\--:<-~]"""  # but quotation marks, commas and semicolons
# With a letter and a digit. "128k" is a number.
_LIKE_NO_WORD = rf"(?!\d+k(?!{_OF_ASCII}))(?={_OF_ASCII}*[a-z])(?={_OF_ASCII}*\d){_OF_ASCII}{{4,}}"
_OPEN = "[\"'「『“]?"
_ASSIGNED_UNSPACED = rf"\s{{0,16}}(?:{_IN_QUOTES}|{_OPEN}{_LIKE_NO_WORD})"
_SAID_UNSPACED = rf"\s{{0,16}}(?:は|是|为|為|는|은)\s{{0,16}}(?:{_WIDE}\s{{0,16}})?{_OPEN}{_LIKE_NO_WORD}"
# But somebody's own is one, whatever it looks like.
_SOMEBODYS = (
    r"\b(?:my|our|your|his|her|their|mein|unser|ihr|dein)\s{1,16}(?:passw(?:or)?d|passwort|kennwort|passphrase)"
    rf"\s{{1,16}}(?:is|was|ist|lautet){_BEHIND_IS}"
    r"[\"']?[^\s\"',;]{4,}"
)
_BESIDE = r"\s{1,16}[\"']?(?=[^\s\"',;]*\d)(?=[^\s\"',;]*[a-z])[^\s\"',;]{6,}"

# Letters that make a longer word or name of what stands beside them. Those of Japanese, Chinese and Korean, among them,
# don't: no space divides them from a number.
_NOT_BEHIND, _NOT_BEFORE = "(?<![A-Za-z0-9_])", "(?![A-Za-z0-9_])"
# Groups as numbers for counting don't have them: telephones' behind a 0, those of people in the USA, dates.
_GROUPED = (
    r"0[1-9]\d{1,3}[/-]\d|0[1-9]\d{2,3} \d|0[1-9]\d \d{5}|0[1-9](?: \d\d){4}"
    r"|\d{3}-\d{2,3}-\d{4}|\d\d\.\d\d\.\d{4}|\d{4}-\d\d-\d\d"
)
# Where a number begins. Behind a digit and a comma or full stop stand thousands and decimals. Behind a comma it may be
# the next cell of a table, too: that has seven digits together, or such groups. Cards' groups and signs that are none
# within a number are looked for behind both. Decimals may have nothing before their full stop ("p<.0000001").
_BEGIN = (
    rf"{_NOT_BEHIND}(?<![\s<>=~≈≤≥±(\[+-]\.)(?<!^\.)(?<![<>=~≈≤≥±],)"
    rf"(?:(?<!\d[.,])|(?=[+(]|\d{{4}}(?:[ -]\d{{4}}){{3}})|(?<=,)(?=\d{{7}}|{_GROUPED}))"
)
# Within a number, up to two between digits, among them spaces that forbid a break.
_BETWEEN_DIGITS = "[ \u00a0\u2007\u2009\u202f\u3000().\\-/]{0,2}"
_DASH = "[\u2010-\u2013\u2212\u30fc]"  # hyphens and dashes as printers have them

# Names and words of Japanese, Chinese and Korean, and signs of full width: not looked for in texts of ASCII.
_OF_UNSPACED: tuple[tuple[str, str], ...] = (
    (
        "key",
        rf"(?i)(?:{_NAME}\\?[\"']?\s{{0,16}}{_WIDE}"
        rf"|{_UNSPACED_NAME}(?:\\?[\"']?\s{{0,16}}(?::=|=>|[:=]|{_WIDE})|\s{{1,16}}(?={_OF_ASCII}{{6}}))){_ASSIGNED_UNSPACED}",
    ),
    ("key", rf"(?i)(?:{_NAME}|{_UNSPACED_NAME}){_SAID_UNSPACED}"),
)

# Each takes time in proportion to the text: the interpreter does nothing else meanwhile, requests included. So a run of
# characters is tried from its beginning only, or no further than so many characters, and nothing that may be empty
# stands between two repetitions of the same.
_PATTERNS: tuple[tuple[str, str], ...] = (
    (
        "key",
        r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    ),
    # Keys that say whose they are.
    (
        "key",
        r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|gh[opsur]|github_pat|glpat|xox[abeprs]|npm|pypi|dckr_pat|shpat)[-_]"
        r"[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{16,}"
        r"|(?:SK|AC)[0-9a-f]{32}|(?:ya29|SG)\.[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9_-]*)?)",
    ),
    ("key", r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),
    ("key", rf"(?i){_NAME}(?:{_ASSIGNED}|{_SAID}|{_BESIDE})"),
    *_OF_UNSPACED,
    ("key", rf"(?i){_SOMEBODYS}"),
    ("key", rf"(?i)\bbearer(?:{_BESIDE}|\s{{1,16}}[\w.~+/=-]{{16,}})"),
    ("key", rf"(?i)(?<=--){_NAME}\s{{1,16}}(?!-){_VALUE}"),
    ("credentials", r"(?<=://)[^\s/@:]*:[^\s/]+(?=@)"),
    ("email", r"(?<![\w.+%-])[\w.+%-]+@[\w-]+(?:\.[\w-]+)+"),
    (
        "iban",
        rf"{_NOT_BEHIND}[A-Z]{{2}}\d{{2}}(?:[ \u00a0\u202f]?[A-Z0-9]{{4}}){{2,7}}"
        rf"(?:[ \u00a0\u202f]?[A-Z0-9]{{1,3}})?{_NOT_BEFORE}",
    ),
    ("address", rf"{_NOT_BEHIND}(?:\d{{1,3}}\.){{3}}\d{{1,3}}{_NOT_BEFORE}"),
    # With `::`, where it begins as addresses do: not each name::name of a program.
    (
        "address",
        r"(?i)(?<![A-Za-z0-9_:])(?:[23][0-9a-f]{3}|f[cdf][0-9a-f]{2}|fe[89ab][0-9a-f])(?::[0-9a-f]{1,4}){0,6}::"
        r"(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,6})?(?![A-Za-z0-9_:])",
    ),
    ("address", rf"(?i){_NOT_BEHIND}(?:[0-9a-f]{{1,4}}:){{4,7}}[0-9a-f]{{1,4}}{_NOT_BEFORE}"),
    # With dashes, three groups of digits: two are a range, such as 2019–2020.
    (
        "number",
        rf"{_BEGIN}\+?(?=(?:\d{_DASH}?){{7}})\d{{1,4}}(?:{_DASH}\d{{2,4}}){{2,5}}{_NOT_BEFORE}",
    ),
    # Numbers of Chinese identity cards may end with an X.
    (
        "number",
        rf"{_BEGIN}\+?\(?\d(?:{_BETWEEN_DIGITS}\d){{6,}}(?:(?<=\d{{17}})[Xx])?{_NOT_BEFORE}",
    ),
)
_READ_WIDE_AS = str.maketrans(_WIDE_SIGNS)
_COMPILED = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _PATTERNS)
_COMPILED_OF_ASCII = tuple(
    compiled for compiled, pattern in zip(_COMPILED, _PATTERNS, strict=True) if pattern not in _OF_UNSPACED
)


def redacted(text: str) -> str:
    """The text with e-mail and network addresses, account, card and telephone numbers, keys and passwords replaced.

    Each is replaced by its kind in brackets, such as [email]. A number is taken for one that identifies from seven
    digits on. Of a text of more than 20,000 characters there is the beginning, with an ellipsis.
    """
    beginning = text[:MOST_CHARACTERS]
    # Patterns know digits of ASCII; each has its place in the text.
    plain = plain_digits(beginning.translate(_READ_WIDE_AS))
    for kind, pattern in _COMPILED_OF_ASCII if plain.isascii() else _COMPILED:
        spans = [found.span() for found in pattern.finditer(plain)]
        if spans:
            beginning, plain = (_replaced(one, spans, f"[{kind}]") for one in (beginning, plain))
    return beginning if len(text) <= MOST_CHARACTERS else f"{beginning[:-_MOST_CUT]}…"


def _replaced(text: str, spans: Sequence[tuple[int, int]], by: str) -> str:
    """The text with something else in place of each of these parts, which are in their order."""
    kept, end = [], 0
    for start, stop in spans:
        kept += [text[end:start], by]
        end = stop
    return "".join([*kept, text[end:]])
