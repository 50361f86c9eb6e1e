"""An evaluation as a run of MLflow: parameters, metrics, the gate's decision, and the files."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from selfaug.config import load_config
from selfaug.errors import ConfigError, StorageError
from selfaug.rundir import RunDir

__all__ = ["log_evaluation", "require_mlflow"]

# What MLflow takes for a parameter's value.
_LONGEST_VALUE = 500

# What it doesn't take in a name: patterns and files are part of a scorer's, and files of a suite's.
_NOT_IN_NAMES = re.compile(r"[^\w\-. :]")


def require_mlflow() -> None:
    """Refuse before anything long.

    Raises:
        ConfigError: if MLflow is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("--mlflow needs MLflow.", hint='run `pip install "selfaug[mlflow]"`.')


def log_evaluation(run: str, record: Mapping[str, Any]) -> str:
    """Log an evaluation to where MLflow's own settings (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME) point.

    Args:
        run: folder of the run that was evaluated.
        record: data of the evaluation's record.

    Returns:
        MLflow's id of the run.

    Raises:
        ConfigError: if MLflow is not installed.
        StorageError: if it can't be reached.
    """
    require_mlflow()
    import mlflow
    from mlflow.exceptions import MlflowException

    folder = RunDir.open(run)
    metrics: dict[str, float | None] = {}
    also = {f"task by {name}": one for name, one in record.get("also", {}).items()}
    for name, suite in (record["suites"] | also).items():
        name = _NOT_IN_NAMES.sub("_", name)
        while f"{name}/base" in metrics:  # of two patterns that differ in nothing else
            name += "_"
        difference = suite["difference"]["difference"]
        metrics |= {
            f"{name}/base": suite["base"]["value"],
            f"{name}/tuned": suite["tuned"]["value"],
            f"{name}/difference": difference["value"],
            f"{name}/difference_low": difference["low"],
            f"{name}/difference_high": difference["high"],
        }
    for kind, drift in record["drift"].items():
        metrics[f"drift/{_NOT_IN_NAMES.sub('', kind)}"] = drift["nats"]["value"]
    bounds = {} if record["gate"] is None else {bound["name"]: bound for bound in record["gate"]["bounds"]}
    for name, bound in bounds.items():
        measured = {**bound["value"], "items": bound["items"], "items_needed": bound["items_needed"]}
        metrics |= {f"gate/{name}/{key}": value for key, value in measured.items()}
    # A model that is broken drifts by no number, and how many items would decide is not always known.
    known = {name: value for name, value in metrics.items() if value is not None}
    # How the run would have been evaluated at its end is not how it was here.
    trained = load_config(folder.config).model_dump(mode="json", exclude={"run", "evaluation"})
    gate = {name: {"sense": bound["sense"], "bound": bound["bound"]} for name, bound in bounds.items()}
    settings = _flat({**trained, "evaluate": record["settings"], "gate": gate})
    try:
        with mlflow.start_run(run_name=folder.path.name) as started:
            mlflow.log_params(
                {
                    _NOT_IN_NAMES.sub("_", name): str(value)[:_LONGEST_VALUE]
                    for name, value in settings.items()
                }
            )
            mlflow.log_metrics(known)
            outcome = "no bounds" if record["gate"] is None else record["gate"]["outcome"]
            mlflow.set_tags(
                {
                    "selfaug.gate": outcome,
                    "selfaug.level": str(record["level"]["level"]),
                    **{f"selfaug.gate.{name}": bound["outcome"] for name, bound in bounds.items()},
                    **{
                        f"selfaug.gate.{name}.{word}": str(value)
                        for name, bound in bounds.items()
                        for word, value in _in_words_of_mlflow(bound).items()
                    },
                }
            )
            for file in (folder.evaluation, folder.report, folder.record, folder.config):
                if file.exists():
                    mlflow.log_artifact(str(file))
            return str(started.info.run_id)
    except (MlflowException, OSError) as error:
        raise StorageError(
            f"the evaluation is written, but MLflow did not take it: {error}",
            hint="check MLFLOW_TRACKING_URI.",
        ) from error


def _in_words_of_mlflow(bound: Mapping[str, Any]) -> dict[str, float | bool]:
    """What `mlflow.models.MetricThreshold` takes for a bound on the metric `gate/NAME/value`.

    But for a gain above 0: that is a change of `task/tuned` against the base model. MLflow knows no change for the
    worse, so that what may be lost is a threshold, too.
    """
    word = "min_absolute_change" if bound["name"] == "task gain" and bound["bound"] > 0 else "threshold"
    return {word: bound["bound"], "greater_is_better": bound["sense"] == "at least"}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
