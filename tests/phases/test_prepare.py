from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docx
import pytest

from scanned_pdf import partly_scanned
from selfaug.config import TrainConfig, load_config
from selfaug.data.rows import load_rows
from selfaug.data.template import RetrievalTemplate
from selfaug.errors import ConfigError, DataError, StorageError
from selfaug.phases.ask import open_assistant
from selfaug.phases.inputs import load_training_data
from selfaug.phases.preparation_card import preparation_card
from selfaug.phases.prepare import prepare
from selfaug.phases.prepared_folder import outdated_documents
from selfaug.phases.progress import Progress
from selfaug.phases.recall import recall
from selfaug.phases.train import train
from selfaug.prepare_config import PrepareConfig, load_prepare_config
from selfaug.records import read_lines, read_record
from selfaug.retrieval.chunking import count_words
from selfaug.retrieval.index import Index
from selfaug.retrieval.retriever import Passage
from selfaug.rundir import alone_in

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

COMPANIES = 12


def revenue(company: int, year: int) -> str:
    return f"${company * 37 + (year - 2000) * 11} million"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two reports a company, in Markdown, and a file that can't be read."""
    folder = tmp_path_factory.mktemp("reports")
    for company in range(COMPANIES):
        (folder / f"c{company}").mkdir()
        for year in (2023, 2024):
            (folder / f"c{company}" / f"{year}.md").write_text(
                f"# Company{company} annual report {year}\n\n## Results\n\nRevenue was {revenue(company, year)}.\n\n"
                f"## People\n\nAt its end {100 + company} people worked there.\n"
            )
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing")
    (folder / "picture.png").write_bytes(b"png")
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("questions") / "pairs.jsonl"
    rows: list[dict[str, Any]] = [
        {
            "id": f"q{company}-{year}",
            "question": f"What was the revenue of Company{company} in {year}?",
            "answer": revenue(company, year),
            "document": f"c{company}/{year}.md",
        }
        for company in range(COMPANIES)
        for year in (2023, 2024)
    ]
    rows += [
        {"id": f"n{n}", "question": f"What is the revenue of Nobody{n}?", "answer": None} for n in range(4)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def configured(reports: Path, questions: Path | None, output: Path, *sets: str) -> PrepareConfig:
    flags = {"FOLDER": str(reports), "--output": str(output)}
    if questions is not None:
        flags["--questions"] = str(questions)
    return load_prepare_config(None, flags, ["rows.passages=3", "documents.processes=1", *sets])


@pytest.fixture(scope="module")
def prepared(reports: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Don't change it: it is shared."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    prepare(configured(reports, questions, folder, "split.validation=0.2", "split.test=0.25"))
    return folder


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {split: read_lines(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}


def test_no_document_is_in_two_splits(prepared: Path) -> None:
    record = read_record(prepared / "record.json", "prepare")
    splits = record["splits"]
    found = rows_of(prepared)
    assert sum(len(rows) for rows in found.values()) == 28
    assert all(found.values())
    from selfaug.retrieval.index import Index

    index = Index(prepared / "index")
    owner = {
        chunk.id: document["path"]
        for document in index.documents
        for chunk in index.chunks_of(document["path"])
    }
    for split, rows in found.items():
        for row in rows:
            # Neither the answer's document nor any passage's. A split by row would fail here.
            assert {splits[document] for document in row["documents"]} <= {split}
            assert {splits[owner[name]] for name in row["passages"]} == {split}


def test_a_row_is_what_training_takes(prepared: Path, tiny_model_dir: Path) -> None:
    config = load_config(None, {"--model": str(tiny_model_dir), "--prepared": str(prepared)})
    assert config.data.train == [str(prepared / "train.jsonl")]
    assert config.data.eval == [str(prepared / "validation.jsonl")]
    assert config.data.template == str(prepared / "template.yaml")
    # Three passages and this model's window: what an answer is from is never left out of its prompt.
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
    for row in rows_of(prepared)["train"]:
        if row["gold"] is None:
            assert row["answer"] == "The documents don't say."
        else:
            assert row["answer"] == f"{row['value']} [{row['gold']}]"
            assert row["value"] in row["context"][row["gold"] - 1]


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


def test_settings_that_are_given_win_over_what_is_prepared(prepared: Path, tiny_rows: Path) -> None:
    flags = {"--model": "m", "--prepared": str(prepared), "--train": str(tiny_rows)}
    assert load_config(None, flags).data.train == [str(tiny_rows)]


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
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
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


def test_similar_questions_stay_in_one_split(reports: Path, tmp_path: Path) -> None:
    rows = []
    for company in range(COMPANIES):
        for number, words in enumerate(("What was the revenue of", "Tell me the revenues of")):
            year = 2023 + number
            rows.append(
                {
                    "question": f"{words} Company{company}?",
                    "answer": revenue(company, year),
                    "document": f"c{company}/{year}.md",
                }
            )
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = prepare(configured(reports, file, tmp_path / "data", "split.test=0.3", "split.validation=0.0"))
    assert record["questions"]["similar"] == 24
    for company in range(COMPANIES):
        assert record["splits"][f"c{company}/2023.md"] == record["splits"][f"c{company}/2024.md"]


def test_similar_questions_stay_in_one_split_without_a_document(reports: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for company in range(COMPANIES):
        # In the order in which a single pass misses it: like the next one, which is like one with a document.
        rows += [
            {"question": f"the revenues of Company{company}", "answer": None},
            {"question": f"What was the revenue of Company{company}?", "answer": None},
            {
                "question": f"Tell me the revenue of Company{company}!",
                "answer": revenue(company, 2023),
                "document": f"c{company}/2023.md",
            },
            {
                "question": f"revenue of Company{company}, which?",
                "answer": revenue(company, 2024),
                "document": f"c{company}/2024.md",
            },
            *[{"question": f"Who founded Company{company}?", "answer": None}] * 10,
        ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(configured(reports, file, tmp_path / "data", "split.test=0.3", "split.validation=0.2"))
    found = rows_of(tmp_path / "data")
    assert all(found.values())
    for company in range(COMPANIES):
        for words in (f" of Company{company}", f"founded Company{company}?"):
            splits = {
                split
                for split, rows in found.items()
                for row in rows
                if row["question"].rstrip("?!").endswith(words.rstrip("?")) or f"{words}," in row["question"]
            }
            assert len(splits) == 1, words


def test_documents_keep_their_split_when_there_are_more(
    reports: Path, questions: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(reports, tmp_path / "reports"))
    asked = tmp_path / "pairs.jsonl"
    asked.write_text(questions.read_text())
    output = tmp_path / "data"

    def prepared_anew(*sets: str) -> tuple[dict[str, str], dict[str, str], list[str]]:
        told: list[Progress] = []
        config = configured(folder, asked, output, "split.test=0.3", "run.overwrite=true", *sets)
        record = prepare(config, on_progress=told.append)
        found = {row["question"]: split for split, rows in rows_of(output).items() for row in rows}
        return record["splits"], found, [one.message for one in told if one.stage == "warning"]

    splits, found, _ = prepared_anew()
    for number in range(6):
        name = f"a{number}.md"
        (folder / name).write_text(f"# New{number}\n\nRevenue was ${number + 2} million.")
        with asked.open("a") as file:
            row = {
                "question": f"What did New{number} take?",
                "answer": f"${number + 2} million",
                "document": name,
            }
            file.write("\n" + json.dumps(row))
        # An index alone, or a preparation that failed, forgets nothing.
        prepare(configured(folder, None, output, "run.overwrite=true"))
        now, asked_now, told = prepared_anew()
        assert {name: now[name] for name in splits} == splits
        assert {question: asked_now[question] for question in found} == found
        assert not any("another split" in one or "anew" in one for one in told)
        splits, found = now, asked_now
    assert len({splits[f"a{number}.md"] for number in range(6)}) > 1
    # Another seed is another split, and that is told.
    other, _, told = prepared_anew("split.seed=5")
    assert other != splits
    assert any("dealt out anew" in one for one in told)
    # One that an older selfaug prepared has its splits in the record alone.
    (output / "splits.json").unlink()
    assert prepared_anew("split.seed=5")[0] == other
    # A question that joins two of them.
    train = next(name for name in other if other[name] == "train")
    test = next(name for name in other if other[name] == "test" and not name.startswith("a"))
    both = {
        "id": "both",
        "question": "Which?",
        "answer": "x",
        "documents": [train, test],
        "evidence": "Revenue",
    }
    asked.write_text(asked.read_text() + "\n" + json.dumps(both))
    joined, _, told = prepared_anew("split.seed=5")
    assert joined[test] == "train"
    assert any("another split than before" in one and test in one for one in told)


@pytest.mark.parametrize("names_go_round", [False, True])
def test_documents_that_are_moved_keep_their_split(
    reports: Path, questions: Path, tmp_path: Path, names_go_round: bool
) -> None:
    folder = Path(shutil.copytree(reports, tmp_path / "reports"))
    output = tmp_path / "data"
    before = prepare(configured(folder, questions, output, "split.test=0.4"))["splits"]
    aside = {path: f"archive/{90 - number}.md" for number, path in enumerate(before)}
    # Each under the name that the next one had.
    names = (
        dict(zip(aside.values(), [*list(before)[1:], *list(before)[:1]], strict=True))
        if names_go_round
        else {}
    )
    moved = {path: names.get(new, new) for path, new in aside.items()}
    (folder / "archive").mkdir()
    for path, new in [*aside.items(), *names.items()]:
        (folder / path).rename(folder / new)
    asked = tmp_path / "moved.jsonl"
    text = questions.read_text()
    for path, new in [*aside.items(), *names.items()]:
        text = text.replace(f'"{path}"', f'"{new}"')
    asked.write_text(text.replace("What was the revenue of", "Which sum were the sales of"))
    after = prepare(configured(folder, asked, output, "split.test=0.4", "run.overwrite=true"))["splits"]
    assert after == {new: before[path] for path, new in moved.items()}
    assert {"train", "test"} <= set(after.values())
    # A file of before digests were kept is still read.
    kept = json.loads((output / "splits.json").read_text())
    assert len(kept["data"].pop("digests")) == len(before)
    (output / "splits.json").write_text(json.dumps(kept))
    again = prepare(configured(folder, asked, output, "split.test=0.4", "run.overwrite=true"))["splits"]
    assert again == after


def write_report(file: Path, company: int, year: int, *, edited: bool = False) -> None:
    """The report of a company for a year: the words of all companies are the same, as those of a template are."""
    draw = random.Random(1000 * company + year)
    rows = [["Item", f"FY{year}", f"FY{year - 1}"]]
    rows += [
        [f"Line {line}", f"{draw.randint(100, 9999):,}", f"{draw.randint(100, 9999):,}"] for line in range(30)
    ]
    paragraphs = [f"Company{company} reports on {year}{' (final)' * edited}.", TEMPLATE]
    if file.suffix == ".docx":
        document = docx.Document()
        for text in paragraphs:
            document.add_paragraph(text)
        table = document.add_table(len(rows), 3)
        for line, row in zip(table.rows, rows, strict=True):
            for cell, value in zip(line.cells, row, strict=True):
                cell.text = value
        document.save(str(file))
    else:
        cells = "".join(f"<tr>{''.join(f'<td>{value}</td>' for value in row)}</tr>" for row in rows)
        text = "".join(f"<p>{text}</p>" for text in paragraphs)
        head = f"<head><title>Company{company}, {year}</title></head>"
        file.write_text(f"<html>{head}<body>{text}<table>{cells}</table></body></html>")


TEMPLATE = " ".join(
    f"The {what} {does} with the {other} of the group as a whole."
    for what in ("board", "staff", "market", "region", "plant")
    for does in ("grew", "fell", "changed")
    for other in ("sales", "margin", "outlook", "prices")
)


@pytest.fixture
def template_reports(tmp_path: Path) -> tuple[Path, Path]:
    """Reports of 6 companies for two years, each as DOCX and HTML, and questions about every file."""
    folder, asked = tmp_path / "reports", tmp_path / "pairs.jsonl"
    folder.mkdir()
    rows = []
    for company in range(6):
        for year in (2023, 2024):
            for ending in ("docx", "html"):
                name = f"c{company}-{year}.{ending}"
                write_report(folder / name, company, year)
                words = f"What year does Company{company} report on in the {ending} of {year}?"
                rows.append(
                    {"question": words, "answer": str(year), "document": name, "evidence": "reports on"}
                )
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder, asked


HALVES = ("split.test=0.4", "split.validation=0.1", "split.similar=1.0")


def test_a_report_in_two_formats_is_in_one_split(template_reports: tuple[Path, Path], tmp_path: Path) -> None:
    told: list[Progress] = []
    config = configured(*template_reports, tmp_path / "data", *HALVES)
    record = prepare(config, on_progress=told.append)
    expected = [
        [f"c{company}-{year}.docx", f"c{company}-{year}.html"]
        for company in range(6)
        for year in (2023, 2024)
    ]
    # Reports of other years and companies have the same words, and are not joined.
    assert record["near_copies"] == expected
    assert all(record["splits"][one] == record["splits"][other] for one, other in expected)
    assert set(record["splits"].values()) == {"train", "validation", "test"}
    notes = [one.message for one in told if "nearly the same" in one.message]
    assert [note.partition(" are ")[0] for note in notes] == ["24 documents"]
    assert "c0-2023.docx = c0-2023.html; c0-2024.docx = " in notes[0]
    card = (tmp_path / "data" / "card.md").read_text()
    assert "- `c0-2023.docx`: `c0-2023.html`\n" in card
    # What the other format says of the answer stands in no row as if it were wrong.
    index = Index(tmp_path / "data" / "index")
    report = {path: number for number, same in enumerate(expected) for path in same}
    of_chunk = {chunk.id: report[path] for path in report for chunk in index.chunks_of(path)}
    for row in (row for rows in rows_of(tmp_path / "data").values() for row in rows if row["gold"]):
        own = [of_chunk[name] == report[row["documents"][0]] for name in row["passages"]]
        right = [
            number
            for number, text in enumerate(row["context"], 1)
            if own[number - 1] and row["value"] in text
        ]
        assert right == [row["gold"]]
    # It is what keeps them together.
    off = configured(*template_reports, tmp_path / "off", *HALVES, "split.similar_documents=null")
    record = prepare(off)
    assert record["near_copies"] == []
    assert any(record["splits"][one] != record["splits"][other] for one, other in expected)
    assert "nearly the same" not in (tmp_path / "off" / "card.md").read_text()


def test_the_card_says_how_many_more_are_nearly_the_same(prepared: Path) -> None:
    record = read_record(prepared / "record.json", "prepare")
    record["near_copies"] = [[f"{number:02}.md" for number in range(24)]]
    card = preparation_card(record, RetrievalTemplate(), [])
    assert "\n- `00.md`: `01.md`, `02.md`, " in card
    assert ", `20.md` and 3 more, in record.json\n" in card


def test_a_copy_of_a_near_copy_says_nothing_wrong(tmp_path: Path) -> None:
    """Two files that are the same, of which the later one is found, and a third that is nearly so."""
    folder, asked = tmp_path / "documents", tmp_path / "pairs.jsonl"
    folder.mkdir()
    text = f"{TEMPLATE} The revenue was $1,536 million."
    (folder / "alpha.txt").write_text(text)
    (folder / "zebra.txt").write_text(text)
    (folder / "beta.txt").write_text(f"Final. {text}")
    (folder / "other.txt").write_text("Of the zebra nobody knows the revenue.")
    pair = {"id": "q", "question": "What was the revenue of zebra?", "answer": "$1,536 million"}
    asked.write_text(json.dumps(pair | {"document": "beta.txt"}) + "\n")
    sets = ("split.validation=0", "split.test=0", "rows.no_answer_share=0")
    record = prepare(configured(folder, asked, tmp_path / "data", *sets))
    assert record["near_copies"] == [["alpha.txt", "beta.txt"]]
    (row,) = read_lines(tmp_path / "data" / "train.jsonl")
    assert [pair["answer"] in passage for passage in row["context"]].count(True) == 1


def test_a_document_goes_where_its_near_copy_was(template_reports: tuple[Path, Path], tmp_path: Path) -> None:
    folder, asked = template_reports
    output = tmp_path / "data"
    pairs = asked.read_text()
    for file in folder.glob("*.html"):
        file.unlink()
    lines = pairs.splitlines(keepends=True)
    asked.write_text("".join(line for line in lines if ".docx" in line))
    before = prepare(configured(folder, asked, output, *HALVES))["splits"]
    assert set(before.values()) == {"train", "validation", "test"}
    # The others come: of half of them the file that was there goes, and the new one is edited.
    lines = [line for line in lines if ".html" in line]
    for number, name in enumerate(before):
        company, year = map(int, name.removeprefix("c").removesuffix(".docx").split("-"))
        write_report(folder / name.replace("docx", "html"), company, year, edited=number % 2 == 0)
        if number % 2 == 0:
            (folder / name).unlink()
        else:
            lines.append(
                json.dumps({"question": f"And {name}?", "answer": str(year), "document": name}) + "\n"
            )
    asked.write_text("".join(lines))
    record = prepare(configured(folder, asked, output, *HALVES, "run.overwrite=true"))
    new = {name: split for name, split in record["splits"].items() if name.endswith("html")}
    assert new == {name.replace("docx", "html"): split for name, split in before.items()}
    assert len(record["near_copies"]) == 6


def test_an_index_from_before_near_copies_is_made_anew(
    template_reports: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, asked = template_reports
    output = tmp_path / "data"
    prepare(configured(folder, asked, output, *HALVES))
    listed = output / "index" / "documents.jsonl"
    lines = read_lines(listed)
    sketches = [line.pop("sketch") for line in lines]
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = json.loads((output / "splits.json").read_text())
    assert sorted(kept["data"].pop("sketches").values()) == sorted(sketches)
    (output / "splits.json").write_text(json.dumps(kept))
    # It is searched as before, and without sketches no documents are near.
    assert Index(output / "index").search("Company3", 1)
    again = prepare(configured(folder, asked, output, *HALVES, "run.overwrite=true"))
    assert (again["documents"]["read"], again["near_copies"]) == (0, [])
    # One that an older selfaug read is read anew.
    made = json.loads((output / "index" / "index.json").read_text())
    made["data"]["settings"]["reader"] -= 1
    (output / "index" / "index.json").write_text(json.dumps(made))
    again = prepare(configured(folder, asked, output, *HALVES, "run.overwrite=true"))
    assert (again["documents"]["read"], len(again["near_copies"])) == (24, 12)
    assert [line["sketch"] for line in read_lines(listed)] == sketches


def test_rows_go_with_what_they_were_made_of(reports: Path, questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "data"
    prepare(configured(reports, questions, output))
    assert list(output.glob("*.jsonl"))
    prepare(configured(reports, None, output, "run.overwrite=true"))
    assert not list(output.glob("*.jsonl"))
    config = load_config(None, {"--model": "m", "--prepared": str(output)})
    with pytest.raises(DataError, match=r"train\.jsonl"):
        load_rows(config.data.train)


def test_a_split_without_rows_is_told(reports: Path, tmp_path: Path) -> None:
    every = [f"c{company}/{year}.md" for company in range(COMPANIES) for year in (2023, 2024)]
    one = {"question": "What is it?", "answer": "yes", "documents": every, "evidence": "Revenue was"}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(one))
    told: list[Progress] = []
    prepare(configured(reports, file, tmp_path / "data"), on_progress=told.append)
    empty = [progress.message for progress in told if "no row is in it" in progress.message]
    assert [message.partition(" is ")[0] for message in empty] == ["split.validation", "split.test"]
    assert "1 question about documents makes 1 set that stays together, the largest of 1" in empty[0]


def test_an_answer_that_stands_in_many_documents_does_not_join_them(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    rows = []
    for number, name in enumerate(("Alder", "Birch", "Cedar", "Douglas", "Elm", "Fir", "Hazel", "Juniper")):
        (folder / f"{name}.md").write_text(f"# {name}\n\nIs {name} listed? Yes. It has {number} plants.")
        rows.append({"question": f"Is {name} listed?", "answer": "Yes"})
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = ("split.test=0.25", "split.validation=0.25", "rows.no_answer_share=0")
    prepare(configured(folder, file, tmp_path / "data", *sets))
    found = rows_of(tmp_path / "data")
    assert [len(found[split]) for split in ("train", "validation", "test")] == [4, 2, 2]


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
    config = configured(
        folder, folder / "pairs.csv", folder / "data", "run.overwrite=true", f"retrieval.glossary={folder}/glossary.txt"
    )  # fmt: skip
    for _ in range(2):
        record = prepare(config)
        assert record["documents"]["in_index"] == 8
        assert record["documents"]["left_out"].keys() == {"glossary.txt", "pairs.csv", "data"}
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
    assert not [progress for progress in told if progress.stage == "warning"]
    index = Index(tmp_path / "data" / "index")
    texts = {name: index.chunks_of(name)[0].text for name in ("a.txt", "b.html", "c.txt", "d.html")}
    assert texts == {**dict.fromkeys(texts, "Zakład w Łodzi"), "d.html": "größer"}


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


def test_what_is_not_read_is_told_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "scans.pdf").write_bytes(partly_scanned("txx"))
    os.mkfifo(folder / "pipe.pdf")
    expected = {
        "scans.pdf is read, but: 2 of 3 pages are pictures without text, which need OCR first if they are scans: 2-3",
        "pipe.pdf is left out: neither a file nor a folder",
    }
    for sets in ([], ["run.overwrite=true"]):
        told: list[Progress] = []
        record = prepare(configured(folder, None, tmp_path / "data", *sets), on_progress=told.append)
        assert {progress.message for progress in told if progress.stage == "warning"} == expected
        assert record["documents"]["incomplete"].keys() == {"scans.pdf"}
    assert record["documents"]["unchanged"] == 1
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
    told: list[Progress] = []
    prepare(configured(folder, None, tmp_path / "data", "run.overwrite=true"), on_progress=told.append)
    warned = [one.message for one in told if "not there any more" in one.message]
    assert len(warned) == 1
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


# ---- asking


@pytest.fixture(scope="module")
def trained(
    prepared: Path, settings: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("runs") / "asked"
    made = settings(run).model_dump()
    config = load_config(
        None,
        {"--model": made["model"]["name"], "--prepared": str(prepared), "--output": str(run)},
        ["train.steps=2", "train.batch_size=2", "model.dtype=float32", "selfaug.monitor_prompts=0",
         "data.skip_bad_rows=true"],
    )  # fmt: skip
    train(config)
    return run


def test_a_question_is_answered_from_passages(trained: Path) -> None:
    assistant = open_assistant(trained, max_new_tokens=8, device="cpu", offline=True)
    pieces: list[str] = []
    shown: list[list[Passage]] = []
    answer = assistant.ask(
        "What was the revenue of Company3 in 2024?", on_text=pieces.append, on_passages=shown.append
    )
    assert "".join(pieces) == answer.text
    assert answer.passages == shown[0]
    assert answer.passages[0].document == "c3/2024.md"
    assert 1 <= len(answer.passages) <= 3
    assert answer.dropped == 3 - len(answer.passages)
    base = assistant.ask("What was the revenue of Company3 in 2024?", use_base=True)
    assert base.passages == answer.passages
    with pytest.raises(DataError, match="no passage shares a word"):
        assistant.ask("zzz?")
    with pytest.raises(DataError, match="the question is empty"):
        assistant.ask(" ")


def test_passages_that_do_not_fit_are_dropped_from_the_end(trained: Path) -> None:
    assistant = open_assistant(trained, max_new_tokens=8, device="cpu", offline=True)
    question = "What was the revenue of Company3 in 2024?"
    whole = assistant.ask(question)
    assistant.documents.window -= 20
    fewer = assistant.ask(question)
    assert fewer.passages == whole.passages[: len(fewer.passages)]
    assert len(fewer.passages) + fewer.dropped == 3
    assistant.documents.window = 20
    with pytest.raises(DataError, match="don't fit into 20"):
        assistant.ask(question)


def test_only_the_form_that_was_trained_is_asked(
    trained: Path, reports: Path, finished_run: Path, copied_run: Path, prepared: Path, tmp_path: Path
) -> None:
    template = tmp_path / "template.yaml"
    template.write_text("user: '{question} {passages}'")
    prepare(configured(reports, None, tmp_path / "other", f"rows.template={template}"))
    with pytest.raises(ConfigError, match="have another form"):
        open_assistant(trained, prepared=tmp_path / "other", device="cpu")
    with pytest.raises(ConfigError, match="was not trained on documents"):
        open_assistant(finished_run, device="cpu")
    # Retrieval rows from elsewhere will do, if their form is that of the documents that are named.
    few = open_assistant(finished_run, prepared=prepared, passages=1, device="cpu")
    assert few.documents.passages == 1
    started = copied_run / "started.json"
    content = json.loads(started.read_text())
    del content["data"]["data"]["train"]["template"]
    started.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="was not trained on retrieval rows"):
        open_assistant(copied_run, prepared=prepared, device="cpu")
