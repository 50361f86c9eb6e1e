"""Amounts in a text: with sign, scale and unit, as a careful reader takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from selfaug.core.digits import plain_digits
from selfaug.retrieval.plain_text import UNSPACED

__all__ = [
    "CITATION",
    "LENGTHS",
    "MINUS",
    "NAMED_PART",
    "SCALES",
    "SIGNS",
    "SPAN",
    "UNITS",
    "Quantity",
    "names_thousands",
    "parse_quantities",
    "read_triangles",
    "units_agree",
]


@dataclass(frozen=True)
class Quantity:
    """An amount in a text.

    Attributes:
        value: with its sign, after its scale ("1.2 billion" is 1,200,000,000); of basis points, in percent.
        unit: a currency's code, "%", the singular of a measure or of what is counted ("hour", "share"), or None
            where none is known; where a name has several meanings, all of them ("pounds": "GBP|pound").
        resolution: one in the last place that is shown, after scale ("1.2 billion": 100,000,000).
        start: where it begins in the text.
        end: where it ends.
        unsure: its sign stands apart ("- 5"), and may be a bullet or a dash.
    """

    value: Decimal
    unit: str | None
    resolution: Decimal
    start: int
    end: int
    unsure: bool = False


# Of languages that write a decimal comma. "Billion" is English here: 10**9.
_SCALES_WITH_COMMA = {
    "tsd": 10**3, "tausend": 10**3, "millionen": 10**6,
    "mrd": 10**9, "milliarde": 10**9, "milliarden": 10**9, "billionen": 10**12,
    "millier": 10**3, "milliers": 10**3, "milliard": 10**9, "milliards": 10**9,
    "milione": 10**6, "milioni": 10**6, "miliardo": 10**9, "miliardi": 10**9,
    "milhão": 10**6, "milhões": 10**6, "mil milhões": 10**9, "bilhão": 10**9, "bilhões": 10**9,
    "trilhão": 10**12, "trilhões": 10**12,
    "milyon": 10**6, "milyar": 10**9, "trilyon": 10**12,
    "tys": 10**3, "tysiąc": 10**3, "tysiące": 10**3, "tysięcy": 10**3,
    "milion": 10**6, "miliony": 10**6, "milionów": 10**6, "miliard": 10**9, "miliardy": 10**9, "miliardów": 10**9,
    "miljoen": 10**6, "miljard": 10**9, "miljon": 10**6, "miljoner": 10**6, "miljarder": 10**9,
    "millioner": 10**6, "milliarder": 10**9,
    "тыс": 10**3, "тысяч": 10**3, "млн": 10**6, "миллион": 10**6, "млрд": 10**9, "миллиард": 10**9,
    **dict.fromkeys(("тысяча", "тысячи"), 10**3), **dict.fromkeys(("миллиона", "миллионов"), 10**6),
    **dict.fromkeys(("миллиарда", "миллиардов"), 10**9),
    **dict.fromkeys(("трлн", "триллион", "триллиона", "триллионов"), 10**12),
    # Ukrainian and Bulgarian
    **dict.fromkeys(("тис", "тисяча", "тисячі", "хил", "хиляди"), 10**3),
    **dict.fromkeys(("мільйон", "мільйона", "мільйони", "мільйонів", "милион", "милиона"), 10**6),
    **dict.fromkeys(("мільярд", "мільярда", "мільярди", "мільярдів", "милиард", "милиарда"), 10**9),
    **dict.fromkeys(("трильйон", "трильйона", "трильйони", "трильйонів", "трилион", "трилиона"), 10**12),
    # Finnish and Hungarian
    **dict.fromkeys(("tuhat", "tuhatta", "ezer"), 10**3),
    **dict.fromkeys(("milj", "miljoona", "miljoonaa", "miljoonan", "millió", "milliós"), 10**6),
    **dict.fromkeys(("miljardi", "miljardia", "miljardin", "milliárd", "milliárdos"), 10**9),
    **dict.fromkeys(("biljoona", "biljoonaa"), 10**12),
    # Greek; ς ends a word
    **dict.fromkeys(("χιλ", "χιλιάδες", "χιλιάδων"), 10**3),
    **dict.fromkeys(("εκατ", "εκατομμύριο", "εκατομμύρια", "εκατομμυρίων"), 10**6),
    **dict.fromkeys(("δισ", "δις", "δισεκατομμύριο", "δισεκατομμύρια", "δισεκατομμυρίων"), 10**9),
    **dict.fromkeys(("τρισ", "τρις", "τρισεκατομμύριο", "τρισεκατομμύρια"), 10**12),
    # Vietnamese and Indonesian
    **dict.fromkeys(("nghìn", "ngàn", "ribu"), 10**3), **dict.fromkeys(("triệu", "juta"), 10**6),
    **dict.fromkeys(("tỷ", "tỉ", "miliar"), 10**9), **dict.fromkeys(("nghìn tỷ", "ngàn tỷ", "triliun"), 10**12),
    # Czech, Slovak, Croatian, Serbian and Romanian
    **dict.fromkeys(("tisíc", "tisíce", "tisuća", "hiljada"), 10**3),
    **dict.fromkeys(("milionu", "milionů", "milióny", "miliónov", "milijun", "milijuna", "miliona", "milioane"), 10**6),
    **dict.fromkeys(("miliarda", "miliardu", "miliárd", "miliardy", "milijarda", "milijardi", "milijarde", "miliarde"),
                    10**9),
}  # fmt: skip
# Not Spanish, of which some countries write a comma and some a point.
_SCALES_ELSEWHERE = {
    "millón": 10**6, "millones": 10**6, "mil millones": 10**9,
    "lakh": 10**5, "lakhs": 10**5, "crore": 10**7, "crores": 10**7,
    "हज़ार": 10**3, "हजार": 10**3, "लाख": 10**5, "करोड़": 10**7, "अरब": 10**9,
    "ألف": 10**3, "آلاف": 10**3, "مليون": 10**6, "ملايين": 10**6, "مليار": 10**9, "مليارات": 10**9, "تريليون": 10**12,
    # Persian, with its own letters and with those of Arabic keyboards
    "هزار": 10**3, **dict.fromkeys(("میلیون", "ميليون"), 10**6), **dict.fromkeys(("میلیارد", "ميليارد"), 10**9),
    **dict.fromkeys(("تریلیون", "تريليون"), 10**12),
    # Hebrew
    **dict.fromkeys(("אלף", "אלפי", "אלפים"), 10**3),
    **dict.fromkeys(("מיליון", "מליון", "מיליוני", "מיליונים"), 10**6),
    **dict.fromkeys(("מיליארד", "מליארד", "מיליארדי", "מיליארדים"), 10**9), "טריליון": 10**12,
    # Thai, of which the shortest is the beginning of other words (see _SCALE)
    "หมื่น": 10**4, "แสน": 10**5, "ล้าน": 10**6, "สิบล้าน": 10**7, "ร้อยล้าน": 10**8, "พันล้าน": 10**9,
    "หมื่นล้าน": 10**10, "แสนล้าน": 10**11, "ล้านล้าน": 10**12,
}  # fmt: skip
_SCALES_KOREAN = {
    "천": 10**3, "만": 10**4, "십만": 10**5, "백만": 10**6, "천만": 10**7, "억": 10**8, "십억": 10**9,
    "백억": 10**10, "천억": 10**11, "조": 10**12,
}  # fmt: skip
# Chinese, Japanese and Korean.
_SCALES_UNSPACED = {
    **_SCALES_KOREAN,
    "千": 10**3, "万": 10**4, "萬": 10**4, "百万": 10**6, "百萬": 10**6, "千万": 10**7,
    "億": 10**8, "亿": 10**8, "兆": 10**12, "万亿": 10**12,
}  # fmt: skip
_THAI_THOUSAND = "พัน"
SCALES = {
    _THAI_THOUSAND: 10**3,
    "thousand": 10**3, "k": 10**3,
    "million": 10**6, "millions": 10**6, "mn": 10**6, "mm": 10**6, "m": 10**6, "mio": 10**6, "mln": 10**6,
    "billion": 10**9, "billions": 10**9, "bn": 10**9, "b": 10**9, "mld": 10**9,
    "trillion": 10**12, "trillions": 10**12, "tn": 10**12,
    **_SCALES_WITH_COMMA, **_SCALES_ELSEWHERE, **_SCALES_UNSPACED,
}  # fmt: skip
# May have a full stop.
_ABBREVIATED = (
    *("mio", "mrd", "tsd", "mln", "mld", "tys", "milj", "млн", "млрд", "тыс", "тис", "хил"),
    *("χιλ", "εκατ", "δισ", "δις", "τρισ"),
)
# Scales only where a currency follows. In "5 mil USD" it is none: that may be thousands of Spanish or English millions.
_THOUSANDS_BEFORE_CURRENCY = {"mil": 10**3, "mille": 10**3, "mila": 10**3, "bin": 10**3}
_BEFORE_CURRENCY = {"t": 10**3, "md": 10**9, "mds": 10**9, **_THOUSANDS_BEFORE_CURRENCY}
# Codes and signs stand before an amount, or after it.
_CODES = {
    "USD": "USD US$", "EUR": "EUR", "GBP": "GBP", "JPY": "JPY JP¥", "CHF": "CHF", "CNY": "CNY RMB CN¥",
    "INR": "INR Rs Rs.", "CAD": "CAD CA$ CAN$ CDN$", "AUD": "AUD AU$", "NZD": "NZD NZ$", "HKD": "HKD HK$",
    "SGD": "SGD SG$", "TWD": "TWD NT$", "KRW": "KRW", "BRL": "BRL", "MXN": "MXN MX$", "ZAR": "ZAR",
    "SEK": "SEK", "NOK": "NOK", "DKK": "DKK", "PLN": "PLN", "TRY": "TL", "SEK|NOK|DKK": "kr kr.",
    "THB": "THB", "UAH": "UAH", "VND": "VND", "IDR": "IDR", "CZK": "CZK Kč",
}  # fmt: skip
# In capitals alone: "rub 3 times", and French "ils 12". "a$5" lacks a space.
_CAPITAL_CODES = {"ILS": "ILS", "NIS": "ILS", "RUB": "RUB", "HUF": "HUF"}
_LETTER_DOLLARS = {"A$": "AUD", "C$": "CAD", "R$": "BRL", "S$": "SGD"}
_RUPIAH = r"(?-i:Rp\.?)"  # "RP5" is a name
_SIGNS = {
    "$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY|CNY", "₹": "INR", "₩": "KRW", "₺": "TRY", "₽": "RUB", "₪": "ILS",
    "₫": "VND", "₴": "UAH", "฿": "THB",
}  # fmt: skip
SIGNS = "".join(_SIGNS)
# Singulars, of which the plural has an s more, and plurals that have not.
_CURRENCIES = {
    "USD": ("dollar", "US dollar", "U.S. dollar", "American dollar", "US-Dollar", "dollaria", "доллар", "доллара",
            "долларов", "долар", "долари", "доларів", "δολάριο", "δολάρια", "דולר", "דולרים", "دولار", "دلار"),
    "EUR": ("euro", "euroa", "eurót", "ευρώ", "евро", "євро", "אירו", "יורו", "يورو", "یورو"),
    "GBP": ("pounds sterling", "British pound"), "GBP|pound": ("pound",),
    "JPY": ("yen", "Japanese yen"), "CHF": ("franc", "Swiss franc", "Franken"),
    "CNY": ("yuan", "renminbi", "Chinese yuan"), "INR": ("rupee", "Indian rupee"),
    "CAD": ("Canadian dollar",), "AUD": ("Australian dollar",), "NZD": ("New Zealand dollar",),
    "HKD": ("Hong Kong dollar",), "SGD": ("Singapore dollar",), "TWD": ("Taiwan dollar", "New Taiwan dollar"),
    "KRW": ("Korean won", "South Korean won"), "BRL": ("reais", "Brazilian real", "Brazilian reais"),
    "MXN": ("Mexican peso",), "ZAR": ("rand", "South African rand"),
    "PLN": ("zł", "zloty", "złoty", "złote", "złotych", "Polish zloty"),
    "TRY": ("lira", "Türk lirası", "Turkish lira"),
    "SEK": ("krona", "kronor", "Swedish krona", "Swedish kronor"), "NOK|DKK": ("krone", "kroner"),
    "NOK": ("Norwegian krone", "Norwegian kroner"), "DKK": ("Danish krone", "Danish kroner"),
    "ILS": ("shekel", "Israeli shekel", "שקל", "שקלים", "שקלים חדשים", 'ש"ח', "ש״ח", "ש''ח"),
    "THB": ("baht", "Thai baht"), "VND": ("đồng", "Vietnamese dong"), "IDR": ("rupiah",), "HUF": ("forint", "forintot"),
    "RUB": ("ruble", "rouble", "руб", "рубль", "рубля", "рублей"),
    "UAH": ("hryvnia", "грн", "гривня", "гривні", "гривень"),
}  # fmt: skip
_MONEY_UNSPACED = {
    "บาท": "THB", "ดอลลาร์": "USD", "ยูโร": "EUR", "เยน": "JPY",
    "円": "JPY", "日元": "JPY", "元": "CNY|HKD|TWD", "人民元": "CNY", "港元": "HKD",
    "美元": "USD", "米ドル": "USD", "ドル": "USD", "欧元": "EUR", "ユーロ": "EUR",
    "원": "KRW", "달러": "USD", "유로": "EUR", "위안": "CNY",
}  # fmt: skip
_LENGTHS = {
    "millimetre": ("millimetre", "millimeter"), "centimetre": ("centimetre", "centimeter", "cm"),
    "metre": ("metre", "meter"), "kilometre": ("kilometre", "kilometer", "km"),
    "inch": ("inch", "inches"), "foot": ("foot", "feet", "ft"), "yard": ("yard", "yd"), "mile": ("mile", "mi"),
}  # fmt: skip
LENGTHS = frozenset(_LENGTHS)
# A number before one of these may still be a year or a day: "in 2021 shares fell", "on May 5 won it".
# Of what is counted, plurals alone: "34 employee hours" are hours.
_MEASURES = {
    **_LENGTHS,
    "second": ("second", "sec"), "minute": ("minute", "min"), "hour": ("hour", "hr", "h"), "day": ("day",),
    "week": ("week", "wk"), "month": ("month", "mo"), "quarter": ("quarter",), "year": ("year", "yr"),
    "decade": ("decade",), "milligram": ("milligram", "milligramme", "mg"), "gram": ("gram", "gramme", "g"),
    "kilogram": ("kilogram", "kilogramme", "kilo", "kg"), "pound": ("lb",), "ounce": ("ounce", "oz"),
    "ton": ("ton", "tonne", "metric ton", "metric tonne", "t"),
    "cent": ("cent", "US cent", "euro cent"), "KRW": ("won",), "time": ("times", "x"), "share": ("shares",),
    "person": ("persons", "people", "employees", "workers"),
}  # fmt: skip
_LENGTH_OR_SCALE = {"m": "metre", "mm": "millimetre"}


def _forms(names: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Units by their names in capitals, in the singular and in the plural."""
    return {
        form.upper(): unit for unit, words in names.items() for word in words for form in (word, f"{word}s")
    }


_SPELLED_CODES = {code.upper(): unit for unit, codes in _CODES.items() for code in codes.split()}
_BY_CODE = {**_SPELLED_CODES, **_CAPITAL_CODES, **_LETTER_DOLLARS, "RP": "IDR", "RP.": "IDR"}
_MONEY = {**_SIGNS, **_BY_CODE, **_forms(_CURRENCIES), **_MONEY_UNSPACED}
UNITS = {
    **_MONEY,
    "%": "%", "PERCENT": "%", "PER CENT": "%", "PERCENTAGE POINT": "%", "PERCENTAGE POINTS": "%", "PP": "%",
    "BASIS POINT": "bps", "BASIS POINTS": "bps", "BPS": "bps", "BP": "bps",
}  # fmt: skip
_BY_MEASURE = _forms(_MEASURES)


def _any_of(names: Iterable[str]) -> str:
    """A pattern of names, the longest first."""
    return "|".join(
        r"\s+".join(map(re.escape, name.split())) for name in sorted(names, key=len, reverse=True)
    )


# "CAD $5" and "CAD$5": the sign says no more than the code.
_CODE = rf"(?:(?-i:{_any_of((*_LETTER_DOLLARS, *_CAPITAL_CODES))})|{_any_of(_SPELLED_CODES)}|{_RUPIAH})"
# "TEUR 500", "k€ 500"; not "TTL 5", which is no lira's.
_LEAD = rf"[tkm](?=€|(?-i:{_any_of(code for code in _SPELLED_CODES if code.isalpha() and len(code) == 3)}))"
_BEFORE = rf"(?:{_CODE}(?:\s?[{SIGNS}])?\s?|[{SIGNS}]\s?)"
_DOLLARS = _any_of(name for name in _MONEY if name[-1] == "$")
_AFTER = (
    # "5 euro cents" are no euros.
    rf"(?:%|{_any_of(_MONEY_UNSPACED)}|"
    rf"(?:{_any_of(name for name in UNITS.keys() - _CAPITAL_CODES if name[-1].isalpha())})\b(?!\s+cents?\b)|"
    rf"(?-i:{_any_of(_CAPITAL_CODES)})\b|[{SIGNS[1:]}](?!\d)|"
    rf"(?:{_DOLLARS})(?!\s?[\d.(]))"
)
_MEASURE = rf"(?:{_any_of(_BY_MEASURE)})(?![\w-])"
_OF_UNSPACED = _any_of(_SCALES_UNSPACED.keys() - {"조"})
# Ends a word of Korean, with or without a particle: 원 of "5만 원을", not of "12조 원칙".
_ENDS_IN_KOREAN = (
    r"(?:이었습니다|이었다|였습니다|였다|입니다|이라고|이다|이고|이며|이|보다|가|을|를|은|는|의|에|에서|으로|로|과|와|도|까지|부터|씩)?"
    r"(?![\uac00-\ud7a3])"
)
_OF_MONEY = rf"\s?(?:{_any_of(_MONEY_UNSPACED)}){_ENDS_IN_KOREAN}"
_OF_MONEY_OR_THINGS = rf"(?:{_OF_MONEY}|\s?[명개대건톤]{_ENDS_IN_KOREAN})"
_KOREAN = _any_of(_SCALES_KOREAN.keys() - {"조", "만"})
_MONEY_OF_ENGLISH = (
    r"(?:(?:US|CA|CAN|CDN|AU|NZ|HK|SG|[ACS])\s?\$|(?:USD|GBP|CAD|AUD|NZD|HKD|SGD|INR)\b|[$£]|"
    r"(?:(?:US|U\.S\.|American|Canadian|Australian|New\sZealand|Hong\sKong|Singapore)\s|US-)?dollar|"
    r"(?:British\s)?pound|(?:Indian\s)?rupee)"
)
_THOUSANDS_OF_MONEY = (
    rf"(?:mil(?!\s{_MONEY_OF_ENGLISH})|{_any_of(_THOUSANDS_BEFORE_CURRENCY.keys() - {'mil'})})(?=\s{_AFTER})"
)
# Letters that go on with a word: "5 médecins" are no "5 m", "5 χιλιόμετρα" no thousands. In other scripts a scale may
# be the beginning of its own other forms, or words stand behind it without a space.
_GOES_ON = "[A-Za-z\u00c0-\u024f\u0370-\u03ff\u1e00-\u1fff]"
_SCALE = (
    # "12조 1항" is of article 12, and "5만" may be "only 5": scales where further digits, money or things follow.
    rf"(?:(?:{_any_of(SCALES.keys() - _SCALES_UNSPACED.keys() - {_THAI_THOUSAND})})(?!{_GOES_ON})|"
    # พันธุ์ are kinds, พันธบัตร bonds
    rf"{_THAI_THOUSAND}(?=[^\u0e00-\u0e7f]|\Z|บาท|ดอลลาร์|ยูโร|เยน|คน|ตัน|หน่วย|ราย)|"
    rf"조(?={_OF_MONEY}|\s?\d[\d,]*천?억)|"
    rf"만(?=(?:\s?\d[\d,]*천?)?{_OF_MONEY_OR_THINGS})|"
    # Behind a space another word may begin so ("DPP-4 억제제", "3 천연가스"), and 천 is cloth, too.
    rf"(?<![\s-])(?:{_KOREAN})|"
    rf"(?:{_KOREAN})(?={_OF_MONEY_OR_THINGS})|(?!천(?!만|억))(?:{_KOREAN})(?={_ENDS_IN_KOREAN})|"
    rf"{_any_of(_SCALES_UNSPACED.keys() - _SCALES_KOREAN.keys())}|"
    rf"{_THOUSANDS_OF_MONEY}|"
    # "5 T€", "5 MEUR", "5 Md€"
    rf"[tkm](?=€|(?-i:{_any_of(code for code in _SPELLED_CODES if code.isalpha())})\b)|mds?(?=\s?{_AFTER}))"
)
_BEHIND_ABBREVIATION = "|".join(f"(?<={name})" for name in _ABBREVIATED)
_FULL_STOP = rf"(?:(?:{_BEHIND_ABBREVIATION})\.(?=\s?{_AFTER}))?"
# "1兆2,345億": what of a number stands behind its first scale; in Korean, with a space between them.
_FURTHER = (
    rf"(?:(?<=[{''.join({name[-1]: '' for name in _SCALES_UNSPACED})}])\d[\d,]*(?:{_OF_UNSPACED})?|"
    rf"(?<=[만억조])\s\d[\d,]*(?:{_any_of(_SCALES_KOREAN.keys() - {'조'})}))*"
)
MINUS = "-−–\u2010\u2011"  # the last two are hyphens, which may forbid a break of the line
_MINUS_TRIANGLE = "△"  # of Japanese accounts; a minus that stands directly before its number
_OTHER_TRIANGLE = "▲"  # the same there, while elsewhere it says that something rose
_DOWN = "▼"
_OF_JAPAN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff¥￥]|\b(?:yen|JPY)\b", re.IGNORECASE)
_AMOUNT = re.compile(
    rf"""
    (?P<sign>
        {_MINUS_TRIANGLE}
      | (?<![\w.,)\]%{SIGNS[1:]}])(?:[{MINUS}+]\s?|(?<!double\s)\b(?:minus|negative)\s)
    )?
    (?:(?<![A-Za-z])(?P<outer_lead>{_LEAD})?(?P<outer>{_BEFORE})(?=\())?
    (?P<open>\()?
    (?:(?<![A-Za-z])(?P<lead>{_LEAD})?(?P<before>{_BEFORE})(?P<sign2>[{MINUS}{_MINUS_TRIANGLE}])?)?
    (?:(?<=\()(?P<sign3>[{MINUS}{_MINUS_TRIANGLE}]))?
    (?(before)|(?<![^\W{UNSPACED}])(?<![.,]))
    (?P<number>
        [1-9]\d{{0,2}}(?:\.\d{{3}})+,\d+
      | [1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}}(?!\d)
      | \d{{1,3}},\d{{4,}}(?=\s?(?:{_SCALE}|{_AFTER}))
      | (?!0,)\d{{1,3}}(?:,\d{{3}})+(?!\d)(?:\.\d+)?
      | \d{{1,2}}(?:,\d{{2}})+,\d{{3}}(?!\d)(?:\.\d+)?
      | \d{{1,3}}(?:['’]\d{{3}})+(?!\d)(?:\.\d+)?
      | \d{{1,3}}(?:[\u00a0\u202f\u2009]\d{{3}})+(?!\d)(?:[.,]\d+)?
      | (?:\d+,\d{{1,2}}|0,\d+)(?!\d)
      | \d+(?:\.\d+)?
      | \.\d+
    )
    (?!\d|(?:st|nd|rd|th)\b|[.,]\d)
    (?P<close>\))?
    (?:\s?-?(?P<scale>{_SCALE})(?P<further>{_FURTHER}){_FULL_STOP})?
    (?:\s?(?:d['’]|d[ei]\s)?(?P<after>{_AFTER})|[\s\-\u2010\u2011]?(?P<measure>{_MEASURE}))?
    (?P<close2>\))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Of German, French, Spanish, Italian, Portuguese, Dutch, Nordic languages, Polish, Turkish, Russian, Hindi and Arabic.
_OTHER_MONTHS = (
    "januar|jänner|februar|feber|märz|juni|juli|oktober|dezember|janvier|février|avril|juin|juillet|août|septembre|"
    "octobre|novembre|décembre|enero|febrero|marzo|abril|junio|julio|agosto|septiembre|setiembre|octubre|noviembre|"
    "diciembre|gennaio|febbraio|aprile|maggio|giugno|luglio|settembre|ottobre|dicembre|janeiro|fevereiro|março|maio|"
    "junho|julho|setembro|outubro|novembro|dezembro|januari|februari|maart|augustus|augusti|stycznia|lutego|kwietnia|"
    "maja|czerwca|lipca|sierpnia|września|października|listopada|grudnia|ocak|şubat|nisan|mayıs|haziran|temmuz|ağustos|"
    "eylül|ekim|kasım|aralık|января|февраля|марта|апреля|мая|июня|июля|августа|сентября|октября|ноября|декабря|"
    "जनवरी|फ़रवरी|फरवरी|मार्च|अप्रैल|मई|जून|जुलाई|अगस्त|सितंबर|सितम्बर|अक्टूबर|नवंबर|नवम्बर|दिसंबर|दिसम्बर|"
    "يناير|فبراير|مارس|أبريل|مايو|يونيو|يوليو|أغسطس|سبتمبر|أكتوبر|نوفمبر|ديسمبر"
)
# Other words too: "12 Mars 2020 instruments". These are months in small letters, or where something says so.
_UNSURE_MONTHS = (
    "april|august|september|november|december|mai|mars|mayo|marts|mei|maj|marca|"
    "okt|dez|mär|mrz|mrt|janv|févr|avr|juil|déc|ene|abr|ago|dic|fev"
)
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)


def _without_names(pattern: str) -> str:
    return re.sub(r"\?P<\w+>", "?:", pattern)


# First letters of scales behind which words stand without a space.
_BEGIN_SCALES = "".join(sorted({name[0] for name in _SCALES_UNSPACED}))
# What would make an amount of the number before it: "reports 12 percent", "in March 5.2%".
_NOT_OF_AN_AMOUNT = rf"(?![.,]?\d)(?!\s?-?(?:{'|'.join(SCALES)})\b)(?!\s?(?:{_AFTER}|[{_BEGIN_SCALES}]))"
# "A passage 12 metres long", but "according to passage 2 shares fell".
_COUNTED = frozenset(("KRW", "time", "share", "person"))
_UNCOUNTED = _forms({unit: words for unit, words in _MEASURES.items() if unit not in _COUNTED})
_NOT_MEASURED = rf"(?!\s?-?(?:{_any_of(_UNCOUNTED)})(?![\w-]))"
_CITED = r"(?:source|passage)(?:s|\(s\))?"
# In German (which has "Passage" too), Spanish, Portuguese, Italian, Japanese, Chinese and Korean. 資料1 is a material,
# and may be what was asked for: a source in brackets and before a colon alone.
_CITED_ANYWHERE = (
    r"(?:\b(?:quellen?|textstellen?|fuentes?|pasajes?|fontes?|fonti)(?![^\W\d])|出典|出所|来源|來源|출처)"
)
_CITED_ELSEWHERE = rf"(?:{_CITED_ANYWHERE}|資料|资料|자료)"
# Without brackets and colon, "fuentes 12" are twelve.
_ONE_CITED = r"(?:\b(?:quelle|textstelle|fuente|pasaje|fonte)(?![^\W\d])|出典|出所|来源|來源|출처)"
_NUMBERED = r"(?:\s+(?:numbers?|nos?\.?|used|nr\.?))?"
_MARKUP = r"[\s*_#]{0,4}"
_AND = r"\s*(?:,\s*and\b|,?\s*&|\b(?:and|und|et|y|e)\b|と|及び|および|和|与|與|와|과)\s*"
SPAN = rf"(?:[{MINUS}~〜～]|\b(?:to|through|bis)\b)"
_TO = rf"\s*{SPAN}\s*"
_COMMAS = r"\s*[,;、，；・]\s*"
# Letters of scripts without spaces may stand right behind a number; not those that count, or make a date of it.
_NUMBER_ENDS = rf"(?![^\W{UNSPACED}\uac00-\ud7a3])(?!\s?[年月日期件部点冊本個つ種枚か人名社家건개년월일부])"
# "and" ends a list: "sources 1 and 2, 40 plants".
_NUMBER = rf"#?\d{{1,3}}{_NUMBER_ENDS}"
_LIST = (
    rf"\d{{1,3}}{_NUMBER_ENDS}(?:(?:{_COMMAS}|{_TO}){_NUMBER})*"
    rf"(?:{_AND}{_NUMBER}(?:{_TO}\d{{1,3}}{_NUMBER_ENDS})?)*"
)
_MARK = rf"(?:(?:{_CITED}|{_CITED_ELSEWHERE})\s*)?#?\d{{1,3}}"
# `[2]`, `[1, 3]`, `[1-3]`, `[Passage 2]`, `【2】`, `(Source 2)`, `Sources: 1 and 3`, `passage 2`, and so in other
# languages: `[2、3]`, `[Quelle 2]`, `出典：2`. After one source that no colon and no bracket introduces, a comma
# ends the phrase: "in passage 2, 40 plants are named".
CITATION = re.compile(
    rf"[\[【]\s*\^?(?P<marks>{_MARK}(?:(?:{_COMMAS}|{_AND}|{_TO}){_MARK})*)\s*(?:†[^\]】\n]{{0,40}})?[\]】]|"
    rf"(?:(?:\b(?:sources|passages)|(?<=[(\[〔])(?:source|passage|{_CITED_ELSEWHERE})){_NUMBERED}{_MARKUP}:?|"
    rf"(?:\b{_CITED}|{_CITED_ELSEWHERE}){_NUMBERED}{_MARKUP}[:：])"
    rf"{_MARKUP}(?P<several>{_LIST}){_NOT_OF_AN_AMOUNT}{_NOT_MEASURED}|"
    rf"(?:\b{_CITED}|{_ONE_CITED}){_NUMBERED}{_MARKUP}"
    rf"(?P<one>\d{{1,3}}{_NUMBER_ENDS}(?:(?:{_AND}|[{MINUS}]){_NUMBER})*)"
    rf"{_NOT_OF_AN_AMOUNT}{_NOT_MEASURED}",
    re.IGNORECASE,
)
_YEAR_OF = r"(?:19|20)\d\d\b"
_ERA = r"(?:令和|平成|昭和|大正|明治|民國|民国)\d{1,3}年度?"
# What has digits but is no amount: citation marks, dates, quarters and fiscal years are found before amounts are.
# "Report 2" and "in note 12" name something; "the company reports 12 plants" states an amount.
_NO_AMOUNT = re.compile(
    rf"{_without_names(CITATION.pattern)}|\b\d{{4}}-\d{{1,2}}-\d{{1,2}}\b|\b\d{{1,2}}/\d{{1,2}}/\d{{2,4}}\b|"
    rf"(?<![\d.,])\d{{1,2}}\s+{_MONTH}(?:,?\s+\d{{4}}\b)?|\b{_MONTH}\s+\d{{1,2}}\b{_NOT_OF_AN_AMOUNT}(?:,\s*\d{{4}}\b)?|"
    rf"\b{_MONTH}\s+(?:of\s+)?{_YEAR_OF}|\bQ[1-4]\s*(?:of\s+)?(?:FY\s?)?{_YEAR_OF}|"
    rf"\b(?:FY|fiscal(?:\s+year)?)\s?{_YEAR_OF}|\b10-[KQ]\b|"
    rf"(?:{_ERA}|\d{{4}}年)?\d{{1,2}}月(?:\d{{1,2}}日|期)?|{_ERA}|第\d+|"
    rf"\b(?:passages?|pages?|sections?|table|item|(?-i:Report|Note|REPORT|NOTE)|"
    rf"(?:in|see|from|per|of|the|this|annual)\s+(?:report|note))\s+\d+\b{_NOT_OF_AN_AMOUNT}{_NOT_MEASURED}",
    re.IGNORECASE,
)
_DAY, _GAP = r"(?:0?[1-9]|[12]\d|3[01])", r"[^\S\n]"
_ANY_MONTH = rf"(?i:{_OTHER_MONTHS}|{_UNSURE_MONTHS})"
_DAY_WITH_STOP = rf"{_DAY}\.{_GAP}+{_ANY_MONTH}\.?{_GAP}+{_YEAR_OF}"
# Dates in other languages, with a day, a month and, but in Korean, a year: "1er juin 2019", "15 de mayo de 2019".
# Behind a full stop, a sentence may begin with the month ("Es sind 12. Mai 2019 war besser"): the day has one only
# behind words of German and Nordic languages, or where the date is the whole text.
_OTHER_DATE = re.compile(
    rf"(?<![\d.,{SIGNS}])(?<![{SIGNS}]\s){_DAY}(?:er|º)?{_GAP}+"
    rf"(?:(?:de{_GAP}+)?(?i:{_OTHER_MONTHS})|de{_GAP}+(?i:{_UNSURE_MONTHS})|{_UNSURE_MONTHS}|Mart)"
    rf"\.?{_GAP}+(?:del?{_GAP}+)?{_YEAR_OF}|"
    rf"(?:(?<!\bI\s)\b[Aa]m|\b(?:[Vv]om|[Zz]um|[Dd]e[mnrs])){_GAP}+{_DAY_WITH_STOP}|"
    rf"\A\W*{_DAY_WITH_STOP}\W*\Z|"
    rf"\b(?:19|20)\d\d/(?:0?[1-9]|1[0-2])/{_DAY}(?![\w/])|"
    rf"(?<![\d.,])(?:(?:19|20)\d\d년{_GAP}?)?(?:0?[1-9]|1[0-2])월{_GAP}?{_DAY}일"
)
# "12", "12.3", "12a", "12(1)(b)": all of it or nothing.
_OF_PART = r"(?>\d+(?:[a-e](?!\w))?(?:\.\d+(?:[a-e](?!\w))?)*(?:\(\w{1,4}\))*)(?!\w)"
_OF_PARTS = rf"{_OF_PART}(?:(?:\s*,\s*|{_TO}){_OF_PART})*(?:{_AND}|{_TO}){_OF_PART}"
_PART_VERBS = r"(?:exhibit|issue|schedule)"
# "Section 12.3", "Articles 12 and 14", "version 3" name something; "of the tickets 12 are open" states an amount. What
# is a verb too ("they issue 12 licences") is a name after some prepositions, or with a capital letter. "Repeat the step
# 3 times", "Issue 500 shares" and "Clause 3-30 days" state amounts. Scorers leave these out where they can't be meant:
# `parse_quantities` has them, but for whole sections.
NAMED_PART = re.compile(
    r"(?:(?:\b(?:(?:sub-?)?(?:clauses|paragraphs|sections)|articles|annexes|appendices|chapters|versions|tickets|steps|"
    rf"(?:in|see|from|of|per|under)\s+{_PART_VERBS}s|(?-i:Exhibits|Issues|Schedules))\s+|§{{1,2}}\s*){_OF_PARTS}|"
    rf"(?:\b(?:(?:sub-?)?(?:clause|paragraph|section)|article|annex|appendix|chapter|version|ticket|step|sections|"
    rf"(?:in|see|from|of|per|under)\s+{_PART_VERBS}|{_PART_VERBS}(?=\s+(?:#|no\.|number\b))|"
    r"(?-i:Exhibit|EXHIBIT|Issue|ISSUE|Schedule|SCHEDULE))"
    rf"{_NUMBERED}\s+#?|§\s*){_OF_PART}(?:[{MINUS}]{_OF_PART})?"
    rf"){_NOT_OF_AN_AMOUNT}(?!\s?-?{_MEASURE})(?![{MINUS}]\d)",
    re.IGNORECASE,
)
_ONES = {
    word: value
    for value, word in enumerate((
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    ))
}  # fmt: skip
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2
    )
}
_WORD_SCALES = {
    "hundred": 10**2,
    **{word: scale for word, scale in SCALES.items() if len(word) > len("mio")},
}
# "no one", "this one": a pronoun.
_WORD_AMOUNT = re.compile(
    rf"""
    (?<![\w-])(?<!\bno\s)(?<!\bthis\s)(?<!\bthat\s)(?<!\bany\s)(?<!\bwhich\s)
    (?:(?<!double\s)(?P<sign>minus|negative)\s)?
    (?:(?P<tens>{"|".join(_TENS)})(?:[-\s](?P<and_ones>{"|".join(list(_ONES)[1:10])}))?|(?P<ones>{"|".join(_ONES)}))
    (?!\w)
    (?:\s(?P<scale>{"|".join(sorted(_WORD_SCALES, key=len, reverse=True))})(?![A-Za-z]))?
    (?:\s?(?P<after>{_AFTER})|[\s\-\u2010\u2011]?(?P<measure>{_MEASURE}))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Letters that patterns take for "I", "i", "s" and "K" where case is ignored, but tables of names don't. Parentheses of
# full width become others: they are no sign of a loss, as those of ASCII are.
_READ_AS = str.maketrans("\u0130\u0131\u017f\u212a\uff08\uff09", "IisK\u3014\u3015")
# "thirty (30) days": the figure repeats the word.
_WORD_BEFORE = re.compile(rf"\b(?:{'|'.join([*_ONES, *_TENS, 'hundred'])})\s*$", re.IGNORECASE)
_LONGEST_BEFORE = 20
_LARGEST_WORD = 100  # "division one (1,234)" doesn't
_RANGE = re.compile(
    rf"\s*(?:[{MINUS}~〜～至到]|to|and|bis|und|à|et|y|до|do|til|till|tot|から|ถึง)\s*", re.IGNORECASE
)
# "100から5%減" is no range: it fell from 100.
_FROM_IN_JAPANESE, _UP_TO_IN_JAPANESE = "から", re.compile(r"[^。、\d]{0,8}まで")
_POINTS_BETWEEN_THOUSANDS = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}")
_PART = re.compile(rf"(\d[\d,]*)({_OF_UNSPACED}|)")


def parse_quantities(
    text: str, *, years: bool = False, dates: bool = False, metres: bool = False, points: bool = False
) -> list[Quantity]:
    """Amounts of a text in their order; years, dates, ordinals, quarters and citation marks are none.

    An amount after "minus", "negative" or a triangle ("△1,234"; "▲" as in `read_triangles`) is negative, and one in
    parentheses, as in accounts ("(1,234)"), unless it is a percentage in running text or repeats a word ("thirty (30)
    days"). The first end of a range has the scale and the unit of the second ("3–5 million").

    Args:
        text: any text.
        years: take what is written like a year ("1950") for an amount too.
        dates: take days of dates with months in other languages than English for amounts too.
        metres: take "m" and "mm" for lengths where no other unit is given, rather than for millions.
        points: take the point of "5.000" for one between thousands.
    """
    (text,) = read_triangles(text)
    plain = plain_digits(text.translate(_READ_AS))
    if not dates:
        plain = _OTHER_DATE.sub(_blank, plain)
    blank = _NO_AMOUNT.sub(_blank, plain)
    found = [match for match in _AMOUNT.finditer(blank) if years or not _is_year(match)]
    quantities: list[Quantity] = []
    for index, match in enumerate(found):
        name, written, unit = _scale_and_unit(blank, found, index)
        scale = _scale(name)
        if metres and unit is None and name and name.lower() in _LENGTH_OR_SCALE:
            unit, scale = _LENGTH_OR_SCALE[name.lower()], Decimal(1)
        number = _decimal(match["number"], written, unit, points=points)
        value, places = Decimal(number), len(number.partition(".")[2])
        unit, scale = _in_percent(unit, scale)
        further, last_scale = _further(match["further"] or "")
        sign = match["sign"] or ""
        has_minus = _has_minus(blank, found, index)
        negative = has_minus or _is_in_accounts(blank, match, unit, value)
        quantities.append(
            Quantity(
                (-1 if negative else 1) * (value * scale + further),
                unit,
                last_scale or Decimal(1).scaleb(-places) * scale,
                match.start(),
                match.end(),
                unsure=has_minus and sign[1:].isspace() and sign[0] != "−",
            )
        )
    return quantities or [_in_words(match) for match in _WORD_AMOUNT.finditer(blank)]


def _scale_and_unit(
    text: str, found: Sequence[re.Match[str]], index: int
) -> tuple[str | None, str, str | None]:
    """The scale's name, the scale as it is written, and the unit of an amount; a range's first end has the second's."""
    match = found[index]
    name, written, unit = match["scale"] or _lead(match), _written_scale(match), _unit(match)
    # "15% and 5 million euros": what has its unit behind it is complete.
    if index + 1 < len(found) and not match["after"] and _joins(text, match, found[index + 1]):
        following = found[index + 1]
        return name or following["scale"], written or _written_scale(following), unit or _unit(following)
    # "TEUR 12–15" are thousands at both ends.
    if index and not name and not unit and _lead(found[index - 1]) and _joins(text, found[index - 1], match):
        return _lead(found[index - 1]), written, _unit(found[index - 1])
    return name, written, unit


def _lead(match: re.Match[str]) -> str | None:
    """The scale that stands before the currency: T of "TEUR 500"."""
    lead: str | None = match["lead"] or match["outer_lead"]
    return lead


def _has_minus(text: str, found: Sequence[re.Match[str]], index: int) -> bool:
    """Whether a sign makes an amount negative: not a range's dash, nor the word in "10 minus 3", which takes away."""
    match = found[index]
    sign = match["sign"] or ""
    of_range = index > 0 and _joins(text, found[index - 1], match) == "dash"
    takes_away = sign[:1].isalpha() and index > 0 and text[found[index - 1].end() : match.start()].isspace()
    signs = ["" if of_range or takes_away else sign, match["sign2"] or "", match["sign3"] or ""]
    return any(one.strip() not in ("", "+") for one in signs)


def _is_in_accounts(text: str, match: re.Match[str], unit: str | None, value: Decimal) -> bool:
    """Whether parentheses make an amount negative; "(340 employees)" is an aside, and "thirty (30)" says it again."""
    if not match["open"] or not (match["close"] or (match["close2"] and not match["measure"])):
        return False
    start = match.start()
    if value <= _LARGEST_WORD and _WORD_BEFORE.search(text, max(0, start - _LONGEST_BEFORE), start):
        return False
    return unit != "%" or text.strip() == match[0].strip()


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


# Not "5k", which is as English as "5.000" of less than six.
_THOUSANDS_WITH_COMMA = re.compile(
    rf"\d\s(?:{_any_of(name for name, scale in _SCALES_WITH_COMMA.items() if scale == 10**3)}|"
    rf"{_THOUSANDS_OF_MONEY})(?!\w)|\d\s?T(?:€|(?:EUR|CHF)\b)|\bT(?:€|EUR|CHF)\s?\(?\d",
    re.IGNORECASE,
)


def names_thousands(text: str) -> bool:
    """Whether thousands are named in a language that writes points between them: "5 mil euros" may be "5.000 euros"."""
    return _THOUSANDS_WITH_COMMA.search(text) is not None


def read_triangles(*texts: str) -> list[str]:
    """Texts that belong together, with △ for each ▲ that is a minus.

    It is one where a text has letters of Japanese, or yen, and none has ▼ for what fell. Chinese shares these letters.
    """
    whole = "\n".join(texts)
    if _OTHER_TRIANGLE in whole and _DOWN not in whole and _OF_JAPAN.search(whole):
        return [text.replace(_OTHER_TRIANGLE, _MINUS_TRIANGLE) for text in texts]
    return list(texts)


def _in_words(match: re.Match[str]) -> Quantity:
    ones = match["ones"] or match["and_ones"]
    value = _TENS[match["tens"].lower()] if match["tens"] else 0
    value += _ONES[ones.lower()] if ones else 0
    value = -value if match["sign"] else value
    unit, scale = _in_percent(_named_unit(match["after"] or match["measure"]), _scale(match["scale"]))
    return Quantity(value * scale, unit, scale, match.start(), match.end())


def _joins(text: str, first: re.Match[str], second: re.Match[str]) -> Literal["words", "dash"] | None:
    """What makes a range of two amounts: a word or a dash between them, or a dash that looks like a sign.

    "300 hours and 5 million euros" are none.
    """
    if first["measure"]:
        return None
    between = text[first.end() : second.start()]
    if between.strip() == _FROM_IN_JAPANESE and not _UP_TO_IN_JAPANESE.match(text, second.end()):
        return None
    if _RANGE.fullmatch(between):
        return "words"
    sign = second["sign"] or ""
    if sign[:1] in MINUS and sign[1:].isspace() and between.isspace():
        return "dash"
    return None


def _decimal(number: str, scale: str, unit: str | None, *, points: bool) -> str:
    """A number as Python reads it.

    A comma before one or two last digits or more than three, after a zero or after points between thousands is a
    decimal one. Before three digits it is so where the scale is a word of a language that writes it; there a point
    divides thousands, but for Switzerland. So it does before "Mio." and before "Mio" of euros; "3.456 mio" is less than
    four million.

    Args:
        number: as it is written.
        scale: as it is written, with its full stop; empty without one.
        unit: of the amount.
        points: before three digits, a point divides thousands anyway.
    """
    number = re.sub(r"[\u00a0\u202f\u2009'’]", "", number)
    of_commas = scale.rstrip(".").lower() in _SCALES_WITH_COMMA and unit != "CHF"
    of_points = (
        points or of_commas or (scale == "Mio." and unit != "CHF") or (scale == "Mio" and unit == "EUR")
    )
    if _POINTS_BETWEEN_THOUSANDS.fullmatch(number) or (
        of_points and re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", number)
    ):
        return number.replace(".", "").replace(",", ".")
    decimal = r",(?=\d{1,3}$)" if of_commas else r",(?=(?:\d{1,2}|\d{4,})$)|(?<=^0),"
    return re.sub(decimal, ".", number).replace(",", "")


def _further(parts: str) -> tuple[Decimal, Decimal | None]:
    """What stands behind the first scale of a number such as "1兆2,345億", and its last scale; None without any."""
    value, scale = Decimal(0), None
    for digits, name in _PART.findall(parts):
        scale = _scale(name)
        value += Decimal(digits.replace(",", "")) * scale
    return value, scale


def _written_scale(match: re.Match[str]) -> str:
    """The scale as it is written, with its full stop; empty without one."""
    scale, end = match["scale"] or "", match.end("scale")
    return f"{scale}." if scale and match.string[end : end + 1] == "." else scale


def _is_year(match: re.Match[str]) -> bool:
    bare = not any(match[name] for name in ("outer", "before", "after", "scale", "sign", "sign2"))
    return bare and re.fullmatch(r"(?:19|20)\d\d", match["number"]) is not None


def _scale(name: str | None) -> Decimal:
    return Decimal(
        {**SCALES, **_WORD_SCALES, **_BEFORE_CURRENCY}[" ".join(name.lower().split())] if name else 1
    )


def _unit(match: re.Match[str]) -> str | None:
    before = match["outer"] or match["before"]
    # "$5 million CAD": the code says which dollars. In "$5 EUR 4", it is the next amount's.
    said = (
        before
        and len(before.strip()) == 1
        and match["after"]
        and _spelled(match["after"]) in _MONEY
        and not re.match(r"[^\S\n]?\d", match.string[match.end("after") :])
    )
    return _named_unit(match["after"] if said else before or match["after"] or match["measure"])


def _named_unit(name: str | None) -> str | None:
    if not name:
        return None
    name = _spelled(name)
    return UNITS.get(name) or _BY_MEASURE.get(name) or _BY_CODE[name.rstrip(f"{SIGNS} ")]


def _spelled(name: str) -> str:
    return " ".join(name.upper().split())


def units_agree(one: str | None, other: str | None) -> bool:
    """Whether two amounts may be of the same unit: one of them has none, or they share a meaning."""
    return not one or not other or not set(one.split("|")).isdisjoint(other.split("|"))


def _in_percent(unit: str | None, scale: Decimal) -> tuple[str | None, Decimal]:
    """Basis points are hundredths of a percent; every other unit stays."""
    return ("%", scale / 100) if unit == "bps" else (unit, scale)
