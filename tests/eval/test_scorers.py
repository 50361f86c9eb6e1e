"""Scorers by their names, as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfaug.errors import ConfigError
from selfaug.eval.groundedness import groundedness
from selfaug.eval.scorers import SCORERS, named_scorer

CONTEXT = (
    "[1] Harbor Foods earned $1,536 million in 2023, up 4.2% on a year before. [2] The weather was mild."
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Harbor Foods earned $1.536 billion.", 1.0),
        ("$1,536 million", 1.0),
        ("It rose 4.2%.", 0.0),  # "rose" does not stand there
        ("It was up 4.2%.", 1.0),
        ("$1,636 million", 0.0),
        ("€1,536 million", 0.0),
        ("Harbor Foods earned $1,536 million, or $512 million per region.", 0.5),  # one amount of two
        ("Harbor Shipping earned money", 0.5),
        ("", 1.0),
        ("So.", 1.0),
    ],
)
def test_groundedness_is_the_lower_share_of_words_and_amounts(answer: str, expected: float) -> None:
    assert groundedness(answer, CONTEXT) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "answer", "gold", "score"),
    [
        ("exact", "The dog.", "dog", 1.0),
        ("contains", "I saw the dog run", "dog", 1.0),
        ("contains", "dogs", "dog", 0.0),
        ("number", "3 and 4 make 7.", "7", 1.0),
        ("number", "6 [2]", "6", 1.0),
        ("number", "6[2]", "6", 1.0),
        ("number", "It is 6 (passages 1 and 2).", "6", 1.0),
        ("number", "6 or 7 [2]", "6", 0.0),
        ("number", "[7]", "7", 1.0),
        ("number", "\u20115", "-5", 1.0),
        ("number", "\u20105", "5", 0.0),
        ("number", "none", "6", 0.0),
        ("number", "Es sind 3,5", "5", 0.0),
        ("number", "Es sind 3,5", "3.5", 1.0),
        ("number", "Es sind 3,5 Mio.", "3,5", 1.0),
        ("number", "Nous avons 1\u202f234,5 m", "1234.5", 1.0),
        ("number", "Nous avons 1\u202f234 sites", "234", 0.0),
        ("number", "CHF 1'234", "1,234", 1.0),
        ("number", "1.234,56 Euro", "1234.56", 1.0),
        ("number", "1.234,56 Euro", "56", 0.0),
        ("number", r"\boxed{1{,}234}", "1234", 1.0),
        ("number", r"\boxed{1{,}234}", "234", 0.0),
        ("numeric", "1.2 billion", "$1,200 million", 1.0),
        ("numeric", "1.21 billion", "$1,200 million", 0.0),
        ("numeric:0.01", "1.21 billion", "$1,200 million", 1.0),
        ("numeric:0.01", "1.3 billion", "$1,200 million", 0.0),
        ("citations", "so [1, 2]", "[1]", 2 / 3),
        ("citation-precision", "so [1, 2]", "[1]", 0.5),
        ("citation-recall", "so [1, 2]", "[1]", 1.0),
        ("citation-recall", "so [1]", "[1], [3]", 0.5),
        ("abstains", "The reports do not say.", "Not stated in the reports.", 1.0),
        ("abstains", "It was 7.", "Not stated in the reports.", 0.0),
        ("abstains", "The reports do not say.", "It was 7.", 0.0),
        ("grounded", "mild weather", "whatever", 1.0),
        ("grounded", "The reports do not say.", "$9 million", 1.0),
        ("grounded", "Ei ilmoitettu.", "Ei ilmoitettu.", 1.0),
        ("grounded", "Ei ilmoitettu.", "$9 million", 0.0),
        ("grounded", "$9 million", "$9 million", 0.0),
        ("grounded", "Clause 9", "Clause 9", 0.0),
        ("grounded", "Norvik won [1]", "Norvik won [1]", 0.0),
        ("value", "use argv[2] [1]", "use argv[1] [1]", 0.0),
        ("value", "use argv[1] [2]", "use argv[1] [1]", 1.0),
        ("value", "`ports = [80]` [1]", "`ports = [81]` [1]", 0.0),
        ("value", "in Europe[3].", "in Europe[2].", 1.0),
        ("citations", "```\nANSWER: $5 | SOURCE: [2]\n```", "[2]", 1.0),
        ("citations", "Here it is:\n```\nANSWER: $5 | SOURCE: [2]\n```\n", "[2]", 1.0),
        ("citations", '```json\n{"answer": "$5", "sources": [1, 3]}\n```\nAs asked.', "[1, 3]", 1.0),
        ("citations", "```python\nx = 5\nrow[1] = x\n```\nas said in [2]", "[2]", 1.0),
        ("number", "答えは12です", "12", 1.0),
        ("number", "答案是12。见第3页", "12", 1.0),
        ("number", "答案：12（来源2），截至2020年5月", "12", 1.0),
        ("number", "答えは12、ステップ3を参照", "12", 1.0),
        ("number", "１２", "12", 1.0),
        ("number", "١٢", "12", 1.0),
        ("value", "Ko\u0308ln [1]", "K\u00f6ln [2]", 1.0),
        (r"regex:\d{4}-\d{2}-\d{2}", " 2024-02-03\n", "", 1.0),
        (r"regex:\d{4}-\d{2}-\d{2}", "on 2024-02-03", "", 0.0),
    ],
)
def test_scores(name: str, answer: str, gold: str, score: float) -> None:
    assert named_scorer(name)(answer, gold, CONTEXT) == pytest.approx(score)


def test_json_schema(tmp_path: Path) -> None:
    schema = tmp_path / "answer.json"
    schema.write_text(
        json.dumps({"type": "object", "required": ["value"], "properties": {"value": {"type": "number"}}}),
        encoding="utf-8",
    )
    score = named_scorer(f"schema:{schema}")
    assert score('{"value": 3}', "", "") == 1.0
    assert score('```json\n{"value": 3}\n```', "", "") == 1.0
    assert score('{"value": "3"}', "", "") == 0.0
    assert score("value: 3", "", "") == 0.0


def of_three(answer: str, gold: str, prompt: str) -> float:
    return float(answer in prompt)


def of_two(answer: str, gold: str) -> float:
    return 7.0 if answer == "bad" else 0.25


def of_one(answer: str) -> float:
    return 1.0


def test_functions_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    here = Path(__file__).stem
    assert named_scorer(f"{here}:of_three")("mild", "", CONTEXT) == 1.0
    assert named_scorer(f"{here}:of_two")("x", "", "") == 0.25
    with pytest.raises(ConfigError, match="not a score between 0 and 1"):
        named_scorer(f"{here}:of_two")("bad", "", "")
    with pytest.raises(ConfigError, match="takes 1 arguments"):
        named_scorer(f"{here}:of_one")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("magic", "no scorer 'magic'"),
        ("regex:(", "not a regular expression"),
        ("schema:missing.json", "can't be used as a JSON schema"),
        ("no_such_module:f", "can't be imported"),
        ("json:no_such_function", "can't be imported"),
        ("json:__name__", "can't be called"),
        ("module_with_a_slip:f", "can't be imported: SyntaxError"),
    ],
)
def test_what_can_not_be_used_is_refused(
    name: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_with_a_slip.py").write_text("def f(")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=match):
        named_scorer(name)
    assert set(SCORERS) >= {"exact", "f1", "numeric", "citations"}


def test_what_is_no_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "nothing"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="can't be used as a JSON schema: 'nothing'"):
        named_scorer(f"schema:{tmp_path / 's.json'}")


@pytest.mark.parametrize("share", ["", "much", "-0.1", "1", "nan"])
def test_a_tolerance_is_a_share(share: str) -> None:
    with pytest.raises(ConfigError, match="not a share"):
        named_scorer(f"numeric:{share}")
