"""The business case: where its numbers are from, what it warns of, and what it prints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selfaug.cli.main import app
from selfaug.core.roi import RoiInputs
from selfaug.errors import ConfigError, DataError
from selfaug.phases.roi import business_case
from selfaug.records import read_record, write_record
from selfaug.roi_config import load_roi_config

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "comparison-demo.json"


def case(*sets: str, comparison: Path | None = None) -> dict[str, Any]:
    return business_case(load_roi_config(sets=sets), comparison, draws=500)


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    folder = tmp_path / "comparison"
    folder.mkdir()
    shutil.copy(RESULTS, folder / "record.json")
    return folder


def test_the_defaults_are_those_of_the_model_and_called_so() -> None:
    found = case()
    assert {name: one["value"] for name, one in found["inputs"].items()} == vars(RoiInputs())
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
    assert found["router"] == {"right": 1.0, "source": "measured"}
    assert found["inputs"]["gpu_hours"]["source"] == "default"  # it was trained on a CPU
    assert found["credit"]["claimed"] is False
    assert any("no credit is claimed" in one for one in found["warnings"])
    assert not any("illustrations" in one for one in found["warnings"])


def test_a_gpu_s_hours_are_taken_and_a_sure_result_is_claimed(comparison: Path) -> None:
    record = read_record(comparison / "record.json", "comparison")
    ours = record["methods"][record["subject"]]
    ours["suites"]["general"]["difference"]["difference"]["low"] = -0.03
    del record["methods"]["router"]
    write_record(comparison / "record.json", "comparison", {**record, "device": "cuda"})
    found = case(comparison=comparison)
    assert found["inputs"]["gpu_hours"]["value"] == pytest.approx(ours["train_seconds"] / 3600)
    assert found["inputs"]["gpu_hours"]["source"] == "measured"
    assert found["router"] == {"right": 0.95, "source": "default"}
    assert found["credit"]["claimed"] is True
    told = case("inputs.gpu_hours=2", "selfaug.task=0.5", "selfaug.general=0.5", comparison=comparison)
    assert (told["inputs"]["gpu_hours"]["value"], told["inputs"]["gpu_hours"]["source"]) == (2.0, "user")
    assert told["accuracies"]["selfaug"]["source"] == "user"
    assert told["credit"]["claimed"] is None


def test_what_is_not_credible_is_said() -> None:
    assert any("2.2 that users report" in one for one in case("inputs.requests_per_week=100")["warnings"])
    assert any("costs more time" in one for one in case("inputs.minutes_checking=60")["warnings"])
    assert case("inputs.years=1")["inputs"]["years"]["source"] == "user"


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
        "It is not claimed",
        "plain LoRA and a router",
        "minutes_saved",
        "note: ",
    ):
        assert part in shown.output
    never = runner.invoke(app, ["roi", "--set", "inputs.minutes_checking=60", "--draws", "200"])
    assert "never" in never.output
    settings = tmp_path / "case.yaml"
    settings.write_text("inputs:\n  workers: 500\n", encoding="utf-8")
    as_json = runner.invoke(app, ["roi", "--config", str(settings), "--json", "--draws", "200"])
    assert json.loads(as_json.stdout)["inputs"]["workers"]["source"] == "user"
    assert runner.invoke(app, ["roi", str(tmp_path / "nowhere")]).exit_code == 2
