"""A command says whose code it runs because a run's folder, or prepared documents, say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_main import libraries_as_they_were, run

from selfaug.config import dump_config, load_config
from selfaug.phases.whose_code import code_of_run
from selfaug.records import write_record
from selfaug.rundir import RunDir

__all__ = ["libraries_as_they_were"]  # a fixture of every test

OF_MODEL = "model.trust_remote_code, so code that comes with someone/model is run"
OF_DOCUMENTS = "record.json names the retriever search.of_theirs:find, so that function is run"


def begun(folder: Path, *sets: str) -> Path:
    """A run of which there is nothing but its settings: none of its code would be found here."""
    config = load_config(
        None,
        sets=["model.name=someone/model", "data.train=[rows.jsonl]", f"run.output={folder}", *sets],
    )
    folder.mkdir()
    RunDir(folder).config.write_text(RunDir(folder).config_text(dump_config(config)), encoding="utf-8")
    return folder


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Documents that were prepared to be searched by a function."""
    folder = tmp_path / "prepared"
    (folder / "index").mkdir(parents=True)
    (folder / "index" / "index.json").write_text("{}")
    write_record(folder / "record.json", "prepare", {"retrieval": {"retriever": "search.of_theirs:find"}})
    return folder


@pytest.mark.parametrize(
    ("command", "searches"),
    [
        (["chat", "RUN"], False),
        (["ask", "RUN", "who?"], True),
        (["serve", "RUN", "--offline"], True),
        (["serve", "RUN", "--offline", "--upstream", "http://127.0.0.1:9/v1"], True),
        (["export", "RUN", "--to", "RUN/exported"], False),
        (["export", "RUN", "--to", "RUN/exported", "--vllm"], False),
        (["evaluate", "RUN", "--offline"], False),
        (["monitor", "RUN", "--reference", "--offline"], False),
        (["realign", "RUN", "--data", "new.jsonl", "--offline"], False),
        (["train", "--resume", "--output", "RUN", "--offline"], False),
    ],
)
def test_it_is_said_before_anything_is_loaded(
    tmp_path: Path, prepared: Path, command: list[str], searches: bool
) -> None:
    folder = begun(tmp_path / "run", "model.trust_remote_code=true", f"data.prepared={prepared}")
    result = run(*(argument.replace("RUN", str(folder)) for argument in command))
    assert result.exit_code != 0
    notes = [f"note: {folder / 'config.yaml'} has {OF_MODEL}."]
    notes += [f"note: {prepared}/{OF_DOCUMENTS}."] if searches else []
    assert result.stderr.splitlines()[: len(notes)] == notes
    assert result.stderr.count("note: ") == len(notes)


def test_documents_alone_say_so_too(prepared: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("")
    for own, notes in ((["--retriever", "bm25"], 0), ([], 1)):
        result = run("recall", str(prepared), "--questions", str(questions), *own)
        assert result.stderr.count(OF_DOCUMENTS) == notes


def test_where_there_is_no_other_code_nothing_is_said(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", f"data.prepared={tmp_path / 'not-here'}")
    assert code_of_run(folder, searches=True) == []
    # With all weights trained, the model that is loaded stands in the run's own folder.
    whole = begun(tmp_path / "whole", "model.trust_remote_code=true", "lora.method=full")
    assert code_of_run(whole)[0].endswith(f"someone/model and {whole / 'model'} is run")
