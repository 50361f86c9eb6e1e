"""Files to raw rows: every kind of file, and every way in which one can be wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from selfaug.data import Problem, RawRow, Row, load_rows, read_rows
from selfaug.data.sources import _records
from selfaug.errors import DataError

PAIR = {"prompt": "p\u2028q", "completion": "é"}
"""U+2028 is a line end for str.splitlines, not for JSON lines."""


def fields(rows: list[RawRow]) -> list[dict[str, object]]:
    return [row.fields for row in rows]


def test_jsonl_counts_blank_lines_and_ignores_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    line = json.dumps(PAIR, ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\n" + line)
    rows, problems = read_rows(path)
    assert rows == [RawRow(str(path), 1, PAIR), RawRow(str(path), 3, PAIR)]
    assert problems == []


@pytest.mark.parametrize("content", [[PAIR], {"data": [PAIR]}, {"rows": [PAIR], "version": 1}])
def test_json_list_or_object_with_one_list(tmp_path: Path, content: object) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))
    rows, problems = read_rows(path)
    assert (fields(rows), problems) == ([PAIR], [])


def test_json_file_that_holds_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(f"{json.dumps(PAIR)}\n{json.dumps(PAIR)}\n")
    assert fields(read_rows(path)[0]) == [PAIR, PAIR]


def test_csv_names_the_line_where_a_record_starts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes('\ufeffprompt,completion\n"two\nlines",a\nshort,b\n'.encode())
    rows, problems = read_rows(path)
    assert [(row.line, row.fields) for row in rows] == [
        (2, {"prompt": "two\nlines", "completion": "a"}),
        (4, {"prompt": "short", "completion": "b"}),
    ]
    assert problems == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Question;Answer\nWhat, in all?;3,5\n", 2),
        ("question\tANSWER\nWhat, in all?\t3,5\n", 2),
        ("sep=;\r\nQuestion;Answer\r\nWhat, in all?;3,5\r\n", 3),
        ('"sep=|"\nQuestion|Answer\nWhat, in all?|3,5\n', 3),
        # Empty rows, and columns that a border or a colour has left.
        ("\ufeff;;;\n Question ;Answer;;\n;;;\nWhat, in all?;3,5;;\n;;;\n", 4),
        ("question;;;answer;\nWhat, in all?;;;3,5\n", 2),
    ],
)
def test_csv_as_a_european_spreadsheet_writes_it(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode())
    rows, problems = read_rows(path)
    assert problems == []
    assert rows == [RawRow(str(path), line, {"question": "What, in all?", "answer": "3,5"})]


def test_csv_columns_that_differ_in_case_alone_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("Answer,answer,ID\n1,2,3\n")
    assert read_rows(path)[0][0].fields == {"Answer": "1", "answer": "2", "id": "3"}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('"Which, if any";answer\nnone;3\n', {"which, if any": "none", "answer": "3"}),
        ('"one; two","answer"\n"none",3\n', {"one; two": "none", "answer": "3"}),
        ('"one; two"\nthis; that\n', {"one; two": "this; that"}),
    ],
)
def test_what_a_csv_header_quotes_separates_nothing(
    tmp_path: Path, text: str, fields: dict[str, str]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    assert read_rows(path) == ([RawRow(str(path), 2, fields)], [])


def test_csv_takes_fields_that_are_longer_than_the_default_limit(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,completion\n{'x' * 200_000},a\n")
    limit = csv.field_size_limit()
    assert len(str(read_rows(path)[0][0].fields["prompt"])) == 200_000
    assert csv.field_size_limit() == limit  # it is the whole process's


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([PAIR, {"prompt": "only"}]), path)
    rows, problems = read_rows(path)
    assert [(row.line, row.fields) for row in rows] == [
        (1, PAIR),
        (2, {"prompt": "only", "completion": None}),
    ]
    assert problems == []


def test_folder_reads_its_data_files_in_the_order_of_their_names(
    tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    write_jsonl({"prompt": "2"}, name="b.jsonl")
    write_jsonl({"prompt": "1"}, name="a.JSONL")
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.jsonl").write_text("not JSON")
    assert fields(read_rows(tmp_path)[0]) == [{"prompt": "1"}, {"prompt": "2"}]


def test_hub_rows_are_numbered_from_one() -> None:
    assert _records("owner/name/train", Dataset.from_list([PAIR, PAIR])) == [
        RawRow("owner/name/train", 1, PAIR),
        RawRow("owner/name/train", 2, PAIR),
    ]


def test_nested_rows_are_the_same_in_columns(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    """A column's objects have the fields of all rows, which are null where a row had none: no template sees them."""

    def row(name: str, arguments: dict[str, object]) -> dict[str, object]:
        described = {"type": "object", "properties": {key: {"type": "string"} for key in arguments}}
        call = {"id": name, "function": {"name": name, "arguments": arguments}}
        return {
            "messages": [
                {"role": "user", "content": "How much?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "5", "tool_call_id": name},
                {"role": "assistant", "content": "Five."},
            ],
            "tools": [{"type": "function", "function": {"name": name, "parameters": described}}],
        }

    written = [row("revenue", {"year": "2024"}), row("price", {"item": "tea", "sizes": ["s", None]})]
    jsonl = load_rows([write_jsonl(*written)]).rows
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(written), tmp_path / "rows.parquet")
    parquet = load_rows([tmp_path / "rows.parquet"]).rows

    def content(rows: list[Row]) -> list[tuple[object, ...]]:
        return [(row.prompt, row.completion, row.tools) for row in rows]

    assert content(parquet) == content(jsonl)
    assert [record.fields for record in _records("owner/name/train", Dataset.from_list(written))] == written


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', 2, "not valid UTF-8 at byte 8 of the line"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', 2, "not valid JSON"),
        ("a.jsonl", b"[1, 2]\n", 1, "holds a list, not an object with fields"),
        ("a.jsonl", b'[\n{"a": 1}]\n', 1, "name the file .json"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000 + b"\n", 1, "not valid JSON"),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), 0, "UTF-16"),
        ("a.json", b'[{"a": 1},\n{"a": "\xff"}]', 2, "not valid UTF-8"),
        ("a.json", b'[{"a": 1},\n{"a" 2}]', 2, "not valid JSON"),
        ("a.json", b'[{"a": 1}, null]', 2, "holds null"),
        ("a.json", b'{"items": []}', 0, "under 'data' or 'rows'; it has 'items'"),
        ("a.json", b'"text"', 0, "holds text, not a list of rows"),
        ("a.csv", b"a,b\n1,2\n1,\xff\n", 3, "not valid UTF-8"),
        ("a.csv", b"a,b\n1,2,3\n", 2, "has 3 cells, the header has 2"),
        ("a.csv", b"a|b\n1|2\n", 1, "separated by commas, semicolons or tabs"),
        ("a.csv", b"a;b\n1;2;;\n1;2;;3\n", 3, "has 4 cells, the header has 2"),
        ("a.csv", b"a;b;\n1\n", 2, "has 1 cells, the header has 3"),
        ("a.csv", b"a,a\n1,2\n", 1, "'a' more than once"),
        ("a.csv", b'a,b\n1,"2', 2, "not valid CSV"),
        ("a.parquet", b"PAR1 but not really", 0, "not a valid Parquet file"),
    ],
)
def test_what_cannot_be_read_is_a_problem_with_its_place(
    tmp_path: Path, name: str, content: bytes, line: int, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    _, problems = read_rows(path)
    assert [(problem.file, problem.line) for problem in problems] == [(str(path), line)]
    assert reason in problems[0].reason


def test_a_bad_line_does_not_hide_the_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\xff\n{"a": 3}\n')
    rows, problems = read_rows(path)
    assert [row.line for row in rows] == [1, 3]
    assert str(problems[0]) == f"{path}:2: not valid UTF-8 at byte 1 of the line"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b" \n\n", "is empty"),
        ("a.json", b"[]", "has no rows"),
        ("a.csv", b"prompt,completion\n", "has no rows"),
        ("a.xlsx", b"PK", "'.xlsx' can't be read"),
        ("a", b"{}", "'nothing' can't be read"),
    ],
)
def test_file_without_rows_is_an_error_with_a_hint(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(tmp_path / name)
    assert caught.value.hint


def test_missing_file_names_the_nearest_one(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl({"prompt": "p"}, name="train.jsonl")
    with pytest.raises(DataError, match="does not exist") as caught:
        read_rows(tmp_path / "trian.jsonl")
    assert caught.value.hint == f"did you mean {path}?"
    write_jsonl({"prompt": "p"}, name="train.json")
    for name, meant in (
        ("train.jsnl", "train.json"),
        ("trian.jsonl", "train.jsonl"),
        ("trian.json", "train.json"),
    ):
        with pytest.raises(DataError, match="does not exist") as caught:
            read_rows(tmp_path / name)
        assert caught.value.hint == f"did you mean {tmp_path / meant}?"
    with pytest.raises(DataError, match="does not exist") as caught:  # the same ending is no likeness
        read_rows(tmp_path / "nope.jsonl")
    assert caught.value.hint == "check the path."
    with pytest.raises(DataError, match="does not exist") as caught:
        read_rows(tmp_path / "nowhere" / "train.jsonl")
    assert "no folder" in str(caught.value.hint)


def test_an_empty_name_is_not_the_current_folder(
    write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_jsonl(PAIR).parent)
    with pytest.raises(DataError, match="an empty name") as caught:
        read_rows("")
    assert "perhaps a variable is not set" in str(caught.value.hint)
    assert len(read_rows(".")[0]) == 1


def test_folders_of_other_writers_are_named(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    rows = Dataset.from_list([PAIR])
    rows.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "splits")
    for name in ("saved", "splits"):
        with pytest.raises(DataError, match="save_to_disk") as caught:
            read_rows(tmp_path / name)
        assert "to_json('rows.jsonl') or to_parquet('rows.parquet')" in str(caught.value.hint)


def test_folder_without_data_says_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"found: notes\.txt"):
        read_rows(tmp_path)


def test_hub_data_set_is_refused_offline() -> None:
    with pytest.raises(DataError, match="refused offline"):
        read_rows("owner/name", offline=True)


def test_hub_data_set_that_cannot_be_loaded_is_an_error_with_a_hint() -> None:
    # The tests run with HF_HUB_OFFLINE=1, so the library itself fails.
    with pytest.raises(DataError, match="can't load 'owner/name', split 'train'") as caught:
        read_rows("owner/name")
    assert "taken for a hub data set" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["owner/name@validation", "owner/name:english@validation[:10%]"])
def test_a_hub_data_set_may_name_its_split(name: str) -> None:
    whole, split = name.split("@")
    with pytest.raises(DataError) as caught:
        read_rows(name, split="train")
    assert f"can't load {whole!r}, split {split!r}" in str(caught.value)


def test_problem_of_a_whole_file_has_no_line() -> None:
    assert str(Problem("a.json", 0, "why")) == "a.json: why"
