"""Raw rows to rows: the forms, and every reason for refusing one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from selfaug.data import RetrievalTemplate, load_rows
from selfaug.data.row import as_read
from selfaug.errors import DataError
from selfaug.phases.question_files import load_pairs

Write = Callable[..., Path]

TURNS = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "u2"},
    {"role": "assistant", "content": "a2"},
]
GOOD = {"prompt": "p", "completion": "c"}


def test_text_pair(write_jsonl: Write) -> None:
    path = write_jsonl({**GOOD, "other": 1})
    loaded = load_rows([path])
    row = loaded.rows[0]
    assert (row.id, row.prompt, row.completion, row.line) == (f"{path}:1", "p", "c", 1)
    assert loaded.forms == {"prompt-completion": 1}


def test_message_pair(write_jsonl: Write) -> None:
    row = load_rows([write_jsonl({"prompt": TURNS[:4], "completion": TURNS[4:]})]).rows[0]
    assert (row.prompt, row.completion, row.every_assistant_turn) == (TURNS[:4], TURNS[4:], False)


def test_last_assistant_turn_is_the_completion_and_what_follows_is_cut(write_jsonl: Write) -> None:
    row = load_rows([write_jsonl({"messages": [*TURNS, {"role": "user", "content": "thanks"}]})]).rows[0]
    assert (row.prompt, row.completion) == (TURNS[:4], TURNS[4:])


@pytest.mark.parametrize("every_turn", [False, True])
def test_turns_of_weight_0_are_not_trained(write_jsonl: Write, every_turn: bool) -> None:
    """OpenAI's form. The last one that is trained is the completion."""
    turns = [*TURNS, *TURNS[1:], *TURNS[1:3]]
    weights = {2: 0, 4: 1, 6: 0.0, 10: False}
    messages = [turn | ({"weight": weights[at]} if at in weights else {}) for at, turn in enumerate(turns)]
    row = load_rows([write_jsonl({"messages": messages})], every_assistant_turn=every_turn).rows[0]
    assert (len(row.prompt), row.completion) == (8, TURNS[4:])
    assert row.trained_turns() == ([4, 8] if every_turn else [8])


def test_every_assistant_turn_only_marks_rows_of_messages(write_jsonl: Write) -> None:
    rows = load_rows([write_jsonl({"messages": TURNS}, GOOD)], every_assistant_turn=True).rows
    assert [row.every_assistant_turn for row in rows] == [True, False]


def test_retrieval_row_uses_the_template(write_jsonl: Write) -> None:
    template = RetrievalTemplate(system=None, user="{passages}|{question}", separator=";")
    fields = {"id": 7, "question": "q", "context": ["a", "b"], "answer": "x", "gold": [0]}
    loaded = load_rows([write_jsonl(fields)], template=template)
    row = loaded.rows[0]
    assert row.id == "7"
    assert row.prompt == [{"role": "user", "content": "[1] a;[2] b|q"}]
    assert row.completion == [{"role": "assistant", "content": "x"}]
    assert row.retrieval is not None
    assert row.retrieval.messages(1) == [{"role": "user", "content": "[1] a|q"}]
    assert loaded.forms == {"retrieval": 1}


@pytest.mark.parametrize(
    ("context", "passages"),
    [
        ("one", ("one",)),
        (json.dumps(["a", "b"]), ("a", "b")),
        ("[1] cited text", ("[1] cited text",)),
        ("[2023]", ("[2023]",)),
    ],
)
def test_csv_context_is_a_json_list_or_text(tmp_path: Path, context: str, passages: tuple[str, ...]) -> None:
    path = tmp_path / "rows.csv"
    quoted = context.replace('"', '""')
    path.write_text(f'question,context,answer,id\nq,"{quoted}",x,\n')
    row = load_rows([path]).rows[0]
    assert row.retrieval is not None
    assert row.retrieval.passages == passages
    assert row.id == f"{path}:2"


FOLLOWED = {
    "question": "q1",
    "context": ["a", "b", "c"],
    "answer": "x [1]",
    "gold": 1,
    "follow_ups": [
        {"question": "q2", "answer": "y [3]", "gold": 3},
        {"question": "q3", "answer": "none", "gold": None},
    ],
}


def test_further_questions_about_the_same_passages(write_jsonl: Write) -> None:
    row = load_rows([write_jsonl(FOLLOWED)], template=RetrievalTemplate(system=None)).rows[0]
    assert row.prompt == [
        {"role": "user", "content": "[1] a\n\n[2] b\n\n[3] c\n\nQuestion: q1"},
        {"role": "assistant", "content": "x [1]"},
        {"role": "user", "content": "Question: q2"},
        {"role": "assistant", "content": "y [3]"},
        {"role": "user", "content": "Question: q3"},
    ]
    assert row.completion == [{"role": "assistant", "content": "none"}]
    assert row.every_assistant_turn
    assert row.retrieval is not None
    assert row.retrieval.fewest == 3
    assert len(row.retrieval.messages(3)) == 5
    again = as_read(row)
    assert {name: again[name] for name in FOLLOWED} == FOLLOWED
    rewritten = as_read(replace(row, completion=[{"role": "assistant", "content": "It isn't said."}]))
    assert rewritten["answer"] == "x [1]"
    assert [one["answer"] for one in rewritten["follow_ups"]] == ["y [3]", "It isn't said."]


@pytest.mark.parametrize(
    ("follow_ups", "reason"),
    [
        ("more", "'follow_ups' must be a list of objects with 'question' and 'answer', it is text"),
        (["q2"], "'follow_ups' must be a list of objects with 'question' and 'answer', it is a list"),
        ([{"question": "q2"}], "'follow_ups[0].answer' must be text, it is null"),
        ([{"question": " ", "answer": "y"}], "'follow_ups[0].question' is empty"),
    ],
)
def test_further_questions_of_another_form(write_jsonl: Write, follow_ups: object, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        load_rows([write_jsonl({**FOLLOWED, "follow_ups": follow_ups})])
    assert reason in caught.value.problems[0]


def test_no_further_questions(write_jsonl: Write) -> None:
    row = load_rows([write_jsonl({**FOLLOWED, "follow_ups": []})]).rows[0]
    assert not row.every_assistant_turn
    assert "follow_ups" not in as_read(row)


@pytest.mark.parametrize(
    "context",
    [
        str(["p one", "p two"]),
        str(["it's one", "p two"]),
        "['p one'\n 'p two']",  # of a numpy array
        "['p one' 'p two' ... 'p eight' 'p nine']",  # of a long one
        "[{'role': 'user'}\n {'role': 'assistant'}]",
        "['p one', nan, 'p two']",
        r"['a \d', 'b']",
        '["p one",\n "on two\nlines"]',
        str([{"role": "user"}]),
    ],
)
def test_csv_list_that_is_no_json_is_not_one_passage(tmp_path: Path, context: str) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question", "context", "answer"], ["q", context, "a"]])
    with pytest.raises(DataError) as caught:
        load_rows([tmp_path / "rows.csv"])
    (problem,) = caught.value.problems
    assert "'context' looks like a list as Python prints it; write it as JSON (json.dumps)" in problem


@pytest.mark.parametrize(
    "context", ['["Buyer"] shall pay ["Seller"]', "['a'] or ['b']", "['a\0', 'b'] ['c']"]
)
def test_csv_text_with_brackets_at_both_ends_is_text(tmp_path: Path, context: str) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question", "context", "answer"], ["q", context, "a"]])
    (row,) = load_rows([tmp_path / "rows.csv"]).rows
    assert row.retrieval is not None
    assert row.retrieval.passages == (context,)


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        (2, 2), ("1", 1), (2.0, 2), ("1.0", 1), (None, None), (0, None), (3, None), (True, None), ("$2", None),
        (1.5, None), (float("nan"), None), ("nan", None), ("9" * 400, None),
    ],
)  # fmt: skip
def test_a_retrieval_row_can_say_which_passage_its_answer_is_from(
    write_jsonl: Write, gold: object, expected: int | None
) -> None:
    fields = {"question": "q", "context": ["a", "b"], "answer": "x [2]", "gold": gold}
    row = load_rows([write_jsonl(fields)]).rows[0]
    assert row.retrieval is not None
    assert row.retrieval.gold == expected


def test_a_passage_number_is_read_from_a_column_in_which_some_are_missing(tmp_path: Path) -> None:
    fields = {"question": ["q", "r"], "context": [["a", "b"], ["c"]], "answer": ["x [2]", "none"]}
    columns = pyarrow.table({**fields, "gold": [2.0, float("nan")]})
    pyarrow.parquet.write_table(columns, tmp_path / "rows.parquet")
    golds = [row.retrieval.gold for row in load_rows([tmp_path / "rows.parquet"]).rows if row.retrieval]
    assert golds == [2, None]


@pytest.mark.parametrize("calls", [None, []])
def test_null_columns_are_absent(write_jsonl: Write, calls: object) -> None:
    """So are empty lists of calls, of which Llama 3.1's template says that it takes single ones only."""
    messages = [{**turn, "tool_calls": calls} for turn in TURNS]
    row = load_rows([write_jsonl({**dict.fromkeys(["prompt", "id"]), "messages": messages})]).rows[0]
    assert (row.prompt, row.completion) == (TURNS[:4], TURNS[4:])


def test_tool_calls_need_no_content(write_jsonl: Write) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    row = load_rows([write_jsonl({"messages": [TURNS[1], call], "tools": [{"name": "f"}]})]).rows[0]
    assert row.completion == [{**call, "content": ""}]
    assert row.tools == [{"name": "f"}]


def test_columns_of_objects_may_be_json_in_a_text(tmp_path: Path) -> None:
    """Columns of Parquet files have one type, so that hub data sets keep tools so."""
    fields = {**GOOD, "tools": '[{"name": "f"}]', "chat_template_kwargs": '{"brief": true, "deep": null}'}
    columns = {name: [value, ""] for name, value in fields.items()} | {
        "completion": ["c", "d"],
        "prompt": ["p", "q"],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    first, second = load_rows([tmp_path / "rows.parquet"]).rows
    assert (first.tools, first.chat_template_kwargs) == ([{"name": "f"}], {"brief": True})
    assert (second.tools, second.chat_template_kwargs) == (None, None)


@pytest.mark.parametrize(
    ("fields", "cluster"),
    [
        ({"documents": ["b.pdf", "a.pdf"]}, "b.pdf"),
        ({"documents": ["a.pdf"], "cluster": "customer 7"}, "customer 7"),
        ({"cluster": 7}, "7"),
        ({"documents": []}, ""),
        ({"documents": [{"id": 1}], "cluster": True}, ""),  # a user's fields of these names
        ({"cluster": None}, ""),
    ],
)
def test_what_rows_hang_together_with(write_jsonl: Write, fields: dict[str, object], cluster: str) -> None:
    (row,) = load_rows([write_jsonl({**GOOD, **fields})]).rows
    assert row.cluster == cluster
    assert load_rows([write_jsonl(as_read(row))]).rows[0].cluster == cluster


USER = {"role": "user", "content": "u"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": "p", "completoin": "c"}, "'completion' is missing (did you mean it by 'completoin'?)"),
        ({"instruction": "p", "output": "c"}, "'prompt' is missing (did you mean it by 'instruction'?)"),
        ({"conversations": TURNS}, "'messages' is missing (did you mean it by 'conversations'?)"),
        ({"question": "q", "answer": "a"}, "'context' is missing; found 'question', 'answer'"),
        ({"prompt": "p", "completion": None}, "'completion' is null"),
        ({"text": "all in one"}, "has only 'text'"),
        ({}, "has no fields"),
        ({**GOOD, "messages": TURNS}, "more than one form: prompt-completion and messages"),
        ({"prompt": " ", "completion": "c"}, "'prompt' is empty"),
        ({"prompt": "p", "completion": ""}, "'completion' is empty"),
        ({"prompt": "p", "completion": 3}, "they are text and a number"),
        ({"prompt": "p", "completion": TURNS[4:]}, "they are text and a list"),
        ({"prompt": "\ud800", "completion": "c"}, "half of a surrogate pair at character 1"),
        ({"prompt": [], "completion": TURNS[4:]}, "'prompt' is empty"),
        ({"prompt": [USER], "completion": []}, "'completion' is empty"),
        ({"prompt": [USER], "completion": [USER]}, "must be one assistant message"),
        ({"prompt": [USER], "completion": TURNS[2:]}, "must be one assistant message"),
        ({"messages": "text"}, "must be a list of messages, it is text"),
        ({"messages": [USER]}, "no assistant turn"),
        ({"messages": TURNS[2:3]}, "no prompt before its assistant turn"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "'messages[1]' is empty"),
        (
            {"messages": [USER, {"role": "gpt", "content": "a"}]},
            "unknown role 'gpt'; did you mean 'assistant'?",
        ),
        ({"messages": [USER, {"role": "xyz", "content": "a"}]}, "unknown role 'xyz'; roles are system"),
        ({"messages": [{"from": "human", "value": "u"}]}, "has no 'role' (did you mean it by 'from'?)"),
        ({"messages": [{"role": "user"}]}, "'messages[0]' has no 'content'"),
        ({"messages": [{"role": "user", "content": " "}]}, "the content of 'messages[0]' is empty"),
        ({"messages": [{"role": "user", "content": [1]}]}, "must be text, it is a list"),
        ({"messages": ["u"]}, "must be an object with 'role' and 'content', it is text"),
        ({"question": "q", "context": [], "answer": "a"}, "'context' is empty"),
        ({"question": "q", "context": " ", "answer": "a"}, "'context' is empty"),
        (
            {"question": "q", "context": ["a", {}], "answer": "a"},
            "'context[1]' must be text, it is an object",
        ),
        (
            {"question": "q", "context": 1, "answer": "a"},
            "must be text or a list of passages, it is a number",
        ),
        ({"question": "q", "context": "c", "answer": True}, "'answer' must be text, it is true or false"),
        ({**GOOD, "id": 1.5}, "'id' must be text or a whole number"),
        ({**GOOD, "tools": "f"}, "'tools' must be a list of objects"),
        ({**GOOD, "tools": "[{'name': 'f'}]"}, "'tools' looks like a list as Python prints it"),
        ({**GOOD, "chat_template_kwargs": "brief"}, "'chat_template_kwargs' must be an object, it is text"),
        ({**GOOD, "chat_template_kwargs": {"tools": []}}, "'chat_template_kwargs' can't set tools"),
        (
            {"messages": [USER, TURNS[2] | {"weight": 0.5}]},
            "'messages[1]' has the weight 0.5; it may be 0, for",
        ),
        ({"messages": [USER, TURNS[2] | {"weight": 0}]}, "no assistant turn of another weight than 0"),
        ({"prompt": [USER], "completion": [TURNS[2] | {"weight": 0}]}, "'completion' has the weight 0"),
    ],
)
def test_bad_row_is_named_with_file_line_and_reason(
    write_jsonl: Write, fields: dict[str, Any], reason: str
) -> None:
    path = write_jsonl(GOOD, fields)
    with pytest.raises(DataError, match=r"^1 of 2 rows can't be used") as caught:
        load_rows([path])
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{path}:2: ")
    assert reason in caught.value.problems[0]
    # Commands that measure a run have no such flag.
    assert "with --skip-bad-rows or --set data.skip_bad_rows=true, where the command has" in str(
        caught.value.hint
    )


def test_skip_bad_rows_goes_on_and_keeps_the_problems(write_jsonl: Write, tmp_path: Path) -> None:
    path = write_jsonl(GOOD, {"prompt": "p"}, GOOD)
    with path.open("ab") as file:
        file.write(b"\xff\n")
    loaded = load_rows([path], skip_bad_rows=True)
    assert [row.line for row in loaded.rows] == [1, 3]
    assert sorted(problem.line for problem in loaded.problems) == [2, 4]


def test_problems_are_in_the_order_of_the_file_and_the_hint_is_about_them(
    write_jsonl: Write, tmp_path: Path
) -> None:
    path = write_jsonl({"prompt": "p"}, GOOD)
    with path.open("ab") as file:
        file.write(b"{\n\xff\n")
    with pytest.raises(DataError) as caught:
        load_rows([path])
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["1", "3", "4"]
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("save the file as UTF-8. a row has the fields")
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é", "completion": "x"}\n'.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        load_rows([tmp_path / "latin.jsonl"])
    assert caught.value.hint == "save the file as UTF-8. Correct the rows."


def test_only_bad_rows_is_an_error_anyway(write_jsonl: Write) -> None:
    with pytest.raises(DataError, match="2 of 2 rows") as caught:
        load_rows([write_jsonl({"a": 1}, {"a": 1})], skip_bad_rows=True)
    assert "--skip-bad-rows" not in str(caught.value.hint)


def test_long_list_of_problems_is_cut_where_it_is_shown(write_jsonl: Write) -> None:
    with pytest.raises(DataError, match=r"1,025 of 1,025 rows") as caught:
        load_rows([write_jsonl(*[{"a": 1}] * 1025)])
    assert [problem.split(":")[1] for problem in caught.value.problems] == [
        str(line) for line in range(1, 1026)
    ]
    shown = str(caught.value).splitlines()
    assert len(shown) == 1 + 20 + 1 + 1
    assert shown[-2].startswith("  - and 1,005 more: --debug shows all")
    assert len(caught.value.text(every_problem=True).splitlines()) == 1 + 1025 + 1


WHOLE_FILES = {
    "other.json": '{"items": []}',
    "text.json": '"a"',
    "deep.json": "[" * 100_000,
    "comma.json": '[{"prompt": "p",}]',
    "latin.json": "[é]".encode("latin-1"),
    "wide.jsonl": "{}".encode("utf-16"),
    "list.jsonl": json.dumps([GOOD, GOOD], indent=1),
    "line.jsonl": json.dumps([GOOD, GOOD]) + "\n",
    "twice.csv": "prompt,completion,prompt\na,b,c\n",
    "bars.csv": "prompt|completion\na|b\n",
    "quotes.csv": 'prompt,completion\nq,"b"x\n' + "c,d\n" * 3,
    "rows.parquet": "no parquet",
}


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_whole_files_are_not_offered_to_be_left_out(write_jsonl: Write, tmp_path: Path, name: str) -> None:
    content = WHOLE_FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        load_rows([write_jsonl(GOOD, name="good.jsonl"), tmp_path / name])
    hint = caught.value.hint or ""
    assert "Correct the files." in hint
    assert "--skip-bad-rows" not in hint
    with pytest.raises(DataError) as caught:  # nor with questions about documents
        load_pairs(
            [str(write_jsonl({"question": "q", "answer": "a"}, name="q.jsonl")), str(tmp_path / name)], []
        )
    assert "--skip-bad-rows" not in (caught.value.hint or "")


def test_lines_that_are_lists_are_bad_rows(write_jsonl: Write, tmp_path: Path) -> None:
    for lines in ([[], GOOD], [[], []]):
        (tmp_path / "lists.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(DataError) as caught:
            load_rows([write_jsonl(GOOD), tmp_path / "lists.jsonl"])
        assert caught.value.problems[0].endswith("lists.jsonl:1: holds a list, not an object with fields")
        assert "--skip-bad-rows" in (caught.value.hint or "")


def test_a_file_that_is_named_twice(write_jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_jsonl(GOOD, GOOD)
    monkeypatch.chdir(file.parent)
    link = file.with_name("link")
    link.symlink_to(file.parent)
    for sources in ([file, file], [file.parent, file], [file.name, file], [link / file.name, file]):
        with pytest.raises(DataError, match=f"^{file} is named twice") as caught:
            load_rows(sources, skip_bad_rows=True)
        assert "a copy of it under another name" in str(caught.value.hint)
    copy = file.with_name("copy.jsonl")
    copy.write_bytes(file.read_bytes())
    assert len(load_rows([file, copy]).rows) == 4


def test_second_row_with_an_id_names_the_first(write_jsonl: Write) -> None:
    file = write_jsonl({**GOOD, "id": "x"}, {**GOOD, "id": "x"})
    with pytest.raises(DataError) as caught:
        load_rows([file])
    assert caught.value.problems == [f"{file}:2: the id 'x' is taken by {file}:1"]


def test_files_that_each_count_their_rows_go_together(write_jsonl: Write) -> None:
    first = write_jsonl({**GOOD, "id": 1}, {**GOOD, "id": 2}, name="a.jsonl")
    second = write_jsonl({**GOOD, "id": 1}, {**GOOD, "id": 3}, name="b.jsonl")
    assert [row.id for row in load_rows([first, second]).rows] == ["1", "2", f"{second}:1", "3"]
    with pytest.raises(DataError) as caught:
        load_rows([first, write_jsonl({**GOOD, "id": 1}, {**GOOD, "id": 1}, name="c.jsonl")])
    assert "is taken by" in str(caught.value.problems)


@pytest.mark.parametrize("every_turn", [False, True])
def test_rows_are_read_again_as_they_were(write_jsonl: Write, tmp_path: Path, every_turn: bool) -> None:
    written = [
        GOOD,
        {"messages": TURNS, "tools": [{"name": "search"}], "chat_template_kwargs": {"brief": True}},
        {"question": "q", "context": ["a", "b"], "answer": "x [2]", "gold": 2},
        {"question": "q", "context": ["a", "b"], "answer": "x"},
    ]
    first = load_rows([write_jsonl(*written)], every_assistant_turn=every_turn).rows
    again = tmp_path / "again.jsonl"
    again.write_text("".join(json.dumps(as_read(row)) + "\n" for row in first), encoding="utf-8")
    second = load_rows([again], every_assistant_turn=every_turn).rows
    for one, other in zip(first, second, strict=True):
        assert replace(other, file=one.file, line=one.line, source=one.source) == one
