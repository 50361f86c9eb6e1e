"""The business case: one value model, whatever the sliders say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from looking import looking_at
from lxml import html as parser
from starlette.testclient import TestClient

from report_records import comparison_in_doubt, comparison_record, write_comparison
from selfaug.dashboard.roi import _as_number, roi_view
from selfaug.phases.roi import business_case
from selfaug.roi_config import InputSettings, load_roi_config
from selfaug.wording.numbers import chance


def case_of(*sets: str, comparison: Path | None = None) -> dict[str, Any]:
    return business_case(load_roi_config(None, sets=list(sets)), comparison, draws=4_000)


def money(value: float) -> str:
    return f"{value:,.0f}".replace("-", "−")


def shown(client: TestClient, **query: str) -> Any:
    answer = client.get("/roi/result", params=query)
    assert answer.status_code == 200
    return parser.fromstring(answer.text)


def values_by_arm(page: Any) -> list[str]:
    return page.xpath("//table[@aria-label='Value by arm']/tbody/tr/td[1]/text()")


@pytest.mark.parametrize(
    ("query", "sets"),
    [
        ({}, []),
        ({"workers": "40"}, ["inputs.workers=40"]),
        ({"minutes_saved": " 12.5 ", "years": "5"}, ["inputs.minutes_saved=12.5", "inputs.years=5"]),
        ({"workers": "2e3", "hourly_cost": "075"}, ["inputs.workers=2000", "inputs.hourly_cost=75"]),
        ({"adoption": "0", "requests_per_week": "0"}, ["inputs.adoption=0", "inputs.requests_per_week=0"]),
        # What stands at its default was not given, and keeps its range.
        ({"adoption": "0.4", "hourly_cost": "60.0", "workers": "200"}, []),
        ({"nonsense": "1", "comparison": "../../etc", "workers": ""}, []),
    ],
)  # fmt: skip
def test_numbers_are_those_of_the_value_model(
    client: TestClient, query: dict[str, str], sets: list[str]
) -> None:
    expected = case_of(*sets)
    page = shown(client, **query)
    assert [text.strip() for text in values_by_arm(page)] == [
        money(arm["npv"]) for arm in expected["arms"].values()
    ]
    status = " ".join(page.xpath("//*[@role='status']")[0].text_content().split())
    assert f"net present value {money(expected['arms']['selfaug']['npv'])};" in status
    assert f"credit {money(expected['credit']['value'])} against" in status
    years = f"{expected['inputs']['years']['value']} years"
    assert f"inputs, over {years}, in the currency of the inputs (the defaults are in dollars)." in status
    assert page.xpath("//dl[@class='moved']/dt[text()='Years']/following-sibling::dd[1]/text()") == [years]
    assert f"Net present value and return are over {years}." in page.text_content()
    assert f": {chance(expected['simulation']['chance_of_credit'])}." in status
    likely = page.xpath("//figure[starts-with(@aria-label, 'What is likely')]//tbody/tr/td/text()")
    assert likely[1:4] == [f"{one / 1e3:,.1f}" for one in expected["simulation"]["npv"]]
    sources = [
        [" ".join(cell.text_content().split()) for cell in row]
        for row in page.xpath("//table[@aria-label='Where each number comes from']/tbody/tr")
    ]
    by_name = {row[0]: row for row in sources}
    for name, one in expected["inputs"].items():
        assert by_name[name.replace("_", " ")][3] == one["source"]
    assert by_name["requests that the router sends to the right model"][1:] == [
        "job 95.0 %, general 95.0 %",
        "–",
        "default",
    ]


def test_a_comparison_gives_its_scores(client: TestClient, runs_root: Path) -> None:
    folder = runs_root / "comparison"
    expected = case_of(comparison=folder)
    page = shown(client, comparison="comparison")
    assert [text.strip() for text in values_by_arm(page)] == [
        money(arm["npv"]) for arm in expected["arms"].values()
    ]
    assert values_by_arm(page) != values_by_arm(shown(client))
    text = " ".join(page.text_content().split())
    assert all(" ".join(warning.split()) in text for warning in expected["warnings"])
    assert expected["credit"]["claimed"] is True
    assert expected["credit"]["value"] < 0
    assert "No credit is claimed" not in text  # there is none
    form = parser.fromstring(client.get("/roi?comparison=comparison").text)
    assert form.xpath("//select[@id='comparison']/option/@value") == ["", "comparison"], (
        "what can't be read is no choice"
    )
    assert form.xpath("//select[@id='comparison']/option[@selected]/@value") == ["comparison"]


@pytest.fixture
def measured(tmp_path: Path) -> TestClient:
    """Looks at a comparison that was made on a GPU, one that was not, and one that says less."""
    record = comparison_record()
    ours = {**record["methods"][record["subject"]], "train_seconds": 1116.0}
    changed = {**record, "device": "cuda (H200)", "methods": {**record["methods"], record["subject"]: ours}}
    write_comparison(tmp_path / "gpu", changed)
    write_comparison(tmp_path / "cpu", {**record, "device": "cpu"})
    del changed["device"]
    write_comparison(tmp_path / "lacking", changed)
    return looking_at(tmp_path)


def gpu_hours(client: TestClient, **query: str) -> tuple[str, str, str]:
    """What the field shows, what is computed with, and where that is from."""
    page = parser.fromstring(client.get("/roi", params=query).text)
    ((_, value, _, source),) = [
        [cell.text_content().strip() for cell in row]
        for row in page.xpath("//table[@aria-label='Where each number comes from']/tbody/tr")
        if row[0].text_content().strip() == "gpu hours"
    ]
    return page.xpath("//input[@name='gpu_hours']/@value")[0], value, source


def test_a_field_shows_what_was_measured_and_it_can_be_changed(measured: TestClient) -> None:
    default = "8"
    assert gpu_hours(measured) == (default, "8", "default")
    assert gpu_hours(measured, comparison="cpu") == (default, "8", "default")
    assert gpu_hours(measured, comparison="gpu") == ("0.31", "0.31", "measured")
    assert gpu_hours(measured, comparison="gpu", gpu_hours="0.31") == ("0.31", "0.31", "measured")
    assert gpu_hours(measured, comparison="gpu", gpu_hours=default) == (default, "8", "user")
    assert gpu_hours(measured, comparison="gpu", gpu_hours="2") == ("2", "2", "user")
    # Another comparison is chosen: what stands as the form was filled is not what the user gave.
    changed = {"comparison": "gpu", "filled": "", "gpu_hours": default}
    assert gpu_hours(measured, **changed) == ("0.31", "0.31", "measured")
    assert gpu_hours(measured, **{**changed, "gpu_hours": "9"}) == ("9", "9", "user")
    back = {"comparison": "", "filled": "gpu", "gpu_hours": "0.31"}
    assert gpu_hours(measured, **back) == (default, "8", "default")


def test_the_form_that_is_open_gets_the_numbers_of_another_comparison(measured: TestClient) -> None:
    def again(**query: str) -> dict[str, str]:
        found = parser.fragments_fromstring(measured.get("/roi/result", params=query).text.strip())
        assert found[-1].get("id") == "result"
        return {one.get("id"): one.get("value") for one in found[:-1] if one.get("hx-swap-oob") == "true"}

    assert again(comparison="gpu", filled="", gpu_hours="8") == {"filled": "gpu", "gpu_hours": "0.31"}
    assert again(comparison="gpu", filled="", gpu_hours="9") == {"filled": "gpu"}, "what was typed stays"
    assert again(comparison="", filled="gpu", gpu_hours="0.31") == {"filled": "", "gpu_hours": "8"}
    assert again(comparison="gpu", filled="gpu", gpu_hours="0.31") == {}
    page = measured.get("/roi?comparison=gpu&filled=").text
    assert page.count('id="gpu_hours"') == page.count('id="filled"') == 1
    assert 'name="filled" value="gpu"' in page


def test_what_the_router_and_plain_lora_have_measured_is_shown(tmp_path: Path) -> None:
    record = comparison_in_doubt()
    record["methods"]["router"]["routed_right"] = {"task": 0.8, "general": 0.75}
    ours, plain = (record["methods"][name] for name in (record["subject"], "plain"))
    ours["train_seconds"], plain["train_seconds"], plain["write_seconds"] = 7200.0, 1800.0, 0.0
    write_comparison(tmp_path / "gpu", {**record, "device": "cuda (H200)"})
    looks = looking_at(tmp_path)
    page = shown(looks, comparison="gpu")
    rows = [
        [" ".join(cell.text_content().split()) for cell in row]
        for row in page.xpath("//table[@aria-label='Where each number comes from']/tbody/tr")
    ]
    items = f"{record['items']['task']} and {record['items']['general']} items"
    shares = "job 80.0 %, general 75.0 %"
    assert ["requests that the router sends to the right model", shares, items, "measured"] in rows
    assert ["plain gpu hours", "0.5", "–", "measured"] in rows
    # With a router that errs there is a credit, and too much may have been forgotten to claim it.
    assert "No credit is claimed: see below." in " ".join(page.text_content().split())


def test_a_comparison_that_lacks_something_is_said_to(measured: TestClient) -> None:
    answer = measured.get("/roi?comparison=lacking")
    assert answer.status_code == 200
    (alert,) = parser.fromstring(answer.text).xpath("//*[@role='alert']")
    assert "lack what a report needs (KeyError: 'device')" in alert.text_content()


def test_a_number_where_a_slider_can_not_stand_is_a_field(client: TestClient) -> None:
    def kind(**query: str) -> list[str]:
        page = parser.fromstring(client.get("/roi", params=query).text)
        return [
            page.xpath(f"//input[@name='{name}']/@{what}")[0] for name in query for what in ("type", "value")
        ]

    assert kind(workers="2000") == ["range", "2000"]
    assert kind(workers="5000") == ["number", "5000"]
    assert kind(workers="203") == ["number", "203"]
    assert kind(minutes_saved="29.5", adoption="0.29") == ["range", "29.5", "range", "0.29"]
    assert kind(workers="many") == ["number", "many"]
    defaults = parser.fromstring(client.get("/roi").text).xpath("//input[@type='range']")
    assert len(defaults) == 7
    assert "it then counts as certain" in client.get("/roi").text


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "0 %"), (0.0003, "<1 %"), (0.0049, "<1 %"), (0.005, "<1 %"), (0.5, "50 %"), (0.9949, "99 %"),
        (0.9951, ">99 %"), (0.9998, ">99 %"), (1.0, "100 %"),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_not_said_to_be(share: float, shown: str) -> None:
    assert chance(share) == shown


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"workers": "many"}, "inputs.workers"),
        ({"workers": "0"}, "should be from 1 to 1e+06"),
        ({"adoption": "1.5"}, "should be from 0 to 1"),
        ({"adoption": "-1"}, "should be from 0 to 1"),
        ({"workers": "nan"}, "inputs.workers"),
        ({"workers": "inf"}, "inputs.workers"),
        ({"workers": "1e999"}, "inputs.workers"),
        ({"workers": "[1, 2, 3]"}, "inputs.workers"),
        ({"workers": "1\nselfaug: 2"}, "inputs.workers"),
        ({"workers": "!!python/object/apply:os.system ['true']"}, "inputs.workers"),
        ({"years": "2.5"}, "inputs.years"),
        ({"years": "99"}, "should be from 1 to 10"),
    ],
)  # fmt: skip
def test_bad_numbers_give_the_settings_own_message(
    client: TestClient, query: dict[str, str], problem: str
) -> None:
    page = shown(client, **query)
    (alert,) = page.xpath("//*[@role='alert']")
    assert problem in alert.text_content()
    assert next(iter(query)) in alert.text_content()
    assert values_by_arm(page) == []
    # The whole page has the form with what was sent, to be changed.
    form = parser.fromstring(client.get("/roi", params=query).text)
    ((name, sent),) = query.items()
    assert form.xpath(f"//input[@name='{name}']/@value") == [sent.strip()]


def test_both_problems_are_told_at_once(client: TestClient) -> None:
    text = shown(client, workers="0", years="99").xpath("//*[@role='alert']")[0].text_content()
    assert "workers" in text
    assert "years" in text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e5", "100000"), ("010", "10"), ("1_000", "1000"), ("0.10", "0.1"), ("1e-7", "0.0000001"), ("-0", "-0"),
        ("1e16", "1" + "0" * 16), (".5", "0.5"), ("١٢", "12"), ("0x10", "'not a number'"), ("", "'not a number'"),
    ],
)  # fmt: skip
def test_numbers_as_yaml_reads_them(text: str, number: str) -> None:
    assert _as_number(text) == number


def test_every_input_is_in_the_form_with_its_default_and_limits(client: TestClient) -> None:
    form = parser.fromstring(client.get("/roi").text)
    names = form.xpath("//form[@id='assumptions']//input[@type != 'hidden']/@name")
    assert sorted(names) == sorted(InputSettings.model_fields)
    for name in names:
        (field,) = form.xpath(f"//input[@name='{name}']")
        low, value, high = (float(field.get(one)) for one in ("min", "value", "max"))
        assert low <= value <= high, name
        assert form.xpath(f"//label[@for='{name}']")
        assert form.xpath(f"//*[@id='{field.get('aria-describedby')}']")
    # A slider can't be moved beyond its ends, which would be those of one currency.
    assert form.xpath("//input[@name='hourly_cost']/@type") == ["number"]
    # Sent as it stands, it is the defaults.
    sent = {name: form.xpath(f"//input[@name='{name}']/@value")[0] for name in names}
    assert values_by_arm(shown(client, **sent)) == values_by_arm(shown(client))


def test_costs_of_nothing_and_of_all_money(client: TestClient) -> None:
    costs = (
        "gpu_hours", "trainings", "gpu_price", "setup_hours", "base_setup_hours", "onboarding_hours",
        "serving_per_month", "monitoring_per_month", "support_per_user_month",
    )  # fmt: skip
    free = dict.fromkeys(costs, "0")
    assert len(values_by_arm(shown(client, **free))) == 4
    dear = {"gpu_hours": "1e12", "trainings": "1e12", "gpu_price": "1e12", "serving_per_month": "1e12"}
    assert len(values_by_arm(shown(client, **dear))) == 4
    assert "not within 3 years" in shown(client, **dear).text_content()
    # All digits before the point.
    assert "28,800,000" in shown(client, gpu_hours="28800000").text_content()


def test_a_comparison_that_is_the_directory_itself_can_be_chosen(tmp_path: Path) -> None:
    write_comparison(tmp_path, comparison_record())
    looks = looking_at(tmp_path)
    (link,) = parser.fromstring(looks.get("/run/").text).xpath("//a[text()='What that is worth']/@href")
    form = parser.fromstring(looks.get(link).text)
    assert form.xpath("//select[@id='comparison']/option/@value") == ["", "."]
    assert form.xpath("//select[@id='comparison']/option[@selected]/@value") == ["."]
    assert "are illustrations" not in form.text_content()
    assert "one currency" in form.xpath("//*[@id='about-hourly_cost']")[0].text_content()


def test_only_what_was_found_is_read(tmp_path: Path, runs_root: Path) -> None:
    view = roi_view({"comparison": str(runs_root / "comparison")}, {"a": tmp_path})
    assert view["comparison"] == ""
    view = roi_view({"comparison": "a"}, {"a": tmp_path})
    assert view["case"] is None
    assert "does not exist" in view["problem"]
