"""What goes into which split, and stays there."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import docx
import pytest

from company_reports import COMPANIES, configured, revenue, rows_of
from selfaug.data.template import RetrievalTemplate
from selfaug.phases.preparation_card import preparation_card
from selfaug.phases.prepare import prepare
from selfaug.phases.progress import Progress
from selfaug.records import read_lines, read_record, write_lines
from selfaug.retrieval.index import Index

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself


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
    write_lines(file, rows)
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
    write_lines(file, rows)
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
    write_lines(asked, rows)
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
            if own[number - 1] and f"reports on {row['value']}" in text  # its title says the year, too
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


def test_questions_of_the_same_words_are_told(reports: Path, tmp_path: Path) -> None:
    def told(questions: list[tuple[str, str, int]]) -> list[str]:
        file = tmp_path / "pairs.jsonl"
        rows = [
            {"question": words, "answer": revenue(company, 2024), "document": f"c{company}/2024.md"}
            for words, _, company in questions
        ] + [{"question": "What was the revenue?", "answer": None}]
        write_lines(file, rows)
        messages: list[Progress] = []
        config = configured(reports, file, tmp_path / "data", "run.overwrite=true")
        prepare(config, on_progress=messages.append)
        return [one.message for one in messages if "same words" in one.message]

    same, validation, test = told([("What was the revenue?", "", company) for company in range(COMPANIES)])
    assert same.startswith(
        "12 questions have the same words about different documents, such as 'What was the revenue?'"
    )
    for message in (validation, test):
        assert "no row is in it" in message
        assert "Put the company or the period into questions" in message
        assert "name the `document`" not in message
    # Two without words that search goes by are different questions.
    named = [(f"What was the revenue of Company{company}?", "", company) for company in range(2, COMPANIES)]
    assert told([("What is it?", "", 0), ("Who are they?", "", 1), *named]) == []
    # Twice about one document is no such question.
    assert (
        told([(f"What was the revenue of Company{company // 2}?", "", company // 2) for company in range(24)])
        == []
    )


def test_an_answer_that_stands_in_many_documents_does_not_join_them(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    rows = []
    for number, name in enumerate(("Alder", "Birch", "Cedar", "Douglas", "Elm", "Fir", "Hazel", "Juniper")):
        (folder / f"{name}.md").write_text(f"# {name}\n\nIs {name} listed? Yes. It has {number} plants.")
        rows.append({"question": f"Is {name} listed?", "answer": "Yes"})
    file = tmp_path / "pairs.jsonl"
    write_lines(file, rows)
    sets = ("split.test=0.25", "split.validation=0.25", "rows.no_answer_share=0")
    prepare(configured(folder, file, tmp_path / "data", *sets))
    found = rows_of(tmp_path / "data")
    assert [len(found[split]) for split in ("train", "validation", "test")] == [4, 2, 2]
