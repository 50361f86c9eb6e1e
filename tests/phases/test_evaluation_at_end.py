"""Training that evaluates its run in the same command: what it gives, resumes and refuses."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from asking import evaluate
from selfaug.cli.main import app
from selfaug.config import TrainConfig
from selfaug.errors import ConfigError, DataError, ModelError
from selfaug.phases.evaluate import RECORD_KIND
from selfaug.phases.progress import Progress
from selfaug.phases.train import Interrupted, train
from selfaug.records import read_record, write_record
from selfaug.replaced import HIDDEN
from selfaug.rundir import RunDir
from selfaug.train import SelfAugTrainer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]

FAST = ("train.steps=1", "evaluation.at_end=fast", "evaluation.level=1", "evaluation.max_new_tokens=2")


def test_the_command_trains_and_shows_what_evaluate_would(
    tmp_path: Path, tiny_model_dir: Path, tiny_rows: Path
) -> None:
    run = RunDir(tmp_path / "run")
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"question": "2 + 2?", "answer": "4"}\n', encoding="utf-8")
    arguments = [
        "train", "--model", str(tiny_model_dir), "--train", str(tiny_rows), "--eval", str(tiny_rows),
        "--output", str(run.path), "--steps", "1", "--device", "cpu", "--evaluate", "fast",
        "--set", "evaluation.level=1", "--set", "evaluation.max_new_tokens=2", "--set", "evaluation.scorer=f1",
        "--set", f"evaluation.suites={mine}",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "steps           1 in" in result.stdout
    assert "task (f1)" in result.stdout
    assert f"page: {run.report}" in result.stdout
    assert run.report.exists()
    assert "| the job, scored by `f1` | 24 |" in (run.adapter / "README.md").read_text(encoding="utf-8")
    record = read_record(run.evaluation, RECORD_KIND)
    assert {name: suite["items"] for name, suite in record["suites"].items()} == {
        "task": 24, "mine": 1, "general": 96
    }  # fmt: skip
    apart = evaluate(
        run.path, scorer="f1", level="1", suites=[str(mine)], general_items=96, max_new_tokens=2, device="cpu",
        overwrite=True,
    ).record  # fmt: skip
    assert apart["suites"] == record["suites"]

    # A run that has everything is left as it is, and told again.
    again = CliRunner().invoke(app, ["train", "--resume", "--output", str(run.path), "--json"])
    assert again.exit_code == 0, again.stderr
    assert "nothing to train" in again.stderr
    assert "has an evaluation already" in again.stderr
    assert json.loads(again.stdout)["evaluated"]["suites"] == record["suites"]


def test_an_evaluation_that_was_stopped_goes_on_and_training_does_not(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfaug.phases.train.FAST_ITEMS", 4)
    config = settings(tmp_path / "run", *FAST)
    trainers: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.stage == "base: general" and not trainers:  # a count looks at a million objects
            trainers.append(sum(isinstance(thing, SelfAugTrainer) for thing in gc.get_objects()))
        if progress.stage == "tuned: general":
            raise KeyboardInterrupt

    gc.collect()
    before = sum(isinstance(thing, SelfAugTrainer) for thing in gc.get_objects())
    with pytest.raises(Interrupted, match=r"the run is complete.*--resume --output .* --evaluate fast"):
        train(config, on_progress=stop)
    run = RunDir.open(tmp_path / "run")
    assert run.is_complete()
    assert not run.evaluation.exists()
    assert trainers[0] <= before  # the optimizer's memory is free for the answers
    steps = run.metrics.read_text(encoding="utf-8")
    answers = (run.samples / "evaluation" / "general-base.jsonl").read_text(encoding="utf-8")
    result = train(config, resume=True)
    assert result.evaluation is not None
    assert result.evaluation == read_record(run.evaluation, RECORD_KIND)
    assert run.metrics.read_text(encoding="utf-8") == steps
    assert (run.samples / "evaluation" / "general-base.jsonl").read_text(encoding="utf-8") == answers


def test_without_it_nothing_is_asked_and_a_finished_run_can_be_asked_later(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfaug.phases.train.FAST_ITEMS", 4)
    assert train(settings(tmp_path / "run", "train.steps=1")).evaluation is None
    with monkeypatch.context() as second:  # of two processes, which find the run complete
        second.setenv("RANK", "1")
        assert train(settings(tmp_path / "run", *FAST), resume=True).evaluation is None
    assert not (tmp_path / "run" / "evaluation.json").exists()
    later = train(settings(tmp_path / "run", *FAST), resume=True)
    assert later.evaluation is not None
    assert later.evaluation["suites"]["general"]["items"] == 4
    # One of a checkpoint, of before the training ended, is not the run's.
    run = RunDir(tmp_path / "run")
    of_step = {**later.evaluation["settings"], "step": 1}
    for state in ("whole", "cut off", "moved aside"):
        if state == "cut off":
            run.evaluation.unlink()
            write_record(run.samples / "evaluation" / "started.json", "evaluation-started", of_step)
        else:
            write_record(run.evaluation, RECORD_KIND, {**later.evaluation, "settings": of_step})
        if state == "moved aside":  # by a process that was killed before the first answer of the new one
            aside = run.samples / HIDDEN
            aside.mkdir()
            for place in (run.evaluation, run.samples / "evaluation"):
                place.rename(aside / place.name)
        told: list[Progress] = []
        anew = train(settings(run.path, *FAST), resume=True, on_progress=told.append)
        said = "was evaluated at step 1, before its training ended; it is evaluated anew"
        assert any(said in one.message for one in told), state
        assert anew.evaluation is not None
        assert anew.evaluation["settings"] == later.evaluation["settings"]
        assert anew.evaluation == read_record(run.evaluation, RECORD_KIND)


@pytest.mark.parametrize(
    ("sets", "kind", "message"),
    [
        (["evaluation.scorer=exakt"], ConfigError, "there is no scorer 'exakt'"),
        (["evaluation.suites=none.jsonl"], DataError, "none.jsonl"),
        (["evaluation.suites=general.jsonl"], ConfigError, "names of their own"),
        (["evaluation.data=none.jsonl"], DataError, "none.jsonl"),
        (["evaluation.also_score=[f1, f2]"], ConfigError, "there is no scorer 'f2'"),
        (["data.eval=[]", "evaluation.also_score=[f1]"], ConfigError, "also_score: needs held-out rows"),
    ],
)
def test_what_it_would_refuse_is_refused_before_training(
    tmp_path: Path, settings: Settings, sets: list[str], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train(settings(tmp_path / "run", *FAST, *sets))
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_chat_template_is_refused_before_training(
    tmp_path: Path, settings: Settings, tiny_model_dir: Path
) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "plain"))
    (model / "chat_template.jinja").unlink()
    rows = tmp_path / "plain.jsonl"
    rows.write_text('{"prompt": "the revenue of the year", "completion": " million"}\n' * 4, encoding="utf-8")
    plain = (f"model.name={model}", f"data.train={rows}")
    with pytest.raises(ModelError, match="has no chat template") as caught:
        train(settings(tmp_path / "run", *FAST, *plain))
    assert "tokenizer.chat_template" in str(caught.value.hint)
    assert "--model; or leave --evaluate out" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()
    assert train(settings(tmp_path / "run", *FAST, *plain, "evaluation.at_end=none")).record["steps"] == 1
    with pytest.raises(ModelError, match="has no chat template") as caught:
        evaluate(tmp_path / "run", device="cpu")
    assert f"{tmp_path / 'run' / 'config.yaml'}, at model.name" in str(caught.value.hint)
    # What the hint says helps.
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = AutoTokenizer.from_pretrained(tiny_model_dir).chat_template
    tokenizer.save_pretrained(model)
    assert evaluate(tmp_path / "run", device="cpu", level="1", general_items=2).record["suites"]["general"]


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_model_in_pieces_is_not_evaluated_in_the_same_command(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(ConfigError, match="sharded") as caught:
        train(settings(tmp_path / "run", *FAST))
    assert "selfaug evaluate" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_rows_that_choose_the_checkpoint_are_not_reported_on(
    tmp_path: Path, settings: Settings, tiny_rows: Path
) -> None:
    chosen = [*FAST, f"data.eval={tiny_rows}", "train.best_of_rows=2"]
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path / "run", *chosen)
    assert "evaluation.data: the checkpoint is chosen on rows of data.eval" in str(caught.value)
    with pytest.raises(ConfigError, match=r"evaluation\.data: the checkpoint is chosen"):
        settings(tmp_path / "run", *chosen, f"evaluation.data=[other.jsonl, {tiny_rows}]")
    assert settings(tmp_path / "run", *chosen, "evaluation.data=other.jsonl").evaluation.data
    copy = shutil.copy(tiny_rows, tmp_path / "copy.jsonl")
    with pytest.raises(ConfigError, match="as a copy or in a folder"):
        train(settings(tmp_path / "run", *chosen, f"evaluation.data={copy}"))
