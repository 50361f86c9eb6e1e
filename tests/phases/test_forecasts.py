"""A comparison's forecast for another run, in `evaluate` and alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from selfaug.cli.evaluation_view import forecast_in_words
from selfaug.cli.main import app
from selfaug.config import load_config
from selfaug.core.forecast import Run, forgetting_forecast
from selfaug.errors import ConfigError, StorageError
from selfaug.phases.compare import _forecast
from selfaug.phases.forecasts import expected_forgetting, read_forecast
from selfaug.records import read_record, write_record
from selfaug.rundir import RunDir


def runs() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    base = [1.0] * 40
    drifts = np.linspace(0.01, 0.4, 9)
    return [
        {
            "method": "plain",
            "half": "dev" if place % 2 else "test",
            "drift": float(drift),
            "base": base,
            "general": list((rng.random(40) > 2 * drift).astype(float)),
        }
        for place, drift in enumerate(drifts)
    ]


def comparison(folder: Path, model: str, forecast: dict[str, Any] | None, level: int | None = 1) -> str:
    folder.mkdir()
    data = {
        "settings": {"config": {"model": {"name": model}}}, "forecast": forecast, "level": {"level": level}
    }  # fmt: skip
    write_record(folder / "record.json", "comparison", data)
    return str(folder)


def test_the_record_gives_the_forecast_back(tmp_path: Path) -> None:
    # The halves have as many items, and not the same ones.
    known = [Run(run["drift"], run["base"], run["general"], run["half"]) for run in runs()]
    made = forgetting_forecast(known, seed=0)
    # An adapter that is scaled down is no run of its own.
    given = [*runs(), {**runs()[3], "method": "wise-ft"}]
    read = read_forecast(comparison(tmp_path / "comparison", "some/model", _forecast(given)), "some/model")
    assert read == made
    at = expected_forgetting(read, 0.1)
    assert (at["value"], at["low"], at["high"]) == (made.at(0.1).value, made.at(0.1).low, made.at(0.1).high)
    assert at["runs"] == 9
    assert not at["beyond"]
    assert not at["below"]
    assert "for four runs in five" in forecast_in_words(at)
    beyond = expected_forgetting(read, 0.5)
    assert beyond["beyond"]
    assert "beyond theirs" in forecast_in_words(beyond)
    below = expected_forgetting(read, 0.004)
    assert below["below"]
    assert "below what was measured" in forecast_in_words(below)


def test_what_cant_be_forecast_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no finished comparison"):
        read_forecast(str(tmp_path / "none"), "some/model")
    other = comparison(tmp_path / "other", "other/model", _forecast(runs()))
    with pytest.raises(ConfigError, match="compares other/model, and the run is of some/model"):
        read_forecast(other, "some/model")
    few = comparison(tmp_path / "few", "some/model", None)
    with pytest.raises(ConfigError, match="too few runs"):
        read_forecast(few, "some/model")


@pytest.fixture(scope="module")
def written_run(settings, writing_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a step. Don't change it: it is shared."""
    from selfaug.phases.train import train

    run = tmp_path_factory.mktemp("runs") / "written"
    train(settings(run, f"model.name={writing_model}", "train.steps=1"))
    return run


@pytest.fixture
def run(written_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written_run, tmp_path / "run"))


def test_a_forecast_is_of_the_level_that_was_compared(run: Path, writing_model: Path, tmp_path: Path) -> None:
    from asking import evaluate

    folder = comparison(tmp_path / "comparison", str(writing_model), _forecast(runs()), level=2)
    few: dict[str, Any] = {"general_items": 4, "max_new_tokens": 2, "device": "cpu", "forecast": folder}
    for level, name in (("1", "level 1"), ("all", "all levels")):
        with pytest.raises(ConfigError, match=f"of level 2, and this evaluation asks those of {name}"):
            evaluate(run, **few, level=level)
    assert not (run / "samples").exists()
    # A model that knows nothing is asked the easiest, which shows only then.
    told: list[str] = []
    record = evaluate(run, **few, on_progress=lambda progress: told.append(progress.message)).record
    assert record["level"]["level"] == 1
    assert record["forecast"] is None
    assert any("no forecast is made: " in message for message in told)
    with pytest.raises(ConfigError, match="of level 2, and this"):
        evaluate(run, **few, max_forgetting=1.0)
    fitting = comparison(tmp_path / "fitting", str(writing_model), _forecast(runs()), level=1)
    assert evaluate(run, **{**few, "forecast": fitting}).record["forecast"]["runs"] == 9


def test_an_evaluation_shows_it(run: Path, tmp_path: Path) -> None:
    name = load_config(RunDir(run).config).model.name
    folder = comparison(tmp_path / "comparison", name, _forecast(runs()))
    few = ["--general-items", "4", "--max-new-tokens", "2", "--level", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, ["evaluate", str(run), *few, "--forecast", folder])
    assert result.exit_code == 0, result.stderr
    assert "forecast: a drift of" in result.stdout
    record = read_record(run / "evaluation.json", "evaluation")
    # Nor has one that is there to be asked again for a forecast.
    write_record(run / "evaluation.json", "evaluation", {**record, "forecast": None})
    again = CliRunner().invoke(app, ["evaluate", str(run), *few, "--forecast", folder, "--json"])
    assert json.loads(again.stdout)["forecast"] == record["forecast"]
    assert record["forecast"]["drift"] == record["drift"]["the base model's own answers"]["nats"]["value"]
