"""Answers side by side: their order, what is found, and files that change while they are looked at."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from looking import looking_at
from lxml import html as parser
from starlette.testclient import TestClient

from report_records import EVALUATION, comparison_record, interval, suite, write_comparison, write_run
from selfaug.dashboard.samples import KeptSamples, Samples, differing_words
from selfaug.errors import DataError
from selfaug.records import write_lines, write_record
from selfaug.report.kept_answers import AnswerFiles, answer_files, read_answers

ROWS = {
    "same": ("Say hello", "hello", "hello"),
    "gained": ("What is 2 + 2?", "five", "four"),
    "lost": ("Who is ÜNSAL?", "The \"head\" of C:\\new", "ANSWER: nobody"),
    "worse": ("prompt of the last", "one\ntwo", "tab\there"),
}  # fmt: skip
SCORES = {"same": (1, 1), "gained": (0, 1), "lost": (1, 0), "worse": (0.5, 0.25)}


def write(folder: Path, rows: dict[str, tuple[str, str, str]], scores: dict[str, Any] | None = None) -> Path:
    """A run with these answers to its job."""
    scores = dict.fromkeys(rows, (0.0, 0.0)) if scores is None else scores
    suites = {**EVALUATION["suites"], "task": suite(scores, interval(0, 0, 0))}
    run = write_run(folder, evaluation={**EVALUATION, "suites": suites}, steps=0)
    for number, model in ((1, "base"), (2, "tuned")):
        lines = [{"id": name, "prompt": row[0], "answer": row[number]} for name, row in rows.items()]
        write_lines(run.samples / "evaluation" / f"task-{model}.jsonl", lines)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run", ROWS, SCORES)


def task(folder: Path) -> AnswerFiles:
    return next(one for one in answer_files(folder, "train") if one.suite == "task")


def test_failures_come_first_and_each_change_is_counted(run: Path) -> None:
    samples = Samples(task(run))
    assert samples.select() == ["lost", "worse", "gained", "same"]
    assert samples.counts() == {"lost": 2, "gained": 1, "same": 1, "unscored": 0}
    assert samples.select("gained") == ["gained"]
    assert samples.select("unscored") == []
    (shown,) = samples.shown(["lost"])
    assert (shown.id, shown.change, shown.prompt) == ("lost", "lost", ROWS["lost"][0])
    assert (shown.answers, shown.scores) == (list(ROWS["lost"][1:]), [1, 0])


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("hello", ["same"]),
        ("HELLO", ["same"]),
        ("ünsal", ["lost"]),
        ("Ünsal?", ["lost"]),
        ('"HEAD"', ["lost"]),
        ("c:\\new", ["lost"]),
        ("five", ["gained"]),
        ("four", ["gained"]),
        ("answer", ["lost"]),
        ("prompt", ["worse"]),
        ("id", []),
        ('"', ["lost"]),
        ("\\", ["lost"]),
        ("there", []),
        ("two", ["worse"]),
        ("ntwo", []),
        ("}", []),
        ("e", ["lost", "worse", "gained", "same"]),
        ("gained", ["gained"]),
        ("nothing of the sort", []),
    ],
)
def test_a_text_is_found_in_prompts_and_answers_of_any_model(
    run: Path, search: str, found: list[str]
) -> None:
    samples = Samples(task(run))
    assert samples.select(search=search) == found
    assert samples.select("lost", search) == [one for one in found if one in ("lost", "worse")]


def test_suites_begin_with_the_job_and_need_both_models(run: Path) -> None:
    assert [one.suite for one in answer_files(run, "train")] == ["task", "general"]
    (run / "samples" / "evaluation" / "general-tuned.jsonl").unlink()
    assert [one.suite for one in answer_files(run, "train")] == ["task"]
    (run / "evaluation.json").unlink()
    assert answer_files(run, "train") == []
    assert answer_files(run, "demo") == []


def test_only_requests_that_all_models_answered(run: Path) -> None:
    file = run / "samples" / "evaluation" / "task-tuned.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[1:3]) + lines[3][:20], encoding="utf-8")
    assert Samples(task(run)).select() == ["lost", "gained"]
    # What others write: another order, no end of line, blank lines, what is no object.
    odd = [
        '{"answer": "a", "id": "gained"}',
        "",
        "[1]",
        "null",
        '{"answer": "b", "prompt": "p", "id": "same"}',
    ]
    file.write_text("\r\n".join(odd), encoding="utf-8")
    assert list(read_answers(task(run).files, {"same", "lost"})) == ["same"]
    samples = Samples(task(run))
    assert samples.select() == ["gained", "same"]
    assert [one.answers[1] for one in samples.shown(["same", "gained"])] == ["b", "a"]


def test_scores_that_are_none_count_as_not_known(run: Path) -> None:
    record = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    record["data"]["suites"]["task"]["scores"] = {
        "same": {"base": None, "tuned": 1.0}, "gained": {"base": "1"}, "lost": {"base": 1.0, "tuned": 0.0},
    }  # fmt: skip
    (run / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")
    assert Samples(task(run)).counts() == {"lost": 1, "gained": 0, "same": 0, "unscored": 3}
    for odd in ([], {"task": {}}, {"task": []}, None, {"task": {"scores": [1]}}):
        record["data"]["suites"] = odd
        (run / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")
        assert Samples(task(run)).counts()["unscored"] == 4


def test_names_in_records_lead_nowhere_else(tmp_path: Path) -> None:
    record = comparison_record("comparison-demo")
    folder = write_comparison(tmp_path / "comparison", record)
    labels = ["base model", "plain LoRA", record["methods"][record["subject"]]["label"]]
    assert [list(one.labels.values()) for one in answer_files(folder, "comparison")] == [labels] * 2
    # Answers beside the comparison, and behind a link inside of it.
    (tmp_path / "outside").mkdir()
    for file in (folder / "answers").glob("*-task.jsonl"):
        for name in ("secret", "task"):
            (tmp_path / "outside" / file.name.replace("-task", f"-{name}")).write_bytes(file.read_bytes())
    for suite_name in (
        "x/../../../outside/secret",
        "../../outside/secret",
        "\x00",
        "x" * 5000,
        "/etc/passwd",
    ):
        write_record(folder / "record.json", "comparison", {**record, "items": {suite_name: 1}})
        assert answer_files(folder, "comparison") == []
    for name in ("plain", record["subject"]):
        row = record["methods"][name]
        (folder / "answers" / f"test-{name}-{row['value']:g}-seed{row['seeds'][0]}-x").mkdir()
    write_record(folder / "record.json", "comparison", record)
    file = next((folder / "answers").glob("test-plain*-task.jsonl"))
    file.unlink()
    file.symlink_to(tmp_path / "outside" / file.name)
    assert file.is_file()
    assert [one.suite for one in answer_files(folder, "comparison")] == ["general"]


def test_a_link_out_of_a_run_is_not_followed(run: Path, tmp_path: Path) -> None:
    place = run / "samples" / "evaluation"
    (place / "task-base.jsonl").rename(tmp_path / "elsewhere.jsonl")
    (place / "task-base.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    assert [one.suite for one in answer_files(run, "train")] == ["general"]


@pytest.mark.parametrize("changed", [{"subject": "of another name"}, {"methods": []}, {"items": None}])
def test_a_record_of_another_shape_is_one_clear_error(tmp_path: Path, changed: dict[str, Any]) -> None:
    record = comparison_record("comparison-demo")
    folder = write_comparison(tmp_path / "comparison", record)
    write_record(folder / "record.json", "comparison", {**record, **changed})
    with pytest.raises(DataError, match="does not say whose answers"):
        answer_files(folder, "comparison")


# ---- files that change


def test_what_was_read_is_kept_until_a_file_changes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptSamples()
    first = kept.of(task(run))
    assert kept.of(task(run)) is first
    write(run, {**ROWS, "new": ("p", "a", "b")}, {**SCORES, "new": (1, 0)})
    second = kept.of(task(run))
    assert second is not first
    assert len(second.select()) == 5
    stamp = (run / "evaluation.json").stat().st_mtime
    os.utime(run / "evaluation.json", (stamp + 5, stamp + 5))
    assert kept.of(task(run)) is not second
    for number in range(9):
        kept.of(task(write(tmp_path / f"run-{number}", ROWS, SCORES)))
    assert len(kept._kept) <= 4, "memory has a bound"
    monkeypatch.setattr("selfaug.dashboard.samples._KEPT_BYTES", 1)
    last = kept.of(task(run))
    assert [*kept._kept.values()] == [last], "so has what large suites take"


def test_the_page_of_a_file_that_vanishes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = looking_at(run.parent)
    found = answer_files(run, "train")
    monkeypatch.setattr("selfaug.dashboard.app.answer_files", lambda *_: found)
    assert client.get("/samples/run").status_code == 200
    found[0].files[1].unlink()
    answer = client.get("/samples/run")
    assert answer.status_code == 404
    assert "was there a moment ago. Load the page again." in answer.text


# ---- words


@given(st.text(), st.text())
def test_pieces_are_the_text(one: str, other: str) -> None:
    mine, theirs = differing_words(one, other)
    assert "".join(piece for piece, _ in mine) == one
    assert "".join(piece for piece, _ in theirs) == other
    assert "".join(piece for piece, differs in mine if not differs) == "".join(
        piece for piece, differs in theirs if not differs
    )
    assert differing_words(one, one) == (([(one, False)],) * 2 if one else ([], []))


WORDS = st.lists(st.sampled_from(["a", "b", "c", " ", "  ", "\n"]), max_size=40).map("".join)


@given(WORDS, WORDS)
def test_pieces_of_texts_that_are_alike_are_the_texts(one: str, other: str) -> None:
    mine, theirs = differing_words(one, other)
    assert ("".join(piece for piece, _ in mine), "".join(piece for piece, _ in theirs)) == (one, other)


def test_words_that_differ_are_marked_and_no_others() -> None:
    assert differing_words("the red house", "the blue house") == (
        [("the ", False), ("red", True), (" house", False)],
        [("the ", False), ("blue", True), (" house", False)],
    )
    assert differing_words("", "new") == ([], [("new", True)])
    long = "word " * 1000
    assert differing_words(long, "short") == ([(long, False)], [("short", False)])


def test_answers_of_hundreds_of_words_are_marked() -> None:
    one = " ".join(f"w{number}" for number in range(600))
    mine, theirs = differing_words(one, one.replace("w7 ", "other "))
    assert [piece for piece, differs in mine if differs] == ["w7"]
    assert [piece for piece, differs in theirs if differs] == ["other"]
    assert differing_words(f"{one} more", one) == ([(f"{one} more", False)], [(one, False)])


def test_answers_that_say_the_same_over_and_over_take_no_seconds() -> None:
    one, other = ("".join(random.Random(seed).choice(("no ", "yes ")) for _ in range(590)) for seed in (1, 2))
    began = time.process_time()
    assert differing_words(one, other) == ([(one, False)], [(other, False)])
    assert time.process_time() - began < 0.5


def test_texts_without_a_word_in_common_take_no_seconds() -> None:
    one, other = (" ".join(f"{letter}{number}" for number in range(600)) for letter in "ab")
    began = time.process_time()
    differing_words(one, other)
    assert time.process_time() - began < 0.5


# ---- the page


def sections(client: TestClient, path: str, **query: Any) -> list[str]:
    answer = client.get(path, params=query)
    assert answer.status_code == 200
    return [
        one.get("aria-label") for one in parser.fromstring(answer.text).xpath("//section[@class='sample']")
    ]


def test_the_page_filters_searches_and_marks(run: Path) -> None:
    client = looking_at(run.parent)
    assert sections(client, "/samples/run") == ["lost", "worse", "gained", "same"]
    assert sections(client, "/samples/run", change="gained") == ["gained"]
    assert sections(client, "/samples/run", change="nonsense") == ["lost", "worse", "gained", "same"]
    assert sections(client, "/samples/run", search="ünsal") == ["lost"]
    assert sections(client, "/samples/run", search="ünsal", change="gained") == []
    assert sections(client, "/samples/run", suite="general") == ["lost", "gained", "same"]
    assert sections(client, "/samples/run", suite="nonsense") == ["lost", "worse", "gained", "same"]
    page = parser.fromstring(client.get("/samples/run?change=gained").text)
    marked = [(one.get("class"), one.text) for one in page.xpath("//section//mark")]
    assert marked == [("gone", "five"), ("new", "four")]
    assert [one.text_content() for one in page.xpath("//section//*[@class='badge']")] == [
        "score 0 %",
        "score 100 %",
    ]
    form = page.xpath("//form[@class='filter']")[0]
    assert form.get("action") == "/samples/run"
    assert page.xpath("//select[@name='change']/option[@selected]/@value") == ["gained"]


def test_a_filter_that_nothing_passes_is_shown_as_chosen(run: Path) -> None:
    page = parser.fromstring(looking_at(run.parent).get("/samples/run?change=unscored").text)
    (chosen,) = page.xpath("//select[@name='change']/option[@selected]")
    assert (chosen.get("value"), chosen.text) == ("unscored", "unscored (0)")
    assert page.xpath("//select[@name='change']/option/text()")[0] == "all, failures first"


def test_a_search_is_shown_again_as_it_was(run: Path) -> None:
    client = looking_at(run.parent)
    asked = '"><script>é & \\'
    page = parser.fromstring(client.get("/samples/run", params={"search": asked}).text)
    assert page.xpath("//input[@name='search']/@value") == [asked]
    assert "Nothing was found with this filter" in page.text_content()


def test_pages_of_many_answers(tmp_path: Path) -> None:
    rows = {f"row-{number:03}": (f"p{number}", "the same", "the same") for number in range(45)}
    write(tmp_path / "run", rows)
    client = looking_at(tmp_path)
    pages = [sections(client, "/samples/run", page=page) for page in (1, 2, 3)]
    assert [len(page) for page in pages] == [20, 20, 5]
    assert [name for page in pages for name in page] == list(rows)
    assert sections(client, "/samples/run", page=99) == pages[2]
    text = client.get("/samples/run", params={"page": 2, "search": "SAME"}).text
    assert 'href="/samples/run?suite=task&amp;search=SAME&amp;page=3"' in text


def test_long_texts_are_cut_in_the_page_and_not_compared(tmp_path: Path) -> None:
    long = "word " * 50_000
    write(tmp_path / "run", {"long": (long, long, f"{long}x"), "short": ("p", "a" * 5990, "b")})
    answer = looking_at(tmp_path).get("/samples/run")
    assert answer.text.count("cut off here:") == 3
    assert len(answer.content) < 100_000
    page = parser.fromstring(answer.text)
    assert len(page.xpath("//section[@aria-label='long']//mark")) == 0
    assert len(page.xpath("//section[@aria-label='short']//mark")) == 2


def test_three_models_of_a_comparison(client: TestClient) -> None:
    page = parser.fromstring(client.get("/samples/comparison").text)
    first = page.xpath("//section[@class='sample']")[0]
    labels = [" ".join(one.text_content().split()) for one in first.xpath(".//p[@class='model']")]
    assert [label.split(" ", 1)[0] for label in labels] == ["■", "▲", "●"]
    assert labels[0] == "■ base model"
    assert not page.xpath("//section//*[@class='badge']"), "scores aren't kept by request"
    assert page.xpath("//select[@name='change']/option/text()")[0] == "all", "so none is known to have failed"
    assert "the same" in first.getparent().text_content()


def test_the_probe_of_an_assessment(client: TestClient) -> None:
    text = client.get("/samples/assessment").text
    assert "● </span>" in text or "probe" in text
    assert "lost says" not in text
    assert (
        "base says lost"
        in parser.fromstring(client.get("/samples/assessment?suite=general").text).text_content()
    )
