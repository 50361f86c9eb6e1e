"""Rows in the forms that scripts give them in: what the trainer makes of them, and what it says where it can't."""

from __future__ import annotations

import copy
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from tiny_training import make_trainer, settings, text_rows
from torch.utils.data import TensorDataset

from selfaug import SelfAugConfig
from selfaug.errors import ConfigError, DataError
from selfaug.train.dataset_rows import count_row_tokens, longest_document, with_completions
from tiny_models import build

ASKED: dict[str, str] = {"role": "user", "content": "the revenue of the company"}
ANSWERED: dict[str, str] = {"role": "assistant", "content": "grew by million"}
CHAT: dict[str, Any] = {"messages": [ASKED, ANSWERED]}


def config(folder: Path, **changes: Any) -> SelfAugConfig:
    return SelfAugConfig(**settings(folder, **changes))


def test_a_field_of_messages_may_be_empty_in_the_first_thousand_rows(tmp_path: Path) -> None:
    """Of new columns, datasets takes the types from so many rows."""
    nameless, named = ([{**ASKED, "name": name}, {**ANSWERED, "name": None}] for name in (None, "Ann"))
    rows = Dataset.from_list([{"messages": nameless, "id": 1}] * 1500 + [{"messages": named, "id": 2}] * 100)
    split = with_completions(rows, config(tmp_path))
    assert set(split.column_names) == {"prompt", "completion", "id"}
    assert split[0]["prompt"] == [{**ASKED, "name": None}]
    assert split[1599] == {"prompt": named[:1], "completion": named[1:], "id": 2}


def _calls(name: str, **arguments: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    parameters = {"type": "object", "properties": {field: {"type": "string"} for field in arguments}}
    tool = {"type": "function", "function": {"name": name, "parameters": parameters}}
    return {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}], "tools": [tool]}


CALLS = [_calls("weather", city="Paris"), _calls("convert", amount=5)]


@pytest.mark.parametrize(
    "form", [list, Dataset.from_list, lambda rows: Dataset.from_list(rows).to_iterable_dataset()]
)
def test_no_row_gets_the_arguments_of_another_ones_tool_calls(
    form: Any, tiny_tokenizer: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Arrow fills them in as null: one object has the fields of all."""
    args = config(tmp_path)
    rows = with_completions(form(CALLS), args)
    assert [row["prompt"] + row["completion"] for row in rows] == [row["messages"] for row in CALLS]
    assert [row["tools"] for row in rows] == [row["tools"] for row in CALLS]
    if form is list:
        # Also where the first row has none; and a null that the user has written is the row's own.
        given = _calls("convert", amount=None)
        (_, row) = with_completions([CHAT, given], args)
        assert row["completion"] == given["messages"][1:]
        assert row["tools"] == given["tools"]
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = (
            "{{ tools | tojson }}{% for message in messages %}{{ message | tojson }}{% endfor %}"
        )
        trainer = make_trainer(tiny_model_dir, tmp_path, form(CALLS), tokenizer=tokenizer)
        for row, trained in zip(CALLS, trainer.train_dataset, strict=True):
            assert tokenizer.decode(trained["input_ids"]).startswith(
                tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
            )


@pytest.mark.parametrize("form", [Dataset.from_list, lambda rows: IterableDataset.from_generator(rows.copy)])
def test_a_token_is_completion_if_all_masks_say_so(form: Any, tmp_path: Path) -> None:
    tokens = {"input_ids": [5, 6, 7, 8]}
    completion, assistant = {"completion_mask": [0, 1, 1, 1]}, {"assistant_masks": [1, 1, 0, 1]}
    for columns, labels in (
        (completion, [-100, 6, 7, 8]),
        (assistant, [5, 6, -100, 8]),
        (completion | assistant, [-100, 6, -100, 8]),
        (completion | {"labels": [5, -100, 7, 8]}, [-100, -100, 7, 8]),
    ):
        rows = with_completions(form([tokens | columns] * 2), config(tmp_path))
        assert next(iter(rows)) == {**tokens, "labels": labels}
    # As in trl, it speaks of `completion_mask` alone.
    rows = with_completions(
        Dataset.from_list([tokens | assistant]), config(tmp_path, completion_only_loss=False)
    )
    assert rows[0]["labels"] == [5, 6, -100, 8]
    with pytest.raises(ConfigError, match="completion_only_loss=False"):
        with_completions([tokens | completion], config(tmp_path, completion_only_loss=False))


@pytest.mark.parametrize("form", [Dataset.from_list, lambda rows: IterableDataset.from_generator(rows.copy)])
def test_what_rows_are_padded_with_is_cut_off(form: Any, tmp_path: Path) -> None:
    """Else it would be aligned, and counted as prompt where no token is one."""
    bare = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
    right = {"input_ids": [5, 6, 7, 0], "labels": [-100, 6, 7, -100], "attention_mask": [1, 1, 1, 0]}
    left = {"input_ids": [0, 0, 5, 6, 7], "labels": [-100] * 3 + [6, 7], "attention_mask": [0, 0, 1, 1, 1]}
    for given in ([right, left], [left | {"completion_mask": [0, 0, 0, 1, 1]}]):
        for rows in (form(given), form(given).with_format("torch")):
            for row in with_completions(rows, config(tmp_path)):
                assert row == bare | {"attention_mask": [1, 1, 1]}
    unpadded = form([bare | {"attention_mask": [1, 1, 1]}])
    assert next(iter(with_completions(unpadded, config(tmp_path))))["labels"] == bare["labels"]


@pytest.mark.parametrize("form", [Dataset.from_list, lambda rows: IterableDataset.from_generator(rows.copy)])
def test_a_label_on_what_the_mask_says_is_padding_is_refused(form: Any, tmp_path: Path) -> None:
    """Where the end token is the padding token too, the end of the answer would never be learnt."""
    row = {"input_ids": [5, 6, 7, 0, 0], "attention_mask": [1, 1, 1, 0, 0]}
    for learnt in ({"labels": [-100, 6, 7, 0, -100]}, {"completion_mask": [0, 1, 1, 1, 0]}):
        given = form([row | {"attention_mask": [1, 1, 1, 1, 0]} | learnt, row | learnt])
        with pytest.raises(DataError, match="1 tokens of row 2 are to be learnt, and have an") as error:
            list(with_completions(given, config(tmp_path)))
        assert "end token" in str(error.value.hint)


def test_assistant_masks_that_are_left_over_beside_labels_count_for_nothing(tmp_path: Path) -> None:
    """A chat template without `{% generation %}` makes them of zeros; trl leaves given labels alone, too."""
    given: dict[str, Any] = {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}
    none = {"assistant_masks": [0, 0, 0, 0]}
    assert with_completions([given | none] * 2, config(tmp_path))[1]["labels"] == given["labels"]
    both = with_completions([given | none | {"completion_mask": [0, 0, 0, 1]}], config(tmp_path))
    assert both[0]["labels"] == [-100, -100, -100, 8]


@pytest.mark.parametrize(
    ("columns", "words", "hint"),
    [
        ({"assistant_masks": [0, 0]}, "by assistant_masks", "{% generation %}"),
        (
            {"completion_mask": [0, 1], "assistant_masks": [1, 0]},
            "by completion_mask and assistant_masks",
            "drop the column",
        ),
        ({"completion_mask": [1, 0], "labels": [-100, 6]}, "by completion_mask and labels", "to 1"),
    ],
)
def test_masks_that_leave_nothing_to_learn_are_refused(
    columns: dict[str, list[int]], words: str, hint: str, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"input_ids": [5, 6], **columns}] * 3
    with pytest.raises(DataError, match=f"no row has a completion token {words}") as error:
        with_completions(rows, config(tmp_path, max_length=30))
    assert hint in str(error.value.hint)
    # A stream may have some later, and so may a data set.
    with_completions(IterableDataset.from_generator(rows.copy), config(tmp_path))
    last = {"input_ids": [5, 6], **{name: [1, 1] for name in columns}}
    assert len(with_completions([*rows, last], config(tmp_path))) == 4


def test_arguments_of_the_chat_template_hold_for_rows(
    tiny_tokenizer: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% if brief %}in the year {% endif %}" + tokenizer.chat_template
    trainer = make_trainer(
        tiny_model_dir,
        tmp_path,
        Dataset.from_list([CHAT] * 2),
        eval_rows={"chat": Dataset.from_list([CHAT]), "text": text_rows(2)},
        tokenizer=tokenizer,
        chat_template_kwargs={"brief": True},
    )
    brief = tokenizer.apply_chat_template(CHAT["messages"], tokenize=False, brief=True)
    for rows in (trainer.train_dataset, trainer.eval_dataset["chat"]):
        assert tokenizer.decode(rows[0]["input_ids"]) == brief
    assert "in the year <|im_start|>" in brief
    assert "chat_template_kwargs" not in trainer.eval_dataset["text"].column_names


def test_rows_with_arguments_of_the_chat_template_keep_them(tmp_path: Path) -> None:
    args = config(tmp_path, chat_template_kwargs={"brief": True})
    own = {"brief": False}
    split = {"prompt": [ASKED], "completion": [ANSWERED]}
    stream = IterableDataset.from_generator(lambda: iter([CHAT]))
    for rows, expected in (
        ([CHAT], {"brief": True}),
        (stream, {"brief": True}),
        ([split], {"brief": True}),
        ([CHAT | {"chat_template_kwargs": own}], own),
        ([split | {"input_ids": [3, 4], "labels": [-100, 4]}], None),
        ([{"prompt": "the revenue", "completion": " grew"}], None),
    ):
        row = next(iter(with_completions(rows, args)))
        assert row.get("chat_template_kwargs") == expected


@pytest.mark.parametrize("form", [Dataset.from_list, lambda rows: IterableDataset.from_generator(rows.copy)])
@pytest.mark.parametrize("arguments", [{"brief": True}, None])
def test_rows_without_arguments_beside_rows_with_some(
    form: Any, arguments: dict[str, Any] | None, tiny_tokenizer: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    own = {"brief": False}
    named, none = CHAT | {"chat_template_kwargs": own}, CHAT | {"chat_template_kwargs": None}
    args = config(tmp_path, chat_template_kwargs=arguments)
    first, second = with_completions(form([named, none]), args)
    assert first["chat_template_kwargs"] == own
    assert (second["chat_template_kwargs"].get("brief") is True) == (arguments is not None)
    (only,) = with_completions(form([none]), args)
    assert only["chat_template_kwargs"] == (arguments or {})
    make_trainer(tiny_model_dir, tmp_path, form([named, none]), chat_template_kwargs=arguments)


def test_arguments_of_the_first_thousand_rows_may_have_other_names(tmp_path: Path) -> None:
    named, none = (CHAT | {"chat_template_kwargs": own} for own in ({"brief": False}, None))
    args = config(tmp_path, chat_template_kwargs={"deep": True})
    rows = with_completions([named] * 1500 + [none], args)
    assert rows[0]["chat_template_kwargs"] == {"brief": False, "deep": None}
    assert rows[1500]["chat_template_kwargs"] == {"brief": None, "deep": True}


def test_a_later_row_of_a_stream_keeps_its_arguments_of_the_chat_template(tmp_path: Path) -> None:
    own = {"brief": False}
    stream = IterableDataset.from_generator(lambda: iter([CHAT, CHAT | {"chat_template_kwargs": own}]))
    rows = with_completions(stream, config(tmp_path, chat_template_kwargs={"brief": True}))
    assert [row["chat_template_kwargs"] for row in rows] == [{"brief": True}, own]


def test_a_stream_without_rows_is_refused(tmp_path: Path) -> None:
    for arguments in (None, {"brief": True}):
        with pytest.raises(DataError, match="no rows"):
            with_completions(
                IterableDataset.from_generator(lambda: iter(())),
                config(tmp_path, chat_template_kwargs=arguments),
            )


def test_rows_that_are_no_data_set_are_refused_with_what_to_do(tmp_path: Path) -> None:
    rows = Dataset.from_list(text_rows(2))
    for given, words, hint in (
        (DatasetDict(train=rows, test=rows), "DatasetDict of train, test", "choose a split"),
        (TensorDataset(torch.zeros(2, 2)), "TensorDataset, not a datasets.Dataset", "Dataset.from_list"),
        ([{"prompt": "of the company", **CHAT}], "no completion", "drop the column `prompt`"),
        ([{"prompt": "of the company", "answer": "grew"}], "no completion", "`completion`"),
    ):
        with pytest.raises(DataError, match=words) as error:
            with_completions(given, config(tmp_path))
        assert hint in str(error.value.hint)


def test_a_formatting_function_leaves_nothing_to_align(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list([CHAT] * 2)

    def content(row: dict[str, Any]) -> str:
        return str(row["messages"][0]["content"])

    with pytest.raises(ConfigError, match="formatting_func makes plain text"):
        make_trainer(tiny_model_dir, tmp_path, rows, formatting_func=content)
    options: dict[str, Any] = {"rows": rows, "eval_rows": rows, "formatting_func": content}
    ours = make_trainer(tiny_model_dir, tmp_path, **options, alpha=0.0)
    trls = make_trainer(tiny_model_dir, tmp_path, **options, plain=True)
    assert ours.train_dataset[0]["labels"] == trls.train_dataset[0]["labels"]
    assert ours.evaluate(rows)["eval_loss"] == pytest.approx(trls.evaluate(rows)["eval_loss"], rel=1e-4)
    # trl leaves tokens as they are.
    tokens = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}]
    assert with_completions(tokens, config(tmp_path), is_formatted=True)[0] == tokens[0]


@pytest.mark.parametrize("part", ["train", "eval"])
def test_a_limit_that_leaves_no_completion_is_named(part: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    long = [{"prompt": "the revenue of the company " * 8, "completion": " grew"}] * 2
    rows = {"train": text_rows(2), "eval": text_rows(2), part: long}
    with pytest.raises(DataError, match="max_length=30 leaves no completion token in any row"):
        make_trainer(tiny_model_dir, tmp_path, rows["train"], eval_rows=rows["eval"], max_length=30)


@pytest.mark.parametrize(("alpha", "lacking"), [(0.5, "input_ids and labels"), (0.0, "input_ids")])
def test_rows_that_a_collator_would_tokenise_are_refused(
    alpha: float, lacking: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"skip_prepare_dataset leaves rows without {lacking}:"):
        make_trainer(
            tiny_model_dir,
            tmp_path,
            Dataset.from_list(text_rows(2)),
            alpha=alpha,
            data_collator=lambda rows: {},
            dataset_kwargs={"skip_prepare_dataset": True},
        )


def test_rows_beyond_the_window_of_the_model_are_warned_of(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short, long = (
        [{"input_ids": [5] * size, "labels": [-100] * 9 + [5] * (size - 9)}] for size in (256, 257)
    )
    with caplog.at_level(logging.WARNING, logger="selfaug"):
        make_trainer(tiny_model_dir, tmp_path, short, eval_rows=short)
        assert "tokens, and the model was made for" not in caplog.text
        make_trainer(tiny_model_dir, tmp_path, short, eval_rows=long)
    assert "the longest row has 257 tokens, and the model was made for 256" in caplog.text


def test_yarn_stretches_the_window(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in Qwen's recipe for long texts, which leaves `max_position_embeddings` as it was."""
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    size = {"vocab_size": len(tiny_tokenizer), "max_position_embeddings": 64}
    model = build("qwen2", **size, rope_parameters=yarn)
    rows = [{"input_ids": [5] * 256, "labels": [-100] * 9 + [5] * 247}]
    with caplog.at_level(logging.WARNING, logger="selfaug"):
        make_trainer(model, tmp_path, rows, lora=None, tokenizer=tiny_tokenizer)
        assert "tokens, and the model was made for" not in caplog.text
        longer = [{name: [*ids, 5] for name, ids in rows[0].items()}]
        make_trainer(model, tmp_path, longer, lora=None, tokenizer=tiny_tokenizer)
    assert "the longest row has 257 tokens, and the model was made for 256" in caplog.text


def test_tokens_of_filtered_rows_are_counted_without_a_copy_of_each() -> None:
    """Filtering leaves a mapping, through which `datasets` reads row by row."""
    rows = Dataset.from_list([{"input_ids": [5] * size} for size in (9, 1, 3, 8, 2)])
    few = rows.filter(lambda row: len(row["input_ids"]) < 9).shuffle(seed=1)
    assert (longest_document(few), count_row_tokens(few)) == (8, 14)
    assert (longest_document(few.select([0, 2])), count_row_tokens(rows)) == (
        max(len(few[number]["input_ids"]) for number in (0, 2)),
        23,
    )
    many = Dataset.from_dict({"input_ids": [[5]] * 40_000}).select(range(39_999, -1, -1))
    began = time.perf_counter()
    assert longest_document(many) == 1
    assert count_row_tokens(many) == 40_000
    assert time.perf_counter() - began < 0.5  # it took 2 s and more


def test_the_longest_document_of_packed_rows_is_a_part_of_one() -> None:
    rows = [{"input_ids": [5] * 7, "seq_lengths": [3, 4]}, {"input_ids": [5] * 6, "seq_lengths": [1, 5]}]
    assert longest_document(Dataset.from_list(rows)) == 5
    assert longest_document(Dataset.from_list(rows).select([0])) == 4
    assert longest_document(Dataset.from_list(rows).remove_columns("seq_lengths")) == 7
