"""trl's trainer with what has nothing to do with the alignment: rows, evaluation by several processes, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput
from trl import SFTTrainer

from selfaug.train.checkpoints import delete_old_checkpoints, write_checkpoint_state
from selfaug.train.filled_rows import count_added, fill_up, of_given_rows, without_added
from selfaug.train.length_order import LengthOrder

__all__ = ["BaseTrainer"]


class BaseTrainer(SFTTrainer):  # type: ignore[misc]
    """trl's `SFTTrainer`, with these things set right that any training needs.

    - Rows that are packed stay so, and rows grouped by length come in the same order after resuming.
    - Several processes evaluate each row once.
    - A training that goes on from a checkpoint saves, logs and evaluates as the settings say, and one whose model was
      evaluated before still trains as several processes.
    - A checkpoint is complete once its last file is written, and an older one is deleted only then.

    What a subclass has to give: `_checkpoint_state`.
    """

    eval_dataset: Any
    data_collator: Any
    compute_metrics: Any

    _is_saving = False

    # ---- rows

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """trl's; rows that it has packed stay so, where they are given to `evaluate` again."""
        is_packed = isinstance(dataset, Dataset | IterableDataset) and "seq_lengths" in (
            dataset.column_names or ()
        )
        return dataset if is_packed else super()._prepare_dataset(dataset, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The Trainer's; rows grouped by length come in the same order after resuming."""
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return LengthOrder(sampler, seed)
        return sampler

    # ---- evaluation by several processes

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The Trainer's; for several processes with empty rows at the end, so that all have as many.

        accelerate would fill up with rows from the beginning instead, which would then count twice.
        """
        if eval_dataset is None and self.eval_dataset is not None:
            self.eval_dataset = self._fill_up(self.eval_dataset)
        elif isinstance(eval_dataset, str):
            self.eval_dataset[eval_dataset] = self._fill_up(self.eval_dataset[eval_dataset])
        else:
            eval_dataset = self._fill_up(eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """The Trainer's; filled up as for `get_eval_dataloader`."""
        return super().get_test_dataloader(self._fill_up(test_dataset))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """The Trainer's; for several processes in the rows' own order, also where training rows go by length.

        By length, the empty rows would come anywhere, and not at the end, from where results are cut off.
        """
        return None if self.accelerator.num_processes > 1 else super()._get_eval_sampler(eval_dataset)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> PredictionOutput:
        """The Trainer's, of prepared rows (`input_ids` and `labels`)."""
        output: PredictionOutput = super().predict(test_dataset, *args, **kwargs)
        filled = self._fill_up(test_dataset)
        if filled is test_dataset or not self.args.eval_do_concat_batches:
            return output
        sizes = len(filled), len(test_dataset)
        return output._replace(
            predictions=without_added(output.predictions, *sizes),
            label_ids=without_added(output.label_ids, *sizes),
        )

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The Trainer's; the user's metrics are of results without the rows that were added."""
        dataloader = kwargs["dataloader"] if "dataloader" in kwargs else args[0]
        compute_metrics = self.compute_metrics
        if compute_metrics is not None and (added := self._added_rows(dataloader.dataset)):
            # Where batches stay apart, the added rows are in the last one.
            apart = not self.args.eval_do_concat_batches
            whole = self._whole_batch if apart or self.args.batch_eval_metrics else len(dataloader.dataset)
            self.compute_metrics = of_given_rows(compute_metrics, whole, whole - added, apart=apart)
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self.compute_metrics = compute_metrics

    def _fill_up(self, rows: Any) -> Any:
        if not self._has_to_be_filled(rows):
            return rows
        return fill_up(rows, self._whole_batch, self._tokenizer.pad_token_id)

    def _added_rows(self, rows: Any) -> int:
        """How many empty rows these rows were filled up with."""
        return count_added(rows) if self._has_to_be_filled(rows) else 0

    def _has_to_be_filled(self, rows: Any) -> bool:
        several = self.accelerator.num_processes > 1
        return several and isinstance(rows, Dataset) and "input_ids" in rows.column_names

    @property
    def _whole_batch(self) -> int:
        """Rows that all processes evaluate at once."""
        return int(self.args.eval_batch_size * self.accelerator.num_processes)

    # ---- training that begins after an evaluation, or from a checkpoint

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; steps between checkpoints, lines of metrics and evaluations are those of the settings.

        A checkpoint's state brings those that it was saved with.
        """
        begun = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)
        return begun

    def _forget_evaluation(self) -> None:
        """Have a model wrapped that was evaluated before it is trained.

        accelerate takes it for prepared then, and leaves DDP out: each process would train on its own.
        """
        if self.accelerator.num_processes == 1 or self._is_sharded:
            return
        if self.model.__dict__.pop("_is_accelerate_prepared", False):
            self.accelerator._models.clear()  # with torch.compile, it is the compiled one
            self.model_wrapped = self.model
            if (own := self.model.__dict__.pop("_original_forward", None)) is not None:
                self.model.forward = own  # without the autocast, which is put around it anew

    @property
    def _is_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed has the model; ZeRO-2, which leaves weights whole, is taken for it too."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    # ---- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # The Trainer deletes old checkpoints before the new one has its state: a kill in between would leave none.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_saving = False
            self.args.save_total_limit = limit
        # Its mark, that it is complete, comes after what the other processes write into it.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            self._complete_checkpoint(folder)
            delete_old_checkpoints(folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _complete_checkpoint(self, folder: Path) -> None:
        if not self.args.push_to_hub:
            (folder / "README.md").unlink(missing_ok=True)  # peft's form, which nobody has filled in
        torch.save(self.args, folder / TRAINING_ARGS_NAME)  # with the limit, which they lacked a moment ago
        write_checkpoint_state(folder, self._checkpoint_state())

    def _checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside what the Trainer saves."""
        raise NotImplementedError

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's; beside checkpoints only if they are pushed to a hub."""
        if not self._is_saving or self.args.push_to_hub:
            super().create_model_card(*args, **kwargs)
