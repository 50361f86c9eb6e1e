"""The spreadsheet of a business case: its formulae, by an evaluator that is written here, against the value model."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.formula import Tokenizer

from selfaug.core.roi import ARMS, Accuracy, ArmName, RoiInputs, RoiResult, credit, roi, routed
from selfaug.phases.roi import business_case
from selfaug.roi_config import InputSettings, load_roi_config, quantity_of
from selfaug.wording.roi_csv import roi_csv
from selfaug.wording.roi_words import ARM_NAMES

# ---- a small evaluator of spreadsheets

Node = tuple[Any, ...]
FUNCTIONS = {
    "SUM": sum,
    "MAX": max,
    "MIN": min,
    "AND": all,
    "OR": any,
}
"""Of all their values; IF, MOD and SUMPRODUCT take theirs as they are."""
STRENGTH = {"=": 1, "<>": 1, "<": 1, ">": 1, "<=": 1, ">=": 1, "&": 2, "+": 3, "-": 3, "*": 4, "/": 4, "^": 5}


class _Parser:
    """Precedence climbing over the tokens of one formula."""

    def __init__(self, formula: str) -> None:
        self.tokens = [token for token in Tokenizer(formula).items if token.type != "WHITE-SPACE"]
        self.at = 0

    def whole(self) -> Node:
        node = self.expression(0)
        assert self.at == len(self.tokens), "something is left over"
        return node

    def expression(self, weakest: int) -> Node:
        left = self.operand()
        while self.at < len(self.tokens) and self.tokens[self.at].type == "OPERATOR-INFIX":
            sign = self.tokens[self.at].value
            if STRENGTH[sign] <= weakest:
                break
            self.at += 1
            left = (sign, left, self.expression(STRENGTH[sign]))
        return left

    def operand(self) -> Node:
        token = self.tokens[self.at]
        self.at += 1
        if token.type == "OPERATOR-PREFIX":
            return ("negative", self.operand()) if token.value == "-" else self.operand()
        if token.type == "PAREN":
            inner = self.expression(0)
            self.at += 1
            return inner
        if token.type == "FUNC":
            arguments = []
            while self.tokens[self.at].subtype != "CLOSE":
                arguments.append(self.expression(0))
                self.at += self.tokens[self.at].value == ","
            self.at += 1
            return ("call", token.value.removesuffix("("), *arguments)
        if token.subtype == "NUMBER":
            return ("number", float(token.value))
        if token.subtype == "TEXT":
            return ("number", token.value[1:-1])
        assert token.subtype == "RANGE", token
        return ("range", *re.findall(r"([A-Z]+)\$?(\d+)", token.value.replace("$", "")))


@cache
def parsed(formula: str) -> Node:
    return _Parser(formula).whole()


def column_number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


class Sheet:
    """A CSV file as a spreadsheet sees it; `change` is what its user types."""

    def __init__(self, text: str) -> None:
        self.cells = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))
        self._values: dict[tuple[int, int], Any] = {}

    def line(self, label: str) -> int:
        (found,) = (number for number, line in enumerate(self.cells, 1) if line and line[0] == label)
        return found

    def change(self, label: str, value: float) -> None:
        self.cells[self.line(label) - 1][1] = repr(value)
        self._values.clear()

    def of_arms(self, label: str) -> dict[ArmName, Any]:
        line = self.line(label)
        return {arm: self.value(line, at) for at, arm in enumerate(ARMS, 2)}

    def value(self, line: int, column: int) -> Any:
        if (line, column) not in self._values:
            text = self.cells[line - 1][column - 1]
            if text.startswith("="):
                found = self._evaluate(parsed(text))
            else:
                try:
                    found = float(text)
                except ValueError:
                    found = text
            self._values[line, column] = found
        return self._values[line, column]

    def _range(self, ends: tuple[tuple[str, str], ...]) -> Iterator[Any]:
        (left, top), (right, bottom) = ends[0], ends[-1]
        for line in range(int(top), int(bottom) + 1):
            for column in range(column_number(left), column_number(right) + 1):
                yield self.value(line, column)

    def _evaluate(self, node: Node) -> Any:
        kind, *parts = node
        if kind == "number":
            return parts[0]
        if kind == "range":
            assert len(parts) == 1, "a range of several cells stands in a function only"
            return next(self._range(tuple(parts)))
        if kind == "negative":
            return -self._evaluate(parts[0])
        if kind == "call":
            return self._call(parts[0], parts[1:])
        left, right = (self._evaluate(part) for part in parts)
        operations: Mapping[str, Any] = {
            "+": lambda: left + right, "-": lambda: left - right, "*": lambda: left * right,
            "/": lambda: left / right, "^": lambda: left**right, "=": lambda: left == right,
            "<": lambda: left < right, ">": lambda: left > right, "<=": lambda: left <= right,
            ">=": lambda: left >= right, "<>": lambda: left != right,
            "&": lambda: "".join(f"{part:g}" if isinstance(part, float) else part for part in (left, right)),
        }  # fmt: skip
        return operations[kind]()

    def _call(self, name: str, arguments: list[Node]) -> Any:
        if name == "IF":
            condition, yes, no = arguments
            return self._evaluate(yes if self._evaluate(condition) else no)
        if name == "MOD":
            number, divisor = map(self._evaluate, arguments)
            return number % divisor
        if name == "SUMPRODUCT":
            one, other = (list(self._range(node[1:])) for node in arguments)
            return sum(a * b for a, b in zip(one, other, strict=True))
        values = []
        for node in arguments:
            values += self._range(node[1:]) if node[0] == "range" else [self._evaluate(node)]
        return FUNCTIONS[name](values)


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("=1+2*3^2", 19), ("=(1+2)*3", 9), ("=2^(-1/2)", 2**-0.5), ("=-2+5-1", 2), ("=MOD(13,6)", 1),
        ('=IF(AND(1=1,OR(2<1,3>=3)),"yes","no")', "yes"), ("=IF(1>2,1,IF(2<=2,7,8))", 7), ("=SUM(A1:B2)", 10),
        ("=SUMPRODUCT(A1:A2,$B$1:$B$2)", 14), ("=MAX(A1:B1,MIN(5,6))", 5), ("=10-4-3", 3),
        ('="after "&1+1&" or"&"so"', "after 2 orso"),
    ],
)  # fmt: skip
def test_the_evaluator_computes_as_a_spreadsheet_does(formula: str, value: Any) -> None:
    quoted = formula.replace('"', '""')
    assert Sheet(f'1,2\n3,4\n"{quoted}"\n').value(3, 1) == value


# ---- the spreadsheet against the value model


class Model(NamedTuple):
    """What the value model says of a case."""

    arms: dict[ArmName, RoiResult]
    credit: float


def model(
    values: Mapping[str, float], models: Mapping[str, tuple[float, float]], right: tuple[float, float]
) -> Model:
    inputs: Any = RoiInputs(**{**values, "years": int(values["years"])})
    of: dict[ArmName, Accuracy] = {
        name: Accuracy(*models[name])  # type: ignore[misc]
        for name in ("base", "lora", "selfaug")
    }
    of["lora_router"] = routed(of["lora"], of["base"], *right)
    _, more = credit(inputs, of)
    return Model({arm: roi(inputs, arm, of[arm]) for arm in ARMS}, more.item())


def as_given(
    case: Mapping[str, Any],
) -> tuple[dict[str, float], dict[str, tuple[float, float]], tuple[float, float]]:
    """Inputs, accuracies and router of a case."""
    values = {name: one["value"] for name, one in case["inputs"].items()}
    if case["plain_gpu_hours"] is not None:
        values["plain_gpu_hours"] = case["plain_gpu_hours"]["value"]
    return (
        values,
        {name: (one["task"], one["general"]) for name, one in case["accuracies"].items()},
        (case["router"]["task"], case["router"]["general"]),
    )


def compare(sheet: Sheet, expected: Model) -> None:
    """Every result of every arm, and the credit; differences of sums relative to the sums."""
    months = 12 * sheet.value(sheet.line("years"), 2)
    found = {
        label: sheet.of_arms(label)
        for label in (
            "usefulness", "hours of a user and week", "hours a year", "value a year", "first cost",
            "present value of benefits", "present value of costs", "NPV", "ROI", "payback month", "break-even adoption",
        )
    }  # fmt: skip
    most = 0.0
    for arm, result in expected.arms.items():
        here = {label: values[arm] for label, values in found.items()}
        size = 1e-6 * (abs(result.benefits) + result.costs)
        most = max(most, size)
        assert here["usefulness"] == pytest.approx(result.usefulness, rel=1e-6, abs=1e-9)
        assert here["hours of a user and week"] == pytest.approx(
            result.hours_per_user_week, rel=1e-6, abs=1e-9
        )
        assert here["hours a year"] == pytest.approx(result.hours_per_year, rel=1e-6, abs=1e-9)
        assert here["value a year"] == pytest.approx(result.value_per_year, rel=1e-6, abs=1e-9)
        assert here["first cost"] == pytest.approx(result.first_cost, rel=1e-6)
        assert here["present value of benefits"] == pytest.approx(result.benefits, rel=1e-6, abs=1e-9)
        assert here["present value of costs"] == pytest.approx(result.costs, rel=1e-6)
        assert here["NPV"] == pytest.approx(result.npv, rel=1e-6, abs=size)
        assert here["ROI"] == pytest.approx(100 * result.roi, rel=1e-6, abs=1e-4)
        assert here["payback month"] == (result.payback_month or f"not within {months:g} months")
        if isinstance(result.break_even, str):
            assert here["break-even adoption"] == result.break_even
        else:
            assert here["break-even adoption"] == pytest.approx(result.break_even, rel=1e-6, abs=1e-9)
    line = sheet.line("credit of SelfAug")
    assert sheet.value(line, 2) == pytest.approx(expected.credit, rel=1e-6, abs=most)
    npv = {arm: expected.arms[arm].npv for arm in ARMS[:-1]}
    best = max(npv, key=lambda arm: npv[arm])
    if sorted(npv.values())[-1] - sorted(npv.values())[-2] > most:
        assert sheet.value(sheet.line("against"), 2) == ARM_NAMES[best]


def made(*sets: str) -> dict[str, Any]:
    return business_case(load_roi_config(sets=sets), draws=100)


FREE = (
    "inputs.serving_per_month=0", "inputs.base_setup_hours=0", "inputs.setup_hours=0", "inputs.monitoring_per_month=0",
    "inputs.gpu_hours=0",
)  # fmt: skip
USELESS = tuple(f"{arm}.{kind}=0.1" for arm in ("base", "lora", "selfaug") for kind in ("task", "general"))
CASES = {
    "golden": (),
    "never": USELESS,
    "always": FREE,
    "one year": (
        "inputs.years=1",
        "inputs.ramp_months=9.5",
        "inputs.discount_rate=0",
        "inputs.hourly_cost=75",
    ),
    "ten years": ("inputs.years=10", "inputs.adoption=0.9", "inputs.second_endpoint_per_month=700"),
    "nobody": ("inputs.adoption=0",),
    "accuracies": ("base.task=0.3", "base.general=0.9", "lora.task=0.95", "lora.general=0.2"),
}


@pytest.mark.parametrize("name", CASES)
def test_formulae_give_what_the_model_gives(name: str) -> None:
    case = made(*CASES[name])
    sheet = Sheet(roi_csv(case))
    expected = model(*as_given(case))
    compare(sheet, expected)
    assert sheet.of_arms("NPV when this was written") == {
        arm: pytest.approx(result.npv, rel=1e-12) for arm, result in expected.arms.items()
    }
    assert sheet.value(sheet.line("credit of SelfAug"), 2) == pytest.approx(case["credit"]["value"], rel=1e-6)


def test_the_cases_have_what_is_written_in_words() -> None:
    never, always = (Sheet(roi_csv(made(*CASES[name]))) for name in ("never", "always"))
    assert set(never.of_arms("break-even adoption").values()) == {"never"}
    assert set(never.of_arms("payback month").values()) == {"not within 36 months"}
    assert always.of_arms("break-even adoption")["base"] == "always"
    golden = Sheet(roi_csv(made()))
    assert golden.value(golden.line("credit of SelfAug"), 2) == pytest.approx(30_292, abs=0.5)
    assert golden.of_arms("payback month")["selfaug"] == 7
    assert golden.of_arms("break-even adoption")["selfaug"] == pytest.approx(0.1407, abs=0.00005)


@pytest.mark.parametrize(
    "changes",
    [
        {"hourly_cost": 90.0, "lora.general": 0.65, "router.task": 0.8},
        {"router.general": 0.6, "gpu_hours": 900.0},
        {"plain_gpu_hours": 500.0, "gpu_hours": 900.0},
        {"years": 7.0, "discount_rate": 0.05},
        {"adoption": 0.05, "serving_per_month": 5000.0},
        {"base.task": 0.85, "base.general": 0.85, "ramp_months": 1.0},
    ],
)
def test_a_changed_cell_changes_what_follows(changes: dict[str, float]) -> None:
    case = made()
    sheet = Sheet(roi_csv(case))
    before = sheet.of_arms("NPV")
    values, models, right = as_given(case)
    for name, value in changes.items():
        sheet.change(name, value)
        model_name, _, kind = name.partition(".")
        if model_name == "router":
            right = (value, right[1]) if kind == "task" else (right[0], value)
        elif kind:
            task, general = models[model_name]
            models[model_name] = (value, general) if kind == "task" else (task, value)
        else:
            values[name] = value
    expected = model(values, models, right)
    compare(sheet, expected)
    assert sheet.of_arms("NPV")["lora_router"] != pytest.approx(before["lora_router"])


def between(low: float, high: float) -> st.SearchStrategy[float]:
    """In a thousand steps: values of 1e-300 would test where numbers end, not formulae."""
    return st.integers(0, 1000).map(lambda step: low + (high - low) * step / 1000)


def drawn(name: str) -> st.SearchStrategy[float]:
    """Values of an input, as allowed and up to twice its highest default: with wilder ones nothing ever pays."""
    if name == "years":
        return st.integers(1, 10).map(float)
    highest = InputSettings.model_fields[name].default[2] or 500.0
    return between(quantity_of(name).low, min(quantity_of(name).high, 2 * highest))


SHARE = between(0.0, 1.0)
VALUES = st.fixed_dictionaries({name: drawn(name) for name in InputSettings.model_fields})
ACCURACY = between(0.4, 1.0)
ACCURACIES = st.fixed_dictionaries(
    {name: st.tuples(ACCURACY, ACCURACY) for name in ("base", "lora", "selfaug")}
)


@pytest.fixture(scope="module")
def golden() -> str:
    return roi_csv(made())


@settings(max_examples=25, deadline=None)  # the first one parses all formulae
@given(values=VALUES, models=ACCURACIES, right=st.tuples(SHARE, SHARE))
def test_it_follows_any_inputs(
    golden: str,
    values: dict[str, float],
    models: dict[str, tuple[float, float]],
    right: tuple[float, float],
) -> None:
    sheet = Sheet(golden)
    for name, value in values.items():
        sheet.change(name, value)
    for name, accuracies in models.items():
        for kind, value in zip(("task", "general"), accuracies, strict=True):
            sheet.change(f"{name}.{kind}", value)
    for kind, value in zip(("task", "general"), right, strict=True):
        sheet.change(f"router.{kind}", value)
    compare(sheet, model(values, models, right))


def test_more_years_than_there_are_months_are_not_counted() -> None:
    sheet = Sheet(roi_csv(made("inputs.years=10")))
    before = sheet.of_arms("NPV")
    sheet.change("years", 40.0)
    assert sheet.of_arms("NPV") == before


# ---- the file


def test_every_input_has_its_unit_source_and_meaning(golden: str) -> None:
    sheet = Sheet(golden)
    for name in RoiInputs.__dataclass_fields__:
        _, _, unit, source, meaning = sheet.cells[sheet.line(name) - 1]
        assert unit
        assert meaning
        assert source == ("formula" if name == "plain_gpu_hours" else "default")
    case = made("inputs.workers=50", "lora.task=0.8", "lora.general=0.7", "lora.items=77")
    told = Sheet(roi_csv(case))
    assert told.cells[told.line("workers") - 1][1:4] == ["50", "people", "user"]
    line = told.cells[told.line("lora.task") - 1]
    assert line[3] == "user"
    assert "77 items" in line[4]
    assert [line[1] for line in told.cells if line[:1] == ["note"]] == case["warnings"]


def test_it_uses_only_what_every_spreadsheet_knows(golden: str) -> None:
    functions = {
        name for line in Sheet(golden).cells for cell in line for name in re.findall(r"[A-Z]+(?=\()", cell)
    }
    assert functions == {"SUMPRODUCT", "MAX", "MIN", "IF", "MOD", "AND", "OR"}
    assert golden.isascii()


@pytest.mark.parametrize("place", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\tx", "  =1+1", "＝1+1", "\n=1"])
def test_no_text_of_a_users_is_taken_for_a_formula(place: str) -> None:
    case = {**made(), "comparison": place, "served": {"run": place}}
    sheet = Sheet(roi_csv(case))
    assert [sheet.cells[sheet.line(kind) - 1][1] for kind in ("comparison", "run")] == [f"'{place}"] * 2
    compare(sheet, model(*as_given(case)))


@pytest.mark.parametrize(
    ("place", "shown"), [("\r=1", "\\r=1"), ("a\r\n=1", "a\\r\n=1"), ("a\udcff", "a\\udcff")]
)
def test_no_text_ends_the_line_or_cannot_be_written(place: str, shown: str) -> None:
    text = roi_csv({**made(), "comparison": place})
    assert text.encode()
    sheet = Sheet(text)
    assert sheet.cells[sheet.line("comparison") - 1][1] == shown


def test_a_folder_with_commas_quotes_and_other_letters_stays_whole() -> None:
    place = 'läufe, "erste"\nzwei'
    text = roi_csv({**made(), "comparison": place})
    assert text.startswith("\ufeff")  # Excel reads other letters only with it
    sheet = Sheet(text)
    assert sheet.cells[sheet.line("comparison") - 1][1] == place
