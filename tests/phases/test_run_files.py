"""A run of a working folder, used from another one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfaug.config import load_config
from selfaug.errors import DataError
from selfaug.phases.chat import open_chat
from selfaug.phases.evaluate import evaluate
from selfaug.phases.monitor import record_reference_window
from selfaug.phases.progress import Progress
from selfaug.phases.run_files import FOLDER, load_run_config, require_named_files
from selfaug.phases.train import train
from selfaug.phases.watching import Watching, WatchSettings
from selfaug.records import read_record, write_lines, write_record
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself


@pytest.fixture
def there(
    settings, tiny_model_dir: Path, tiny_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder with a run whose settings name all files relative to it; another one is the current one."""
    folder, here = tmp_path / "there", tmp_path / "here"
    here.mkdir()
    shutil.copytree(tiny_model_dir, folder / "models" / "tiny")
    for name in ("rows.jsonl", "held-out.jsonl"):
        shutil.copyfile(tiny_rows, folder / name)
    monkeypatch.chdir(folder)
    names = ("model.name=models/tiny", "data.train=[rows.jsonl]", "data.eval=[held-out.jsonl]")
    train(settings(Path("run"), *names, "train.steps=1", "selfaug.monitor_prompts=0"))
    monkeypatch.chdir(here)
    shutil.copyfile(tiny_rows, here / "zero.jsonl")
    return folder


def test_files_are_found_where_the_run_was_started(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = {
        "level": "1", "general_items": 2, "task_items": 2, "max_new_tokens": 2, "device": "cpu"
    }  # fmt: skip
    told: list[str] = []
    run = RunDir(there / "run")
    config = load_run_config(run, told.append)
    assert (config.model.name, config.data.train, config.data.eval) == (
        str(there / "models" / "tiny"), [str(there / "rows.jsonl")], [str(there / "held-out.jsonl")],
    )  # fmt: skip
    assert told == [
        f"models/tiny, rows.jsonl, held-out.jsonl: read in {there}, where {run.path} was started."
    ]
    said: list[Progress] = []
    evaluated = evaluate(run.path, **few, on_progress=said.append)
    assert evaluated.record["suites"]["task"]["difference"]["items"] == 2
    assert any(one.stage == "warning" and f"read in {there}" in one.message for one in said)
    monkeypatch.chdir(there)  # for the same evaluation, whichever names its rows have here
    assert evaluate(run.path, **few, max_forgetting=1.0).outcome is not None
    monkeypatch.chdir(there.parent / "here")
    assert record_reference_window(run.path, device="cpu", prompts=20).summary()


def test_training_goes_on_from_another_folder(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfaug.phases.train.FAST_ITEMS", 2)
    run = RunDir(there / "run")
    run.record.unlink()
    config = load_config(run.config, {"--output": str(run.path), "--evaluate": "fast"})
    few = ("level", "1"), ("max_new_tokens", 2), ("suites", ["questions.jsonl"])
    evaluation = config.evaluation.model_copy(update=dict(few))
    question = {"id": "q", "question": "the revenue?", "answer": "million"}
    write_lines(there / "questions.jsonl", [question])
    result = train(config.model_copy(update={"evaluation": evaluation}), resume=True)
    assert result.record["steps"] == 1
    assert result.evaluation is not None
    assert result.evaluation["suites"].keys() == {"task", "general", "questions"}


class Idle:
    """An engine that is always idle."""

    job_seconds = 0.0

    def when_idle(self, work: Callable[[], Any], **_: Any) -> Any:
        return work()


def test_a_server_says_where_it_reads_and_what_is_missing(there: Path) -> None:
    run, told = RunDir(there / "run"), list[str]()
    chat = open_chat(run.path, device="cpu")
    engine: Any = Idle()
    watching = Watching(
        run.path,
        engine,
        lambda: (chat.tuned, chat.base),
        form=None,
        settings=WatchSettings(),
        check=None,
        on_canary=lambda _: None,
        tell=told.append,
    )
    (there / "held-out.jsonl").rename(there / "moved.jsonl")
    watching._open_monitor(None)
    assert told[-1].startswith(
        "NOT watched: held-out.jsonl does not exist: it is named by the run's data.eval"
    )
    (there / "moved.jsonl").rename(there / "held-out.jsonl")
    watching._open_monitor(None)
    watching.close()
    assert any(f"held-out.jsonl: read in {there}" in line for line in told)
    assert told[-1].startswith("watching")


def test_files_that_are_nowhere_are_named_with_their_setting(there: Path) -> None:
    run = RunDir(there / "run")
    (there / "held-out.jsonl").unlink()
    for work, instead in (
        (evaluate, "with --data"),
        (record_reference_window, "selfaug monitor RUN --reference"),
    ):
        with pytest.raises(
            DataError, match=r"named by the run's data\.eval, relative to the working folder"
        ) as caught:
            work(run.path, device="cpu")
        assert f"start in the folder where the run was started ({there}" in str(caught.value.hint)
        assert instead in str(caught.value.hint)
        assert "did you mean" not in str(caught.value)
    started = read_record(run.started, "train-started")
    del started[FOLDER]  # as an earlier version wrote it
    write_record(run.started, "train-started", started)
    config = load_run_config(run)
    assert config == load_config(run.config)
    run.started.unlink()  # killed while its folder was made
    assert load_run_config(run) == config
    with pytest.raises(DataError, match="files that the run's settings name are not there") as caught:
        require_named_files(run, config, "train", "eval", instead="do without")
    assert len(caught.value.problems) == 2
    assert "rows.jsonl does not exist" in caught.value.problems[0]
