"""The trainer's logs and evaluations."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from tiny_training import (
    LORA,
    curve,
    largest_difference,
    make_trainer,
    relative,
    run,
    text_rows,
    tokenised_rows,
    trained,
)
from transformers import TrainerCallback
from transformers.trainer_utils import EvalPrediction

from selfaug import SelfAugTrainer
from selfaug.errors import CacheError
from selfaug.model.reference import CachedReference
from selfaug.train.filled_rows import of_given_rows, without_added


@pytest.mark.parametrize("form", [Dataset.from_list, IterableDataset.from_generator])
def test_rows_that_the_cache_does_not_hold_are_evaluated_with_the_adapter_off(
    form: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    known = Dataset.from_list(text_rows(4, seed=9)[:2])
    trainers = [
        run(
            tiny_model_dir,
            tmp_path / reference,
            reference=reference,
            reference_cache_dir=str(tmp_path / "c"),
            eval_rows=known,
            max_steps=2,
        )[1]
        for reference in ("cache", "adapter_off")
    ]
    rows = tokenised_rows(trainers[0].processing_class, 4, seed=9)
    # Two rows are known, two aren't.
    results = [
        trainer.evaluate(form(rows) if form == Dataset.from_list else form(lambda: iter(rows)))
        for trainer in trainers
    ]
    assert results[0]["eval_alignment_loss"] > 0
    for name in ("eval_nll", "eval_alignment_loss", "eval_loss"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-4)
    assert trainers[0].evaluate()["eval_alignment_loss"] > 0
    assert isinstance(trainers[0]._evaluation.reference, CachedReference)


def test_rows_that_the_cache_of_a_whole_model_does_not_hold_are_refused(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    _, trainer = run(
        tiny_model_dir,
        tmp_path / "a",
        lora=None,
        reference="cache",
        reference_cache_dir=str(tmp_path / "c"),
        max_steps=1,
    )
    known = Dataset.from_list(tokenised_rows(trainer.processing_class, 8))
    unknown = Dataset.from_list(tokenised_rows(trainer.processing_class, 3, seed=9))
    assert trainer.evaluate(known)["eval_alignment_loss"] >= 0
    with pytest.raises(CacheError, match="not in the reference cache, and the whole model trains") as error:
        trainer.evaluate(unknown)
    assert "eval_dataset" in str(error.value.hint)
    assert "frozen_copy" in str(error.value.hint)
    trainer.is_fsdp_enabled = True  # which refuses a frozen copy; sharding itself needs a GPU
    with pytest.raises(CacheError) as error:
        trainer.evaluate(unknown)
    assert str(error.value.hint) == "give them as eval_dataset when the trainer is made."
    trainer.is_fsdp_enabled = False
    assert trainer.evaluate(known)["eval_alignment_loss"] >= 0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_logs_of_a_step(dropout: float, tiny_model_dir: Path, tmp_path: Path) -> None:
    lora = {**LORA, "lora_dropout": dropout}
    _, trainer = run(tiny_model_dir, tmp_path, lora=lora, alpha=0.7, max_steps=3, reference="adapter_off")
    first, second, third = [entry for entry in trainer.state.log_history if "nll" in entry]
    assert first["noise_floor"] == first["alignment_loss"] == trainer.noise_floor == 0.0
    assert "noise_floor" not in second
    assert third["alignment_loss"] > 0
    for entry in (first, second, third):
        assert entry["alpha"] == 0.7
        assert entry["tokens_per_second"] > 0
        assert entry["loss"] == pytest.approx(entry["nll"] + 0.7 * entry["alignment_loss"], abs=2e-4)
    lengths = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    assert [entry["num_tokens"] for entry in (first, second, third)] == [lengths, 2 * lengths, 3 * lengths]


def test_evaluating_and_saving_are_no_time_of_training(tiny_model_dir: Path, tmp_path: Path) -> None:
    seconds = 0.2

    class Slow(TrainerCallback):
        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            time.sleep(seconds)

        def on_save(self, *args: Any, **kwargs: Any) -> None:
            time.sleep(seconds)

    trainer = make_trainer(
        tiny_model_dir,
        tmp_path,
        eval_rows=Dataset.from_list(text_rows(2, seed=3)),
        callbacks=[Slow()],
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=1,
        logging_steps=2,
    )
    trainer.train()
    lengths = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    rates = [rate for (rate,) in curve(trainer, "tokens_per_second")]
    assert len(rates) == 2
    assert min(rates) > lengths / seconds  # a step of milliseconds


def test_every_step_is_logged_once_whatever_a_callback_logs(tiny_model_dir: Path, tmp_path: Path) -> None:
    """On the main process alone, perhaps: then it must not add up over all processes."""

    class Notes(TrainerCallback):
        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            trainer.log({"note": 1.0})

    trainer = make_trainer(tiny_model_dir, tmp_path, callbacks=[Notes()], max_steps=3)
    trainer.train()
    assert len(curve(trainer, "note")) == 3
    assert curve(trainer, "note", "nll") == []
    assert len(curve(trainer, "grad_norm", "nll", "tokens_per_second")) == 3
    # What comes after the last log is in that of the whole training.
    _, other = run(tiny_model_dir, tmp_path, max_steps=3, logging_steps=2)
    assert "train_runtime" in other.state.log_history[-1]
    assert curve(other, "nll")[1][0] == pytest.approx(curve(trainer, "nll")[2][0], abs=1e-6)


def test_nothing_is_printed(tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(
        tiny_model_dir, tmp_path, max_steps=2, reference="cache", reference_cache_dir=str(tmp_path / "cache")
    )
    capfd.readouterr()  # loading the model shows a bar
    trainer.train()
    assert capfd.readouterr() == ("", "")


def test_metrics_of_steps_between_logs_are_averaged(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = text_rows(16)
    changes = {"different": True, "per_device_train_batch_size": 4, "max_steps": 6}
    _, every = run(tiny_model_dir, tmp_path / "a", rows, **changes)
    _, third = run(tiny_model_dir, tmp_path / "b", rows, logging_steps=3, **changes)
    for name in ("nll", "alignment_loss"):
        values = [value for (value,) in curve(every, name)]
        expected = [(sum(values[:3]) / 3,), (sum(values[3:]) / 3,)]
        assert largest_difference(curve(third, name), expected) < 1e-6


def test_packed_rows_are_not_packed_again(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list(text_rows(7, seed=3))
    trainer = make_trainer(
        tiny_model_dir, tmp_path, different=True, eval_rows=rows, packing=True, max_length=64
    )
    own = trainer.evaluate()
    given = [trainer.evaluate(rows), trainer.evaluate(trainer.eval_dataset)]
    named = [trainer.evaluate({"a": rows}), trainer.evaluate({"a": trainer.eval_dataset})]
    for name in ("loss", "nll", "alignment_loss"):
        assert own[f"eval_{name}"] > 0
        for evaluated in given:
            assert evaluated[f"eval_{name}"] == pytest.approx(own[f"eval_{name}"], rel=1e-6)
        for evaluated in named:
            assert evaluated[f"eval_a_{name}"] == pytest.approx(own[f"eval_{name}"], rel=1e-6)


def test_evaluation_weighs_tokens_not_batches(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = text_rows(7, seed=3)
    results = []
    for batch in (7, 3, 2):
        trainer = make_trainer(
            tiny_model_dir,
            tmp_path,
            different=True,
            eval_rows=Dataset.from_list(rows),
            per_device_eval_batch_size=batch,
            alpha=2.0,
            position_fraction=0.5,  # evaluation uses all positions all the same
        )
        results.append(trainer.evaluate())  # before any training
    whole = results[0]
    assert whole["eval_alignment_loss"] > 1e-3
    assert whole["eval_loss"] == pytest.approx(whole["eval_nll"] + 2 * whole["eval_alignment_loss"], rel=1e-6)
    for result in results[1:]:
        for name in (
            "eval_nll",
            "eval_alignment_loss",
            "eval_loss",
            "eval_entropy",
            "eval_mean_token_accuracy",
        ):
            assert result[name] == pytest.approx(whole[name], rel=1e-5)


def test_predictions_of_another_shape_than_rows_stay_whole(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Of completion tokens, one after the other."""
    rows = Dataset.from_list(tokenised_rows(tiny_tokenizer, 6))
    completion_tokens = sum(label != -100 for row in rows for label in row["labels"])
    # Whole batches: of one that is not, accelerate keeps as many entries as it has rows.
    trainer = make_trainer(tiny_model_dir, tmp_path, per_device_eval_batch_size=3)
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(-1)[labels != -100]
    assert trainer.predict(rows).predictions.shape == (completion_tokens,)


def test_only_what_has_an_entry_for_each_row_loses_those_that_were_added() -> None:
    """As several processes add them to a data set of 5 rows."""
    by_row, by_token = np.arange(16).reshape(8, 2), np.arange(20)
    found = without_added((by_row, {"rows": by_row, "tokens": by_token}, [None]), 8, 5)
    assert [len(found[0]), len(found[1]["rows"]), len(found[1]["tokens"]), found[2]] == [5, 5, 20, [None]]
    # With `batch_eval_metrics`, they are in the last batch.
    compute = of_given_rows(lambda found, **_: {"rows": len(found.predictions)}, 8, 5, apart=False)
    results = (compute(EvalPrediction(by_row, by_row), compute_result=last) for last in (False, True))
    assert [result["rows"] for result in results] == [8, 5]


def test_evaluation_changes_nothing_about_training(tiny_model_dir: Path, tmp_path: Path) -> None:
    _, without = run(tiny_model_dir, tmp_path / "a")
    _, evaluated = run(
        tiny_model_dir,
        tmp_path / "b",
        eval_rows=Dataset.from_list(text_rows(5, seed=3)),
        eval_strategy="steps",
        eval_steps=2,
        eval_on_start=True,
    )
    assert [entry["step"] for entry in evaluated.state.log_history if "eval_nll" in entry] == [0, 2, 4, 6]
    assert relative(trained(evaluated), trained(without)) == 0.0
    names = ("nll", "alignment_loss", "num_tokens")
    assert curve(evaluated, *names) == curve(without, *names)


def test_several_evaluation_sets(tiny_model_dir: Path, tmp_path: Path) -> None:
    sets = {"a": Dataset.from_list(text_rows(3, seed=4)), "b": text_rows(4, seed=5)}
    trainer = make_trainer(tiny_model_dir, tmp_path, eval_rows=sets, different=True)
    together = trainer.evaluate()
    for name, rows in sets.items():
        alone = make_trainer(tiny_model_dir, tmp_path, eval_rows=rows, different=True).evaluate()
        assert together[f"eval_{name}_nll"] == pytest.approx(alone["eval_nll"], rel=1e-5)
        assert together[f"eval_{name}_alignment_loss"] == pytest.approx(
            alone["eval_alignment_loss"], rel=1e-5
        )


def test_evaluation_in_16_bits_leaves_the_model_where_it_is_asked(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, transformers would move it when training begins."""
    has_gpu = torch.cuda.is_available()
    moved = []
    move = SelfAugTrainer._move_model_to_device

    def recorded(trainer: Any, model: Any, device: Any) -> None:
        moved.append((model, device))
        move(trainer, model, device)

    monkeypatch.setattr(SelfAugTrainer, "_move_model_to_device", recorded)
    trainer = make_trainer(
        tiny_model_dir,
        tmp_path,
        reference="frozen_copy",
        bf16_full_eval=True,
        use_cpu=not has_gpu,
        eval_rows=text_rows(2, seed=3),
    )
    assert moved == [(trainer.model, trainer.args.device)]
    assert trainer.model.device.type == ("cuda" if has_gpu else "cpu")
    assert trainer._reference.model.device == trainer.model.device
    assert trainer.evaluate()["eval_nll"] > 0
