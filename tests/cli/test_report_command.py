"""`selfaug report` as a user meets it: what is written where, and one clear error for each thing that is wrong."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from test_main import libraries_as_they_were, run

from demo_records import record
from report_records import (
    EVALUATION,
    LONE,
    balance_record,
    raw_record,
    write_balance,
    write_run,
)
from selfaug.cli.main import main
from selfaug.cli.terminal import take_any_character
from selfaug.records import read_record, write_record
from selfaug.wording.numbers import percent, points

__all__ = ["libraries_as_they_were"]  # a fixture of every test


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run that was evaluated; without curves, which take most of a page's time."""
    return write_run(tmp_path / "trained", evaluation=EVALUATION, steps=0).path


@pytest.fixture
def balanced(tmp_path: Path) -> Path:
    return write_balance(tmp_path / "balanced")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_page_is_written_beside_each_record_and_its_path_said(trained: Path, balanced: Path) -> None:
    result = run("report", str(trained), str(balanced))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [str(trained / "report.html"), str(balanced / "report.html")]
    assert result.stderr == ""
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "The model learned its job" in page
    assert "The chosen setting" in (balanced / "report.html").read_text(encoding="utf-8")
    # A page of ours is made anew without a word.
    (trained / "report.html").write_text(
        page.replace("The model learned", "A page of before"), encoding="utf-8"
    )
    assert run("report", str(trained)).exit_code == 0
    assert (trained / "report.html").read_text(encoding="utf-8") == page


def test_a_run_in_progress_and_a_demo_have_one_too(tmp_path: Path) -> None:
    unfinished = write_run(tmp_path / "unfinished", training=None, steps=0).path
    demo = tmp_path / "demo"
    demo.mkdir()
    write_record(demo / "record.json", "demo", record([], steps=0))
    for _ in range(2):
        result = run("report", str(unfinished), str(demo))
        assert result.exit_code == 0, result.stderr
    assert "This run is not finished" in (unfinished / "report.html").read_text(encoding="utf-8")
    assert "SelfAug demo" in (demo / "report.html").read_text(encoding="utf-8")


def test_markdown_and_json_go_to_stdout(trained: Path, balanced: Path) -> None:
    before = files_of(trained)
    told = run("report", str(trained), "--format", "md")
    assert told.exit_code == 0
    assert told.stdout.startswith("# Run trained\n\n**? The model learned its job")
    one = json.loads(run("report", str(trained), "--format", "json").stdout)
    assert one["folder"] == str(trained)
    assert one["outcome"] == "open"
    both = json.loads(run("report", str(trained), str(balanced), "--format", "json").stdout)
    assert [of["kind"] for of in both] == ["train", "balance"]
    assert both[0] == one
    text = run("report", str(trained), str(balanced), "--format", "md").stdout
    assert [line for line in text.splitlines() if line.startswith("# ")] == [
        "# Run trained",
        "# Balance of a/model",
    ]
    assert files_of(trained) == before


@pytest.mark.parametrize(("form", "beginning"), [("html", "\n<!doctype"), ("md", "# Run"), ("json", "{")])
def test_a_file_may_be_named(form: str, beginning: str, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "out put" / f"r.{form}"
    arguments = ["report", str(trained), "--format", form, "--output", str(file)]
    missing = run(*arguments)
    assert missing.exit_code == 1
    assert "No such file or directory" in missing.stderr
    file.parent.mkdir()
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{file}\n"
    assert file.read_text(encoding="utf-8").lstrip().startswith(beginning.strip())
    assert not (trained / "report.html").exists()


def test_what_is_not_ours_is_not_overwritten(trained: Path, balanced: Path) -> None:
    file = trained / "report.html"
    for content in ("mine", "", "<!doctype html><title>My notes on selfaug</title>", "\x00\xff" * 10_000):
        file.write_text(content, encoding="utf-8")
        refused = run("report", str(balanced), str(trained))
        assert refused.exit_code == 1
        assert refused.stderr.startswith(
            f"error: {file} is there already, and is not a page of selfaug.\nHint: "
        )
        assert refused.stdout == ""
        assert file.read_text(encoding="utf-8") == content
        assert not (balanced / "report.html").exists(), "nothing is half done"
        for form in ("html", "md", "json"):
            named = run("report", str(balanced), "--format", form, "--output", str(file))
            assert named.exit_code == 1
            assert file.read_text(encoding="utf-8") == content
    assert run("report", str(balanced), str(trained), "--overwrite").exit_code == 0
    assert "The model learned its job" in file.read_text(encoding="utf-8")


def test_a_text_does_not_replace_a_text(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    arguments = ["report", str(trained), "--format", "md", "--output", str(file)]
    assert run(*arguments).exit_code == 0
    assert run(*arguments).exit_code == 1
    assert run(*arguments, "--overwrite").exit_code == 0


def test_a_folder_in_the_place_of_the_page_is_left(trained: Path) -> None:
    (trained / "report.html").mkdir()
    for more in ([], ["--overwrite"]):
        result = run("report", str(trained), *more)
        assert result.exit_code == 1
        assert "report.html is a folder." in result.stderr
        assert "Hint: " in result.stderr


def test_flags_that_do_not_fit_are_all_told_at_once(trained: Path, balanced: Path, tmp_path: Path) -> None:
    result = run("report", str(trained), str(balanced), "--format", "pdf", "--output", str(tmp_path))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n  - ") == 3
    for said in ("no format 'pdf'", "2 folders are given", "is a folder: name a file in it"):
        assert said in result.stderr
    assert result.stderr.count("error: ") == 1
    assert run("report").exit_code == 2


@pytest.mark.parametrize("form", ["html", "md", "json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "it has no record"),
        ("{", "record.json can't be read"),
        ('{"kind": "balance", "version": 1, "data": {"points": []}}', "lack what a report needs"),
        ('{"kind": "balance", "version": 7, "data": {}}', "reads up to version 1"),
        ('{"kind": "preparation", "version": 1, "data": {}}', "its record is of kind 'preparation'"),
    ],
)
def test_a_folder_without_a_whole_record_is_one_clear_error(
    form: str, content: str | None, said: str, balanced: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    if content is not None:
        (bad / "record.json").write_text(content, encoding="utf-8")
    before = files_of(tmp_path)
    result = run("report", str(balanced), str(bad), "--format", form)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("error: ") == 1
    assert "Hint: " in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert files_of(tmp_path) == before, "nothing is half done"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = run("report", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert "there is no such folder" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_can_not_be_written_is_told(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("selfaug.records.tempfile.mkstemp", full)
    result = run("report", str(trained))
    assert result.exit_code == 1
    assert "can't write" in result.stderr
    assert "No space left on device" in result.stderr


def test_what_a_terminal_would_obey_is_shown(tmp_path: Path) -> None:
    named = write_balance(tmp_path / "\x1b[2J\u202eevil")
    shown = run("report", str(named))
    assert shown.stdout.strip() == str(tmp_path / r"\x1b[2J\u202eevil" / "report.html")
    raw = tmp_path / "raw"
    raw.mkdir()
    reason = f"{LONE} \x9b31m \u202eevil \x1b[2J Zürich \U000e0041"
    raw_record(raw, "balance", {**balance_record(), "reason": reason})
    for form in ("md", "json"):
        text = run("report", str(raw), "--format", form).stdout
        assert not set(text) & set("\x9b\x1b\u202e\ud800\U000e0041")
        assert "Zürich" in text
    told = json.loads(run("report", str(raw), "--format", "json").stdout)
    assert reason in told["sections"][0]["blocks"][0]["text"]
    assert run("report", str(raw)).exit_code == 0
    assert run("report", str(raw), "--format", "json", "--output", str(tmp_path / "r.json")).exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == told
    assert read_record(named / "record.json", "balance") == balance_record()


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "gbk"])
@pytest.mark.parametrize("form", ["md", "json"])
def test_an_encoding_of_few_characters_loses_no_result(
    form: str, encoding: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(written := io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["selfaug", "report", str(trained), "--format", form])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    stream.flush()
    text = written.getvalue().decode("utf-8" if encoding == "ascii" else encoding)
    if form == "json":
        assert "no change of its general score was shown (−5.0 points" in json.loads(text)["verdict"]
    else:
        assert re.search("no change of its general score was shown \\([-−]5.0 points", text)


def test_a_share_is_one_in_an_encoding_without_its_space(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(written := io.BytesIO(), encoding="gbk")
    monkeypatch.setattr(sys, "stdout", stream)
    take_any_character()
    stream.write(f"{percent(0.97)} ({points(-0.05)}), …, \N{WARNING SIGN}")
    stream.flush()
    assert written.getvalue().decode("gbk") == "97 % (-5.0 points), …, \\u26a0"


def test_without_the_package_it_says_so(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "selfaug.report.open_report", None)
    result = run("report", str(trained))
    assert result.exit_code == 2
    assert "this installation makes no reports" in result.stderr
