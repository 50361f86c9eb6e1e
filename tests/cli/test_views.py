"""What evaluate, assess, compare and balance print, on a terminal of 80 columns and on a wide one."""

from __future__ import annotations

import copy
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfaug.cli.assessment_view import show_assessment
from selfaug.cli.balance_view import show_balance
from selfaug.cli.comparison_view import show_comparison
from selfaug.cli.evaluation_view import show_evaluation
from selfaug.cli.preparation_view import show_recall
from selfaug.config import load_config, training_settings
from selfaug.records import read_record

COMPARISON = Path(__file__).parents[2] / "docs" / "results" / "comparison-demo.json"

# Sentences and paths are for copying and wrap by themselves; tables can't.
FRAME = "┏┡│└┗┃"


def interval(value: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def suite(items: int, base: float, tuned: float) -> dict[str, Any]:
    return {
        "items": items,
        "base": interval(base, max(0.0, base - 0.1), base + 0.1),
        "tuned": interval(tuned, max(0.0, tuned - 0.1), tuned + 0.06),
        "difference": {
            "difference": interval(tuned - base, tuned - base - 0.2, tuned - base + 0.2),
            # Graded: the mean square of their differences is no share of the items.
            "discordance": 0.04,
            "better": items // 4 - 1,
            "worse": 1,
            "items": items,
            "clusters": None,
        },
        "detectable_difference": 0.081,
    }


SUITES = {
    "task": suite(64, 0.02, 0.94),
    "questions_of_our_company": suite(40, 0.5, 0.4),
    "general": suite(212, 0.5, 0.1),
}
DRIFT = {
    "nats": interval(1.0793, 0.9, 1.2),
    "top1_agreement": 0.72,
    "tokens": 34_120,
    "by_tenth": [None, 3.25, *[0.5] * 8],
}
BOUND = {
    "name": "forgetting", "outcome": "inconclusive", "value": interval(0.03, -0.02, 0.08), "bound": 0.05,
    "sense": "at most", "items": 212, "items_needed": 4000,
}  # fmt: skip
MEASURED: dict[str, Any] = {
    "settings": {
        "scorer": "numeric",
        "level": "auto",
        "config": {
            "model": {"name": "Qwen/Qwen3-0.6B"},
            "data": {"prepared": None, "train": ["my rows.jsonl"], "eval": ["held-out.jsonl"]},
        },
    },
    "suites": SUITES,
    "drift": {"prompts of the task": DRIFT, "general prompts": DRIFT, "the base model's own answers": DRIFT},
}
EVALUATION: dict[str, Any] = {
    **MEASURED,
    "also": {},
    "sides": {},
    "forecast": {
        **interval(-0.009, -0.1, 0.08),
        "drift": 0.02,
        "runs": 30,
        "coverage": 0.8,
        "below": False,
        "beyond": False,
    },
    "level": {"level": 1, "scores": {"1": 0.6, "2": 0.2, "3": 0.1}},
    "gate": {"outcome": "inconclusive", "bounds": [BOUND]},
}
ASSESSMENT: dict[str, Any] = {
    **MEASURED,
    "findings": [{"name": "duplicates", "status": "ok", "found": "0 of 24 training rows are there already"}],
    "surprise": {"prompt_nll": 2.4, "completion_nll": 3.2},
    "probe": {"steps": 40},
    "verdict": "Plain LoRA makes this model forget.",
    "budget": 0.068,
    "budget_items": 336,
}


def point(run: str, scale: float) -> dict[str, Any]:
    intervals = {"task_interval": interval(0.9, 0.78, 0.96), "forgetting_interval": interval(0, -0.1, 0.1)}
    return {"run": run, "scale": scale, "task": 0.9, "forgetting": -0.0001, "drift": 0.05, **intervals}


BALANCE: dict[str, Any] = {
    "settings": {"scorer": "numeric"},
    "trials": [{}] * 12,
    "points": [point(f"alpha-1.23-lr-0.000432-rank-{rank}-length-0.75", 0.8) for rank in (16, 32)],
    "front": [0, 1],
    "knee": 1,
    "chosen": 1,
    "best": "best",
    "reason": "the best at the job",
    "failed_trials": [],
    "test": SUITES,
    "test_gate": BOUND,
}


def shown(kind: str, width: int, **changed: Any) -> str:
    screen = io.StringIO()
    console = Console(width=width, file=screen, highlight=False)
    if kind == "evaluate":
        show_evaluation({**EVALUATION, **changed}, console)
    elif kind == "assess":
        show_assessment({**ASSESSMENT, **changed}, Path("runs/a"), console)
    elif kind == "balance":
        show_balance({**BALANCE, **changed}, Path("runs/b"), console)
    else:
        show_comparison({**read_record(COMPARISON, "comparison"), **changed}, Path("runs/c"), console)
    return screen.getvalue()


@pytest.mark.parametrize("kind", ["evaluate", "assess", "balance", "compare"])
@pytest.mark.parametrize("width", [80, 160])
def test_tables_fit_and_nothing_is_cut_off(kind: str, width: int) -> None:
    text = shown(kind, width)
    assert "…" not in text
    framed = [line for line in text.splitlines() if line[:1] in FRAME and line]
    assert framed
    assert max(map(len, framed)) <= width
    assert all(line[-1] in "┓┩│┘┛┃" for line in framed)  # no table runs over the edge


@pytest.mark.parametrize("kind", ["evaluate", "assess", "balance", "compare"])
def test_every_minus_is_one(kind: str) -> None:
    text = shown(kind, 160)
    assert " -" not in text.replace(" --", "").replace("(-", " -")
    assert ("−35.0 (" if kind == "compare" else "−10.0 points") in text


def test_a_checkpoint_and_the_development_half_are_told_first() -> None:
    settings = {**EVALUATION["settings"], "step": 1_020, "half": "dev"}
    assert shown("evaluate", 80, settings=settings).startswith(
        "! at step 1,020, before the training ended\n! general requests of the development half, by which settings may "
    )
    assert not shown("evaluate", 80).startswith("!")


def test_a_forecast_of_less_than_nothing_is_readable() -> None:
    text = shown("evaluate", 80)
    assert "a drift of 0.020 nats per token lets expect forgetting of −0.9 points (−10.0 to +8.0" in text
    assert "highest" in text
    assert "10–20\N{NO-BREAK SPACE}%: 3.2500" in shown("evaluate", 160)


def test_what_would_go_unseen_says_how_many_changed_which_way() -> None:
    suites = copy.deepcopy(SUITES)
    suites["task"]["difference"]["clusters"] = 8
    text = shown("evaluate", 160, suites=suites).replace("\N{NO-BREAK SPACE}", " ")
    seen = (
        "a change of 8.1 points is found with a probability of 80 % (measured: {} of them got better, {} worse); "
        "smaller ones may go unseen"
    )
    assert f"task: with 64 items in 8 clusters, {seen.format('23 %', '2 %')}" in text
    assert f"general: with 212 items, {seen.format('25 %', '0 %')}" in text


def test_one_item_is_one() -> None:
    text = shown("evaluate", 160, suites={"general": {**SUITES["general"], "items": 1}})
    assert "general: with 1 item, " in text


def test_a_suite_may_be_named_as_markup_is() -> None:
    record = copy.deepcopy(read_record(COMPARISON, "comparison"))
    record["items"]["faq[en]"] = 3
    for row in (record["base"], *record["methods"].values()):
        row["suites"]["faq[en]"] = row["suites"]["general"]
        if row.get("against_subject"):
            row["against_subject"]["faq[en]"] = row["against_subject"]["general"]
    assert (
        shown("compare", 220, **record).count("faq[en]") == 4
    )  # two tables, what was asked, and what was cut off


def test_an_assessment_says_how_to_go_on() -> None:
    text = shown("assess", 80)
    assert (
        "next:   selfaug train --model Qwen/Qwen3-0.6B --train 'my rows.jsonl' --eval held-out.jsonl --anchors self"
        in text
    )
    assert "then:   selfaug evaluate runs/first --scorer numeric --max-forgetting 0.068\n" in text
    assert "with the 336 requests that `selfaug evaluate` asks, a loss of so much is found with" in text
    assert "completions are new to it in their form" in " ".join(text.split())
    settings = copy.deepcopy(MEASURED["settings"])
    settings["config"]["data"]["template"] = "mine.yaml"
    assert "--eval held-out.jsonl --template mine.yaml --anchors self" in shown(
        "assess", 80, settings=settings
    )
    settings["level"] = "2"  # the budget is of that level's requests
    assert "--scorer numeric --level 2 --max-forgetting 0.068\n" in shown("assess", 80, settings=settings)
    # What was given beside prepared documents counts; the rest is taken from there.
    data = settings["config"]["data"]
    data |= {"prepared": "data/prepared", "train": ["data/prepared/train.jsonl"]}
    text = shown("assess", 80, settings=settings, budget=None)
    assert "--prepared data/prepared --eval held-out.jsonl --template mine.yaml --anchors" in text
    assert "then:" not in text
    data |= {"train": ["my.jsonl"], "eval": ["data/prepared/validation.jsonl"]}
    data["template"] = "data/prepared/template.yaml"
    text = shown("assess", 80, settings=settings, budget=None)
    assert "--prepared data/prepared --train my.jsonl --anchors" in text


def test_the_commands_after_an_assessment_have_its_settings() -> None:
    flags = {
        "--model": "m",
        "--train": ["one.jsonl", "two.jsonl"],
        "--max-length": 4096,
        "--learning-rate": 4e-5,
    }
    sets = [
        "data.chat_template_kwargs={enable_thinking: false}", "model.quantization=4bit", "data.skip_bad_rows=true",
        "train.report_to=[tracker]",
    ]  # fmt: skip
    planned = training_settings(load_config(None, flags, sets))
    settings = {**MEASURED["settings"], "config": planned, "max_new_tokens": 300}
    text = shown("assess", 80, settings=settings)
    assert "evaluate runs/first --scorer numeric --max-new-tokens 300 --max-forgetting" in text
    words = shlex.split(re.findall("next: *selfaug train (.*)", text)[0])
    given: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        given.setdefault(flag, []).append(value)
    sets = given.pop("--set")
    train = given.pop("--train")
    printed = load_config(None, {"--train": train} | {flag: one for flag, (one,) in given.items()}, sets)
    planned["selfaug"]["anchors"] = "self"
    assert training_settings(printed) == planned
    # Without alignment, self-anchors would be refused.
    planned["selfaug"].update(anchors="none", alpha=0.0)
    assert "alpha" not in shown("assess", 80, settings=settings)
    planned["selfaug"]["anchors"] = "mine.jsonl"
    assert "--anchors mine.jsonl --set" in shown("assess", 80, settings=settings)


def test_a_comparison_is_told_alike_on_narrow_and_wide_terminals() -> None:
    wide, narrow = shown("compare", 160), shown("compare", 80)
    for word in ("retention", "models", "general"):
        assert word in wide
        assert word in narrow
    assert "drift, general" in wide
    assert "p 0.002" in narrow  # 0.0002 of each, times ten (Holm)
    for text in (wide, narrow):
        assert "the same resampling of items and seeds as the interval" in " ".join(text.split())
        assert "forgetting, points" in text
    one = {
        name: {**row, "against_seeds": [0]}
        for name, row in read_record(COMPARISON, "comparison")["methods"].items()
    }
    assert "exact where items are right or wrong" in " ".join(shown("compare", 160, methods=one).split())
    routed = r"The router sent \d+\s% of the job's prompts to the tuned model"
    assert re.search(routed, " ".join(narrow.split()))
    left_out = shown("compare", 80, not_run=["osf"])
    assert left_out.count("osf") == 1
    assert "not run" in left_out


def test_a_balance_shows_intervals_and_what_opens_its_result() -> None:
    text = shown("balance", 160, test_prompts_seen={"dev": 0, "train": 3, "dev_trained_on": 5})
    assert (
        "! 5 development rows are training rows, too: settings were chosen for what the models remember."
        in text
    )
    assert "! 3 of 64 held-out rows are training rows, too" in text
    assert "90\N{NO-BREAK SPACE}% (78 to 96)" in text
    assert "0.0 (−10.0 to +10.0)" in text
    assert "next:   selfaug serve runs/b/best\n  or:   selfaug export runs/b/best --to models/b\n" in text


def test_a_drift_that_is_not_a_number_is_a_dash() -> None:
    broken = {"nats": interval(None, None, None), "top1_agreement": 0.0, "tokens": 9, "by_tenth": [None] * 10}
    assert "– (– to –)" in shown("evaluate", 160, drift={"general prompts": broken})


def test_a_drift_without_an_interval_has_no_brackets() -> None:
    few = {"nats": interval(0.25, 0.25, 0.25), "top1_agreement": 0.5, "tokens": 9, "by_tenth": [0.25] * 10}
    text = shown("evaluate", 160, drift={"general prompts": few})
    assert "0.2500" in text
    assert "(0.2500" not in text


def test_answers_that_were_cut_off_are_counted_and_it_says_what_to_do() -> None:
    def cut(**shares: tuple[float | None, float | None]) -> dict[str, Any]:
        return {
            name: {
                **SUITES[name],
                "cut_off": {"base": shares[name][0], "tuned": shares[name][1]},
                "own_limits": name == "general",
            }
            for name in shares
        }

    few = cut(task=(0.2, 0.0), general=(0.6, None))
    for kind, tuned, key in (("evaluate", "tuned model", "suites"), ("balance", "chosen point", "test")):
        text = shown(kind, 160, **{key: few}).replace("\N{NO-BREAK SPACE}", " ")
        assert (
            f"cut off at their limit: task: base model 20 %, {tuned} 0 %; general: base model 60 %\n" in text
        )
        assert "enable_thinking" not in text
        many = shown(kind, 160, **{key: cut(task=(0.21, 0.0), general=(0.7, 0.9))})
        assert "! task: 21 % of a model's answers were cut off" in many
        assert "raise --max-new-tokens, or " in many
        assert (
            "! general: 90 % of a model's answers were cut off at their limit, and scores may say little: if"
            in many
        )
    assert "cut off" not in shown("evaluate", 160)  # where it is not known
    level = {"level": 1, "scores": {"1": 0.1, "2": 0.0, "3": 0.0}, "cut_off": 0.95}
    text = shown("evaluate", 160, level=level).replace("\N{NO-BREAK SPACE}", " ")
    assert "level 3 0 %; 95 % of its answers cut off at their limit" in text


def test_levels_at_which_many_answers_were_cut_off_are_told() -> None:
    of_levels = {"base": {"1": 0.2, "2": 0.25, "3": 0.5}, "tuned": {"1": 0.1, "2": 0.0, "3": 0.0}}
    general = {"cut_off": {"base": 0.3, "tuned": 0.04}, "cut_off_by_level": of_levels, "own_limits": True}

    def told(**changed: Any) -> str:
        return shown("evaluate", 160, **changed).replace("\N{NO-BREAK SPACE}", " ")

    text = told(suites={"general": {**SUITES["general"], **general}})
    assert "limit: general: base model 30 % (level 2 25 %, level 3 50 %), tuned model 4 %\n" in text
    one = {**general, "cut_off_by_level": {"base": {"3": 0.5}, "tuned": {"3": 0.0}}}
    assert "base model 30 %, tuned" in told(suites={"general": {**SUITES["general"], **one}})
    level = {"level": 1, "scores": {"1": 0.6, "2": 0.3}, "cut_off_by_level": {"1": 0.1, "2": 0.35}}
    assert "passes: level 1 60 %, level 2 30 % (35 % cut off)\n" in told(level=level)


def test_recall_says_what_it_was_not_measured_on(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = {
        "questions": 4, "at": {"5": {"recall": 0.75, "low": 0.3, "high": 0.95}}, "missed": [],
        "unnamed": 0, "unnamed_left_out": 0, "left_out": [], "by_chance": [], "without_chance": {},
    }  # fmt: skip
    bad = [f"pairs.csv:{line}: not valid UTF-8" for line in range(2, 14)]
    told = []
    chance = {"by_chance": ["q1"], "without_chance": {"1": 0.5, "5": 2 / 3}}
    for more in ({}, {"left_out": bad, "unnamed_left_out": 2}, {"unnamed": 4}, chance):
        show_recall({**found, **more})
        told.append(" ".join(capsys.readouterr().out.split()))
    assert told[0].endswith("4 questions, searched in all documents.")
    assert "Without 2 questions that name no `document`" in told[1]
    assert "12 questions are left out: pairs.csv:2: not valid UTF-8" in told[1]
    assert told[1].endswith("pairs.csv:11: not valid UTF-8 and 2 more; --json has all.")
    assert told[2].endswith("and no bound of what a model can answer.")
    assert told[3].endswith("may count as right by chance. Without them: 50.0 % at 1, 66.7 % at 5.")


def test_what_other_bounds_have_decided_before_stays_beside_the_gate() -> None:
    assert "decided anew" not in shown("evaluate", 160)
    before = [{"outcome": "fail", "bounds": [{**BOUND, "bound": 0.03}]}]
    assert (
        "gate: decided anew on the same answers; before: fail (forgetting at most 3.0 points)\n"
    ) in shown("evaluate", 160, gates_before=before)


def test_a_bound_of_which_all_could_be_forgotten_says_so() -> None:
    bound = {**BOUND, "at_stake": 0.0236, "items_needed": None}
    text = shown("evaluate", 160, gate={"outcome": "inconclusive", "bounds": [bound]})
    assert (
        "wanted: inconclusive; the base model passes only 2\N{NO-BREAK SPACE}% of these: it could forget all of it and "
        "stay within the bound\n"
    ) in text


def test_a_bound_has_the_digits_that_it_was_given() -> None:
    value = {"value": interval(0.01, -0.0204, 0.02041), "bound": 0.0204}
    bounds = [
        {**BOUND, **value},
        {**BOUND, "value": interval(0.03, 0.0, 0.0496)},
        {**BOUND, "bound": 0.020404},
    ]
    text = shown("evaluate", 160, gate={"outcome": "inconclusive", "bounds": bounds})
    assert "+1.000 points (−2.040 to +2.041), at most 2.04 points wanted" in text
    assert "+3.00 points (0.00 to +4.96), at most 5.0 points wanted" in text
    assert "at most 2.040 points wanted" in text


def test_bounds_on_shares_are_shown_as_shares() -> None:
    """A score and retention are no differences: they have no sign, and there may be no retention."""
    shares = {**BOUND, "sense": "at least", "bound": 0.85, "unit": "%"}
    none = {**shares, "name": "retention", "value": dict.fromkeys(("value", "low", "high"))}
    bounds = [{**shares, "name": "task score", "value": interval(0.84, 0.801, 0.875)}, none]
    text = shown(
        "evaluate",
        160,
        gate={"outcome": "inconclusive", "bounds": bounds},
        gates_before=[{"outcome": "fail", "bounds": [shares]}],
    )
    assert "task score: 84.0 % (80.1 to 87.5), at least 85.0 % wanted" in text
    assert "retention: not known, at least 85.0 % wanted: inconclusive; the base model passes none" in text
    assert "before: fail (forgetting at least 85.0 %)" in text
