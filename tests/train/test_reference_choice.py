"""Where the reference comes from: what "auto" takes, and what is refused because it would be another model."""

from __future__ import annotations

import copy
import errno
import fcntl
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import KasaConfig, LoraConfig, get_peft_model
from tiny_training import LORA, curve, make_trainer, settings, text_rows, tokenised_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MambaConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from selfaug import SelfAugConfig, SelfAugTrainer
from selfaug.errors import CacheError, ConfigError, ModelError
from selfaug.model.cache import ReferenceCache
from selfaug.train import reference_choice
from selfaug.train.reference_choice import (
    AlignedRows,
    choose_reference,
    require_cacheable,
    require_shared_folder,
    why_rows_depend_on_their_batch,
)
from tiny_models import build


def test_references_that_would_be_wrong_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    pissa = {**LORA, "init_lora_weights": "pissa"}
    with pytest.raises(ModelError, match="pissa"):
        make_trainer(tiny_model_dir, tmp_path, lora=pissa, reference="adapter_off")
    with pytest.raises(ConfigError, match="pissa"):
        make_trainer(tiny_model_dir, tmp_path, lora=pissa, reference="cache")
    with pytest.raises(ConfigError, match="needs an adapter"):
        make_trainer(tiny_model_dir, tmp_path, lora=None, reference="adapter_off")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(**pissa))
    with pytest.raises(ModelError, match="comes with its adapter, and init_lora_weights='pissa'") as error:
        make_trainer(model, tmp_path, lora=None, tokenizer=tokenizer)
    assert "pass the base model, and peft_config=" in str(error.value.hint)
    assert "merge_and_unload" in str(error.value.hint)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(**LORA, kasa_config=KasaConfig())
    )
    with pytest.raises(ModelError, match="kasa_config takes the smallest") as error:
        make_trainer(model, tmp_path, lora=None, tokenizer=tokenizer)
    assert "peft_config" not in str(error.value.hint)  # it would be refused with one, too
    assert make_trainer(tiny_model_dir, tmp_path, lora=pissa).reference_kind == "frozen_copy"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.add_adapter(LoraConfig(**LORA))
    for changes in ({"lora": None}, {}, {"alpha": 0.0}):
        with pytest.raises(ModelError, match="transformers itself has put an adapter") as error:
            make_trainer(model, tmp_path, tokenizer=tokenizer, **changes)
        assert "PeftModel.from_pretrained" in str(error.value.hint)
    shutil.copytree(tiny_model_dir, tmp_path / "both")
    model.save_pretrained(tmp_path / "both")  # the adapter alone
    with (
        pytest.warns(UserWarning, match="a second time|multiple adapters"),
        pytest.raises(ModelError, match="transformers itself has put an adapter"),
    ):
        SelfAugTrainer(
            model=str(tmp_path / "both"),
            args=SelfAugConfig(**settings(tmp_path, alpha=0.0)),
            train_dataset=Dataset.from_list(text_rows(2)),
            processing_class=tokenizer,
            peft_config=LoraConfig(**LORA),
        )


def test_repeated_layers_are_refused_once_they_are_trained(tiny_model_dir: Path, tmp_path: Path) -> None:
    repeated = LoraConfig(**LORA, layer_replication=[(0, 2), (0, 2)])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), repeated)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    trainer = make_trainer(model, tmp_path, lora=None, tokenizer=tokenizer)
    assert trainer.reference_kind == "frozen_copy"
    assert trainer.starts_at_reference
    next(weight for name, weight in model.named_parameters() if "lora_B" in name).data.fill_(0.1)
    with pytest.raises(ModelError, match=r"layer_replication .* and this one is not") as error:
        make_trainer(model, tmp_path, lora=None, tokenizer=tokenizer)
    assert "merge" not in str(error.value.hint)  # copies of a layer have one weight


def test_auto_takes_the_cache_only_when_it_pays(tiny_model_dir: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for epochs, share, used in ((2, 1.0, False), (3, 0.5, False), (3, 1.0, True)):
        trainer = make_trainer(
            tiny_model_dir,
            tmp_path / "out",
            max_steps=-1,
            num_train_epochs=epochs,
            row_fraction=share,
            per_device_train_batch_size=4,
            reference_cache_dir=str(cache),
        )
        trainer.train()
        assert cache.exists() == used
        assert (trainer.reference_bytes > 0) == used


def test_a_cache_that_can_not_be_had_is_not_taken_and_not_computed(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # a folder within it can't be made, by root either
    more: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 3}
    trainer = make_trainer(
        tiny_model_dir, tmp_path / "out", reference_cache_dir=str(tmp_path / "file"), **more
    )
    assert trainer.reference_kind == "adapter_off"
    more["reference_cache_dir"] = str(tmp_path / "cache")
    with monkeypatch.context() as nowhere:
        nowhere.setattr(fcntl, "flock", without_locks)
        assert make_trainer(tiny_model_dir, tmp_path / "out", **more).reference_kind == "adapter_off"
    monkeypatch.setattr(reference_choice, "_machines", lambda: ["one", "two"])
    assert make_trainer(tiny_model_dir, tmp_path / "out", **more).reference_kind == "adapter_off"


def test_machines_compute_a_cache_in_a_folder_that_they_share(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_choice, "_machines", lambda: ["one", "two"])
    options = {"max_steps": 1, "reference": "cache", "reference_cache_dir": str(tmp_path / "cache")}
    trainer = make_trainer(tiny_model_dir, tmp_path / "out", **options)
    with monkeypatch.context() as apart:  # the first lacks rows, and the other doesn't see what it writes
        apart.setattr(reference_choice, "_from_all", lambda value: [value, False])
        with pytest.raises(ConfigError, match=r"not the same folder on all machines \(one, two\)") as error:
            trainer.train()
        assert "folder that all of them share" in str(error.value.hint)
        assert "'frozen_copy' without" in str(error.value.hint)
        with pytest.raises(ConfigError) as error:
            require_shared_folder(trainer._cache, trainer._aligned_rows().documents(), is_sharded=True)
        assert str(error.value.hint).endswith("use LoRA, with reference='adapter_off'.")
    cache = tmp_path / "cache"
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == [".lock", "cache.json"]
    trainer.train()
    assert trainer.reference_kind == "cache"
    assert list(cache.glob("piece-*"))
    assert not list(cache.glob(".meeting-*"))


def without_locks(*_: Any) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_auto_takes_no_cache_of_a_stream_to_evaluate_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    def few() -> Any:
        yield from text_rows(3, seed=3)

    def endless() -> Any:
        while True:
            yield from few()

    def trainer(stream: Any, **changes: Any) -> Any:
        rows = IterableDataset.from_generator(stream)
        return make_trainer(
            tiny_model_dir,
            tmp_path / "out",
            eval_rows={"few": rows},
            max_steps=-1,
            num_train_epochs=3,
            eval_strategy="epoch",
            reference_cache_dir=str(tmp_path / "cache"),
            **changes,
        )

    assert trainer(endless).reference_kind == "adapter_off"
    full = trainer(few, lora=None)
    assert full.reference_kind == "frozen_copy"
    full.train()
    losses = [value for (value,) in curve(full, "eval_few_alignment_loss")]
    assert len(losses) == 3
    assert min(losses) > 0
    for lora, other in ((None, "frozen_copy"), (LORA, "adapter_off")):
        with pytest.raises(ConfigError, match=r"known length.*to evaluate on") as error:
            trainer(endless, lora=lora, reference="cache")
        assert other in str(error.value.hint)
    assert not (tmp_path / "cache").exists()


def test_a_stream_is_not_looked_up_in_the_cache_of_a_whole_model(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(
        tiny_model_dir, tmp_path, lora=None, reference="cache", reference_cache_dir=str(tmp_path / "cache")
    )
    rows = tokenised_rows(trainer.processing_class, 2)
    with pytest.raises(CacheError, match="not a data set but a stream, and the whole model trains"):
        trainer.evaluate(IterableDataset.from_generator(lambda: iter(rows)))


def test_auto_takes_no_cache_beside_a_collator_of_ones_own(tiny_model_dir: Path, tmp_path: Path) -> None:
    """It may mask or cut the documents that a cache would hold."""

    class Masks(DataCollatorForLanguageModeling):  # type: ignore[misc]
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch: dict[str, Any] = super().torch_call(examples)
            batch["labels"] = batch["labels"].masked_fill(batch["input_ids"] % 2 == 0, -100)
            return batch

    def trainer(reference: str) -> Any:
        return make_trainer(
            tiny_model_dir,
            tmp_path / "out",
            data_collator=Masks(pad_token_id=0),
            reference=reference,
            reference_cache_dir=str(tmp_path / "cache"),
            max_steps=-1,
            num_train_epochs=3,
        )

    chosen = trainer("auto")
    assert chosen.reference_kind == "adapter_off"
    chosen.train()
    with pytest.raises(CacheError, match="not in the reference cache") as error:
        trainer("cache").train()
    assert "a data_collator of your own" in str(error.value.hint)
    assert "without an adapter: 'frozen_copy'" in str(error.value.hint)


def test_auto_takes_the_cache_of_shards_without_an_adapter(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """A frozen copy is refused there, also where the cache would not pay."""
    args = SelfAugConfig(
        **settings(tmp_path / "out", max_steps=1, reference_cache_dir=str(tmp_path / "cache"))
    )
    rows = Dataset.from_list(tokenised_rows(tiny_tokenizer, 8))

    def kind(model: Any, rows: Any = rows, **changes: Any) -> str:
        options = {"compute_dtype": None, "is_sharded": True, **changes}
        return choose_reference(model, args, AlignedRows(rows, [], []), **options).kind

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    assert kind(model) == "cache"
    assert kind(model, is_sharded=False) == "frozen_copy"
    stream = rows.to_iterable_dataset()
    for other, hint in (
        ({"rows": stream}, "on data sets of known length"),
        ({"own_collator": True}, "='cache'."),
    ):
        with pytest.raises(ConfigError, match="frozen_copy") as error:
            kind(model, **other)
        assert hint in str(error.value.hint)
    assert kind(get_peft_model(model, LoraConfig(**LORA))) == "adapter_off"


def test_hints_for_shards_name_nothing_that_shards_refuse(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = build(
        "llama-untied",
        vocab_size=len(tiny_tokenizer),
        rope_parameters=rope("dynamic"),
        max_position_embeddings=16,
    )
    rows = Dataset.from_list([{"input_ids": [5] * 40, "labels": [-100] * 9 + [5] * 31}])
    pissa = get_peft_model(copy.deepcopy(model), LoraConfig(**LORA, init_lora_weights="pissa"))
    for reference, one, given, hint in (
        ("auto", model, rows, "leave out longer rows for reference='cache': the model's rotary embedding"),
        ("cache", model, rows, "leave longer rows out."),
        ("cache", model, rows.to_iterable_dataset(), "make it a datasets.Dataset, or use LoRA."),
        ("cache", pissa, rows, "use plain LoRA."),
    ):
        args = SelfAugConfig(**settings(tmp_path, reference=reference))
        with pytest.raises(ConfigError) as error:
            choose_reference(one, args, AlignedRows(given, [], []), compute_dtype=None, is_sharded=True)
        assert hint in str(error.value.hint)
        assert "use reference='frozen_copy'" not in str(error.value.hint)


def rope(kind: str) -> dict[str, Any]:
    """Factors of a rotary embedding that is another from 17 tokens on."""
    longrope = {
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 8.0, 30.0],
        "original_max_position_embeddings": 16,
    }
    return {"rope_type": kind, "rope_theta": 1e4, **(longrope if kind == "longrope" else {"factor": 4.0})}


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_no_cache_holds_rows_that_depend_on_their_batch(
    kind: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """A rotary embedding that goes by the longest row of a batch makes the others' hidden states depend on it."""

    def trainer(reference: str, tokens: int = 40, **changes: Any) -> Any:
        rows = [
            {"input_ids": list(range(3, 3 + size)), "labels": [-100] * (size - 3) + [9, 8, 7]}
            for size in (10, 12, 11, tokens)
        ]
        return make_trainer(
            build(
                "llama-untied",
                vocab_size=len(tiny_tokenizer),
                rope_parameters=rope(kind),
                max_position_embeddings=64 if kind == "longrope" else 16,
            ),
            tmp_path / "out",
            Dataset.from_list(rows),
            tokenizer=tiny_tokenizer,
            reference=reference,
            reference_cache_dir=str(tmp_path / "cache"),
            **{"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 1, **changes},
        )

    with pytest.raises(ConfigError, match=f"{kind}.*over 16 tokens, and the longest has 40") as error:
        trainer("cache")
    assert "adapter_off" in str(error.value.hint)
    with pytest.raises(ConfigError) as error:
        trainer("cache", lora=None)
    assert "frozen_copy" in str(error.value.hint)
    assert trainer("auto", lora=None).reference_kind == "frozen_copy"
    assert trainer("auto", tokens=16).reference_kind == "cache"
    with pytest.raises(ConfigError, match=r"row_fraction with packed .* would align to another model"):
        trainer("auto", padding_free=True, row_fraction=0.5)
    chosen = trainer("auto", learning_rate=1e-12, row_fraction=0.5)
    assert chosen.reference_kind == "adapter_off"
    chosen.train()
    assert max(value for (value,) in curve(chosen, "alignment_loss")) < 1e-6


def test_rotary_embeddings_of_single_layer_types_are_looked_at() -> None:
    def why(longest: int, **parameters: Any) -> str | None:
        config = LlamaConfig(max_position_embeddings=64)
        config.rope_parameters = parameters
        return why_rows_depend_on_their_batch(config, [3, longest])

    nested = {"sliding_attention": rope("default"), "full_attention": rope("longrope")}
    assert "longrope" in str(why(17, **nested))
    assert why(16, **nested) is None
    assert why(1000, **rope("default")) is None
    assert why(1000) is None
    assert why_rows_depend_on_their_batch(MambaConfig(), [1000]) is None  # has no rotary embedding at all


def test_a_run_that_has_such_a_cache_already_is_to_be_begun_anew() -> None:
    config = LlamaConfig(max_position_embeddings=16)
    config.rope_parameters = rope("dynamic")
    with pytest.raises(ConfigError) as error:
        require_cacheable(config, [17], other="adapter_off", begun=True)
    assert "begin a new run" in str(error.value.hint)


def test_the_size_of_the_cache_is_told_before_it_is_computed(tiny_model_dir: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    trainer = make_trainer(
        tiny_model_dir, tmp_path / "out", max_steps=1, reference="cache", reference_cache_dir=str(cache)
    )
    told: list[tuple[str, int]] = []
    trainer.on_cache_size = lambda size, folder: told.append((str(folder), size))
    trainer.on_cache_progress = lambda done, total: told.append(("progress", done))
    trainer.train()
    assert told[0] == (str(cache), trainer.reference_bytes)
    assert told[1][0] == "progress"


def test_a_resumed_run_says_what_its_cache_has_taken_before_and_since(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    cache = {"reference": "cache", "reference_cache_dir": str(tmp_path / "cache")}
    options: dict[str, Any] = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, **cache}
    trainers = [
        make_trainer(tiny_model_dir, tmp_path / "out", Dataset.from_list(text_rows(rows)), **options)
        for rows in (4, 4, 6)
    ]
    for trainer, resume in zip(trainers, (None, True, True), strict=True):
        trainer.train(resume_from_checkpoint=resume)
    first, again, more = (trainer.reference_bytes for trainer in trainers)
    assert more > again == first > 0
    kept = ReferenceCache.existing(tmp_path / "cache", {})[0]
    assert more == sum(len(kept._read(key)) for key in kept._where) * kept.row_bytes


def test_auto_asks_the_disk_that_the_cache_would_be_on(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path / "cache"))
    asked: list[Path] = []

    def usage(path: Path) -> Any:
        asked.append(Path(path))
        return SimpleNamespace(free=0)

    monkeypatch.setattr("selfaug.model.disk_room.shutil.disk_usage", usage)
    make_trainer(tiny_model_dir, tmp_path / "out", max_steps=-1, num_train_epochs=3)
    assert asked == [tmp_path]


def test_auto_takes_a_cache_that_is_there_though_a_whole_one_has_no_room(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = {"max_steps": -1, "num_train_epochs": 3, "reference_cache_dir": str(tmp_path / "cache")}
    first = make_trainer(tiny_model_dir, tmp_path / "first", **passes)
    first.prepare_alignment()
    monkeypatch.setattr("selfaug.model.disk_room.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert first.reference_bytes > 0
    second = make_trainer(tiny_model_dir, tmp_path / "second", **passes)
    assert second.reference_kind == "cache"
    second.prepare_alignment()
    assert second.reference_bytes == 0
    more = Dataset.from_list(text_rows(9))
    assert make_trainer(tiny_model_dir, tmp_path / "more", more, **passes).reference_kind == "adapter_off"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    other = make_trainer(model, tmp_path / "other", tokenizer=tokenizer, **passes)
    assert other.reference_kind == "adapter_off"
