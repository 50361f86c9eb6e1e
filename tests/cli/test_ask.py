"""`selfaug ask` as a user meets it: what is shown, and one clear error for each thing that is wrong."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from test_main import libraries_as_they_were, run
from transformers import PreTrainedTokenizerFast

from selfaug.phases.ask import Assistant, open_documents
from selfaug.phases.prepare import prepare
from selfaug.prepare_config import load_prepare_config

__all__ = ["libraries_as_they_were"]  # a fixture of every test

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

QUESTION = "revenue of pumps?"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number, name in enumerate(("pumps", "valves", "pipes")):
        (folder / f"{name}.md").write_text(f"# {name}\n\nThe revenue of {name} was {number + 4} million.")
    return folder


@pytest.fixture
def prepared(documents: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "prepared"
    prepare(
        load_prepare_config(
            None,
            {"FOLDER": str(documents), "--output": str(folder)},
            ["documents.processes=1", "rows.passages=2"],
        )
    )
    return folder


def ask(run_folder: Path, question: str, *flags: str, code: int = 0) -> str:
    """stdout, or with an exit code stderr, which is an error in a line and a hint in another."""
    result = run("ask", str(run_folder), question, "--device", "cpu", "--max-new-tokens", "4", *flags)
    assert result.exit_code == code, result.stderr
    if code == 0:
        return result.stdout
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["error", "Hint"]
    return result.stderr


def test_the_answer_is_followed_by_its_passages(finished_run: Path, prepared: Path) -> None:
    told = ask(finished_run, QUESTION, "--prepared", str(prepared), "--base")
    assert told.startswith("base model:\n")
    assert "\ntuned model:\n" in told
    assert "[1] pumps.md: pumps The revenue of pumps was 4 million." in told
    assert told.count(".md: ") == 2


def test_json_has_all_of_it(finished_run: Path, prepared: Path) -> None:
    found = json.loads(ask(finished_run, QUESTION, "--prepared", str(prepared), "--base", "--json"))
    assert found["question"] == QUESTION
    assert found["passages"][0]["document"] == "pumps.md"
    assert found["answers"].keys() == {"base", "tuned"}
    assert found["answers"]["tuned"].keys() == {"text", "cited", "invalid"}
    assert (found["dropped"], found["outdated"]) == (0, [])


def test_a_citation_of_no_passage_is_told(
    finished_run: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model doesn't cite.
    texts = {True: "It was 5 [2].", False: "It was 4 [1][7]."}
    monkeypatch.setattr(Assistant, "_answer", lambda self, prompt, use_base, on_text: texts[use_base])
    flags = ("--prepared", str(prepared), "--device", "cpu", "--max-new-tokens", "4")
    told = run("ask", str(finished_run), QUESTION, *flags)
    assert "*[1] pumps.md" in told.stdout
    assert "note: the answer cites [7]; the prompt had 2 passages." in told.stderr
    told = run("ask", str(finished_run), QUESTION, *flags, "--base")
    assert "note: the tuned model's answer cites [7]; the prompt had 2 passages." in told.stderr
    assert "base model's answer" not in told.stderr
    found = json.loads(ask(finished_run, QUESTION, "--prepared", str(prepared), "--json"))
    assert found["answers"]["tuned"] == {"text": texts[False], "cited": [1], "invalid": [7]}


def test_documents_that_have_changed_since_are_told(
    finished_run: Path,
    prepared: Path,
    documents: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (documents / "pipes.md").unlink()
    (documents / "new.md").write_text("new")
    os.utime(documents / "new.md", (0, 0))  # copied with its own time
    (documents / "valves.md").write_text("# valves\n\nThe revenue of valves was 6 million.")
    flags = ("--prepared", str(prepared), "--device", "cpu", "--max-new-tokens", "4")
    result = run("ask", str(finished_run), QUESTION, *flags)
    assert (
        "note: 3 documents are new, changed or gone since the folder was prepared (new.md); `selfaug prepare --config "
        f"{prepared}/prepare.yaml --output {prepared} --overwrite` reads what has changed (--skip-bad-rows leaves out "
        "questions whose answer is gone).\n" in result.stderr
    )
    # Elsewhere, names in its settings would lead to other files.
    before = os.getcwd()
    elsewhere = prepared.rename(prepared.with_name("my data")).parent
    monkeypatch.chdir(elsewhere)
    told = open_documents(finished_run, tiny_tokenizer, prepared="my data").outdated_in_words()
    folder = elsewhere / "my data"
    assert (
        f"`(cd {shlex.quote(before)} && selfaug prepare --config '{folder}/prepare.yaml' --output '{folder}' "
        "--overwrite)` reads" in told
    )
    monkeypatch.chdir(before)
    folder.rename(prepared)
    shutil.rmtree(documents)  # as where only what was prepared has been copied
    assert json.loads(ask(finished_run, QUESTION, "--prepared", str(prepared), "--json"))["outdated"] == []


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_wrong_usage(finished_run: Path, prepared: Path, question: str) -> None:
    assert "the question is empty" in ask(finished_run, question, "--prepared", str(prepared), code=2)


def test_questions_that_can_not_be_answered(finished_run: Path, prepared: Path) -> None:
    where = ("--prepared", str(prepared))
    assert "no passage shares a word with 'zzz?'" in ask(finished_run, "zzz?", *where, code=2)
    long = ask(finished_run, "pumps " * 500, *where, code=2)
    assert "don't fit into 256" in long
    assert "fewer words" in long


def test_an_empty_name_is_no_folder(
    finished_run: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "an empty name was given" in ask(finished_run, QUESTION, "--prepared", "", code=2)
    monkeypatch.chdir(prepared)
    result = run("recall", "", "--questions", "questions.jsonl")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "an empty name was given for the folder of prepared documents" in result.stderr


def test_documents_that_are_not_there(finished_run: Path, prepared: Path, tmp_path: Path) -> None:
    assert "was not trained on documents" in ask(finished_run, QUESTION, code=2)
    missing = tmp_path / "nowhere at all"
    told = ask(finished_run, QUESTION, "--prepared", str(missing), code=2)
    assert "there is no record.json" in told
    assert f"--output '{missing}'" in told
    for name in ("owners.npy", "documents.jsonl"):
        (prepared / "index" / name).write_bytes(b"")
        assert "is not whole" in ask(finished_run, QUESTION, "--prepared", str(prepared), code=2)
        (prepared / "index" / name).unlink()
        assert "is not whole" in ask(finished_run, QUESTION, "--prepared", str(prepared), code=2)
    shutil.rmtree(prepared / "index")
    assert "there is no index" in ask(finished_run, QUESTION, "--prepared", str(prepared), code=2)


def test_a_run_that_is_not_there_is_wrong_usage(prepared: Path, tmp_path: Path) -> None:
    ask(tmp_path / "no-run", QUESTION, "--prepared", str(prepared), code=2)
