"""The business case: where its numbers are from, what it warns of, and what it prints."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from report_records import comparison_in_doubt
from selfaug.cli.main import app
from selfaug.core.roi import RoiInputs
from selfaug.errors import ConfigError, DataError, StorageError
from selfaug.monitoring.served_requests import ServedRequests
from selfaug.monitoring.store import Batch, Store
from selfaug.phases.roi import _per_user, business_case
from selfaug.records import read_record, write_record
from selfaug.roi_config import InputSettings, load_roi_config, quantity_of
from selfaug.rundir import RunDir


def case(*sets: str, comparison: Path | None = None, run: Path | None = None) -> dict[str, Any]:
    return business_case(load_roi_config(sets=sets), comparison, run=run, draws=500)


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    folder = tmp_path / "comparison"
    folder.mkdir()
    write_record(folder / "record.json", "comparison", comparison_in_doubt())
    return folder


@pytest.fixture
def served(tmp_path: Path) -> Callable[..., Path]:
    """A run whose monitor has written down so many requests in so many days."""

    def make(requests: int, days: float, dropped: int = 0) -> Path:
        run = RunDir.create(tmp_path / f"served-{requests}-{days}")
        run.config.write_text(run.config_text(""), encoding="utf-8")
        run.monitor.mkdir()
        store = Store(run.monitor)
        first = 1_700_000_000.0 if requests else None
        signal = {"values": requests, "first": first}
        status = {"time": 1_700_000_000.0 + 86_400 * days, "counts": {"dropped": dropped, "lost": 0}}
        kept = {"state": {"adapter": "a", "signals": {"novelty": signal}}, "status": status}
        store.commit(Batch(counts={"processed": requests}, kept=kept))
        store.close()
        return run.path

    return make


def test_the_defaults_are_those_of_the_model_and_called_so() -> None:
    found = case()
    values = {name: one["value"] for name, one in found["inputs"].items()}
    assert {**values, "plain_gpu_hours": found["plain_gpu_hours"]} == vars(RoiInputs())
    assert {one["source"] for one in found["inputs"].values()} == {"default"}
    assert found["credit"]["value"] == pytest.approx(30_292, abs=0.5)
    assert found["credit"]["against"] == "lora_router"
    assert found["credit"]["claimed"] is None
    assert any("base, lora, selfaug are illustrations" in one for one in found["warnings"])


def test_a_comparison_gives_accuracies_and_decides_on_the_claim(comparison: Path) -> None:
    record = read_record(comparison / "record.json", "comparison")
    ours = record["methods"][record["subject"]]["suites"]
    found = case(comparison=comparison)
    assert found["accuracies"]["selfaug"] == {
        "task": pytest.approx(ours["task"]["score"]["value"]),
        "general": pytest.approx(ours["general"]["score"]["value"]),
        "task_items": record["items"]["task"],
        "general_items": record["items"]["general"],
        "source": "measured",
    }
    assert found["router"] == {
        "right": 1.0, "task": 1.0, "general": 1.0, "task_items": 64, "general_items": 688, "source": "measured",
    }  # fmt: skip
    assert found["inputs"]["gpu_hours"]["source"] == "default"  # it was trained on a CPU
    assert found["plain_gpu_hours"] is None
    assert not any("comparison's budget" in one for one in found["warnings"])
    assert found["credit"]["claimed"] is False
    assert any("no credit is claimed" in one for one in found["warnings"])
    assert not any("illustrations" in one for one in found["warnings"])


def test_a_gpu_s_hours_are_taken_and_a_sure_result_is_claimed(comparison: Path) -> None:
    record = read_record(comparison / "record.json", "comparison")
    ours, plain = (record["methods"][name] for name in (record["subject"], "plain"))
    ours["suites"]["general"]["difference"]["difference"]["low"] = -0.03
    ours["write_seconds"] = 1800.0
    del record["methods"]["router"]
    write_record(comparison / "record.json", "comparison", {**record, "device": "cuda"})
    found = case(comparison=comparison)
    assert found["inputs"]["gpu_hours"]["value"] == pytest.approx(ours["train_seconds"] / 3600 + 0.5)
    assert found["inputs"]["gpu_hours"]["source"] == "measured"
    assert found["plain_gpu_hours"]["value"] == pytest.approx(plain["train_seconds"] / 3600)
    # Six trainings at 3.5 an hour; the router's model is plain LoRA's.
    costs = {arm: result["first_cost"] for arm, result in found["arms"].items()}
    more = ours["train_seconds"] + ours["write_seconds"] - plain["train_seconds"]
    assert costs["selfaug"] - costs["lora"] == pytest.approx(6 * 3.5 * more / 3600)
    assert costs["lora_router"] == costs["lora"]
    assert any("of the comparison's budget" in one for one in found["warnings"])
    assert (found["router"]["task"], found["router"]["general"]) == (0.95, 0.95)
    assert (found["router"]["source"], found["router"]["task_items"]) == ("default", None)
    assert found["credit"]["claimed"] is True
    told = case("inputs.gpu_hours=2", "selfaug.task=0.5", "selfaug.general=0.5", comparison=comparison)
    assert (told["inputs"]["gpu_hours"]["value"], told["inputs"]["gpu_hours"]["source"]) == (2.0, "user")
    assert told["plain_gpu_hours"] is None
    assert told["arms"]["lora"]["first_cost"] == told["arms"]["selfaug"]["first_cost"]
    assert not any("comparison's budget" in one for one in told["warnings"])
    assert told["accuracies"]["selfaug"]["source"] == "user"
    assert told["credit"]["claimed"] is None


@pytest.mark.parametrize(
    ("model", "who"), [("base", "SelfAug"), ("selfaug", "The SelfAug model of the comparison")]
)
def test_a_loss_that_was_measured_stays_a_loss_whatever_the_user_says(
    comparison: Path, model: str, who: str
) -> None:
    found = case(f"{model}.task=0.6", f"{model}.general=0.5", comparison=comparison)
    assert found["credit"]["claimed"] is False
    assert found["credit"]["difference"] == case(comparison=comparison)["credit"]["difference"]
    most = -100 * found["credit"]["difference"]["low"]
    assert 9 < most < 12
    assert any(
        one.startswith(f"{who} may have forgotten up to {most:.1f} points") for one in found["warnings"]
    )
    (mixed,) = [one for one in found["warnings"] if "not from the same items" in one]
    assert f"those of {model} given by you" in mixed
    assert not any("not from the same items" in one for one in case(comparison=comparison)["warnings"])


def test_a_loss_that_is_shown_is_told_as_one(comparison: Path) -> None:
    record = read_record(comparison / "record.json", "comparison")
    suite = record["methods"][record["subject"]]["suites"]["general"]
    suite["difference"]["difference"] = {"value": -0.25, "low": -0.32, "high": -0.18}
    write_record(comparison / "record.json", "comparison", record)
    found = case(comparison=comparison)
    (said,) = [one for one in found["warnings"] if "no credit is claimed" in one]
    assert said.startswith(
        "SelfAug has forgotten 25.0 points of the general score (95 % interval 18.0 to 32.0), "
    )
    assert "More items" not in said
    for value, low, told in (
        (-0.07, -0.091, "interval 5.03 to 9.10), more than 5"),
        (0.01, -0.0503, "up to 5.03 points"),
    ):
        high = -0.0503 if value < 0 else 0.03
        suite["difference"]["difference"] = {"value": value, "low": low, "high": high}
        write_record(comparison / "record.json", "comparison", record)
        assert any(told in one for one in case(comparison=comparison)["warnings"])


def test_test_rows_that_were_trained_on_or_chosen_on_are_told(comparison: Path) -> None:
    record = read_record(comparison / "record.json", "comparison")
    write_record(
        comparison / "record.json", "comparison", {**record, "test_prompts_seen": {"dev": 1, "train": 64}}
    )
    told = "\n".join(case(comparison=comparison)["warnings"])
    assert "64 of 64 held-out rows are training rows, too" in told
    assert "1 of 64 test rows is a development row, too, by which settings were chosen" in told
    # The scores of a model that the user has given are others.
    own = [f"{model}.{kind}=0.5" for model in ("base", "lora", "selfaug") for kind in ("task", "general")]
    assert not any("training rows" in one for one in case(*own, comparison=comparison)["warnings"])


def test_where_nothing_can_be_lost_nothing_is_claimed(comparison: Path) -> None:
    record = read_record(comparison / "record.json", "comparison")
    loss = record["methods"][record["subject"]]["suites"]["general"]["difference"]["difference"]
    loss["low"] = -0.03
    record["base"]["suites"]["general"]["score"]["value"] = 0.05
    write_record(comparison / "record.json", "comparison", record)
    found = case(comparison=comparison)
    assert found["credit"]["claimed"] is False
    assert any("passes only 5.0 % of the comparison's general items" in one for one in found["warnings"])


def test_a_router_has_the_rate_of_each_kind_of_request(comparison: Path) -> None:
    record = read_record(comparison / "record.json", "comparison")
    record["methods"]["router"]["routed_right"] = {"task": 1.0, "general": 0.5}
    write_record(comparison / "record.json", "comparison", record)
    found = case(comparison=comparison)
    assert (found["router"]["task"], found["router"]["general"], found["router"]["right"]) == (1.0, 0.5, 0.75)
    scores = found["accuracies"]
    general = (scores["base"]["general"] + scores["lora"]["general"]) / 2
    useful = 0.7 * scores["lora"]["task"] + 0.3 * general
    assert found["arms"]["lora_router"]["usefulness"] == pytest.approx(useful)


SMALL = (
    "inputs.workers=30", "base.task=0.05", "base.general=0.7", "lora.task=0.8", "lora.general=0.5",
    "selfaug.task=0.8", "selfaug.general=0.7",
)  # fmt: skip


def test_a_credit_beside_a_loss_of_money_is_not_all_that_is_said() -> None:
    found = case(*SMALL)
    assert found["credit"]["value"] > 0 > found["arms"]["selfaug"]["npv"]
    assert "Every arm's NPV is below 0: nothing here pays, whatever the credit." in found["warnings"]
    # No tuning is worth something where it costs nothing.
    free = ("inputs.base_setup_hours=0", "inputs.serving_per_month=0", "inputs.onboarding_hours=0")
    pays = case(*SMALL, *free, "inputs.setup_hours=900", "base.task=0.6")
    assert pays["arms"]["base"]["npv"] > 0 > pays["arms"]["selfaug"]["npv"]
    assert any(one.startswith("SelfAug's NPV is below 0: not doing it") for one in pays["warnings"])
    assert not any("Every arm's" in one for one in pays["warnings"])


def test_that_selfaug_may_not_pay_is_said() -> None:
    def told(*sets: str) -> bool:
        return any("not certain that SelfAug pays" in one for one in case(*sets)["warnings"])

    assert told("inputs.workers=100")
    assert not told("inputs.workers=2000")


def test_an_answer_that_costs_time_is_told_of_selfaug_only() -> None:
    useless = ("selfaug.task=0.1", "selfaug.general=0.1")
    found = case(*useless, "base.task=0.62", "base.general=0.72")
    assert found["arms"]["base"]["npv"] > 0
    assert "With SelfAug an answer costs more time than it saves." in found["warnings"]
    assert not any("nothing here pays" in one for one in found["warnings"])


def test_every_input_has_a_unit_limits_and_a_meaning() -> None:
    assert set(InputSettings.model_fields) == set(vars(RoiInputs())) - {"plain_gpu_hours"}
    for name, one in case()["inputs"].items():
        assert one["unit"] == quantity_of(name).unit
        assert one["meaning"].endswith((".", "number."))
        assert quantity_of(name).low <= one["low"] <= one["high"] <= quantity_of(name).high


def test_requests_are_taken_from_what_was_served(served: Callable[..., Path]) -> None:
    run = served(5_600, 28.0)
    found = case("inputs.workers=100", "inputs.adoption=0.5", run=run)
    requests = found["inputs"]["requests_per_week"]
    assert requests["source"] == "measured"
    # 1,400 a week of 50 active users; and what was counted is not drawn.
    assert requests["low"] == requests["value"] == requests["high"] == pytest.approx(28.0)
    assert found["served"] == {"run": str(run), "requests": 5_600, "missed": 0, "weeks": pytest.approx(4.0)}
    assert not any("log has no users" in one for one in found["warnings"])
    assert case()["served"] is None


def test_who_gave_the_requests_is_asked_where_nobody_said_it(served: Callable[..., Path]) -> None:
    found = case("inputs.workers=100", run=served(5_600, 28.0))
    assert found["inputs"]["requests_per_week"]["value"] == pytest.approx(1_400 / 40)
    assert any("1,400 requests a week are divided by 40" in one for one in found["warnings"])


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("inputs.adoption=[0.2,0.5,0.8]",), "inputs.adoption is a range"),
        (
            ("inputs.adoption=[0.2,0.5,0.8]", "inputs.workers=[90,100,110]"),
            "inputs.workers and inputs.adoption are ranges",
        ),
        (("inputs.adoption=0.5",), None),
    ],
)
def test_a_range_of_users_that_multiplies_what_was_counted_is_told(
    served: Callable[..., Path], sets: tuple[str, ...], said: str | None
) -> None:
    run = served(5_600, 28.0)
    told = [one for one in case("inputs.workers=100", *sets, run=run)["warnings"] if "multiplies" in one]
    assert len(told) == (said is not None)
    assert all(one.startswith(str(said)) for one in told)
    assert not any("multiplies" in one for one in case("inputs.workers=100", *sets)["warnings"])


def test_the_users_own_number_of_requests_wins(served: Callable[..., Path]) -> None:
    found = case("inputs.requests_per_week=9", run=served(5_600, 28.0))
    assert (found["inputs"]["requests_per_week"]["value"], found["served"]["requests"]) == (9.0, 5_600)
    assert found["inputs"]["requests_per_week"]["source"] == "user"
    assert not any("log has no users" in one for one in found["warnings"])


@pytest.mark.parametrize(
    ("requests", "days", "sets", "reason"),
    [
        (900, 6.9, (), "counted for 6.9 days"),
        (900, 6.97, (), "counted for 6.97 days"),
        (0, 9.0, (), "counted for 0.0 days"),
        (900_000, 7.0, ("inputs.workers=10",), "more than 500 of each"),
        (900, 7.0, ("inputs.adoption=0",), "of 0 active users say nothing of one"),
    ],
)
def test_what_says_nothing_about_a_user_and_week_is_not_taken(
    served: Callable[..., Path], requests: int, days: float, sets: tuple[str, ...], reason: str
) -> None:
    found = case(*sets, run=served(requests, days))
    assert found["inputs"]["requests_per_week"]["source"] == "default"
    assert found["inputs"]["requests_per_week"]["value"] == 15.0
    assert any(reason in one for one in found["warnings"])


def test_no_requests_of_nobody_say_nothing() -> None:
    rate, doubts = _per_user(ServedRequests(0, 0, 2.0), 0.0, True, [])
    assert rate is None
    assert doubts[0].startswith("0 requests a week of 0 active users say nothing of one")


def test_a_week_is_enough_and_what_was_missed_is_said(served: Callable[..., Path]) -> None:
    assert case(run=served(900, 7.0))["inputs"]["requests_per_week"]["source"] == "measured"
    assert any("missed up to 50" in one for one in case(run=served(901, 8.0, dropped=50))["warnings"])
    assert not any("missed" in one for one in case(run=served(902, 8.0, dropped=9))["warnings"])


def test_a_run_that_nobody_watched_is_an_error(served: Callable[..., Path], tmp_path: Path) -> None:
    run = served(10, 10.0)
    shutil.rmtree(run / "monitor")
    with pytest.raises(StorageError, match="no request has been watched yet"):
        case(run=run)
    with pytest.raises(StorageError, match="is not a selfaug run"):
        case(run=tmp_path / "nowhere")


def test_what_is_not_credible_is_said() -> None:
    assert any("2.2 that users report" in one for one in case("inputs.requests_per_week=100")["warnings"])
    # 4.47 minutes a request; what is rounded beside its limit doesn't seem to be it.
    assert any(one.startswith("2.24 hours") for one in case("inputs.requests_per_week=30")["warnings"])
    assert any("costs more time" in one for one in case("inputs.minutes_checking=60")["warnings"])
    assert case("inputs.years=1")["inputs"]["years"]["source"] == "user"


def test_a_number_may_be_written_with_an_exponent() -> None:
    assert case("inputs.workers=1e3")["arms"] == case("inputs.workers=1000")["arms"]


def test_money_is_in_any_currency() -> None:
    """At 16,000 rupiahs a dollar, everything is worth 16,000 times as many."""
    money = {
        name: field.default
        for name, field in InputSettings.model_fields.items()
        if quantity_of(name).unit.startswith("currency")
    }
    assert {"hourly_cost", "engineer_hourly_cost", "gpu_price"} <= set(money)
    rupiahs = case(*(f"inputs.{name}={[16_000 * one for one in value]}" for name, value in money.items()))
    for arm, of_arm in case()["arms"].items():
        assert rupiahs["arms"][arm]["npv"] == pytest.approx(16_000 * of_arm["npv"])


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("inputs.hourly_cost=4000",), True),
        (("inputs.hourly_cost=90",), False),
        ((), False),
    ],
)
def test_two_currencies_are_asked_about(sets: tuple[str, ...], told: bool) -> None:
    found = [one for one in case(*sets)["warnings"] if "one currency" in one]
    assert len(found) == told
    assert all("engineer_hourly_cost, gpu_price, serving_per_month" in one for one in found)


def test_all_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_roi_config(
            sets=[
                "inputs.adoption=[0.5,0.2,0.3]",
                "inputs.workerz=3",
                "inputs.workers=yes",
                "inputs.haircut=2",
                "inputs.setup_hours=[1,2]",
            ]
        )
    assert len(caught.value.problems) == 5
    text = str(caught.value)
    for part in ("in this order", "did you mean inputs.workers?", "should be a number, or", "from 0 to 0.9"):
        assert part in text
    with pytest.raises(ConfigError, match=r"base\.task: needs base\.general as well"):
        load_roi_config(sets=["base.task=0.5"])


def test_a_comparison_without_the_arms_is_refused(comparison: Path) -> None:
    record = read_record(comparison / "record.json", "comparison")
    del record["methods"]["plain"]
    write_record(comparison / "record.json", "comparison", record)
    with pytest.raises(DataError, match="without plain LoRA"):
        case(comparison=comparison)


def test_the_command_prints_it_for_people_and_for_machines(comparison: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["roi", str(comparison), "--draws", "200"])
    assert shown.exit_code == 0
    for part in (
        "SelfAug's credit against",
        "at the likeliest inputs, in the currency of the inputs (the defaults are in dollars). Simulated: ",
        "SelfAug's NPV over 3 years, simulated: ",
        "At the likeliest inputs; NPV and ROI over 3 years",
        "SelfAug's NPV over 3 years, one input at",
        "(undiscounted)",
        "100.0% of the job's requests to the tuned model and 100.0% of the others to the base model (measured)",
        "plain LoRA and a router",
        "minutes_saved",
        "note: ",
    ):
        assert part in shown.output
    made = business_case(load_roi_config(), comparison, draws=200)
    for low, middle, high in (made["simulation"]["credit"], made["simulation"]["npv"]):
        assert f"{middle:,.0f} in the middle, {low:,.0f} to {high:,.0f} in nine of ten cases" in shown.output
    narrow = runner.invoke(app, ["roi", "--draws", "200"], env={"COLUMNS": "40"})
    assert "…" not in narrow.stdout  # of a number nothing is missing
    assert "It is not claimed" not in shown.output  # a router is worth more here: there is nothing to claim
    useful = ["--set", "selfaug.task=0.99", "--set", "selfaug.general=0.9"]
    more = runner.invoke(app, ["roi", str(comparison), *useful, "--draws", "200"])
    assert "It is not claimed: see below." in more.output
    # Nothing is left that swings but what was counted.
    sure = {name: InputSettings.model_fields[name].default[1] for name, one in case()["inputs"].items()
            if one["low"] < one["high"]} | {"minutes_checking": 60.0}  # fmt: skip
    sets = [part for name, value in sure.items() for part in ("--set", f"inputs.{name}={value}")]
    never = runner.invoke(app, ["roi", *sets, "--draws", "200"], env={"COLUMNS": "120"})
    assert "not within 3 years" in never.output
    assert "SelfAug's useful answers, the job" in never.output
    assert "SelfAug's useful answers, other requests" in never.output
    settings = tmp_path / "case.yaml"
    settings.write_text("inputs:\n  workers: 500\n", encoding="utf-8")
    as_json = runner.invoke(app, ["roi", "--config", str(settings), "--json", "--draws", "200"])
    assert json.loads(as_json.stdout)["inputs"]["workers"]["source"] == "user"
    assert runner.invoke(app, ["roi", str(tmp_path / "nowhere")]).exit_code == 2


def test_the_command_writes_a_spreadsheet_and_replaces_none(
    comparison: Path, served: Callable[..., Path], tmp_path: Path
) -> None:
    runner = CliRunner()
    file, run = tmp_path / "case.csv", served(5_600, 28.0)
    arguments = ["roi", str(comparison), "--run", str(run), "--csv", str(file), "--draws", "200"]
    written = runner.invoke(app, [*arguments, "--json"])
    assert written.exit_code == 0
    assert f"{file}: " in written.stderr
    assert json.loads(written.stdout)["served"]["requests"] == 5_600
    with file.open(encoding="utf-8", newline="") as opened:
        cells = list(csv.reader(opened))
    assert ["comparison", str(comparison)] in cells
    assert ["run", str(run)] in cells
    assert next(line for line in cells if line[:1] == ["requests_per_week"])[1:4] == [
        "17.5", "requests/user/week", "measured",
    ]  # fmt: skip
    before = file.read_text(encoding="utf-8")
    again = runner.invoke(app, [*arguments, "--set", "inputs.workers=50"])
    assert again.exit_code != 0
    assert "is there already" in again.stderr
    assert file.read_text(encoding="utf-8") == before
    shown = runner.invoke(app, [*arguments, "--set", "inputs.workers=50", "--overwrite"])
    assert shown.exit_code == 0
    assert "5,600 requests in 4.0 weeks" in shown.stdout
    too_short = runner.invoke(app, ["roi", "--run", str(served(900, 6.97)), "--draws", "200"])
    assert "900 requests in 0.996 weeks, not taken" in too_short.stdout
    assert file.read_text(encoding="utf-8") != before
    assert [path.name for path in tmp_path.iterdir() if "case" in path.name] == ["case.csv"]


@pytest.mark.parametrize(
    ("name", "reason"), [("", "is a folder"), ("nowhere/case.csv", "there is no folder")]
)
def test_a_spreadsheet_that_cannot_be_written_is_told_before(tmp_path: Path, name: str, reason: str) -> None:
    refused = CliRunner().invoke(app, ["roi", "--csv", str(tmp_path / name)])
    assert refused.exit_code != 0
    assert reason in refused.stderr
    assert not refused.stdout
