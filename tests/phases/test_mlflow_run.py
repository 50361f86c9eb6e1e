"""An evaluation as a run of MLflow, in a store on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfaug.cli.main import app
from selfaug.phases import mlflow_run
from selfaug.records import read_record

ARGUMENTS = [
    "--general-items",
    "2",
    "--task-items",
    "2",
    "--max-new-tokens",
    "2",
    "--level",
    "1",
    "--device",
    "cpu",
]


@pytest.mark.filterwarnings("ignore")  # of MLflow and what it imports
def test_an_evaluation_is_logged(copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gate")
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", str(copied_run), *ARGUMENTS, "--scorer", "f1", "--mlflow"]
    arguments += ["--max-forgetting", "1", "--min-retention", "0.9"]
    arguments += ["--min-task-gain", "0.25", "--min-task-score", "0.5"]
    # What MLflow takes in no name, and two that are one without it.
    patterns = ("regex:https?://.*", "regex:a+", "regex:a?")
    arguments += [part for one in patterns for part in ("--also-score", one)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 3, result.stderr
    name = result.stderr.rpartition("MLflow run ")[2].split()[0]
    run = mlflow.get_run(name)
    record = read_record(copied_run / "evaluation.json", "evaluation")
    assert run.data.metrics["general/tuned"] == record["suites"]["general"]["tuned"]["value"]
    for scorer, metric in zip(patterns, ("regex:https_:__._", "regex:a_", "regex:a__"), strict=True):
        assert run.data.metrics[f"task by {metric}/base"] == record["also"][scorer]["base"]["value"]
    assert run.data.params["selfaug.alpha"] == "0.5"
    asked = {key: value for key, value in run.data.params.items() if key.startswith("evaluat")}
    assert not any(key.startswith("evaluation.") for key in asked)
    for key, value in (("scorer", "f1"), ("half", "test"), ("task_items", "2")):
        assert asked[f"evaluate.{key}"] == value
    assert asked["evaluate.data"] == str(record["settings"]["data"])
    assert run.data.tags["selfaug.gate"] == record["gate"]["outcome"] == "inconclusive"
    for bound, (given, word, greater_is_better) in zip(
        record["gate"]["bounds"],
        [
            ("1.0", "threshold", False),
            ("0.9", "threshold", True),
            ("0.25", "min_absolute_change", True),
            ("0.5", "threshold", True),
        ],
        strict=True,
    ):
        of_bound = f"gate/{bound['name']}"
        assert run.data.params[f"gate.{bound['name']}.bound"] == given
        assert run.data.metrics.get(f"{of_bound}/value") == bound["value"]["value"]
        assert run.data.metrics[f"{of_bound}/items"] == 2
        assert run.data.metrics.get(f"{of_bound}/items_needed") == bound["items_needed"]
        assert run.data.tags[f"selfaug.gate.{bound['name']}"] == bound["outcome"]
        assert run.data.tags[f"selfaug.gate.{bound['name']}.{word}"] == given
        assert run.data.tags[f"selfaug.gate.{bound['name']}.greater_is_better"] == str(greater_is_better)
        mlflow.models.MetricThreshold(**{word: float(given)}, greater_is_better=greater_is_better)
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(name)}
    assert files == {"evaluation.json", "report.html", "record.json", "config.yaml"}

    # A model that is broken drifts by no number, which MLflow takes for none.
    kind = next(iter(record["drift"]))
    record["drift"][kind]["nats"]["value"] = None
    broken = mlflow.get_run(mlflow_run.log_evaluation(str(copied_run), record))
    lacking = set(run.data.metrics) - set(broken.data.metrics)
    assert len(lacking) == 1
    assert lacking.pop().startswith("drift/")


def test_without_mlflow_it_says_how_to_get_it(copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_run.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["evaluate", str(copied_run), "--mlflow"])
    assert result.exit_code == 2
    assert "selfaug[mlflow]" in result.stderr
    assert not (copied_run / "evaluation.json").exists()
