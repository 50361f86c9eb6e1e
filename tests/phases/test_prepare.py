from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from company_reports import COMPANIES, configured, revenue, rows_of
from other_user import as_nobody
from scanned_pdf import partly_scanned
from selfaug.cli.main import app
from selfaug.config import load_config
from selfaug.data.rows import load_rows
from selfaug.data.template import RetrievalTemplate
from selfaug.errors import ConfigError, DataError, StorageError
from selfaug.phases.inputs import load_training_data, template_of
from selfaug.phases.prepare import prepare
from selfaug.phases.prepared_folder import outdated_documents
from selfaug.phases.progress import Progress
from selfaug.phases.question_files import load_pairs
from selfaug.phases.recall import recall
from selfaug.prepare_config import load_prepare_config
from selfaug.records import read_record, write_lines
from selfaug.retrieval.chunking import count_words
from selfaug.retrieval.folder_files import PREPARED_MARKER
from selfaug.retrieval.index import Index
from selfaug.retrieval.retriever import Passage
from selfaug.rundir import alone_in

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself


def test_a_row_is_what_training_takes(prepared: Path, tiny_model_dir: Path) -> None:
    config = load_config(None, {"--model": str(tiny_model_dir), "--prepared": str(prepared)})
    assert config.data.train == [str(prepared / "train.jsonl")]
    assert config.data.eval == [str(prepared / "validation.jsonl")]
    assert config.data.template == str(prepared / "template.yaml")
    # Three passages and this model's window: what an answer is from is never left out of its prompt.
    as_rows = config.data.model_copy(update={"train": [str(prepared)], "eval": []})
    with pytest.raises(DataError, match="was written by `selfaug prepare`") as caught:
        load_training_data(config.model_copy(update={"data": as_rows}))
    assert "give it as --prepared (data.prepared)" in str(caught.value.hint)
    with pytest.raises(DataError, match="of 15 rows can't be used") as caught:
        load_training_data(config)
    assert all("the 3 passages up to the one that the answer is from" in one for one in caught.value.problems)
    data = load_training_data(
        config.model_copy(update={"data": config.data.model_copy(update={"skip_bad_rows": True})})
    )
    assert len(data.train.rows) + len(data.train.problems) == len(rows_of(prepared)["train"])
    gold = {row["id"]: row["gold"] for row in rows_of(prepared)["train"]}
    dropped = [(gold[row.id], row.dropped_passages) for row in data.train.rows if row.dropped_passages]
    assert dropped
    assert all(number is None or number - 1 not in indexes for number, indexes in dropped)
    assert data.report["train"]["template"] == RetrievalTemplate().to_dict()
    assert data.report["no_answer"] == "The documents don't say."
    for row in rows_of(prepared)["train"]:
        if row["gold"] is None:
            assert row["answer"] == "The documents don't say."
        else:
            assert row["answer"] == f"{row['value']} [{row['gold']}]"
            assert row["value"] in row["context"][row["gold"] - 1]
        # Where a question names no document, it hangs together with others about the one that its answer is from.
        if row["documents"] or row["gold"] is not None:
            assert row["cluster"] in (
                row["documents"] or [path.name for path in prepared.parent.rglob("*.md")]
            )


def test_files_of_one_heading_are_told_apart_by_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    for name, billions in (("norvik", 3), ("talon", 2), ("belmar", 1)):
        text = f"# Executive summary\n\nRevenue was ${billions},689 million.\n"
        (folder / f"{name}_2023.md").write_text(text)
    prepare(configured(folder, None, tmp_path / "data"))
    found = Index(tmp_path / "data" / "index").search("What was the revenue of Talon?", 1)
    assert [one.text for one in found] == ["talon_2023: Executive summary\nRevenue was $2,689 million."]


def test_rows_to_train_on_may_ask_further_questions(reports: Path, questions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    settings = {"FOLDER": str(reports), "--questions": [str(questions)], "--output": str(folder)}
    prepare(load_prepare_config(None, {**settings, "--passages": "4", "--follow-ups": "2"}))
    rows = rows_of(folder)
    further = [one for row in rows["train"] for one in row.get("follow_ups", [])]
    assert further
    asked = {row["question"] for row in rows["train"]}
    assert {one["question"] for one in further} <= asked
    assert not any("follow_ups" in row for split in ("validation", "test") for row in rows[split])
    assert read_record(folder / "record.json", "prepare")["rows"]["train"]["follow_ups"] == len(further)
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert f"ask {len(further)} further questions" in card
    shown = [row for row in rows["train"] if f"\n    Question: {row['question']}\n" in card]
    for one in (one for row in shown for one in row.get("follow_ups", [])):
        assert f"user: Question: {one['question']}\n    \n    assistant: {one['answer']}" in card
    assert any("follow_ups" in row for row in shown)
    # Lengths are of all that is asked and answered.
    answers = [
        "\n".join([row["answer"], *(one["answer"] for one in row.get("follow_ups", []))])
        for split in rows
        for row in rows[split]
    ]
    lengths = read_record(folder / "record.json", "prepare")["tokens"]
    assert lengths["completion"]["most"] == max(count_words(answers))


def test_a_template_that_can_not_learn_further_questions_is_told_first(
    reports: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + '<think></think>' * (loop.last and m.role == 'assistant') }}"
        "{{ m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer.save_pretrained(model)
    for name, follow_ups in ((model, 1), (model, 0), (tiny_model_dir, 1)):
        told: list[Progress] = []
        more = (f"documents.tokenizer={name}", f"rows.follow_ups={follow_ups}", "run.overwrite=true")
        prepare(configured(reports, None, tmp_path / "data", *more), on_progress=told.append)
        warned = [one for one in told if "training refuses rows with follow_ups" in one.message]
        assert warned == (told[:1] if name == model and follow_ups else [])
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    tokenizer.chat_template += "{% for m in messages %}{{ m.role + m.content + '<|im_end|>' }}{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    tokenizer.save_pretrained(model)
    (without := tmp_path / "template.yaml").write_text("system: null\n", encoding="utf-8")
    for template in ("null", without):
        told = []
        more = (f"documents.tokenizer={model}", f"rows.template={template}", "run.overwrite=true")
        prepare(configured(reports, None, tmp_path / "data", *more), on_progress=told.append)
        warned = [one for one in told if "refuses a system message" in one.message]
        assert warned == (told[:1] if template == "null" else [])


def test_settings_that_are_given_win_over_what_is_prepared(prepared: Path, tiny_rows: Path) -> None:
    flags = {"--model": "m", "--prepared": str(prepared), "--train": str(tiny_rows)}
    assert load_config(None, flags).data.train == [str(tiny_rows)]


def test_a_template_that_was_edited_is_refused_before_training(
    reports: Path, questions: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The run would train, and `ask` refuse it."""
    folder, other = tmp_path / "data", tmp_path / "other.yaml"
    prepare(configured(reports, questions, folder))
    template = folder / "template.yaml"
    template.write_text(json.dumps({**RetrievalTemplate().to_dict(), "system": "Be brief."}))
    shutil.copy(template, other)

    def form(*sets: str) -> str | None:
        flags = {"--model": str(tiny_model_dir), "--prepared": str(folder)}
        return template_of(load_config(None, flags, [*sets])).system

    with pytest.raises(ConfigError, match=r"template.yaml was changed since .*data was prepared") as caught:
        load_training_data(load_config(None, {"--model": str(tiny_model_dir), "--prepared": str(folder)}))
    assert f"--set rows.template={template} --overwrite" in (caught.value.hint or "")
    assert form(f"data.template={other}") == "Be brief."  # whoever names another file means it
    prepare(configured(reports, questions, folder, f"rows.template={template}", "run.overwrite=true"))
    assert form() == "Be brief."
    (folder / "record.json").unlink()  # moved without it
    assert form() == "Be brief."


def test_the_card_says_what_there_is(prepared: Path) -> None:
    card = (prepared / "card.md").read_text()
    for words in (
        "24 documents", "broken.pdf", "| train |", "| test |", "4 of them have no answer", "## Recall", "## Lengths",
        "## Sample 1", "Question: ",
    ):  # fmt: skip
        assert words in card, words


def test_recall_is_measured_in_all_documents(prepared: Path, questions: Path) -> None:
    record = read_record(prepared / "record.json", "prepare")
    assert record["recall"]["questions"] == 24
    assert record["recall"]["at"]["1"]["recall"] == 1.0
    assert record["recall"]["missed"] == []
    assert recall(prepared, [str(questions)], depth=3)["at"]["3"]["recall"] == 1.0
    poor = recall(prepared, [str(questions)], depth=2, retriever=f"{__name__}:always_the_same")
    assert poor["at"]["1"]["recall"] == pytest.approx(1 / 24)
    assert len(poor["missed"]) == 23
    assert (poor["unnamed"], poor["unnamed_left_out"]) == (0, 0)
    assert (poor["by_chance"], poor["without_chance"]) == (
        [],
        {k: at["recall"] for k, at in poor["at"].items()},
    )


def test_questions_about_one_document_tell_less_of_recall(prepared: Path, tmp_path: Path) -> None:
    row = {
        "question": "What was the revenue of Company3 in 2024?",
        "answer": revenue(3, 2024),
        "document": "c3/2024.md",
    }
    write_lines(tmp_path / "same.jsonl", [row] * 12)
    at = recall(prepared, [str(tmp_path / "same.jsonl")], depth=1)["at"]["1"]
    assert at["recall"] == at["high"] == 1.0
    assert at["low"] < 0.5  # 12 of 12 have 0.74


def test_recall_says_which_questions_would_be_measured_against_what_is_found(
    prepared: Path, questions: Path, tmp_path: Path
) -> None:
    """The right passages of a question without a document are those that are found for it."""
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    of_documents = [row for row in rows if row["answer"] is not None]
    mixed, unnamed = tmp_path / "mixed.jsonl", tmp_path / "unnamed.jsonl"
    for file, named in ((mixed, 4), (unnamed, 0)):
        for row in of_documents[named:]:
            row.pop("document", None)
        write_lines(file, of_documents)
        of_documents = [json.loads(line) for line in file.read_text().splitlines()]
    found = recall(prepared, [str(mixed)], depth=1)
    assert (found["questions"], found["unnamed"], found["unnamed_left_out"]) == (4, 0, 20)
    found = recall(prepared, [str(unnamed)], depth=1)
    assert (found["questions"], found["unnamed"], found["unnamed_left_out"]) == (24, 24, 0)


def test_what_has_changed_since_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By size and time of each file as it was read, wherever the working folder is."""
    folder, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    (folder / "notes").mkdir(parents=True)
    (elsewhere / "notes").mkdir(parents=True)  # of the same name, with other documents
    for name in ("meanwhile", "copied", "touched", "same"):
        (folder / "notes" / f"{name}.md").write_text(f"{name} was 5")
    (folder / "notes" / "broken.pdf").write_text("no PDF")
    monkeypatch.chdir(folder)
    record = prepare(configured(Path("notes"), None, Path("data")))
    prepared = folder / "data"
    (folder / "notes" / "meanwhile.md").write_text("meanwhile was 15")
    (folder / "notes" / "copied.md").write_text("copied was 6")
    os.utime(folder / "notes" / "copied.md", (1, 1))  # as cp -p does
    os.utime(folder / "notes" / "touched.md", (2, 2))
    later = (folder / "notes" / "meanwhile.md").stat().st_mtime + 10
    os.utime(prepared / "index" / "index.json", (later, later))  # it is written last
    for place in (folder, elsewhere):
        monkeypatch.chdir(place)
        assert outdated_documents(prepared, record) == ["copied.md", "meanwhile.md"]
    # Of what could not be read the index says nothing: what is later than it is told.
    os.utime(folder / "notes" / "broken.pdf", (later + 10, later + 10))
    assert outdated_documents(prepared, record) == ["broken.pdf", "copied.md", "meanwhile.md"]


def test_of_what_may_not_be_looked_at_no_change_is_told() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to others
        private, prepared = Path(folder, "private"), Path(folder, "data")
        notes, inner = private / "notes", private / "notes" / "inner"
        inner.mkdir(parents=True)
        for place in (notes, inner):
            (place / "old.md").write_text("the revenue was 5")
        record = prepare(configured(notes, None, prepared))
        (notes / "new.md").write_text("the revenue is 6")
        os.utime(notes / "old.md", (1, 1))  # only what is in it tells that it is the same
        (notes / "old.md").chmod(0)
        for place in (Path(folder), prepared, prepared / "index"):
            place.chmod(0o755)
        for closed, told in ((private, []), (notes, []), (inner, ["new.md"])):
            closed.chmod(0)
            try:
                with as_nobody():
                    assert outdated_documents(prepared, record) == told, closed
            finally:
                closed.chmod(0o755)


def always_the_same(question: str, count: int) -> list[Passage]:
    return [Passage(f"It made {revenue(3, 2024)}.", "c3/2024.md")]


def test_only_what_has_changed_is_read_again(reports: Path, questions: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reports, tmp_path / "reports"))
    (folder / "broken.pdf").unlink()
    output = tmp_path / "data"
    first = prepare(configured(folder, questions, output))
    assert (first["documents"]["read"], first["documents"]["unchanged"]) == (24, 0)
    with pytest.raises(StorageError, match="prepared already"):
        prepare(configured(folder, questions, output))
    before = rows_of_any(output)
    again = prepare(configured(folder, questions, output, "run.overwrite=true"))
    assert (again["documents"]["read"], again["documents"]["unchanged"]) == (0, 24)
    assert rows_of_any(output) == before
    changed = folder / "c1" / "2023.md"
    changed.write_text(changed.read_text().replace("Revenue was", "Revenue: it was"))
    (folder / "c11" / "2024.md").unlink()
    pairs = [line for line in questions.read_text().splitlines() if "q11-2024" not in line]
    (tmp_path / "fewer.jsonl").write_text("\n".join(pairs))
    last = prepare(configured(folder, tmp_path / "fewer.jsonl", output, "run.overwrite=true"))
    assert (last["documents"]["read"], last["documents"]["unchanged"]) == (1, 22)
    assert last["documents"]["gone"] == ["c11/2024.md"]


def test_prepared_data_is_there_until_the_new_index_is(
    reports: Path, questions: Path, tmp_path: Path
) -> None:
    output = tmp_path / "data"
    prepare(configured(reports, questions, output))
    kept = visible_files(output)

    def cut(progress: Progress) -> None:
        if progress.stage == "reading documents" and progress.done:
            raise KeyboardInterrupt

    anew = configured(reports, questions, output, "run.overwrite=true", "documents.chunk_tokens=300")
    with pytest.raises(KeyboardInterrupt):
        prepare(anew, on_progress=cut)
    assert visible_files(output) == kept
    # What is wrong with the pairs alone shows before.
    other = tmp_path / "other.jsonl"
    other.write_text("{")
    with pytest.raises(DataError, match="1 of 1 question-answer pairs can't be used"):
        prepare(configured(reports, other, output, "run.overwrite=true"))
    assert visible_files(output) == kept
    # What they say of the documents shows with the new index, which doesn't take the old one's place then.
    other.write_text(
        json.dumps({"question": "What was it?", "answer": "$1 million", "document": "c1/2023.md"})
    )
    with pytest.raises(DataError, match="stand in no passage"):
        prepare(configured(reports, other, output, "run.overwrite=true"))
    assert visible_files(output) == kept
    assert prepare(anew)["documents"]["in_index"] == 24


def visible_files(folder: Path) -> dict[Path, bytes]:
    """All but what a run that was cut off keeps for the next one."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {file: file.read_bytes() for file in files}


def test_the_same_command_goes_on_where_it_was_stopped(
    reports: Path, questions: Path, tmp_path: Path
) -> None:
    def cut(progress: Progress) -> None:
        if progress.stage == "reading documents" and progress.done == 11:
            raise KeyboardInterrupt

    config = configured(reports, questions, tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        prepare(config, on_progress=cut)
    record = prepare(config)
    whole = prepare(configured(reports, questions, tmp_path / "whole"))
    assert record["documents"]["unchanged"] >= 9
    assert record["documents"]["read"] + record["documents"]["unchanged"] == whole["documents"]["read"]
    assert rows_of_any(tmp_path / "data") == rows_of_any(tmp_path / "whole")
    assert not (tmp_path / "data" / ".index.read.jsonl").exists()


def rows_of_any(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted(folder.glob("*.jsonl"))}


def test_a_glossary_is_kept_with_the_index(reports: Path, questions: Path, tmp_path: Path) -> None:
    rows = [
        {
            "question": f"How large was the staff of Company{company} in 2023?",
            "answer": f"{100 + company} people",
            "document": f"c{company}/2023.md",
        }
        for company in range(COMPANIES)
    ]
    asked = tmp_path / "asked.jsonl"
    write_lines(asked, rows)
    glossary = tmp_path / "glossary.txt"
    glossary.write_text("revenue, top line\nstaff, people\n")

    def at_one(*sets: str) -> tuple[dict[str, Any], float]:
        record = prepare(configured(reports, questions, tmp_path / "data", "run.overwrite=true", *sets))
        return record, recall(tmp_path / "data", [str(asked)], depth=1)["at"]["1"]["recall"]

    before, without = at_one()
    after, with_glossary = at_one(f"retrieval.glossary={glossary}")
    assert without < with_glossary == 1
    assert before["retrieval"]["glossary"] == {"groups": 0, "words": 0}
    assert after["retrieval"]["glossary"] == {"groups": 2, "words": 4}
    assert (after["documents"]["read"], after["documents"]["unchanged"]) == (0, 24)
    assert "4 words and phrases in 2 groups" in (tmp_path / "data" / "card.md").read_text()
    # The file is not needed any more.
    glossary.unlink()
    assert recall(tmp_path / "data", [str(asked)], depth=1)["at"]["1"]["recall"] == 1


def test_without_questions_there_is_an_index(reports: Path, tmp_path: Path) -> None:
    record = prepare(configured(reports, None, tmp_path / "data"))
    assert "rows" not in record
    assert "there is an index" in (tmp_path / "data" / "card.md").read_text()
    assert not list((tmp_path / "data").glob("*.jsonl"))


def test_rows_go_with_what_they_were_made_of(reports: Path, questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "data"
    prepare(configured(reports, questions, output))
    assert list(output.glob("*.jsonl"))
    prepare(configured(reports, None, output, "run.overwrite=true"))
    assert not list(output.glob("*.jsonl"))
    config = load_config(None, {"--model": "m", "--prepared": str(output)})
    with pytest.raises(DataError, match=r"train\.jsonl"):
        load_rows(config.data.train)


def firm_search(question: str, count: int) -> list[dict[str, str]]:
    """Passages of a firm's own: cut otherwise, worst first, of all documents."""
    return [
        {"text": f"FIRM {company}: {revenue(company, year)} in {year}", "document": f"c{company}/{year}.md"}
        for year in (2023, 2024)
        for company in range(COMPANIES)
    ][:count]


def nameless_search(question: str, count: int) -> list[str]:
    return ["FIRM"]


def foreign_search(question: str, count: int) -> list[dict[str, str]]:
    return [{"text": "FIRM", "document": "/srv/reports/c1/2023.md"}]


def test_rows_have_the_passages_of_a_retriever_of_ones_own(
    reports: Path, questions: Path, tmp_path: Path
) -> None:
    sets = ("split.test=0.25", f"retrieval.retriever={__name__}:firm_search")
    record = prepare(configured(reports, questions, tmp_path / "data", *sets))
    rows = [row for rows in rows_of(tmp_path / "data").values() for row in rows]
    assert len(rows) == 28
    assert all(passage.startswith("FIRM ") for row in rows for passage in row["context"])
    for split, found in rows_of(tmp_path / "data").items():
        for row in found:
            if row["gold"]:
                assert row["value"] in row["context"][row["gold"] - 1]
            documents = {f"c{text.split()[1][:-1]}/{text.split()[-1]}.md" for text in row["context"]}
            assert {record["splits"][document] for document in documents} == {split}
    for name, error, match in (
        ("nameless_search", ConfigError, "a passage without its document"),
        ("foreign_search", DataError, "none is left to train on"),
    ):
        with pytest.raises(error, match=match):
            prepare(configured(reports, questions, tmp_path / name, f"retrieval.retriever={__name__}:{name}"))


SEARCHES: list[str] = []


def search_that_goes_down(question: str, count: int) -> list[dict[str, str]]:
    """A service that answers some questions, and then no more."""
    SEARCHES.append(question)
    if len(SEARCHES) > 30:
        raise TimeoutError("no answer in 5 s")
    return firm_search(question, count)


def test_a_retriever_that_fails_leaves_what_was_prepared(
    reports: Path, questions: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(reports, tmp_path / "reports"))
    output = tmp_path / "data"
    sets = ("run.overwrite=true", f"retrieval.retriever={__name__}:search_that_goes_down")
    prepare(configured(folder, questions, output))
    kept = visible_files(output)
    (folder / "new.md").write_text("# New\n\nIt is new.")
    SEARCHES.clear()
    with pytest.raises(ConfigError, match=r"goes_down' failed for 'What .*: TimeoutError: no answer in 5 s"):
        prepare(configured(folder, questions, output, *sets))
    assert len(SEARCHES) == 31
    assert visible_files(output) == kept
    # Nothing is read twice for it.
    other = (sets[0], f"retrieval.retriever={__name__}:firm_search")
    record = prepare(configured(folder, questions, output, *other))
    assert (record["documents"]["read"], record["documents"]["in_index"]) == (0, 25)


def test_recall_of_ones_own_retriever_looks_for_the_evidence(reports: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    row = {
        "question": "What did Company3 make?",
        "answer": "a lot",
        "document": "c3/2024.md",
        "evidence": revenue(3, 2024),
    }
    asked.write_text(json.dumps(row))
    prepare(configured(reports, None, tmp_path / "data"))
    found = recall(tmp_path / "data", [str(asked)], depth=2, retriever=f"{__name__}:always_the_same")
    assert found["at"]["1"]["recall"] == 1


def test_bad_pairs_are_told_all_at_once(reports: Path, questions: Path, tmp_path: Path) -> None:
    good = questions.read_text().splitlines()[:12]
    bad = [
        {"question": "no answer"},
        {"question": "", "answer": "x"},
        {"question": "which?", "answer": "5", "document": "c1/2023.mdx"},
        {"question": "which?", "answer": "5", "document": "2023.md"},
        {"question": "which?", "answer": "5", "document": 7},
        {"question": "which?", "answer": "5", "page": 0, "document": "c1/2023.md"},
        {"question": "which?", "answer": None, "document": "c1/2023.md"},
        {"question": "which?", "answer": ["5"]},
        {"id": "q0-2023", "question": "again?", "answer": "5"},
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join([*good, *(json.dumps(row) for row in bad)]))
    with pytest.raises(DataError) as caught:
        prepare(configured(reports, file, tmp_path / "data"))
    problems = "\n".join(caught.value.problems)
    for line, words in enumerate(
        (
            "'answer' is missing", "'question' is missing or empty", "did you mean 'c1/2023.md'?", "could be c",
            "must be a path", "whole number from 1", "has no answer that could stand", "must be text",
            "is taken by",
        ),
        start=13,
    ):  # fmt: skip
        assert f"{file}:{line}: " in problems
        assert words in problems
    # No document was read for it.
    assert not (tmp_path / "data").exists()
    record = prepare(configured(reports, file, tmp_path / "data", "questions.skip_bad_rows=true"))
    assert record["documents"]["read"] == 24
    assert len(record["questions"]["left_out"]) == 9


def test_nearest_names_are_looked_for_as_far_as_problems_are_shown(tmp_path: Path) -> None:
    """Where a folder was renamed, each of 5,000 questions took seconds before anything was shown."""
    write_lines(tmp_path / "pairs.jsonl", [{"question": "?", "answer": "5", "document": "c1/2023.mdx"}] * 30)
    with pytest.raises(DataError) as caught:
        load_pairs([str(tmp_path / "pairs.jsonl")], ["c1/2023.md"])
    near = [problem.endswith("can be read; did you mean 'c1/2023.md'?") for problem in caught.value.problems]
    assert near == [True] * 20 + [False] * 10


def test_an_answer_that_stands_nowhere_is_told(reports: Path, questions: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    wrong = {"id": "w", "question": "What was it?", "answer": "$1 million", "document": "c1/2023.md"}
    found = {**wrong, "id": "f", "answer": "a lot", "evidence": "people worked there"}
    file.write_text(questions.read_text() + json.dumps(wrong) + "\n" + json.dumps(found))
    with pytest.raises(DataError, match="of 1 of 30 questions stand in no passage") as caught:
        prepare(configured(reports, file, tmp_path / "data"))
    assert caught.value.problems == ["w: the answer '$1 million' is not in c1/2023.md"]
    record = prepare(configured(reports, file, tmp_path / "data", "questions.skip_bad_rows=true"))
    assert record["questions"]["pairs"] == 29


def test_right_passages_by_chance_are_told(reports: Path, questions: Path, tmp_path: Path) -> None:
    """ "36" may be a number of plants, a share, and a part of "36-month"."""
    for name in ("c0/2023.md", "c1/2023.md"):
        with (reports / name).open("a") as file:
            file.write("\n## Plants\n\nIt runs 36 plants.\n\n## Bonds\n\nA 36-month bond was placed.\n")
    unclear = {"id": "unclear", "question": "How many plants?", "answer": "36", "document": "c0/2023.md"}
    clear = {**unclear, "id": "clear", "document": "c1/2023.md", "evidence": "36 plants"}
    more = tmp_path / "more.jsonl"
    more.write_text(questions.read_text() + json.dumps(unclear) + "\n" + json.dumps(clear) + "\n")
    told: list[Progress] = []
    record = prepare(configured(reports, more, tmp_path / "data"), on_progress=told.append)
    assert record["questions"]["by_chance"] == record["recall"]["by_chance"] == ["unclear"]
    (warned,) = [one for one in told if "Give `evidence`" in one.message]
    assert warned.message.startswith("1 question has neither `evidence` nor `page`")
    assert warned.message.endswith("the card names them: unclear")
    card = (tmp_path / "data" / "card.md").read_text()
    assert "- `unclear`: its answer stands in several" in card
    assert "Of the questions measured, 1 has neither `evidence` nor `page`" in card
    found = recall(tmp_path / "data", [str(more)], depth=1)
    assert (found["missed"], found["by_chance"]) == (["clear"], ["unclear"])
    assert found["at"]["1"]["recall"] == pytest.approx(25 / 26)
    assert found["without_chance"] == {"1": 24 / 25}


@pytest.mark.parametrize(
    ("sets", "error", "match"),
    [
        (["retrieval.glossary=nowhere.txt"], ConfigError, "can't read the glossary nowhere.txt"),
        (["documents.folder=nowhere"], DataError, "there is no folder"),
        (["rows.template=nowhere.yaml"], ConfigError, "can't read the template"),
        (["retrieval.retriever=nowhere"], ConfigError, "there is no retriever"),
        (["retrieval.language=klingon"], ConfigError, "klingon"),
    ],
)
def test_what_can_not_be_used_is_told_first(
    reports: Path, questions: Path, tmp_path: Path, sets: list[str], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        prepare(configured(reports, questions, tmp_path / "data", *sets))


def test_settings_are_checked_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_prepare_config(
            None, {"FOLDER": "d"}, ["rows.completion=x", "split.test=0.95", "documents.chunk_tokns=3"]
        )
    problems = "\n".join(caught.value.problems)
    assert "documents.chunk_tokns (did you mean documents.chunk_tokens?)" in problems
    for words in ("rows.completion: needs {answer}", "leaves nothing to train on"):
        assert words in problems
    with pytest.raises(ConfigError, match="not valid") as caught:
        load_prepare_config(None, {}, [])
    assert "documents.folder is missing: give it in the file or with FOLDER" in caught.value.problems[0]
    with pytest.raises(ConfigError) as caught:
        load_prepare_config(None, {"FOLDER": "d"}, ["documents.overlap_tokens=200"])
    assert "at most half" in caught.value.problems[0]


def test_a_folder_that_holds_something_else_is_left_alone(reports: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="not made by selfaug prepare"):
        prepare(configured(reports, None, tmp_path, "run.overwrite=true"))
    with pytest.raises(StorageError, match="is a file"):
        prepare(configured(reports, None, tmp_path / "mine.txt"))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_folder_without_any_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "empty.txt").touch()
    with pytest.raises(DataError, match=r"no document in .* has text") as caught:
        prepare(configured(tmp_path / "docs", None, tmp_path / "data"))
    assert "empty.txt" in caught.value.problems[0]


def test_what_prepare_is_given_or_writes_is_no_document(tmp_path: Path) -> None:
    """The questions in the folder of documents were searched, and gave their answers away."""
    folder = tmp_path / "documents"
    folder.mkdir()
    names = [f"firm_{number}.txt" for number in range(8)]
    for number, name in enumerate(names):
        (folder / name).write_text(f"Revenue was ${number + 4} million.")
    (folder / "glossary.txt").write_text("revenue, sales\n")
    lines = [f"What is the revenue of firm {n}?,${n + 4} million,{name}" for n, name in enumerate(names)]
    (folder / "pairs.csv").write_text("\n".join(["question,answer,document", *lines]))
    # Of another month and of other runs: they have answers to the same questions.
    (folder / "january.csv").write_text(
        "\n".join(["sep=;", 'Id;"Question";Answer', "1;The revenue of firm 1?;5"])
    )
    for other, settings, beginning, text in [
        ("january", "prepare.yaml", PREPARED_MARKER, "card.md"),
        ("run", "config.yaml", "# A selfaug run. To go on with it:", "report.html"),
    ]:
        (folder / other).mkdir()
        (folder / other / settings).write_text(f"{beginning}\n")
        (folder / other / text).write_text("What is the revenue of firm 1? $5 million")
    config = configured(
        folder, folder / "pairs.csv", folder / "data", "run.overwrite=true", f"retrieval.glossary={folder}/glossary.txt"
    )  # fmt: skip
    for _ in range(2):
        record = prepare(config)
        assert record["documents"]["in_index"] == 8
        left_out = record["documents"]["left_out"]
        assert left_out.keys() == {"glossary.txt", "pairs.csv", "data", "january.csv", "january", "run"}
        assert "has the columns `question` and `answer`" in left_out["january.csv"]
        # The words of a file's name are found.
        assert record["recall"]["at"]["1"]["recall"] == 1
    assert outdated_documents(folder / "data", record) == []
    # A folder that holds nothing any more, as one that isn't mounted: what was prepared before stays.
    kept = visible_files(folder / "data")
    for name in (*names, "pairs.csv"):
        (folder / name).unlink()
    with pytest.raises(DataError, match="has text"):
        prepare(config.model_copy(update={"questions": config.questions.model_copy(update={"files": []})}))
    assert visible_files(folder / "data") == kept


def test_documents_beside_the_questions_of_a_folder_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "documents" / "2023"
    folder.mkdir(parents=True)
    lines = ["question,answer,document"]
    for number in range(8):
        (folder / f"firm_{number}.txt").write_text(f"Revenue was ${number + 4} million.")
        lines.append(f"What is the revenue of firm {number}?,${number + 4} million,2023/firm_{number}.txt")
    (folder / "pairs.csv").write_text("\n".join(lines))
    record = prepare(configured(folder.parent, folder, tmp_path / "data"))
    assert record["documents"]["in_index"] == 8
    assert list(record["documents"]["left_out"]) == ["2023/pairs.csv"]


def test_paths_of_the_home_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise `output: ~/data` would make a folder that is called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    others = ("retrieval.glossary=~/words.txt", "rows.template=~/t.yaml")
    config = configured(Path("~/reports"), Path("~/pairs.csv"), Path("~/data"), *others)
    assert (config.documents.folder, config.run.output) == (f"{tmp_path}/reports", f"{tmp_path}/data")
    assert config.questions.files == [f"{tmp_path}/pairs.csv"]
    assert (config.retrieval.glossary, config.rows.template) == (
        f"{tmp_path}/words.txt",
        f"{tmp_path}/t.yaml",
    )


def test_two_at_once_do_not_mix(reports: Path, tmp_path: Path) -> None:
    with (
        alone_in(tmp_path / "data", "is being prepared", hint="wait."),
        pytest.raises(StorageError, match="is being prepared by another process"),
    ):
        prepare(configured(reports, None, tmp_path / "data"))
    assert prepare(configured(reports, None, tmp_path / "data"))["documents"]["in_index"] == 24


def test_rows_that_do_not_fit_the_model_are_told(
    reports: Path, questions: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    told: list[Progress] = []
    config = configured(reports, questions, tmp_path / "data", f"documents.tokenizer={tiny_model_dir}")
    prepare(config, on_progress=told.append)
    (message,) = (one.message for one in told if "the window of" in one.message)
    assert re.match(r"\d+ of 28 rows have more tokens than the window of .* \(256\), up to \d{3}: ", message)


def test_progress_is_told(reports: Path, questions: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    prepare(configured(reports, questions, tmp_path / "data"), on_progress=told.append)
    assert {progress.stage for progress in told} >= {"reading documents", "warning"}
    assert any("broken.pdf is left out" in progress.message for progress in told)


def test_what_can_not_be_read_is_told_before_questions_about_it_fail(reports: Path, tmp_path: Path) -> None:
    """The answers stood in no passage, and nobody was told that their document is damaged."""
    pair = {"id": "q", "question": "What was the revenue?", "answer": "$9 million", "document": "c0/2023.md"}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(pair) + "\n")
    told: list[Progress] = []
    with pytest.raises(DataError, match="stand in no passage"):
        prepare(configured(reports, file, tmp_path / "data"), on_progress=told.append)
    assert any("broken.pdf is left out" in progress.message for progress in told)


def test_the_encoding_of_texts_can_be_said(tmp_path: Path) -> None:
    """Polish in Windows-1250 was read as Windows-1252, "Łódź" as "£ódŸ", and nobody was told."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.txt").write_bytes("Zakład w Łodzi".encode("cp1250"))
    (folder / "b.html").write_bytes("<p>Zakład w Łodzi</p>".encode("cp1250"))
    (folder / "c.txt").write_bytes("Zakład w Łodzi".encode())
    (folder / "d.html").write_bytes('<meta charset="latin1"><p>größer</p>'.encode("latin1"))
    guessed = (
        "is read, but: read as Windows-1252, since it is not UTF-8; say documents.encoding if that is wrong"
    )
    told: list[Progress] = []
    prepare(configured(folder, None, tmp_path / "data"), on_progress=told.append)
    assert {progress.message for progress in told if progress.stage == "warning"} == {
        f"a.txt {guessed}",
        f"b.html {guessed}",
    }
    sets = ("documents.encoding=cp1250", "run.overwrite=true")
    told.clear()
    prepare(configured(folder, None, tmp_path / "data", *sets), on_progress=told.append)
    # Nobody was told that settings weren't those of before; they are those of the folder's own file.
    (changed,) = (progress.message for progress in told if progress.stage == "warning")
    own = tmp_path / "data" / "prepare.yaml"
    assert 'other settings before: documents.encoding is "cp1250", and was null. A model' in changed
    told.clear()
    prepare(load_prepare_config(own, {"--overwrite": True}), on_progress=told.append)
    assert not [progress for progress in told if progress.stage == "warning"]
    index = Index(tmp_path / "data" / "index")
    texts = {name: index.chunks_of(name)[0].text for name in ("a.txt", "b.html", "c.txt", "d.html")}
    assert texts == {**dict.fromkeys(texts, "Zakład w Łodzi"), "d.html": "größer"}


def test_settings_of_before_can_be_given_again_when_the_command_has_ended(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who read the note afterwards gave the folder's own file, which had the new settings by then."""
    documents, data, elsewhere = tmp_path / "documents", tmp_path / "my data", tmp_path / "elsewhere"
    for folder in (documents, elsewhere):
        folder.mkdir()
    (documents / "a.txt").write_text("The revenue was $5 million.")
    (tmp_path / "words.txt").write_text("revenue, sales\n")
    shutil.copytree(tiny_model_dir, tmp_path / "model")

    def warned(*sets: str) -> list[str]:
        told: list[Progress] = []
        config = configured(documents, None, data, "run.overwrite=true", *sets)
        prepare(config, on_progress=told.append)
        return [one.message for one in told if one.stage == "warning"]

    trained = (
        "retrieval.glossary=words.txt", "documents.tokenizer=model", "rows.completion='{answer}'", "rows.passages=2"
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert warned(*trained) == []
    monkeypatch.chdir(elsewhere)
    documents = documents.rename(tmp_path / "reports")  # the files of the settings are where they were
    (message,) = warned()
    assert f'retrieval.glossary is null, and was "{tmp_path}' in message
    assert 'rows.completion is "{answer} {sources}", and was "{answer}". A model' in message
    command = shlex.split(message[message.index("`") + 1 : message.rindex("`")])
    assert CliRunner().invoke(app, command[1:]).exit_code == 0
    now = load_prepare_config(data / "prepare.yaml")
    assert (now.rows.completion, now.rows.passages) == ("{answer}", 2)
    assert now.retrieval.glossary == str(tmp_path / "words.txt")
    assert now.documents.tokenizer == str(tmp_path / "model")
    # Stopped because of the note, nothing was prepared: what was to be is in the command.
    others = Path(shutil.copytree(documents, tmp_path / "other documents"))
    write_lines(tmp_path / "new.jsonl", [{"question": "What?", "answer": "$5 million", "document": "a.txt"}])

    def stop(progress: Progress) -> None:
        if progress.stage == "warning":
            raise KeyboardInterrupt(progress.message)

    limits = ("documents.processes=2", "documents.seconds=60", "documents.max_megabytes=9")
    config = configured(others, tmp_path / "new.jsonl", data, "run.overwrite=true", *limits)
    with pytest.raises(KeyboardInterrupt) as stopped:
        prepare(config, on_progress=stop)
    message = str(stopped.value)
    command = shlex.split(message[message.index("`") + 1 : message.rindex("`")])
    wanted = load_prepare_config(Path(command[3]), {}, [one for one in command if "=" in one])
    assert (wanted.documents.folder, wanted.questions.files) == (str(others), [str(tmp_path / "new.jsonl")])
    assert (wanted.rows.completion, wanted.rows.passages) == ("{answer}", 2)
    of_reading = wanted.documents
    assert (of_reading.processes, of_reading.seconds, of_reading.max_megabytes) == (2, 60, 9)
    # Another name of the same file, and limits of reading, are nothing that a model needs.
    monkeypatch.chdir(tmp_path)
    assert warned(*trained, *limits) == []
    # Nor is a folder that was moved with its documents and files: names count from where it is now.
    for name in ("reports", "my data", "words.txt", "model"):
        (tmp_path / name).rename(elsewhere / name)
    documents, data = elsewhere / "reports", elsewhere / "my data"
    monkeypatch.chdir(elsewhere)
    assert warned(*trained, *limits) == []


def test_documents_that_share_a_title_are_told(tmp_path: Path) -> None:
    """Contracts of one template have its title: no passage says whose it is."""
    folder = tmp_path / "documents"
    folder.mkdir()
    contract = "---\ntitle: Master Services Agreement\n---\nThe fee of {} is ${} million in {}."
    for name, year in (("acme", 2021), ("norvik", 2022), ("copy", 2022)):
        (folder / f"{name}.md").write_text(contract.format(name if name != "copy" else "norvik", year, year))
    for name in ("draft", "final"):  # nearly the same
        (folder / f"{name}.md").write_text(f"# Norvik\n\n{'Its margin of 2,023 plants rose. ' * 9}{name}")
    told: list[Progress] = []
    prepare(configured(folder, None, tmp_path / "data"), on_progress=told.append)
    (message,) = (progress.message for progress in told if progress.stage == "warning")
    assert message.startswith("2 documents have the title of another one that is not the same: ")
    assert "'Master Services Agreement' of acme.md, copy.md. " in message
    assert "is shown once, as the first one's" in message


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cp99999", "Python knows no encoding 'cp99999'"),
        ("rot13", "Python knows no encoding 'rot13'"),
        ("utf-16", "files in utf-16 can't be told from UTF-8 or binary ones; save them as UTF-8"),
        ("cp037", "files in cp037 can't be told"),
        ("utf-7", "files in utf-7 can't be told"),
        ("iso-2022-jp", "files in iso-2022-jp can't be told"),
    ],
)
def test_encodings_that_can_not_be_used_are_refused(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, None, tmp_path / "data", f"documents.encoding={name}")
    assert problem in caught.value.problems[0]


def test_what_is_not_read_is_told_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "scans.pdf").write_bytes(partly_scanned("txx"))
    (folder / "scan.pdf").write_bytes(partly_scanned("x"))
    os.mkfifo(folder / "pipe.pdf")
    expected = {
        "scans.pdf is read, but: 2 of 3 pages are pictures without text, which need OCR first if they are scans: 2-3",
        "pipe.pdf is left out: neither a file nor a folder",
        "scan.pdf is left out: scanned; needs OCR first",
    }
    for sets in ([], ["run.overwrite=true"]):
        told: list[Progress] = []
        record = prepare(configured(folder, None, tmp_path / "data", *sets), on_progress=told.append)
        assert {progress.message for progress in told if progress.stage == "warning"} == expected
        assert record["documents"]["incomplete"].keys() == {"scans.pdf"}
        # Again, no file is read: what can't be read isn't either.
        monkeypatch.setattr("selfaug.retrieval.reading_processes._Process", None)
    assert record["documents"]["unchanged"] == 1
    # With fewer files read at a time, one may take less time: it is tried again.
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        prepare(configured(folder, None, tmp_path / "data", "run.overwrite=true", "documents.processes=2"))
    card = (tmp_path / "data" / "card.md").read_text()
    for name in ("scans.pdf", "pipe.pdf"):
        assert name in card


def test_documents_that_are_gone_are_told(reports: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reports, tmp_path / "reports"))
    (folder / "c10" / "unread.mp3").write_bytes(b"ID3")
    prepare(configured(folder, None, tmp_path / "data"))
    card = (tmp_path / "data" / "card.md").read_text()
    assert "- `.mp3`: 1 file (c10/unread.mp3)" in card
    assert "- `.png`: 1 file (picture.png)" in card
    for company in (7, 8, 9):
        shutil.rmtree(folder / f"c{company}")
    (folder / "c1" / "2023.md").rename(folder / "moved.md")
    # By an index of before, too, of which nothing can be kept.
    made = json.loads((tmp_path / "data" / "index" / "index.json").read_text())
    made["data"]["settings"]["reader"] -= 1
    (tmp_path / "data" / "index" / "index.json").write_text(json.dumps(made))
    told: list[Progress] = []
    overwrite = configured(folder, None, tmp_path / "data", "run.overwrite=true")
    record = prepare(overwrite, on_progress=told.append)
    assert record["documents"]["unchanged"] == 0
    warned = [one.message for one in told if "not there any more" in one.message]
    assert len(warned) == 1
    assert [
        one.stage for one in told if "read anew, since this selfaug reads documents otherwise" in one.message
    ] == ["warning"]
    # What has only been moved is still in the index.
    assert "6 documents" in warned[0]
    assert "c7/2023.md, c7/2024.md, c8/2023.md, c8/2024.md, c9/2023.md, ...;" in warned[0]
    card = (tmp_path / "data" / "card.md").read_text()
    assert "## Not there any more" in card
    assert "- `c9/2024.md`: " in card
    assert "c1/2023.md" not in card


def test_tokens_are_those_of_the_model_that_is_named(
    reports: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    record = prepare(configured(reports, None, tmp_path / "data", f"documents.tokenizer={tiny_model_dir}"))
    assert record["documents"]["chunks"] >= 48
