"""Whether an answer says that its context holds none."""

from __future__ import annotations

import re

from selfaug.eval.abstention_elsewhere import (
    DOCUMENTS_ELSEWHERE,
    NOTHING_ELSE_ELSEWHERE,
    TURNS_ELSEWHERE,
    abstention_elsewhere,
)
from selfaug.eval.amounts import NAMED_PART, parse_quantities

__all__ = ["abstains"]

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
_BUT = re.compile(rf"{_TURNS}|{TURNS_ELSEWHERE}|[.;,]", re.IGNORECASE)
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
    """Whether an answer says that the context holds none, in English, German, French, Spanish, Japanese or Chinese.

    Of other languages than English, what models commonly write is known; the rules are the same.

    "Not stated" says so of anything; "not included", "not available", "cannot find" and the like only where documents
    or information are named beside, as things are not included either. A text that goes on to state an amount after
    "but", or in another clause, has answered, unless it says that the documents only mention that. The number of a
    clause, a version or the like is such an amount only where it is claimed ("but it is probably version 3.2"), which
    that of a whole section never is.
    """
    answer = _OF_WHICH.sub(r"\1", answer.replace("’", "'"))
    if _NOTHING_ELSE.fullmatch(answer) or NOTHING_ELSE_ELSEWHERE.fullmatch(answer):
        return True
    match = _ABSTENTION.search(answer) or abstention_elsewhere(answer)
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
_OF_DOCUMENTS = re.compile(rf"\s+(?:\w+\s+)?{_DOCUMENTS}|{DOCUMENTS_ELSEWHERE}", re.IGNORECASE)
