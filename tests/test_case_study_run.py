"""The case study's command in its quick form on a tiny model, and its page, which says what the record says."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quiet_libraries import libraries_as_before
from scripts import script
from selfaug.cli.main import app
from selfaug.errors import StorageError
from selfaug.records import read_lines, read_record
from tiny_models import with_window

ROOT = Path(__file__).parents[1]
CASE_STUDY = ROOT / "examples" / "case_study"
PAGE = ROOT / "docs" / "case-study.md"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, which a user sees too


run = script("examples/case_study/run.py", "case_study_run")
script("examples/case_study/executive.py")  # found by its name, as a suite
case_results = script("examples/case_study/case_results.py")
update = script("docs/update_case_study.py")
published = script("docs/published.py")


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model with a window that three passages fit into."""
    return with_window(tiny_model_dir, tmp_path / "tiny", 4096)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """Commands run in this process, which saves the time to start one; the list has those that were given."""
    given: list[list[str]] = []

    def selfaug(arguments: Sequence[str]) -> str:
        given.append(list(arguments))
        result = CliRunner().invoke(app, list(arguments))
        if result.exit_code:
            sys.exit(f"{shlex.join(arguments)}\n{result.output}")
        return result.stdout

    monkeypatch.setattr(run, "selfaug", selfaug)
    with libraries_as_before():
        yield given


def test_the_whole_case_study_goes_on_where_it_was_cut_off(
    model: Path,
    tmp_path: Path,
    in_process: list[list[str]],
    short_anchors: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "study"
    settings = replace(
        run.QUICK,
        model=str(model),
        companies=4,
        answerable=3,
        unanswerable=2,
        general_items=2,
        # Tokens of the tiny model are letters.
        prepare_sets=("documents.chunk_tokens=360", "rows.passages=2", "documents.processes=1"),
        train_sets=("train.steps=2", "train.save_steps=1", "selfaug.anchor_count=1", "data.max_length=4096"),
    )
    complete = run.selfaug

    def cut_off(arguments: Sequence[str]) -> str:
        if arguments[:2] == ["evaluate", str(folder / "selfaug")]:
            sys.exit(130)
        return str(complete(arguments))

    monkeypatch.setattr(run, "selfaug", cut_off)
    with pytest.raises(SystemExit, match=r"^130$"):
        run.run_case_study(folder, settings)
    with pytest.raises(StorageError, match="other settings: seed"):
        run.run_case_study(folder, replace(settings, seed=1))
    assert [arguments[0] for arguments in in_process] == ["prepare", "assess", "train", "train", "evaluate"]
    in_process.clear()
    monkeypatch.setattr(run, "selfaug", complete)
    record = run.run_case_study(folder, settings)
    assert [arguments[0] for arguments in in_process] == ["evaluate", "ask"]

    written = read_record(folder / "record.json", case_results.RECORD_KIND)
    assert case_results.result_page(written) == (folder / "result.md").read_text(encoding="utf-8")
    assert written["documents"] == sum(written["formats"].values()) == 25
    for name in ("base", "plain", "selfaug"):
        result = written["results"][name]
        assert result["sides"]["value"]["items"] == result["amounts"]["items"] == 3
        # In its form, an amount is the right one.
        assert result["amounts"]["value"] >= result["sides"]["value"]["value"]
        assert result["sides"]["abstains where it must"]["items"] == 2
        assert result["executive_items"] == 12
        lines = read_lines(folder / "samples" / f"{name}.jsonl")
        assert len(lines) == 3 + 2 + 12 + 2
    assert written["results"]["base"]["executive_difference"] is None
    assert written["results"]["selfaug"]["executive_difference"].keys() == {"value", "low", "high"}
    assert [step["step"] for step in written["steps"]] == [
        "write", "prepare", "assess", "train plain", "train selfaug", "evaluate plain", "evaluate selfaug", "ask",
        "ask all",
    ]  # fmt: skip
    assert record["results"].keys() == written["results"].keys()
    # As deployed: all questions that have an answer, with the passages that are found for them.
    asked = read_lines(folder / "deployed.jsonl")
    assert [one["id"] for one in asked] == [
        row["id"] for row in read_lines(folder / "asked.jsonl") if row["value"] is not None
    ]
    assert all(len(one["passages"]) == 2 for one in asked)
    found = sum(one["gold"] in [passage["id"] for passage in one["passages"]] for one in asked)
    assert written["deployed"]["questions"] == 3
    assert written["deployed"]["found"]["value"] == pytest.approx(found / 3)
    assert "The same 3 questions as `selfaug ask` answers them" in case_results.result_page(written)
    further = written["rows"]["train"]["follow_ups"]
    assert further > written["rows"]["train"]["rows"]
    assert f"ask {further:,} further questions about their passages" in case_results.result_page(written)
    # The test rows are about documents that no training row has a passage of.
    known = {
        passage for row in read_lines(folder / "prepared" / "train.jsonl") for passage in row["passages"]
    }
    assert not known & {passage for row in read_lines(folder / "asked.jsonl") for passage in row["passages"]}
    with pytest.raises(StorageError, match="already holds a finished case-study"):
        run.run_case_study(folder, settings)
    monkeypatch.setattr(sys, "argv", ["update_case_study.py", str(folder)])
    with pytest.raises(SystemExit, match="only a full case study"):
        update.main()


def test_to_go_on_does_not_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_case_study", stopped)
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path), "--overwrite"])
    with pytest.raises(SystemExit) as left:
        run.main()
    assert left.value.code == 130
    assert "give the same command again, without --overwrite.\n" in capsys.readouterr().err


def test_ctrl_c_waits_for_the_checkpoint_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "command"
    saved = tmp_path / "saved"
    command.write_text(
        f"#!/bin/sh\ntrap '' INT\nsleep 0.5\nkill -INT $PPID\nsleep 1\ntouch {shlex.quote(str(saved))}\nexit 130\n"
    )
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run.selfaug(["train"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert saved.exists()


def test_bad_arguments_give_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="not empty and not a case-study"):
        run.main()
    monkeypatch.setattr(sys, "argv", ["update_case_study.py"])
    with pytest.raises(SystemExit, match="Put a finished case study"):
        update.main()


# ---- the page


def test_the_page_gives_the_commands_that_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    shown = [shlex.split(line) for block in blocks for line in block.splitlines()]
    commands = [line[line.index("selfaug") + 1 :] for line in shown if "selfaug" in line]
    assert commands[:-1] == list(run.commands(Path("study"), run.FULL).values())
    assert commands[-1][:2] == ["ask", "study/selfaug"]
    assert f"{run.FULL.answerable + run.FULL.unanswerable} of the test rows" in text
    assert f"{run.FULL.answerable} with an answer, {run.FULL.unanswerable} without" in text


def test_the_page_says_what_the_record_says() -> None:
    """Its result is made by docs/update_case_study.py; nobody has touched a number since."""
    record = read_record(ROOT / "docs" / "results" / "case-study.json", case_results.RECORD_KIND)
    assert published.block(update.NAME, case_results.result_page(record)) in PAGE.read_text(encoding="utf-8")
    assert not record["settings"]["quick"]
    assert record["settings"]["half"] == "test"
    assert record["results"]["base"]["executive_items"] >= 60


def test_links_lead_somewhere() -> None:
    text = "".join(published.outside(PAGE.read_text(encoding="utf-8"), update.NAME))
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGE.parent / target).exists(), target


def test_what_is_right_as_deployed() -> None:
    """Found, value and source are counted apart; a source is right if a report that says it is cited, and no other."""
    passages = [{"id": "a", "document": "a.md"}, {"id": "b", "document": "b.md"}]
    right = {"expected": "ANSWER: $5m | SOURCE: [2]", "documents": ["b.md", "c.md"], "gold": "b"}
    asked = [
        {**right, "passages": passages, "answer": "ANSWER: $5m | SOURCE: [2]", "cited": [2]},
        {**right, "passages": passages, "answer": "ANSWER: $5m | SOURCE: [1]", "cited": [1]},
        {**right, "passages": passages[:1], "answer": "ANSWER: $6m | SOURCE: [9]", "cited": []},
        {**right, "passages": passages, "answer": "ANSWER: $6m | SOURCE: [1], [2]", "cited": [1, 2]},
    ]
    found = case_results._deployed(asked)
    assert [found[name]["value"] for name in ("found", "value", "source")] == [0.75, 0.5, 0.25]
    assert found["questions"] == 4
