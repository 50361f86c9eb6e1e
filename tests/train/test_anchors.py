"""Anchors: written by the model, read from a file, aligned beside the rows in every layout."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import LORA, Gradients, curve, make_trainer, relative, run_options, text_rows, trained
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from selfaug.core.positions import IGNORED
from selfaug.errors import ConfigError, DataError, ModelError
from selfaug.train import anchors as anchors_module
from selfaug.train import selfaug_trainer
from selfaug.train.anchors import AnchorCollator, read_anchors, self_anchors, self_requests, write_anchors
from selfaug.train.selfaug_config import SelfAugConfig
from selfaug.train.selfaug_trainer import SelfAugTrainer

LAYOUTS: dict[str, dict[str, Any]] = {
    "4x2": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "padding-free": {"padding_free": True, "per_device_train_batch_size": 8},
    "packing": {"packing": True, "max_length": 64, "per_device_train_batch_size": 8},
    "cache": {"reference": "cache", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
}


@pytest.fixture
def anchor_file(tmp_path: Path) -> Path:
    file = tmp_path / "anchors.jsonl"
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in text_rows(5, seed=9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def run(model: Path, folder: Path, **changes: Any) -> tuple[dict[str, torch.Tensor], Any]:
    gradients = Gradients()
    options = {"different": True, "alpha": 2.0, "max_steps": 1, "per_device_train_batch_size": 8, **changes}
    trainer = make_trainer(model, folder, callbacks=[gradients], **options)
    trainer.train()
    return gradients.kept, trainer


def test_gradients_do_not_depend_on_the_layout(
    tiny_model_dir: Path, tmp_path: Path, anchor_file: Path
) -> None:
    options = {"anchors": str(anchor_file), "anchor_share": 1.5}
    whole, trainer = run(tiny_model_dir, tmp_path / "whole", **options)
    without, _ = run(tiny_model_dir, tmp_path / "without")
    assert relative(whole, without) > 1e-3
    for name, layout in LAYOUTS.items():
        changes = {**options, **layout, "reference_cache_dir": str(tmp_path / "cache")}
        gradients, other = run(tiny_model_dir, tmp_path / name, **changes)
        assert relative(gradients, whole) < 1e-5, name
        (got,), (want,) = curve(other, "alignment_loss"), curve(trainer, "alignment_loss")
        assert got[0] == pytest.approx(want[0], rel=1e-4), name


def test_anchors_are_no_wider_than_they_are_and_together_they_give_the_same(
    tiny_model_dir: Path, tmp_path: Path, anchor_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the rows they would be padded to the rows' width, and in memory with them."""
    short = [{"input_ids": list(range(5, 9 + number))} for number in range(4)]
    anchor_file.write_text("".join(json.dumps(row) + "\n" for row in short), encoding="utf-8")
    shapes: list[tuple[int, ...]] = []
    measured = SelfAugTrainer.compute_loss

    def watching(self: Any, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return measured(self, model, inputs, *more, **named)

    monkeypatch.setattr(SelfAugTrainer, "compute_loss", watching)
    options = {"anchors": str(anchor_file), "anchor_share": 0.7, "weight_penalty": 0.01}
    apart, trainer = run(tiny_model_dir, tmp_path / "apart", **options)
    longest = max(len(anchor) for anchor in trainer.anchors)
    (rows, anchors) = shapes
    assert rows[0] == 8
    assert 0 < anchors[0] < 8
    assert anchors[1] <= longest < rows[1]
    shapes.clear()
    made = AnchorCollator.__init__

    def together(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **{**named, "together": True})

    monkeypatch.setattr(AnchorCollator, "__init__", together)
    beside, other = run(tiny_model_dir, tmp_path / "together", **options)
    assert shapes == [(rows[0] + anchors[0], rows[1])]
    assert relative(apart, beside) < 1e-5
    for name in ("nll", "alignment_loss", "weight_change", "entropy", "num_tokens", "loss"):
        assert curve(trainer, name)[0] == pytest.approx(curve(other, name)[0], rel=1e-4), name


def test_rows_are_not_drawn_where_anchors_are_among_them(
    tiny_model_dir: Path, tmp_path: Path, anchor_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SelfAugTrainer, "_anchors_are_among_rows", True)  # as with DeepSpeed
    make_trainer(tiny_model_dir, tmp_path / "out", row_fraction=0.5)
    make_trainer(tiny_model_dir, tmp_path / "out", anchors=str(anchor_file))
    with pytest.raises(ConfigError, match="row_fraction would draw anchors too"):
        make_trainer(tiny_model_dir, tmp_path / "out", anchors=str(anchor_file), row_fraction=0.5)


def test_anchors_are_all_aligned_where_rows_are_drawn(
    tiny_model_dir: Path, tmp_path: Path, anchor_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[bool, float]] = []
    measured = selfaug_trainer.alignment_loss

    def watching(model: Any, inputs: Any, **named: Any) -> Any:
        given.append((bool((inputs["labels"] >= 0).any()), named["row_fraction"]))
        return measured(model, inputs, **named)

    monkeypatch.setattr(selfaug_trainer, "alignment_loss", watching)
    _, trainer = run(tiny_model_dir, tmp_path, anchors=str(anchor_file), anchor_share=1.0, row_fraction=0.4)
    assert set(given) == {(True, 0.4), (False, 1.0)}
    assert trainer.noise_floor is None  # a step may have drawn no row


def test_where_no_anchor_is_drawn_an_empty_one_keeps_processes_together(
    tiny_model_dir: Path, tmp_path: Path, anchor_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without, _ = run(tiny_model_dir, tmp_path / "without")
    monkeypatch.setattr(AnchorCollator, "drawn", lambda *_: [])
    made = AnchorCollator.__init__

    def always(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **{**named, "always": True})

    monkeypatch.setattr(AnchorCollator, "__init__", always)
    for name, layout in {"padded": {}, **LAYOUTS}.items():
        changes = {**layout, "reference_cache_dir": str(tmp_path / "cache")}
        gradients, _ = run(tiny_model_dir, tmp_path / name, anchors=str(anchor_file), **changes)
        assert relative(gradients, without) < 1e-5, name


def test_anchors_are_prompt_tokens_and_nothing_else(
    tiny_model_dir: Path, tmp_path: Path, anchor_file: Path
) -> None:
    """The same gradient as with rows that are all prompt, put in by hand; nll is of the rows' completions only."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    options = {"anchors": str(anchor_file), "anchor_share": 1.0}
    gradients, trainer = run(tiny_model_dir, tmp_path / "a", **options)
    _, plain = run(tiny_model_dir, tmp_path / "b")
    assert curve(trainer, "nll")[0] == pytest.approx(curve(plain, "nll")[0], rel=1e-5)
    anchors = read_anchors(anchor_file, tokenizer, None)
    assert trainer.anchors == anchors
    collator = AnchorCollator(lambda rows: rows, anchors, 1.0, trainer.args.seed, together=True)
    rows = [dict(row) for row in plain.train_dataset]
    both = collator(rows)
    assert len(both) == 2 * len(rows)
    assert all(set(row["labels"]) == {IGNORED} for row in both[len(rows) :])
    by_hand = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in both]
    from datasets import Dataset

    expected, _ = run(
        tiny_model_dir, tmp_path / "c", rows=Dataset.from_list(by_hand), per_device_train_batch_size=16
    )
    assert relative(gradients, expected) < 1e-5


def test_rows_bring_the_same_anchors_whatever_they_stand_beside() -> None:
    rows = [{"input_ids": [seed, 7, seed + 3], "labels": [-100, 7, 8]} for seed in range(200)]
    for share in (0.25, 1.0, 2.5):
        collator = AnchorCollator(list, [[1, 2], [3, 4], [5, 6]], share, seed=4, together=True)
        alone = [collator.drawn(row["input_ids"]) for row in rows]
        assert sum(map(len, alone)) == pytest.approx(200 * share, rel=0.3)
        assert {index for drawn in alone for index in drawn} == {0, 1, 2}
        assert {len(drawn) for drawn in alone} == {int(share), -int(-share // 1)}
        packed = {
            "input_ids": rows[0]["input_ids"] + rows[1]["input_ids"],
            "labels": [],
            "seq_lengths": [3, 3],
        }
        found = [row["input_ids"] for row in collator([packed])[1:]]
        assert found == [collator.anchors[index] for index in alone[0] + alone[1]]
    other = AnchorCollator(list, [[1, 2], [3, 4], [5, 6]], 2.5, seed=5)
    assert [other.drawn(row["input_ids"]) for row in rows] != alone


def test_resumed_training_has_the_anchors_of_its_checkpoint(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if the model would write others now, or the file has changed, which is told."""
    file = tmp_path / "anchors.jsonl"
    file.write_text('{"input_ids": [3, 4, 5, 6]}\n', encoding="utf-8")
    options = {
        "model": str(tiny_model_dir), "output_dir": str(tmp_path / "out"), "rows": 12, "max_steps": 4,
        "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2, "anchors": str(file),
    }  # fmt: skip
    whole = run_options(options)
    file.write_text('{"input_ids": [9, 8, 7]}\n', encoding="utf-8")
    (tmp_path / "out" / "checkpoint-4" / "selfaug_state.json").unlink()
    resumed = run_options({**options, "resume": True})
    assert relative(resumed["final"], whole["final"]) == 0.0
    assert (
        f"the anchors are the 1 of {tmp_path / 'out' / 'checkpoint-2'}, which is gone on from" in caplog.text
    )


@pytest.fixture(scope="module")
def chat_model(tiny_model_dir: Path) -> tuple[Any, Any]:
    """A tiny model that ends its turns now and then: random, with weights wide enough to say different things."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert tokenizer.chat_template is not None
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokenizer


def test_the_model_writes_requests_and_answers_them(chat_model: tuple[Any, Any]) -> None:
    model, tokenizer = chat_model
    model.train()
    state, calls = torch.get_rng_state(), []
    anchors = self_anchors(
        model, tokenizer, 4, seed=1, request_tokens=150, completion_tokens=8,
        on_progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(anchor) for anchor in anchors}) == 4
    assert calls[-1] == (8, 8)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    empty = tokenizer.apply_chat_template([{"role": "user", "content": "\0"}], tokenize=False).partition(
        "\0"
    )[0]
    for anchor in anchors:
        assert tokenizer.decode(anchor).startswith(empty)
    again = self_anchors(model, tokenizer, 4, seed=1, request_tokens=150, completion_tokens=8)
    assert again == anchors
    assert self_anchors(model, tokenizer, 4, seed=2, request_tokens=150, completion_tokens=8) != anchors


@pytest.mark.parametrize(
    ("before", "after", "answer", "prefix", "ends", "mark"),
    [
        ("<|im_start|>user\n", "<|pad|>\n", "<|im_start|>", "<|im_start|>user\n", {"<|pad|>"}, ""),  # gpt-oss
        ("[INST]", "", "<|pad|><think>\n", "[INST]", {"<|pad|>"}, ""),  # DeepSeek-R1's
        ("[INST] ", " [/INST]", "", "[INST]", set(), "[/INST]"),  # Llama 2
        ("USER:\n", "\n", "ASSISTANT: <|pad|>\n", "USER:\n", set(), "ASSISTANT:"),
        ("<|user|>\n", "\n", "e\n", "<|user|>\n", set(), "e"),  # as OLMo 2, with a mark that is soon written
        ("", "", "", "", set(), ""),
    ],
)
def test_requests_end_where_the_template_ends_a_users_turn(
    chat_model: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
    answer: str,
    prefix: str,
    ends: set[str],
    mark: str,
) -> None:
    """Not only where it ends an answer: else a request would go on with what the model answers to it."""
    model, tokenizer = chat_model[0], copy.deepcopy(chat_model[1])
    tokenizer.chat_template = (
        f"{{% for m in messages %}}{{{{ {before!r} + m.content + {after!r} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {answer!r} }}}}{{% endif %}}"
    )
    turn = anchors_module._user_turn(tokenizer, {})
    assert tokenizer.decode(turn.prefix) == prefix
    assert tokenizer.convert_ids_to_tokens(sorted(turn.ends)) == sorted(ends)
    assert turn.mark == mark
    if not prefix:
        return
    given: list[frozenset[int]] = []
    drawing = anchors_module.sample_ids

    def watching(*arguments: Any, eos_ids: frozenset[int], **named: Any) -> Any:
        given.append(eos_ids)
        return drawing(*arguments, eos_ids=eos_ids, **named)

    monkeypatch.setattr(anchors_module, "sample_ids", watching)
    requests = self_requests(model, tokenizer, 2, request_tokens=60)
    assert all(turn.ends <= one for one in given)
    if mark:
        assert not any(mark in request for request in requests)


def test_words_of_scripts_without_spaces_are_counted(
    chat_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request in Japanese has none, and is no shorter for that."""
    model, tokenizer = chat_model
    texts = ["収益は増えたか", "รายได้เพิ่ม", "two words", "増益", "a rise in 収"]
    monkeypatch.setattr(
        anchors_module, "sample_ids", lambda *_, **__: [tokenizer(text)["input_ids"] for text in texts]
    )
    assert self_requests(model, tokenizer, 3) == [texts[0], texts[1], texts[4]]


def test_trainer_writes_them_with_the_adapter_off_and_keeps_them(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """A file with what was written gives the same training."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    options = {"max_steps": 2, "anchor_count": 3, "save_strategy": "no"}
    trainer = make_trainer(tiny_model_dir, tmp_path / "a", anchors="self", **options)
    trainer.train()
    assert len(trainer.anchors) == 3
    write_anchors(tmp_path / "anchors.jsonl", trainer.anchors, tokenizer)
    other = make_trainer(tiny_model_dir, tmp_path / "b", anchors=str(tmp_path / "anchors.jsonl"), **options)
    other.train()
    assert relative(trained(other), trained(trainer)) == 0.0


def test_the_reference_writes_them_where_the_adapter_has_taken_something_out(
    chat_model: tuple[Any, Any], tmp_path: Path
) -> None:
    """Of the base weights: with PiSSA switched off, the model is a damaged one."""
    base, tokenizer = chat_model
    trainer = make_trainer(
        copy.deepcopy(base), tmp_path, tokenizer=tokenizer, anchors="self", anchor_count=2,
        lora={**LORA, "init_lora_weights": "pissa"},
    )  # fmt: skip
    trainer.prepare_anchors()
    assert trainer.anchors == self_anchors(base, tokenizer, 2, seed=trainer.args.seed)


def test_models_that_can_not_write_requests_are_refused(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(ModelError, match=r"wrote \d+ different requests") as refused:
        self_anchors(model, tokenizer, 3, request_tokens=2, completion_tokens=2)
    assert "file" in str(refused.value.hint)
    template = tokenizer.chat_template
    for broken, message in (
        (None, "no chat template"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "changes the user"),
    ):
        tokenizer.chat_template = broken
        with pytest.raises(ModelError, match=message):
            self_anchors(model, tokenizer, 3)
    tokenizer.chat_template = template


def test_files_of_every_form(tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    chat = [{"role": "user", "content": "revenue?"}, {"role": "assistant", "content": "12"}]
    file = tmp_path / "anchors.jsonl"
    rows = [
        {"prompt": "revenue?", "completion": "12"},
        {"messages": chat},
        {"prompt": chat[:1], "completion": chat[1:]},
    ]
    file.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    first, *others = read_anchors(file, tokenizer, None)
    assert others == [first, first]
    assert first == tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert read_anchors(file, tokenizer, 5)[0] == first[:5]
    tokenizer.chat_template = None
    file.write_text(json.dumps(rows[0]), encoding="utf-8")
    assert read_anchors(file, tokenizer, None) == [tokenizer("revenue?12")["input_ids"]]
    # A text that begins with the beginning token gets no second one.
    begin = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin[0]} $A", special_tokens=[begin]
    )
    rows[0]["prompt"] = f"{begin[0]}revenue?"
    file.write_text(json.dumps(rows[0]), encoding="utf-8")
    assert read_anchors(file, tokenizer, None) == [tokenizer("revenue?12")["input_ids"]]


def test_the_templates_arguments_hold_for_anchors_too(chat_model: tuple[Any, Any], tmp_path: Path) -> None:
    """Else a model that is trained and served without thinking would be held to its texts with it."""
    model, tokenizer = chat_model[0], copy.deepcopy(chat_model[1])
    tokenizer.chat_template += (
        "{% if enable_thinking is not defined or enable_thinking %}{{ '<think>' }}{% endif %}"
    )
    plain = {"enable_thinking": False}
    options: dict[str, Any] = {"seed": 1, "request_tokens": 150, "completion_tokens": 4}
    thinking = self_anchors(model, tokenizer, 2, **options)
    assert all("<think>" in tokenizer.decode(anchor) for anchor in thinking)
    silent = self_anchors(model, tokenizer, 2, **options, template_arguments=plain)
    assert not any("<think>" in tokenizer.decode(anchor) for anchor in silent)
    file = tmp_path / "anchors.jsonl"
    file.write_text('{"prompt": "revenue?", "completion": "12"}\n', encoding="utf-8")
    assert "<think>" in tokenizer.decode(read_anchors(file, tokenizer, None)[0])
    assert "<think>" not in tokenizer.decode(read_anchors(file, tokenizer, None, plain)[0])
    for anchors, arguments in (("self", None), ("self", plain), (str(file), None), (str(file), plain)):
        trainer = make_trainer(
            copy.deepcopy(model), tmp_path / "out", tokenizer=tokenizer, anchors=anchors, anchor_count=2,
            chat_template_kwargs=arguments,
        )  # fmt: skip
        trainer.prepare_anchors()
        assert trainer.anchors
        for anchor in trainer.anchors:
            assert ("<think>" in tokenizer.decode(anchor)) == (arguments is None)


def test_bad_files_are_one_error_with_every_line(tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    file = tmp_path / "anchors.jsonl"
    file.write_text(
        '{"input_ids": [1, 2]}\nnot json\n[]\n{"text": "x"}\n{"input_ids": [1, true]}\n{"input_ids": [9999999, 1]}\n'
        '{"input_ids": [1]}\n',
        encoding="utf-8",
    )
    with pytest.raises(DataError) as refused:
        read_anchors(file, tokenizer, None)
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        f"line {n}" for n in range(2, 8)
    ]
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="empty"):
        read_anchors(file, tokenizer, None)
    with pytest.raises(ConfigError, match="can't be read"):
        read_anchors(tmp_path / "missing.jsonl", tokenizer, None)


def test_anchors_of_another_tokeniser_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Their ids mean something here too, and would be aligned as what they aren't."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    file = tmp_path / "anchors.jsonl"
    ids = tokenizer("<|im_start|>user\nthe revenue?")["input_ids"]
    write_anchors(file, [ids], tokenizer)
    assert read_anchors(file, tokenizer, None) == [ids]
    mine = [
        {"text": "user\nthe revenue?", "input_ids": ids},  # without special tokens
        {"text": "the revenue? the year", "input_ids": tokenizer("the revenue?")["input_ids"]},  # cut
        # Both at once: cut after special tokens.
        {"text": "the revenue? the year", "input_ids": tokenizer("<|im_start|>the revenue?")["input_ids"]},
        {"text": "the re\u0301venue?", "input_ids": tokenizer("the r\u00e9venue?")["input_ids"]},
        {"text": ["the year"], "input_ids": ids},
        {"text": "something else", "prompt": "the year", "completion": "was"},
    ]
    file.write_text("\n".join(json.dumps(row) for row in mine), encoding="utf-8")
    assert len(read_anchors(file, tokenizer, None)) == 6
    other = [token - 1 for token in tokenizer("the revenue?")["input_ids"]]
    file.write_text(json.dumps({"text": "the revenue?", "input_ids": other}), encoding="utf-8")
    with pytest.raises(DataError) as refused:
        read_anchors(file, tokenizer, None)
    (problem,) = refused.value.problems
    assert problem == "line 1: its input_ids are of another tokeniser: here they aren't its text"


def test_settings_that_make_no_sense_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        SelfAugConfig(str(tmp_path), alpha=0.0, anchors="self", anchor_count=0, anchor_share=0.0)
    assert len(refused.value.problems) == 3
    with pytest.raises(ConfigError, match="empty text"):
        SelfAugConfig(str(tmp_path), anchors="")
