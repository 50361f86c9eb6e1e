"""Runs that are gone on with, interrupted, or overwritten."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch
from run_weights import same, weights

from selfaug.config import TrainConfig, dump_config, load_config
from selfaug.errors import ConfigError, DataError
from selfaug.phases.inputs import load_training_data
from selfaug.phases.progress import Progress
from selfaug.phases.resuming import Begun
from selfaug.phases.train import Interrupted, train
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    finished_run: Path, copied_run: Path, cut_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a device for which "auto" is another dtype than where the run began.
    kept = copied_run / "config.yaml"
    kept.write_text(kept.read_text().replace("dtype: float32", "dtype: auto"))
    for module in ("inputs", "train"):
        monkeypatch.setattr(f"selfaug.phases.{module}.best_dtype", lambda _: torch.bfloat16)
    # As if killed: after step 4's checkpoint; or while step 6's was written, which lacks its last file.
    (copied_run / "record.json").unlink()
    shutil.rmtree(copied_run / "adapter")
    if cut_off:
        (copied_run / "checkpoints" / "checkpoint-6" / "selfaug_state.json").unlink()
    else:
        shutil.rmtree(copied_run / "checkpoints" / "checkpoint-6")
    with (copied_run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "nl')
    # As if torch was upgraded since.
    run = RunDir(copied_run)
    now = (begun := Begun.read(run)).versions[0]
    replace(begun, versions=[{**now, "torch": "1.0"}]).write(run)
    told: list[Progress] = []
    planned: list[bool] = []

    def look(progress: Progress) -> None:
        told.append(progress)
        planned.append((copied_run / "plan.json").exists())

    record = train(load_config(kept, {"--output": str(copied_run)}), resume=True, on_progress=look).record
    assert record["environment"]["versions_before"] == [{**now, "torch": "1.0"}]
    assert record["environment"]["versions"] == now
    assert Begun.read(run).versions == [{**now, "torch": "1.0"}, now]
    assert "training was stopped: selfaug" in (run.adapter / "README.md").read_text()
    assert (planned[0], False in planned, planned[-1]) == (True, True, True), (
        "that of the process before says nothing of this one's pace, but is kept where it can't go on"
    )
    for said in ("from step 4", "began in float32 and goes on in it", "(before: 1.0)"):
        assert any(said in progress.message for progress in told)
    assert same(weights(copied_run), weights(finished_run))
    resumed, whole = (read_lines(run / "metrics.jsonl") for run in (copied_run, finished_run))
    assert [(line["step"], line.get("nll")) for line in resumed] == [
        (line["step"], line.get("nll")) for line in whole
    ]
    assert (copied_run / "record.json").exists()


def test_without_a_complete_checkpoint_a_resumed_run_starts_from_the_beginning(
    finished_run: Path, copied_run: Path
) -> None:
    (copied_run / "record.json").unlink()
    shutil.rmtree(copied_run / "adapter")
    shutil.rmtree(copied_run / "checkpoints")
    train(load_config(finished_run / "config.yaml", {"--output": str(copied_run)}), resume=True)
    assert same(weights(copied_run), weights(finished_run))
    assert len(read_lines(copied_run / "metrics.jsonl")) == len(read_lines(finished_run / "metrics.jsonl"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_resumed_from_its_last_checkpoint_a_run_trains_no_step_more(
    settings: Settings, tmp_path: Path, method: str
) -> None:
    """Killed between that and its record, in the middle of an epoch of six steps."""
    more = (f"lora.method={method}", "train.steps=4", "train.save_steps=3")
    more += ("train.schedule=constant", "train.warmup=2")
    config = settings(tmp_path / "run", *more, f"data.eval={settings(tmp_path / 'run').data.train[0]}")
    whole = train(config).record
    run = RunDir(tmp_path / "run")
    metrics = read_lines(run.metrics)
    rates = [line["learning_rate"] for line in metrics if "nll" in line]
    assert rates[0] < rates[-2] == rates[-1] == config.train.learning_rate
    run.record.unlink()
    shutil.rmtree(run.model if method == "full" else run.adapter)
    # The drift at that checkpoint was not measured either.
    kept = [line for line in metrics if line["step"] < 4 or "general_drift" not in line]
    write_lines(run.metrics, kept)
    record = train(config, resume=True).record
    assert record["steps"] == 4
    assert record["epochs"] == whole["epochs"]
    assert read_lines(run.metrics) == metrics
    for same_as_before in ("weights", "final", "evaluation", "noise_floor"):
        assert record[same_as_before] == whole[same_as_before]
    assert record["monitor"]["checkpoints"] == whole["monitor"]["checkpoints"]


def test_a_complete_run_has_nothing_to_resume(finished_run: Path, settings: Settings) -> None:
    before = (finished_run / "record.json").read_bytes()
    result = train(load_config(finished_run / "config.yaml"), resume=True)
    assert result.record["steps"] == 6
    assert (finished_run / "record.json").read_bytes() == before


def test_a_beginning_with_other_fields_is_no_beginning(copied_run: Path) -> None:
    run = RunDir(copied_run)
    begun = read_record(run.started, "train-started")
    for other in ({**begun, "more": 1}, {name: begun[name] for name in begun if name != "day"}):
        write_record(run.started, "train-started", other)
        with pytest.raises(DataError, match=r"started\.json is damaged") as caught:
            Begun.read(run)
        assert "--output" in str(caught.value.hint)
    # Of one before versions were written down it isn't known which they were, and told once.
    write_record(run.started, "train-started", {name: begun[name] for name in begun if name != "versions"})
    told: list[str] = []
    first = Begun.read(run).with_versions_of_now(run, told.append)
    assert first.with_versions_of_now(run, told.append).versions == [{}, *begun["versions"]]
    assert [f"{run.path} goes on; which versions it was begun with isn't known" in one for one in told] == [
        True
    ]


def test_a_run_can_not_be_resumed_with_other_settings_processes_or_data(
    copied_run: Path, tmp_path: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied_run / "record.json").unlink()
    file = copied_run / "config.yaml"
    with pytest.raises(ConfigError, match="can't be resumed with other settings") as error:
        train(load_config(file, {"--output": str(copied_run), "--alpha": 2, "--seed": 1}), resume=True)
    assert [problem.partition(":")[0] for problem in error.value.problems] == ["selfaug.alpha", "train.seed"]
    with monkeypatch.context() as launched:
        launched.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="trained by 1 process, and 2") as error:
            train(load_config(file, {"--output": str(copied_run)}), resume=True)
    assert "start 1 again" in str(error.value.hint)
    changed = tmp_path / "changed.jsonl"
    changed.write_text(
        tiny_rows.read_text(encoding="utf-8").replace("14 million", "15 million"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="can't be resumed") as error:
        train(load_config(file, {"--output": str(copied_run), "--train": str(changed)}), resume=True)
    assert "training rows are not those" in error.value.problems[0]


def test_a_run_is_resumed_with_the_date_that_it_began_on(
    settings: Settings, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some chat templates write today's date into each prompt."""
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    file = model / "chat_template.jinja"
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }} "
    file.write_text(dated + file.read_text(encoding="utf-8"), encoding="utf-8")

    class Then(date):
        @classmethod
        def today(cls) -> date:
            return date(2024, 7, 26)

    config = settings(tmp_path / "run", f"model.name={model}", "train.steps=1", "selfaug.monitor_prompts=0")
    with monkeypatch.context() as then:
        then.setattr("selfaug.phases.train.date", Then)
        whole = train(config).record
    fixed = settings(tmp_path, f"model.name={model}", "data.chat_template_kwargs={date_string: 26 Jul 2024}")
    assert load_training_data(fixed).report["train"]["digest"] == whole["data"]["train"]["digest"]
    run = RunDir(tmp_path / "run")
    run.record.unlink()
    assert train(config, resume=True).record["weights"] == whole["weights"]
    # The adapter's tokeniser is the model's: served tomorrow, it writes that day's date.
    assert "strftime_now" in (run.adapter / "chat_template.jinja").read_text(encoding="utf-8")


def test_checkpoints_that_may_end_a_run_stay_where_they_are(copied_run: Path) -> None:
    run = RunDir(copied_run)
    run.record.unlink()
    stops = load_config(run.config, sets=["selfaug.stop_at_drift=1", f"run.output={copied_run}"])
    run.config.write_text(run.config_text(dump_config(stops)), encoding="utf-8")
    told: list[str] = []
    others = load_config(run.config, sets=["train.save_steps=5"])
    with pytest.raises(ConfigError, match="other settings") as refused:
        train(others, resume=True, on_progress=lambda progress: told.append(progress.stage))
    assert refused.value.problems == ["train.save_steps: the run has 2, now it is 5"]
    assert told == []
    # Where they end nothing, they may be others.
    free = load_config(run.config, sets=["selfaug.stop_at_drift=null"])
    run.config.write_text(run.config_text(dump_config(free)), encoding="utf-8")
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    others = load_config(run.config, sets=["train.save_steps=5", "train.logging_steps=3"])
    assert train(others, resume=True).record["steps"] == 6
    assert (run.checkpoints / "checkpoint-5").exists()
    state = json.loads((run.checkpoints / "checkpoint-6" / "trainer_state.json").read_bytes())
    assert [state[f"{kind}_steps"] for kind in ("save", "eval", "logging")] == [5, 5, 3]


def test_an_interrupted_run_says_from_where_it_goes_on(tmp_path: Path, settings: Settings) -> None:
    def stop_at(step: int) -> Callable[[Progress], None]:
        def stop(progress: Progress) -> None:
            if progress.stage == "training" and progress.done == step:
                raise KeyboardInterrupt

        return stop

    run = tmp_path / "a run"
    with pytest.raises(Interrupted, match=r"from the start: selfaug train --resume --output '.*a run'$"):
        train(settings(run), on_progress=stop_at(1))
    with pytest.raises(Interrupted, match="from the last checkpoint"):
        train(settings(run), resume=True, on_progress=stop_at(3))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_overwritten_run_is_there_until_the_new_one_has_a_checkpoint(
    copied_run: Path, settings: Settings, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    before = {file: file.read_bytes() for file in copied_run.rglob("*") if file.is_file()}
    config = settings(copied_run, "run.overwrite=true", "train.seed=1")

    def end_at(step: int) -> Callable[[Progress], None]:
        def end(progress: Progress) -> None:
            if progress.stage == "training" and progress.done == step:
                raise kind

        return end

    for step in (0, 1):
        with pytest.raises(kind) as ended:
            train(config, on_progress=end_at(step))
        assert {file: file.read_bytes() for file in copied_run.rglob("*") if file.is_file()} == before
        assert f"the earlier run is back in {copied_run}" in caplog.text
        caplog.clear()
        if kind is KeyboardInterrupt:
            assert str(ended.value) == "stopped before the first checkpoint."
    with pytest.raises(kind):
        train(config, on_progress=end_at(3))
    run = RunDir.open(copied_run)
    assert not run.is_complete()
    assert run.latest_complete_checkpoint() == run.checkpoints / "checkpoint-2"
    assert not [entry for entry in copied_run.iterdir() if entry.name.startswith(".")]
    # Else whoever gives its settings to another command would replace what is there, too.
    assert not load_config(run.config).run.overwrite


@pytest.mark.parametrize(
    ("stage", "number"), [("drift", signal.SIGTERM), ("saving", signal.SIGINT)], ids=["drift", "saving"]
)
def test_a_signal_after_the_last_step_is_heeded(
    tmp_path: Path, settings: Settings, stage: str, number: signal.Signals
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(progress: Progress) -> None:
        if progress.stage == stage and (stage == "saving" or "at step 6:" in progress.message):
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"stopped at once\. To go on from the last checkpoint: "):
        train(settings(tmp_path / "run"), on_progress=interrupt)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert not RunDir(tmp_path / "run").is_complete()
    assert train(settings(tmp_path / "run"), resume=True).record["steps"] == 6
