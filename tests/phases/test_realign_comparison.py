"""A re-aligned run is compared with the deployed one: who judges what, and what the gate says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from realigning import LENIENT, asking, quick, run_command
from selfaug.config import load_config
from selfaug.core.gate import named_loss, named_old_sources
from selfaug.errors import ConfigError, StorageError
from selfaug.phases.progress import Progress
from selfaug.phases.realign import RealignSettings, _withdrawn, realign
from selfaug.phases.realign_comparison import (
    _contents_of_scorers,
    _gate,
    _outcome,
    _require_judged_alike,
    old_task_scorers,
)
from selfaug.phases.suites import compare_scores
from selfaug.records import as_json, read_lines, read_record, write_lines, write_record
from selfaug.registry import CANDIDATE, CHAMPION, Registry
from selfaug.report.document_text import document_markdown
from selfaug.report.run_report import run_report
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

ALL_RIGHT, ALL_WRONG = "regex:(?s:.*)", "regex:(?!)"


def test_old_rows_are_judged_by_the_scorer_that_they_came_with(
    copied_run: Path,
    new_rows: Path,
    held_out: Path,
    tiny_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = load_config(copied_run / "config.yaml").data.eval
    third, third_held_out = (
        asking(tmp_path / f"{name}.jsonl", name, tiny_rows) for name in ("third", "held")
    )
    second_run, third_run = tmp_path / "second", tmp_path / "third"
    first = ("--scorer", ALL_WRONG, "--old-scorer", ALL_RIGHT, "--output", str(second_run))
    result = run_command(
        *(str(copied_run), "--data", str(new_rows), "--eval-data", str(held_out), *first, *LENIENT)
    )
    assert result.exit_code == 0, result.output
    record = read_record(second_run / "realignment.json", "realignment")
    assert record["scorers"] == {old[0]: ALL_RIGHT, str(held_out): ALL_WRONG}
    # The next one says nothing of old rows, and rehearses none. Its new rows were held out before, too.
    monkeypatch.setenv("HOME", str(tmp_path))
    new = ("--data", str(third), "--eval-data=~/held.jsonl", "--eval-data", str(held_out))
    result = run_command(
        *(str(second_run), *new, "--output", str(third_run), "--rehearsal", "0", "--scorer", "f1", *LENIENT)
    )
    assert result.exit_code == 0, result.output
    record = read_record(third_run / "realignment.json", "realignment")
    assert record["scorers"] == {old[0]: ALL_RIGHT, str(held_out): ALL_WRONG, str(third_held_out): "f1"}
    said = (
        f"old task by {ALL_RIGHT} ({old[0]}), {ALL_WRONG} ({held_out}); "
        f"new task by f1 ({third_held_out}, {held_out})"
    )
    assert record["judged"] == said
    assert f"judged: {said}" in result.stdout
    by_source = {source: one["items"] for source, one in record["old_sources"].items()}
    assert by_source == {old[0]: 3, str(held_out): 3}
    assert result.stdout.count("│ old task: ") == 2
    assert document_markdown(run_report(RunDir(third_run))).count("| old task: ") == 2
    # Three of each old source's rows, of which there are 24 and 16.
    scores = list(record["suites"]["old task"]["scores"].values())
    assert scores == [{"base": 1.0, "tuned": 1.0}] * 3 + [{"base": 0.0, "tuned": 0.0}] * 3
    lines = read_lines(third_run / "samples" / "realignment" / "old-task-new.jsonl")
    assert [line["id"] for line in lines] == list(record["suites"]["old task"]["scores"])
    assert [line["id"] for line in lines] == [f"{i}: row-{row}" for i, row in enumerate((0, 8, 16, 0, 5, 10))]
    assert record["suites"]["new task"]["items"] == 3
    assert "replay" not in read_record(third_run / "record.json", "train")["data"]


def test_whose_scorer_old_rows_have(copied_run: Path) -> None:
    run = RunDir(copied_run)
    config = load_config(run.config)
    source = config.data.eval[0]

    def scorers(**more: Any) -> dict[str, str]:
        settings = RealignSettings(["new.jsonl"], scorer="f1", **more)
        return old_task_scorers(run, config, settings, config.data.eval)

    assert scorers() == {source: "f1"}
    # That of an evaluation, or of the one at the end of training, if these rows were evaluated.
    write_record(run.evaluation, "evaluation", {"settings": {"scorer": "contains", "data": ["others.jsonl"]}})
    assert scorers() == {source: "f1"}
    write_record(run.evaluation, "evaluation", {"settings": {"scorer": "exact", "data": [source]}})
    assert scorers() == {source: "exact"}
    deployed = config
    for rows, judges in ((["others.jsonl"], "exact"), ([], "value"), ([source], "value")):
        own = config.evaluation.model_copy(update={"scorer": "value", "data": rows})
        config = deployed.model_copy(update={"evaluation": own})
        assert scorers() == {source: judges}
    # A re-aligned run's: that of its new rows, where others stand for the old ones; else each source's own.
    before: dict[str, Any] = {"settings": {"scorer": "number"}}
    write_record(run.realignment, "realignment", {**before, "scorers": {}})
    assert scorers() == {source: "number"}
    write_record(run.realignment, "realignment", {**before, "scorers": {source: "gone:score"}})
    with pytest.raises(ConfigError, match=r"can't be judged: scorer 'gone:score'") as refused:
        scorers()
    assert "--old-scorer" in str(refused.value.hint)
    assert scorers(old_scorer="contains") == {source: "contains"}


def test_a_finished_comparison_is_decided_by_the_bounds_of_now(
    copied_run: Path, new_rows: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("--data", str(new_rows), "--eval-data", str(held_out))
    assert run_command(str(copied_run), *data, *LENIENT).exit_code == 0
    new = copied_run.with_name("copied-realigned")
    with monkeypatch.context() as patched:
        patched.setattr("selfaug.phases.realign_comparison.answers_to", None)
        strict = run_command(str(copied_run), *data, *LENIENT[2:], "--max-task-loss", "-1")
        assert strict.exit_code == 3, strict.output
        record = read_record(new / "realignment.json", "realignment")
        assert record["settings"]["max_task_loss"] == -1
        assert record["gate"]["outcome"] == "fail"
        # The deployed model passes none of the old rows: there is nothing that it could lose.
        nothing = run_command(str(copied_run), *data, *LENIENT[2:], "--max-task-loss", "0.03")
        assert nothing.exit_code == 3, nothing.output
        assert "the deployed model passes only 0\N{NO-BREAK SPACE}% of these" in nothing.stdout
        page = run_report(RunDir(new))
        assert "the deployed model passes only" in document_markdown(page)
        assert page.outcome == "open"
        undecided = run_command(str(copied_run), *data, *LENIENT[:4], "--min-new-gain", "-0.01")
        assert undecided.exit_code == 3, undecided.output
        assert run_command(str(copied_run), *data, *LENIENT).exit_code == 0
        other = run_command(str(copied_run), *data, *LENIENT, "--scorer", "f1")
        assert other.exit_code == 1
        assert "with another scorer" in other.stderr
        # A comparison of an earlier version of selfaug knows neither sources nor weights.
        earlier = {name: value for name, value in record.items() if name != "old_sources"}
        for name in ("deployed_weights", "new_weights"):
            assert len(record["settings"].pop(name)) == 64
        write_record(new / "realignment.json", "realignment", earlier)
        assert run_command(str(copied_run), *data, *LENIENT).exit_code == 0
        record["settings"]["tokenizer_and_template"] = "another"
        write_record(new / "realignment.json", "realignment", record)
        other = run_command(str(copied_run), *data, *LENIENT)
        assert other.exit_code == 1
        assert "with another tokenizer_and_template" in other.stderr
    # Cut off: answers that were asked for otherwise are not gone on with.
    (new / "realignment.json").unlink()
    other = run_command(str(copied_run), *data, *LENIENT, "--scorer", "f1")
    assert other.exit_code == 1
    assert "with another scorer" in other.stderr
    # Nor where one half of the answers would be of a deployed run that was trained anew since.
    weights = copied_run / "adapter" / "adapter_model.safetensors"
    save_file({name: 1.3 * weight for name, weight in load_file(weights).items()}, weights)
    other = run_command(str(copied_run), *data, *LENIENT)
    assert other.exit_code == 1
    assert "copied-realigned was begun from another adapter" in " ".join(other.stderr.split())
    # An earlier version of selfaug didn't say from which.
    started = read_record(new / "started.json", "train-started")
    del started["went_on_from"]
    write_record(new / "started.json", "train-started", started)
    other = run_command(str(copied_run), *data, *LENIENT)
    assert other.exit_code == 1
    assert "copied has other weights than when both runs were compared" in " ".join(other.stderr.split())


def test_a_source_that_is_lost_fails_though_all_old_rows_together_pass() -> None:
    def scores(tuned: list[float], base: list[float]) -> dict[str, Any]:
        return as_json(compare_scores([str(row) for row in range(len(tuned))], tuned, base))

    kept, lost, few = [1.0] * 3940, [0.0] * 60, [0.0] * 2
    suites = {
        "old task": scores([*kept, *lost, *few], [1.0] * 4002),
        "general": scores(kept, kept),
    }
    sources = {"kept": scores(kept, kept), "few": scores([*few, 1.0], [1.0] * 3)}
    settings = RealignSettings(["new.jsonl"], allow_unmeasured=True)
    assert _gate(suites, sources, settings)["outcome"] == "pass"
    gate = _gate(suites, {**sources, "lost": scores(lost, [1.0] * 60)}, settings)
    assert (gate["outcome"], gate["of_bounds"]) == ("fail", "fail")
    assert [(one["name"], one["outcome"]) for one in gate["bounds"]] == [
        ("loss, old task", "pass"),
        ("loss, general", "pass"),
        ("loss, old task: lost", "fail"),
    ]
    # What tables and verdicts find it by.
    assert gate["bounds"][-1]["name"] in map(named_loss, named_old_sources({**sources, "lost": {}}))


def test_a_schema_that_has_changed_since_decides_nothing_anew(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}', encoding="utf-8")
    scorers = {"new.jsonl": f"schema:{schema}", "old.jsonl": "exact"}
    record = {"scorers": scorers, "contents": _contents_of_scorers(scorers)}
    _require_judged_alike(RunDir(tmp_path), record)
    schema.write_text('{"type": "array"}', encoding="utf-8")
    with pytest.raises(StorageError, match=r"before .*schema\.json changed") as caught:
        _require_judged_alike(RunDir(tmp_path), record)
    assert "delete realignment.json" in str(caught.value.hint)


def test_nothing_passes_on_a_task_without_rows_unless_that_is_wanted(
    copied_run: Path, new_rows: Path, tmp_path: Path
) -> None:
    registry = tmp_path / "registry.sqlite"
    settings = copied_run / "config.yaml"
    content = yaml.safe_load(settings.read_text(encoding="utf-8"))
    content["data"]["eval"] = []
    settings.write_text(RunDir(copied_run).config_text(yaml.safe_dump(content)), encoding="utf-8")
    command = (str(copied_run), "--data", str(new_rows), *LENIENT, "--registry", str(registry))
    result = run_command(*command)
    assert result.exit_code == 3, result.output
    assert "gate: inconclusive" in result.stdout
    assert "not measured, for want of held-out rows: old task, new task" in result.stdout
    # Said before the training, too.
    assert "of 16 rows, 0.1 is less than 20" in result.stderr
    assert "the old task has none" in result.stderr
    assert "data.eval=[FILE]" in result.stderr
    assert "--allow-unmeasured" in result.stderr
    assert not registry.exists()
    new = copied_run.with_name("copied-realigned")
    gate = read_record(new / "realignment.json", "realignment")["gate"]
    assert (gate["outcome"], gate["of_bounds"]) == ("inconclusive", "pass")
    # It need not be learnt again.
    trained = (new / "record.json").read_bytes()
    again = run_command(*command, "--allow-unmeasured")
    assert again.exit_code == 0, again.output
    assert "gate: pass" in again.stdout
    assert (new / "record.json").read_bytes() == trained
    record = read_record(new / "realignment.json", "realignment")
    assert (record["gate"]["outcome"], record["settings"]["allow_unmeasured"]) == ("pass", True)
    assert Registry(registry).current(CANDIDATE) is not None
    # What passes no more is no candidate any more.
    strict = run_command(*command)
    assert strict.exit_code == 3, strict.output
    assert "version 2 does not pass any more" in strict.stderr
    assert Registry(registry).current(CANDIDATE) is None
    # Where it is the champion by now, that is what has to be said.
    Registry(registry).point(CANDIDATE, 2)
    Registry(registry).point(CHAMPION, 2)
    assert "is still served; `selfaug registry rollback" in str(_withdrawn(RunDir(new), str(registry)))
    assert Registry(registry).current(CANDIDATE) is None


@pytest.mark.parametrize("of_bounds", ["pass", "fail", "inconclusive"])
def test_what_a_task_without_rows_makes_of_an_outcome(of_bounds: Any) -> None:
    strict, lenient = RealignSettings(["new.jsonl"]), RealignSettings(["new.jsonl"], allow_unmeasured=True)
    assert _outcome(of_bounds, [], strict) == of_bounds
    assert _outcome(of_bounds, ["new task"], lenient) == of_bounds
    assert _outcome(of_bounds, ["new task"], strict) == ("fail" if of_bounds == "fail" else "inconclusive")


@pytest.mark.parametrize(("words", "told"), [(None, True), ("Ei ilmoitettu.", False)])
def test_what_the_deployed_run_says_where_there_is_no_answer_is_known(
    copied_run: Path, new_rows: Path, tmp_path: Path, words: str | None, told: bool
) -> None:
    """The rows of other documents may say it in other words."""
    run = RunDir(copied_run)
    started = read_record(run.started, "train-started")
    started["data"]["no_answer"] = words
    write_record(run.started, "train-started", started)
    held_out = tmp_path / "held-out.jsonl"
    write_lines(held_out, [{**read_lines(new_rows)[0], "answer": "Ei ilmoitettu."}])
    said: list[str] = []

    def until_training(progress: Progress) -> None:
        said.append(progress.message)
        if progress.stage == "data":
            raise KeyboardInterrupt

    settings = quick(new_rows, eval_data=[str(held_out)], scorer="abstains", old_scorer="exact")
    with pytest.raises(KeyboardInterrupt):
        realign(copied_run, settings, on_progress=until_training)
    assert any("abstains" in message for message in said) == told
