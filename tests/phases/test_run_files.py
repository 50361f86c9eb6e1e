"""A run of a working folder, used from another one."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from huggingface_hub import constants

from asking import evaluate
from other_user import as_nobody
from selfaug.config import dump_config, load_config
from selfaug.data.sources import describe_sources
from selfaug.errors import ConfigError, DataError, ModelError
from selfaug.model.loading import DEMO_MODEL
from selfaug.phases.chat import open_chat
from selfaug.phases.export import export
from selfaug.phases.live_run import LiveRun
from selfaug.phases.monitor import record_reference_window
from selfaug.phases.progress import Progress
from selfaug.phases.realign import RealignSettings, realign, realign_config
from selfaug.phases.realign_comparison import _as_named, old_task_scorers
from selfaug.phases.run_files import (
    BASE_FOLDER,
    FOLDER,
    load_run_config,
    require_named_base,
    require_named_files,
    tell_of_changes,
)
from selfaug.phases.train import train
from selfaug.phases.vllm_launch import export_vllm
from selfaug.phases.watching import Watching, WatchSettings
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself


NAMES = ("model.name=models/tiny", "data.train=[rows.jsonl]", "data.eval=[held-out.jsonl]")


@pytest.fixture(scope="module")
def trained(
    settings, tiny_model_dir: Path, tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A working folder with a run whose settings name all files relative to it. Don't change it: it is shared."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(tiny_model_dir, folder / "models" / "tiny")
    for name in ("rows.jsonl", "held-out.jsonl"):
        shutil.copyfile(tiny_rows, folder / name)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        train(settings(Path("run"), *NAMES, "train.steps=1", "selfaug.monitor_prompts=0"))
    return folder


@pytest.fixture
def there(trained: Path, tiny_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`trained` to be changed, as if it had been trained here; another folder is the current one."""
    folder, here = tmp_path / "there", tmp_path / "here"
    shutil.copytree(trained, folder)
    started = RunDir(folder / "run").started
    text = started.read_text(encoding="utf-8")
    assert text.count(str(trained)) == 1
    started.write_text(text.replace(str(trained), str(folder)), encoding="utf-8")
    here.mkdir()
    monkeypatch.chdir(here)
    shutil.copyfile(tiny_rows, here / "zero.jsonl")
    return folder


def change(run: RunDir, *sets: str) -> None:
    """Change the settings of a run in its folder."""
    changed = load_config(run.config if run.config.exists() else None, sets=sets)
    run.config.write_text(run.config_text(dump_config(changed)), encoding="utf-8")


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """The settings of a run, begun in `there` with files of that folder; `here` is the current one."""
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "models" / "tiny").mkdir(parents=True)
    here.mkdir()
    for name in ("rows.jsonl", "held-out.jsonl"):
        write_lines(there / name, [{"prompt": "a", "completion": "b"}])
    run = RunDir(there / "run")
    run.path.mkdir()
    change(run, *NAMES)
    write_record(run.started, "train-started", {"data": {}, "model": {}, FOLDER: str(there)})
    monkeypatch.chdir(here)
    return run


def test_who_may_not_enter_the_folder_of_the_training_finds_nothing_there(begun: RunDir) -> None:
    with tempfile.TemporaryDirectory() as folder:
        private, run = Path(folder, "private"), RunDir(Path(folder, "run"))
        run.path.mkdir()
        private.mkdir()
        change(run, *NAMES, "model.name=some/model", f"data.eval=[{private / 'held-out.jsonl'}]")
        write_record(run.started, "train-started", {FOLDER: str(private)})
        for file in (run.config, run.started):
            file.chmod(0o644)
        for place in (Path(folder), run.path):
            place.chmod(0o755)
        private.chmod(0)
        try:
            with as_nobody():
                config = load_run_config(run)
                with pytest.raises(DataError, match=r"does not exist: it is named by the run's data\.eval"):
                    require_named_files(run, config, "eval", instead="do without")
        finally:
            private.chmod(0o755)
        assert config == load_config(run.config)


def test_words_are_no_files(begun: RunDir) -> None:
    there = begun.path.parent
    for word in ("self", "none", "embedded"):
        (there / word).mkdir()
    change(begun, "data.replay=[embedded]", "selfaug.anchors=self")
    config = load_run_config(begun)
    assert (config.selfaug.anchors, config.data.replay) == ("self", ["embedded"])
    assert config.model.name == str(there / "models" / "tiny")
    assert not config.run.offline
    offline = config.run.model_copy(update={"offline": True})
    assert load_run_config(begun, offline=True) == config.model_copy(update={"run": offline})


def test_what_is_typed_is_of_the_current_folder(begun: RunDir) -> None:
    there = begun.path.parent
    for name in ("new.jsonl", "new-dev.jsonl", "template.yaml"):
        (there / name).touch()
    typed = realign_config(
        begun, ["new.jsonl"], eval_data=["new-dev.jsonl"], sets=["data.template=template.yaml"]
    )
    assert (typed.data.train, typed.data.template) == (["new.jsonl"], "template.yaml")
    # The run's own, among them what it was trained on, are found.
    assert typed.data.eval == [str(there / "held-out.jsonl"), "new-dev.jsonl"]
    assert typed.data.replay == [str(there / "rows.jsonl")]
    assert typed.model.name == str(there / "models" / "tiny")


def test_old_rows_keep_their_scorer_in_another_folder(begun: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    there = begun.path.parent

    def scorers() -> list[str]:
        found = []
        for folder in (there, there.parent / "here"):
            monkeypatch.chdir(folder)
            config = load_run_config(begun)
            found += old_task_scorers(
                begun, config, RealignSettings(["new.jsonl"]), config.data.eval
            ).values()
        return found

    assert scorers() == ["exact"] * 2
    settings = {"data": ["held-out.jsonl"], "scorer": "number"}
    write_record(begun.evaluation, "evaluation", {"settings": settings})
    assert scorers() == ["number"] * 2
    change(begun, "evaluation.data=[held-out.jsonl]", "evaluation.scorer=value")
    assert scorers() == ["value"] * 2
    # What a re-alignment remembers has the names of the run's settings, wherever it was compared.
    kept = _as_named(begun, {str(there / "held-out.jsonl"): "f1", "another.jsonl": "exact"})
    assert kept == {"held-out.jsonl": "f1", "another.jsonl": "exact"}
    assert _as_named(begun, {"held-out.jsonl": "f1"}) == {"held-out.jsonl": "f1"}
    write_record(begun.realignment, "realignment", {"settings": {"scorer": "exact"}, "scorers": kept})
    assert scorers() == ["f1"] * 2


@pytest.mark.parametrize("first", ["there", "here/below"])
def test_a_re_alignment_goes_on_in_another_folder(
    there: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    (there.parent / "here" / "below").mkdir()
    new = [{**row, "question": row["question"].replace("revenue", "profit")} for row in read_lines(tiny_rows)]
    write_lines(there / "new.jsonl", new)

    def realigned(folder: str) -> RunDir:
        monkeypatch.chdir(there.parent / folder)
        run, data, output = (os.path.relpath(there / name) for name in ("run", "new.jsonl", "out"))
        few: dict[str, Any] = {"general_items": 2, "task_items": 2, "max_new_tokens": 2, "level": "1"}
        result = realign(run, RealignSettings([data], output=output, hold_out=0.9, **few))
        assert result.record["suites"]["new task"]["items"] == 2
        return RunDir(result.run.resolve())

    run = realigned(first)
    scorers = read_record(run.realignment, "realignment")["scorers"]
    settings = load_config(run.config)
    assert scorers.keys() == {*settings.data.eval}
    for file in (run.record, run.realignment):  # as if it had been cut off
        file.unlink()
    for folder in (run.adapter, run.samples):
        shutil.rmtree(folder)
    (second,) = {"there", "here/below"} - {first}
    assert realigned(second).path == run.path
    assert load_config(run.config) == settings
    assert read_record(run.realignment, "realignment")["scorers"] == scorers


def test_names_stay_those_of_the_settings_in_another_folder(there: Path, tmp_path: Path) -> None:
    """Clients ask for them, and comparisons are known by them."""
    live = LiveRun.open(there / "run", cast(Any, None), prepared=None, offline=True)
    assert (live.base, live.tuned, live.config.model.name) == (
        "models/tiny",
        "run",
        str(there / "models/tiny"),
    )
    export_vllm(there / "run", tmp_path / "vllm", offline=True)
    script = (tmp_path / "vllm" / "vllm.sh").read_text(encoding="utf-8")
    assert f"exec vllm serve {there}/models/tiny " in script
    assert "--served-model-name models/tiny " in script
    compose = (tmp_path / "vllm" / "compose.yaml").read_text(encoding="utf-8")
    assert f"{there}/models/tiny:/work/models/tiny:ro" in compose
    record = {"settings": {"config": {"model": {"name": "models/tiny"}}}, "forecast": None}
    write_record(tmp_path / "record.json", "comparison", record)
    with pytest.raises(ConfigError, match="has too few runs to forecast from"):
        evaluate(there / "run", forecast=str(tmp_path), device="cpu")


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
    # Rows that are kept for a re-alignment alone are not read.
    change(run, "data.replay=[gone.jsonl]", "data.replay_share=0")
    assert record_reference_window(run.path, device="cpu", prompts=20).summary()
    change(run, "data.replay_share=0.2")
    with pytest.raises(DataError, match=r"gone\.jsonl does not exist: it is named by the run's data\.replay"):
        record_reference_window(run.path, device="cpu", overwrite=True)
    assert not any("is not what it was" in one.message for one in said)
    write_lines(there / "held-out.jsonl", [{"prompt": "the profit", "completion": "none"}])
    result = evaluate(run.path, **few, overwrite=True, on_progress=said.append)
    changed = f"{there / 'held-out.jsonl'} is not what it was when {run.path} was trained."
    assert changed in [one.message for one in said if one.stage == "warning"]
    # Rows that may have been replayed are gone; the run knows what it has learnt.
    assert result.record["trained_on"] == {"rows": 0, "of": 1}
    change(run, "data.replay=[]")
    said.clear()
    record_reference_window(run.path, device="cpu", prompts=20, overwrite=True, on_progress=said.append)
    with pytest.raises(DataError, match=r"new\.jsonl"):
        realign(run.path, RealignSettings(["new.jsonl"]), on_progress=said.append)
    assert [one.message for one in said].count(changed) == 2


def test_files_that_have_changed_since_the_training_are_named(begun: RunDir) -> None:
    def changed(*names: str) -> list[str]:
        told: list[str] = []
        tell_of_changes(begun, load_run_config(begun), *names, tell=told.append)
        return told

    there = begun.path.parent
    files = [there / "rows.jsonl", there / "held-out.jsonl"]
    known = [{"source": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in files]
    started = {"data": {"train": {"sources": known[:1]}, "eval": {"sources": known[1:]}}, FOLDER: str(there)}
    write_record(begun.started, "train-started", started)
    assert changed("train", "eval", "replay") == []
    write_lines(Path("held-out.jsonl"), [{"prompt": "of this folder", "completion": "b"}])
    files[0].unlink()  # what is gone is told where it is read
    assert changed("train", "eval") == [f"held-out.jsonl is not what it was when {begun.path} was trained."]
    begun.started.unlink()
    assert changed("eval") == []
    # What is new in a folder was none of the training's.
    change(begun, f"data.replay=[embedded,{there / 'models'}]")
    month = there / "models" / "january.jsonl"
    write_lines(month, [{"prompt": "a", "completion": "b"}])
    replayed = {"replay": {"sources": describe_sources([str(month.parent)])}}
    write_record(begun.started, "train-started", {"data": replayed, FOLDER: str(there)})
    write_lines(month.with_name("february.jsonl"), [{"prompt": "c", "completion": "d"}])
    assert changed("replay") == []
    write_lines(month, [{"prompt": "a", "completion": "c"}])
    assert changed("replay") == [f"{month} is not what it was when {begun.path} was trained."]
    # Held-out rows judge the run, whenever they came.
    change(begun, f"data.eval=[{month.parent}]")
    write_record(begun.started, "train-started", {"data": {"eval": replayed["replay"]}, FOLDER: str(there)})
    new = month.with_name("february.jsonl")
    assert changed("eval") == [
        f"{new} is new since {begun.path} was trained.",
        f"{month} is not what it was when {begun.path} was trained.",
    ]


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
    assert (result.record["steps"], result.record["model"]["name"]) == (1, "models/tiny")
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
    run.started.unlink()  # killed while its folder was made
    config = load_run_config(run)
    assert config == load_config(run.config)
    with pytest.raises(DataError, match="files that the run's settings name are not there") as caught:
        require_named_files(run, config, "train", "eval", instead="do without")
    assert len(caught.value.problems) == 2
    assert "rows.jsonl does not exist" in caught.value.problems[0]


def test_a_base_model_that_is_nowhere_is_named_with_its_setting(there: Path, tmp_path: Path) -> None:
    run = RunDir(there / "run")
    (there / "models" / "tiny").rename(there / "elsewhere")
    to = tmp_path / "exported"
    commands: list[Callable[[], object]] = [
        lambda: open_chat(run.path, device="cpu"),
        lambda: evaluate(run.path, device="cpu"),
        lambda: export(run.path, to),
        lambda: export_vllm(run.path, to),
        lambda: record_reference_window(run.path, device="cpu"),
        lambda: realign(run.path, RealignSettings([str(there / "rows.jsonl")], hold_out=0)),
    ]
    named = r"folder models/tiny does not exist: it is named by the run's model\.name, relative to"
    for command in commands:
        with pytest.raises(ModelError, match=named) as caught:
            command()
        assert f"say in {run.config}, at model.name" in str(caught.value.hint)
        assert f"started ({there}" in str(caught.value.hint)
    again = load_config(run.config, {"--output": str(run.path)})
    assert train(again, resume=True).record["steps"] == 1  # it is complete, and needs no model
    run.record.rename(tmp_path / "record.json")
    evaluated = load_config(run.config, {"--output": str(run.path), "--evaluate": "fast"})
    for config in (again, evaluated):
        with pytest.raises(ModelError, match=named):
            train(config, resume=True)
    (tmp_path / "record.json").rename(run.record)
    change(run, f"model.name={tmp_path / 'gone'}")
    with pytest.raises(
        ModelError, match=r"gone does not exist: it is named by the run's model\.name\."
    ) as caught:
        open_chat(run.path, device="cpu")
    assert "copy it to" in str(caught.value.hint)
    # The ways out.
    change(run, f"model.name={there / 'elsewhere'}")
    assert open_chat(run.path, device="cpu")
    change(run, "model.name=owner/name")
    require_named_base(run, load_run_config(run))


def test_a_base_model_whose_folder_had_its_name_of_the_hub_is_taken_from_the_hubs_cache(
    begun: RunDir, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def name_base(name: str) -> None:
        change(begun, f"model.name={name}")
        write_record(begun.started, "train-started", {FOLDER: str(tmp_path / "there"), BASE_FOLDER: name})

    name_base("owner/name")
    with pytest.raises(ModelError, match="owner/name does not exist") as caught:
        require_named_base(begun, load_run_config(begun))
    assert "if it is the hub's model of that name, download it first: `hf download owner/name`" in str(
        caught.value.hint
    )
    cached = tmp_path / "cache" / "models--owner--name"
    shutil.copytree(tiny_model_dir, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    require_named_base(begun, load_run_config(begun))
    name_base(DEMO_MODEL)
    require_named_base(begun, load_run_config(begun))
