"""A business case as a spreadsheet that goes on computing: CSV with formulae.

Whoever opens it changes an input and sees what becomes of each arm. The formulae are those of `core.roi`, month by
month; a test evaluates them and compares. They use only what LibreOffice, Excel and Google Sheets all know.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

from selfaug.core.printable import printable
from selfaug.core.roi import (
    ARMS,
    HOURS_OF_TRAINING_AGAIN,
    MONTHS_BETWEEN_TRAININGS,
    ROUTER_HOURS,
    TRAININGS_AGAIN,
    ArmName,
)
from selfaug.roi_config import MOST_YEARS
from selfaug.wording.roi_words import ARM_NAMES

__all__ = ["roi_csv"]

_RESULTS = (
    "credit of SelfAug",
    "against",
    "",
    "arm",
    "present value of benefits",
    "present value of costs",
    "NPV",
    "ROI",
    "payback month",
    "break-even adoption",
    "NPV at adoption 0",
    "NPV at adoption 1",
    "NPV when this was written",
)
"""Label of each line of the results."""

_CONSTANTS = {
    "months_between_trainings": (MONTHS_BETWEEN_TRAININGS, "months", "After which a tuned model is trained again."),
    "trainings_again": (TRAININGS_AGAIN, "trainings", "Each time."),
    "hours_of_training_again": (HOURS_OF_TRAINING_AGAIN, "hours", "Each time, an engineer's."),
    "router_hours": (ROUTER_HOURS, "hours/month", "An engineer's, for the router's upkeep."),
}  # fmt: skip
_OF_AN_ARM = ("value", "fixed cost", "cost", "net", "cumulated", "month below 0")
_FIRST_OF_ARMS = 5
"""Columns of the months before those of the arms."""

_STARTS_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


class _Formula(str):
    """Text of a cell that is to be computed; any other text never is."""


Cell = _Formula | str | float
OfArm = str | Callable[[ArmName], str]
"""Text of a formula: the same for all arms, or made for each."""


def roi_csv(case: Mapping[str, Any]) -> str:
    """The spreadsheet: results, inputs, what follows from them for each arm, and all months.

    Args:
        case: as `business_case` gives it.

    Returns:
        Text of a CSV file with commas, and points in numbers. All numbers are values of column B, or formulae that
        lead back to it.
    """
    sheet = _Sheet()
    sheet.add("SelfAug: what a model is worth")
    sheet.add(
        "Change values in column B of the inputs: everything else follows. What selfaug simulates is not in here."
    )
    for kind, place in (("comparison", case["comparison"]), ("run", (case.get("served") or {}).get("run"))):
        sheet.add(kind, "none" if place is None else place)
    sheet.add()
    results = sheet.add("results")
    for label in _RESULTS:
        sheet.add(label)
    for warning in case["warnings"]:
        sheet.add("note", warning)
    _add_inputs(sheet, case)
    _add_arms(sheet)
    _add_results(sheet, results, _add_months(sheet), case)
    return sheet.text()


class _Sheet:
    """Lines of cells, and where the named values are.

    Attributes:
        at: address of each named value; an arm's value is named "ARM.NAME".
    """

    def __init__(self) -> None:
        self._lines: list[list[Cell]] = []
        self.at: dict[str, str] = {}

    def add(self, *cells: Cell) -> int:
        """Add a line; returns its number, from 1."""
        self._lines.append(list(cells))
        return len(self._lines)

    def extend(self, line: int, *cells: Cell) -> None:
        """Add cells to a line that is there."""
        self._lines[line - 1].extend(cells)

    def add_value(self, name: str, value: Cell, unit: str, source: str, meaning: str) -> None:
        """Add a line with one value, which formulae may name."""
        self.at[name] = f"$B${self.add(name, value, unit, source, meaning)}"

    def add_arms(self, name: str, unit: str, formula: OfArm) -> None:
        """Add a line with a value of each arm, which formulae may name."""
        self.extend_arms(self.add(name), name, unit, formula)

    def extend_arms(self, line: int, name: str, unit: str, formula: OfArm) -> None:
        """The same for a line that has its label already."""
        texts = {arm: formula if isinstance(formula, str) else formula(arm) for arm in ARMS}
        self.extend(line, *(self.formula(text, arm) for arm, text in texts.items()), unit)
        self.at.update({f"{arm}.{name}": f"${_letters(at)}${line}" for at, arm in enumerate(ARMS, 1)})

    def formula(self, text: str, arm: str = "") -> _Formula:
        """A formula with the addresses of the values that it names: [NAME] of all, {NAME} of an arm."""
        for mark, name in _names(text):
            address = self.at[f"{arm}.{name}" if mark[0] == "{" else name]
            text = text.replace(mark, address)
        return _Formula(f"={text}")

    def text(self) -> str:
        """All of it as CSV."""
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows([map(_shown, line) for line in self._lines])
        found = written.getvalue()
        # Excel takes a file without this mark for one in an older encoding.
        return found if found.isascii() else f"\ufeff{found}"


def _names(text: str) -> list[tuple[str, str]]:
    """Marks of a formula, such as "[years]", and the names in them."""
    found = re.findall(r"(\[([^]]+)\]|\{([^}]+)\})", text)
    return [(mark, of_all or of_arm) for mark, of_all, of_arm in found]


def _add_inputs(sheet: _Sheet, case: Mapping[str, Any]) -> None:
    """Everything that may be changed: inputs, accuracies, and what the value model takes as given."""
    sheet.add()
    sheet.add("inputs", "value", "unit", "source", "meaning")
    for name, one in case["inputs"].items():
        sheet.add_value(name, one["value"], one["unit"], one["source"], one["meaning"])
    plain = case["plain_gpu_hours"] or {
        "value": sheet.formula("[gpu_hours]"),
        "unit": case["inputs"]["gpu_hours"]["unit"],
        "source": "formula",
        "meaning": "Of plain LoRA: the same, unless another number is put here.",
    }
    sheet.add_value("plain_gpu_hours", plain["value"], plain["unit"], plain["source"], plain["meaning"])
    for model, one in case["accuracies"].items():
        for kind, of in (("task", "requests of the job"), ("general", "all other requests")):
            meaning = f"Useful answers to {of}; {one[f'{kind}_items']:g} items."
            sheet.add_value(f"{model}.{kind}", one[kind], "share", one["source"], meaning)
    router = case["router"]
    for kind, meaning in (
        ("task", "Requests of the job that the router sends to the tuned model"),
        ("general", "All other requests that the router sends to the base model"),
    ):
        items = router[f"{kind}_items"]
        counted = "." if items is None else f"; {items:g} items."
        sheet.add_value(f"router.{kind}", router[kind], "share", router["source"], meaning + counted)
    for name, (value, unit, meaning) in _CONSTANTS.items():
        sheet.add_value(name, value, unit, "fixed", meaning)


def _add_arms(sheet: _Sheet) -> None:
    """What follows for all arms, and for each."""
    sheet.add()
    sheet.add("of all arms", "value", "unit", "source", "meaning")
    most = 12 * MOST_YEARS
    for name, unit, formula, meaning in (
        ("active_users", "people", "[workers]*[adoption]", "After the ramp."),
        ("value_of_an_hour", "currency/hour", "[hourly_cost]*[realised_share]*(1-[haircut])", "That is reclaimed."),
        ("onboarding_of_a_user", "currency", "[onboarding_hours]*[hourly_cost]", ""),
        ("months", "months", f"MIN({most},12*[years])", f"That are counted: no more than {most}."),
    ):  # fmt: skip
        sheet.add_value(name, sheet.formula(formula), unit, "formula", meaning)
    sheet.add()
    sheet.add("of each arm", *(ARM_NAMES[arm] for arm in ARMS), "unit")

    def accuracy(kind: str) -> Callable[[ArmName], str]:
        right, other = ("lora", "base") if kind == "task" else ("base", "lora")
        share = f"[router.{kind}]"
        routed = f"{share}*[{right}.{kind}]+(1-{share})*[{other}.{kind}]"
        return lambda arm: routed if arm == "lora_router" else f"[{arm}.{kind}]"

    def of_tuned(tuned: str, base: str, router: str = "") -> Callable[[ArmName], str]:
        return lambda arm: base if arm == "base" else tuned + (router if arm == "lora_router" else "")

    sheet.add_arms("accuracy on the job", "share", accuracy("task"))
    sheet.add_arms("accuracy on other requests", "share", accuracy("general"))
    for name, unit, formula in (
        ("usefulness", "share",
         "[task_share]*{accuracy on the job}+(1-[task_share])*{accuracy on other requests}"),
        ("hours of a request", "hours",
         "({usefulness}*[minutes_saved]-(1-{usefulness})*[minutes_failed]-[minutes_checking])/60"),
        ("hours of a user and week", "hours", "[requests_per_week]*{hours of a request}"),
        ("hours a year", "hours", "[active_users]*[weeks_per_year]*{hours of a user and week}"),
        ("value a year", "currency", "{hours a year}*[value_of_an_hour]"),
        ("value of a user and month", "currency",
         "{hours of a user and week}*[weeks_per_year]/12*[value_of_an_hour]"),
    ):  # fmt: skip
        sheet.add_arms(name, unit, formula)
    hours = {"lora": "plain_gpu_hours", "lora_router": "plain_gpu_hours", "selfaug": "gpu_hours"}
    sheet.add_arms(
        "cost of a training", "currency", lambda arm: f"[{hours[arm]}]*[gpu_price]" if arm in hours else "0"
    )
    sheet.add_arms("first cost without users", "currency", of_tuned(
        "[setup_hours]*[engineer_hourly_cost]+[trainings]*{cost of a training}",
        "[base_setup_hours]*[engineer_hourly_cost]",
    ))  # fmt: skip
    sheet.add_arms(
        "first cost", "currency", "{first cost without users}+[active_users]*[onboarding_of_a_user]"
    )
    sheet.add_arms("fixed cost of a month", "currency", of_tuned(
        "[serving_per_month]+[monitoring_per_month]",
        "[serving_per_month]",
        "+[second_endpoint_per_month]+[router_hours]*[engineer_hourly_cost]",
    ))  # fmt: skip
    sheet.add_arms("training again", "currency", of_tuned(
        "[trainings_again]*{cost of a training}+[hours_of_training_again]*[engineer_hourly_cost]", "0"
    ))  # fmt: skip


def _add_months(sheet: _Sheet) -> Callable[[str], str]:
    """The months, as many as may be looked ahead; those beyond `years` count nothing.

    Returns:
        The range of a column, by its name.
    """
    columns = ["month", "counted", "discount factor", "share of users", "users"]
    columns += [f"{arm}.{name}" for arm in ARMS for name in _OF_AN_ARM]
    letters = {name: _letters(at) for at, name in enumerate(columns)}
    sheet.add()
    sheet.add("months")
    shown = [f"{ARM_NAMES[arm]}: {name}" for arm in ARMS for name in _OF_AN_ARM]
    first = sheet.add(*columns[:_FIRST_OF_ARMS], *shown) + 1
    last = first + 12 * MOST_YEARS - 1
    for line in range(first, last + 1):
        here = {name: f"{letter}{line}" for name, letter in letters.items()}
        month, counted, _, share, users = (here[name] for name in columns[:_FIRST_OF_ARMS])
        cells: list[Cell] = [
            line - first + 1,
            sheet.formula(f"IF({month}<=[months],1,0)"),
            sheet.formula(f"(1+[discount_rate])^(-{month}/12)"),
            sheet.formula(f"{counted}*MIN(1,{month}/[ramp_months])"),
            sheet.formula(f"[active_users]*{share}"),
        ]
        for arm in ARMS:
            value, fixed, cost, net, cumulated, _ = (here[f"{arm}.{name}"] for name in _OF_AN_ARM)
            before = "-{first cost}" if line == first else f"{letters[f'{arm}.cumulated']}{line - 1}"
            trains = f"IF(MOD({month},[months_between_trainings])=0,{{training again}},0)"
            formulae = (
                f"{users}*{{value of a user and month}}",
                f"{counted}*({{fixed cost of a month}}+{trains})",
                f"{fixed}+{users}*[support_per_user_month]",
                f"{value}-{cost}",
                f"{before}+{net}",
                f"IF(AND({counted}=1,{cumulated}<0),{month},0)",
            )
            cells += [sheet.formula(formula, arm) for formula in formulae]
        sheet.add(*cells)
    return lambda name: f"${letters[name]}${first}:${letters[name]}${last}"


def _add_results(sheet: _Sheet, heading: int, column: Callable[[str], str], case: Mapping[str, Any]) -> None:
    """The results, into the lines that were left for them."""
    lines = {label: heading + at for at, label in enumerate(_RESULTS, 1)}
    factor, share = column("discount factor"), column("share of users")

    def put(label: str, unit: str, formula: OfArm) -> None:
        sheet.extend_arms(lines[label], label, unit, formula)

    def payback(arm: ArmName) -> str:
        last = f"MAX({column(f'{arm}.month below 0')})"
        return f'IF({last}>=[months],"not within "&[months]&" months",{last}+1)'

    sheet.extend(lines["arm"], *(ARM_NAMES[arm] for arm in ARMS), "unit")
    put(
        "present value of benefits",
        "currency",
        lambda arm: f"SUMPRODUCT({column(f'{arm}.value')},{factor})",
    )
    put(
        "present value of costs",
        "currency",
        lambda arm: f"{{first cost}}+SUMPRODUCT({column(f'{arm}.cost')},{factor})",
    )
    put("NPV", "currency", "{present value of benefits}-{present value of costs}")
    put("ROI", "% of costs", "IF({present value of costs}=0,0,100*{NPV}/{present value of costs})")
    put("payback month", "month, undiscounted", payback)
    put(
        "NPV at adoption 0",
        "currency",
        lambda arm: f"-{{first cost without users}}-SUMPRODUCT({column(f'{arm}.fixed cost')},{factor})",
    )
    # Users, and with them everything that is not fixed, are in proportion to adoption: two points are the whole line.
    put(
        "NPV at adoption 1",
        "currency",
        f"{{NPV at adoption 0}}+[workers]*(SUMPRODUCT({share},{factor})"
        "*({value of a user and month}-[support_per_user_month])-[onboarding_of_a_user])",
    )
    none, full = "{NPV at adoption 0}", "{NPV at adoption 1}"
    put(
        "break-even adoption",
        "share",
        f'IF(MIN({none},{full})>=0,"always",'
        f'IF(OR(MAX({none},{full})<0,{full}<={none}),"never",{none}/({none}-{full})))',
    )
    written = "NPV when this was written"
    sheet.extend(lines[written], *(case["arms"][arm]["npv"] for arm in ARMS), "currency")
    others = [arm for arm in ARMS if arm != "selfaug"]
    best = f"MAX({','.join(f'[{arm}.NPV]' for arm in others)})"
    sheet.extend(lines["credit of SelfAug"], sheet.formula(f"[selfaug.NPV]-{best}"), "currency")
    against = f'"{ARM_NAMES[others[-1]]}"'
    for arm in reversed(others[:-1]):
        against = f'IF([{arm}.NPV]={best},"{ARM_NAMES[arm]}",{against})'
    sheet.extend(lines["against"], sheet.formula(against))


def _letters(column: int) -> str:
    """Name of a column, from 0: A to Z, then AA and so on."""
    before, last = divmod(column, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + last)


def _shown(cell: Cell) -> str:
    """A cell as CSV holds it. No text is taken for a formula: a folder may be called "=1+1"."""
    if isinstance(cell, _Formula):
        return cell
    if isinstance(cell, str):
        text = printable(
            cell
        )  # what else a folder's name may hold would end the line, or could not be written
        return f"'{text}" if text.startswith("\t") or text.lstrip().startswith(_STARTS_FORMULA) else text
    return repr(float(cell)).removesuffix(".0")
