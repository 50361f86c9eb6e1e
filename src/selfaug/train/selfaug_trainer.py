"""`SelfAugTrainer`: trl's `SFTTrainer` with the alignment in its loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list
from datasets import IterableDataset
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from selfaug.core.alignment import OutputHead
from selfaug.core.controller import DriftController
from selfaug.core.printable import printable_size
from selfaug.errors import ConfigError, DataError, StorageError
from selfaug.model.adapters import (
    begins_at_random,
    changes_nothing_yet,
    keep_preserved_directions,
    require_adapters_of_peft,
)
from selfaug.model.cache import ReferenceCache
from selfaug.model.four_bit import keep_unpacked, require_unpacked
from selfaug.model.head import require_verified_head
from selfaug.model.hidden import causal_model
from selfaug.model.loading import window_of
from selfaug.model.packed_documents import require_documents_apart
from selfaug.model.reference import CachedReference, FrozenCopy, Reference
from selfaug.train.accelerator_setup import set_up_accelerator
from selfaug.train.anchors import AnchorCollator, read_anchors, self_anchors
from selfaug.train.base_trainer import BaseTrainer
from selfaug.train.checkpoints import latest_checkpoint, read_checkpoint_state, require_processes
from selfaug.train.dataset_rows import (
    masked_labels_error,
    require_prepared_rows,
    require_prompt_tokens,
    require_serving_prompts,
    warn_of_long_rows,
    with_completions,
)
from selfaug.train.evaluation import Evaluation
from selfaug.train.loss import AlignmentLoss, alignment_loss
from selfaug.train.model_checks import (
    forget_absent_layers,
    has_no_experts,
    refuse_arguments,
    require_one_device,
    takes_only_peft,
)
from selfaug.train.reference_choice import (
    AlignedRows,
    choose_reference,
    require_rows_to_draw,
    require_shared_folder,
    warn_of_trained_adapter,
)
from selfaug.train.selfaug_config import SelfAugConfig
from selfaug.train.step_counts import PromptWatch, StepCounts, count_step
from selfaug.train.step_metrics import TokenRate, batch_sums, means_of
from selfaug.train.weight_penalty import lora_change

__all__ = ["SelfAugTrainer"]

logger = logging.getLogger(__name__)


class SelfAugTrainer(BaseTrainer):
    """Supervised fine-tuning that keeps the next-token distributions over the prompt close to the reference model's.

    Takes what trl's `SFTTrainer` takes, with a `SelfAugConfig` as `args`. Rows are prompt–completion (text or
    messages), messages (the last assistant turn is the completion), or tokenised (`input_ids` with `labels`, or with
    `completion_mask` or `assistant_masks`; the second counts only without `labels`), without what their
    `attention_mask` says is padding. Tools, and messages that call them, stay as a list of rows has them; of a data
    set's, a field that is null is one that the row doesn't have.

    Logged beside trl's metrics: `nll` (nats per completion token), `alignment_loss` (nats per aligned position),
    `alpha`, `tokens_per_second`, and with the first step `noise_floor`, the alignment loss while both models are
    still equal. Evaluation reports `eval_nll`, `eval_alignment_loss`, and `eval_loss`, which is
    nll + alpha · alignment loss.

    A `PeftModel` whose adapter is trained already goes on from there, and the reference is the model without the
    adapter; `adapter_is_trained=True` says that this is meant, and leaves out the warning.

    Attributes:
        noise_floor: nats per aligned position at step 0; None before it, and of an adapter that is trained already or
            begins at random, and of a PeftModel that isn't plain LoRA as it is made, or is sharded. Dropout of the
            base model's own (GPT-2 has some) and NEFTune's noise are in it too.
        starts_at_reference: whether both models are equal at step 0, so that its alignment is the noise floor.
        anchors: token ids of each anchor; empty without, and until the model has written them (`prepare_anchors`).
        reference_bytes: bytes that this run added to the reference cache, before it was resumed too; without what a
            build that was cut off had written.
        anchor_seconds: that the model took to write its anchors; they are part of `seconds`.

    Raises:
        ConfigError, DataError, ModelError: before training, when the result would not be what was asked for.
    """

    _tag_names = ["trl", "sft", "selfaug"]  # noqa: RUF012 (trl's own attribute)
    _name = "SelfAug"

    def __init__(
        self,
        model: Any,
        args: SelfAugConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        adapter_is_trained: bool = False,
        on_anchor_progress: Callable[[int, int], None] = lambda *_: None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = SelfAugConfig(f"{name.rstrip('/').split('/')[-1] or 'model'}-SelfAug")
        refuse_arguments(model, args, kwargs)
        is_formatted = kwargs.get("formatting_func") is not None
        train_dataset = with_completions(train_dataset, args, is_formatted=is_formatted)
        if eval_dataset is not None:
            eval_dataset = _each(
                eval_dataset, lambda rows: with_completions(rows, args, is_formatted=is_formatted)
            )
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self._own_collator = data_collator is not None
        self._make_model_ready(kwargs)
        require_serving_prompts(train_dataset, self._tokenizer)
        self._check_setup()
        self._begin_counts()
        # Shards can't be asked whether an adapter changes nothing yet.
        self.starts_at_reference = not adapter_is_trained and (
            not self._is_sharded and changes_nothing_yet(model)
            if isinstance(model, PeftModel)
            else not begins_at_random(self.model)
        )
        # A text is read as JSON when the settings are made.
        self._template_arguments = cast("dict[str, Any]", args.chat_template_kwargs or {})
        self._on_anchor_progress = on_anchor_progress
        # Sharded weights may not be there before the model is wrapped.
        if not self._is_sharded:
            self._check_head(self.model)
            self._check_packing(self.model)
        if args.alpha > 0:
            self._begin_alignment()
            may_differ = isinstance(model, PeftModel) and not self.starts_at_reference
            if may_differ and not adapter_is_trained and not self._is_sharded:
                with self.accelerator.autocast():  # whose layers may have other dtypes, as in training
                    warn_of_trained_adapter(self.model)
        self.add_callback(_Prepare(self))

    # ---- when it is made

    def _make_model_ready(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a model that can't be trained so, and set right what this training needs to be otherwise in it.

        Args:
            arguments: of the Trainer's.
        """
        if takes_only_peft(self.args, arguments):
            require_adapters_of_peft(self.model)  # trl loads one that is in the model's folder
        require_one_device(causal_model(self.model))
        if (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self._is_sharded:
            # transformers moves it when training begins; here it is asked, and copied, before.
            self._move_model_to_device(self.model, self.args.device)
        forget_absent_layers(causal_model(self.model))
        keep_preserved_directions(self.model)
        require_unpacked(self.model)
        keep_unpacked(self.model)
        text_config = causal_model(self.model).config.get_text_config()
        if has_no_experts(text_config):
            # trl goes by the names in the config; without experts there is no router whose logits could be had.
            self.aux_loss_enabled = False
            text_config.output_router_logits = False

    def _check_setup(self) -> None:
        """Refuse rows and settings that don't go together, and settle what the Trainer is to do with them."""
        if self._is_vision_dataset:
            raise DataError("rows with images are not supported.", hint="train on text rows.")
        require_prepared_rows(self.train_dataset, self._evals(), self.args)
        warn_of_long_rows([self.train_dataset, *self._evals()], window_of(causal_model(self.model).config))
        set_up_accelerator(
            self.accelerator, self.model, find_unused_parameters=self.args.ddp_find_unused_parameters
        )
        # The loss is divided by counts over the whole optimizer step: the Trainer must not divide it again.
        self.loss_is_scaled_for_ga = True
        if self.args.weight_penalty > 0:
            if self._is_sharded:
                raise ConfigError(
                    "weight_penalty needs whole adapter weights on each process, not shards.",
                    hint="leave it at 0, or train without FSDP and DeepSpeed.",
                )
            lora_change(self.model)  # refuses what has no LoRA adapter

    def _begin_counts(self) -> None:
        """What is counted, measured and kept, before any of it."""
        args = self.args
        self.controller = None
        if args.drift_limit is not None:
            self.controller = DriftController(limit=args.drift_limit, alpha=args.alpha)
        self.noise_floor: float | None = None
        self.reference_bytes = 0
        self.reference_kind: str | None = None
        self.anchor_seconds = 0.0
        self.anchors: list[list[int]] = []
        self._earlier_seconds = 0.0
        self._began: float | None = None
        self._alpha = args.alpha
        self._reference: Reference | None = None
        self._ready = False
        self._counts = (0.0, 0.0)
        self._pending: Tensor | None = None
        self._evaluation = Evaluation()
        self._token_rate = TokenRate()
        self._cache: ReferenceCache | None = None
        self._own_head: OutputHead | None = None
        self._prompt_watch = PromptWatch(own_collator=self._own_collator)
        self._anchors_to_write = args.anchors == "self"
        self._at_anchors = False

    def _begin_alignment(self) -> None:
        """Refuse rows without anything to align, read the anchors, and choose the reference."""
        require_prompt_tokens(self.train_dataset)
        if self.args.anchors not in ("none", "self"):
            self.anchors = read_anchors(
                Path(self.args.anchors), self._tokenizer, self.args.max_length, self._template_arguments
            )
        if self.args.row_fraction < 1:
            require_rows_to_draw(
                self._aligned_rows(),
                causal_model(self.model).config,
                are_packed=self.padding_free,
                with_anchors=self.args.anchors != "none" and self._anchors_are_among_rows,
            )
        self._choose_reference()

    def _choose_reference(self, chosen: str | None = None) -> None:
        """As `choose_reference` does, while the model is whole and untrained.

        Args:
            chosen: what "auto" has come to before; None for a choice of its own.
        """
        autocast_dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        found = choose_reference(
            self.model,
            self.args,
            self._aligned_rows(),
            compute_dtype=autocast_dtypes.get(self.accelerator.mixed_precision),
            is_sharded=self._is_sharded,
            own_collator=self._own_collator,
            chosen=chosen,
        )
        self.reference_kind, self._reference = found.kind, found.reference
        self._cache, self._own_head = found.cache, found.own_head
        self._ready = False

    def _aligned_rows(self) -> AlignedRows:
        """All data sets that the trainer was made with, and the anchors that are there by now."""
        return AlignedRows(self.train_dataset, self._evals(), self.anchors)

    def _evals(self) -> list[Any]:
        """The rows of each evaluation that the trainer was made with."""
        evals = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"eval": self.eval_dataset}
        return [rows for rows in evals.values() if rows is not None]

    def cache_bytes_to_write(self, beside: Path, spare: int) -> int:
        """What the reference cache will still take of the disk that a folder is on, in bytes.

        Exactly only if that might be more than what is to spare: else at most so much, without a look at the rows.
        """
        if self._cache is None or self._cache.folder.stat().st_dev != beside.stat().st_dev:
            return 0
        aligned = self._aligned_rows()
        if (most := aligned.tokens() * self._cache.row_bytes) <= spare:
            return most
        return self._cache.bytes_to_write(aligned.documents())

    # ---- when training starts

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; `resume_from_checkpoint=True` takes the latest checkpoint that was written to its end.

        Raises:
            StorageError: if there is none, or the one that is named is not complete.
            ConfigError: if it was trained with another `alpha` or `drift_limit`, or by another number of processes.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = latest_checkpoint(self.args.output_dir)
        self._forget_earlier_training()
        if resume_from_checkpoint:
            self._load_state(Path(resume_from_checkpoint), trains_on=True)
        self.prepare_anchors()
        self._forget_evaluation()
        self._began = time.monotonic()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _forget_earlier_training(self) -> None:
        """What a training that was broken off in this process has left of its last steps."""
        self._pending = None
        self._token_rate.stop()
        self._metrics["train"].clear()
        if self.controller is None:
            self._alpha = self.args.alpha

    @property
    def seconds(self) -> float:
        """Seconds of this training so far: writing anchors, the way to the checkpoint that it goes on from, and since.

        As if it had never been interrupted: steps that were lost after that checkpoint are not counted twice.
        """
        return self._earlier_seconds + (0.0 if self._began is None else time.monotonic() - self._began)

    def prepare_anchors(self, there: tuple[list[list[int]], float] | None = None) -> None:
        """Have the model write its anchors, once: the first process for all. Called when training starts.

        Args:
            there: in the first process, those that it wrote earlier, and in how many seconds: taken instead.
        """
        if not self._anchors_to_write:
            return
        written: list[Any] = [there]
        if there is None and self.accelerator.is_main_process:
            began = time.monotonic()
            anchors = self_anchors(
                self._anchor_writer,
                self._tokenizer,
                self.args.anchor_count,
                seed=self.args.seed,
                template_arguments=self._template_arguments,
                on_progress=self._on_anchor_progress,
            )
            written = [(anchors, time.monotonic() - began)]
        broadcast_object_list(written)
        self._take_anchors(*written[0])
        self._earlier_seconds += self.anchor_seconds

    @property
    def _anchor_writer(self) -> Any:
        """The reference model, or the tuned one, whose adapter is switched off for writing."""
        if isinstance(self._reference, FrozenCopy):
            # Without PEFT's wrapper, nobody switches its adapter off: where making that took something out of the base
            # weights (PiSSA, OLoRA), both together are the reference.
            return causal_model(self._reference.model)
        return self.model

    def _take_anchors(self, anchors: list[list[int]], seconds: float) -> None:
        self.anchors, self.anchor_seconds, self._anchors_to_write = anchors, seconds, False

    def prepare_alignment(self) -> None:
        """Check the model and get the reference ready; called when training or evaluation starts."""
        if self._ready:
            return
        self._check_head(self.model_wrapped)
        self._check_packing(self.model_wrapped)
        if self._cache is not None:
            self._build_cache(self._cache)
            self._reference = CachedReference(self._cache, self.model, self._own_head)
        self._ready = True

    def _check_head(self, model: nn.Module) -> None:
        """Refuse a model whose logits would come out wrong; for a stream, the loss does so at its first batch."""
        if isinstance(self.train_dataset, IterableDataset):
            return
        # A data set with a transform of its own may have them as a tensor already.
        ids = torch.as_tensor(self.train_dataset[0]["input_ids"], device=self.args.device)[None]
        with self.accelerator.autocast():
            require_verified_head(model, ids)

    def _check_packing(self, model: nn.Module) -> None:
        """Refuse a model that computes documents of a packed or padding-free row with others as their context."""
        if not self.padding_free:  # packing is, too
            return
        with self.accelerator.autocast():
            require_documents_apart(
                model,
                lambda documents: self._prepare_inputs(
                    self.data_collator([{"input_ids": ids} for ids in documents])
                ),
            )

    def _build_cache(self, cache: ReferenceCache) -> None:
        """Compute what the reference cache lacks; all processes take part."""
        documents = list(self._aligned_rows().documents())
        has_moved = self.state.global_step > 0 and not isinstance(self.model, PeftModel)
        if has_moved and cache.missing(documents):
            raise StorageError(
                f"the reference cache in {cache.folder} is not complete, and the model has moved from the "
                "reference already.",
                hint="start the training anew.",
            )
        require_shared_folder(cache, documents, is_sharded=self._is_sharded)
        for part in self._aligned_rows().parts():
            with self.accelerator.autocast():
                self.reference_bytes += cache.build(
                    self.model_wrapped,
                    part,
                    rank=self.accelerator.process_index,
                    processes=self.accelerator.num_processes,
                    barrier=self.accelerator.wait_for_everyone,
                    from_first=lambda value: broadcast_object_list([value])[0],
                    on_size=lambda size: self.on_cache_size(size, cache.folder),
                    on_progress=self.on_cache_progress,
                )

    def on_cache_size(self, size: int, folder: Path) -> None:
        """Called with the bytes that the reference cache will take, before it is computed; replace it likewise."""
        logger.info("the reference cache takes %s in %s", printable_size(size), folder)

    def on_cache_progress(self, done: int, total: int) -> None:
        """Called while the reference cache is computed; replace it on the instance to show progress elsewhere."""
        if done == total or done % 100 == 0:
            logger.info("reference cache: %d of %d documents", done, total)

    def get_train_dataloader(self) -> Any:
        """The Trainer's, with anchors beside the rows."""
        collator = self.data_collator
        if self.anchors:
            several = self.accelerator.num_processes > 1
            self.data_collator = AnchorCollator(
                collator,
                self.anchors,
                self.args.anchor_share,
                self.args.seed,
                # DeepSpeed counts every backward as a micro-batch; a stream's batches are cut up for the processes.
                together=self._anchors_are_among_rows,
                always=several,
            )
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    @property
    def _anchors_are_among_rows(self) -> bool:
        several = self.accelerator.num_processes > 1
        return self.is_deepspeed_enabled or (several and isinstance(self.train_dataset, IterableDataset))

    # ---- a step

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Micro-batches of one optimizer step; counts its completion tokens and aligned positions on all processes."""
        if self.state.global_step >= self.state.max_steps > 0:
            # Resumed from its last checkpoint: the Trainer looks whether it is done only after a step.
            self.control.should_training_stop = True
            return [], None
        self._finish_step()
        self._token_rate.begin(self._total_train_tokens)
        batches = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        are_unseen = (
            self.args.alpha > 0
            and self._prompt_watch.steps_without is not None
            and (self._own_collator or isinstance(self.train_dataset, IterableDataset))
        )
        counts = count_step(
            batches,
            align_boundary=self.args.align_boundary,
            for_prompts=are_unseen,
            for_masked_labels=self._own_collator,
            device=device,
        )
        counts = self.accelerator.reduce(counts, "sum") // self._tp_size
        of_all = StepCounts(*counts.tolist())
        self._counts = (float(of_all.completion_tokens), float(of_all.aligned_positions))
        if of_all.masked_labels:
            raise masked_labels_error(f"{of_all.masked_labels} tokens of a step")
        # After the last row of a stream, the Trainer asks for more until the steps are full: those have no batches.
        if are_unseen and of_all.batches:
            self._prompt_watch.look_at(of_all.within_prompts)
        return batches, counts[0]

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """The Trainer's, for the rows and then for their anchors: both add to the same gradient."""
        anchors = inputs.pop("anchors", None)
        if anchors is None:
            return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-any-return]
        # The second pass brings the gradients of both to the other processes.
        apart = model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
        with apart:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._at_anchors = True
        try:
            return loss + super().training_step(model, anchors, num_items_in_batch)  # type: ignore[no-any-return]
        finally:
            self._at_anchors = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """nll plus alpha times alignment of one micro-batch, normalised over the whole optimizer step."""
        if not self.model.training:
            self.prepare_alignment()
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        # Else it is normalised over this batch.
        is_part_of_step = self.model.training and num_items_in_batch is not None
        result = self._alignment_loss(model, inputs, self._counts if is_part_of_step else (None, None))
        if self.aux_loss_enabled and getattr(result.output, "aux_loss", None) is None:
            self._leave_out_router_loss()
        loss = self._whole_loss(result, is_part_of_step=is_part_of_step)
        self._take_in(result, inputs)
        if not return_outputs:
            return loss
        with torch.no_grad():
            return loss, model(
                **{name: value for name, value in inputs.items() if name != "labels"}, use_cache=False
            )

    def _alignment_loss(
        self, model: nn.Module, inputs: dict[str, Any], counts: tuple[float, float] | tuple[None, None]
    ) -> AlignmentLoss:
        """nll and alignment; evaluated are all positions and rows, with the reference that these rows have.

        Args:
            model: as the Trainer calls it.
            inputs: the micro-batch.
            counts: completion tokens and aligned positions that it is normalised by; None for its own.
        """
        training = self.model.training
        reference = self._reference
        if not training:
            reference = self._evaluation.reference_of_rows(reference, self.model, is_sharded=self._is_sharded)
        completion_tokens, aligned_positions = counts
        with self.accelerator.autocast():
            return alignment_loss(
                model,
                inputs,
                alpha=self._alpha if reference is not None else 0.0,
                reference=reference,
                completion_tokens=completion_tokens,
                aligned_positions=aligned_positions,
                align_boundary=self.args.align_boundary,
                divergence=self.args.divergence,
                temperature=self.args.divergence_temperature,
                position_fraction=self.args.position_fraction if training else 1.0,
                # Anchors are drawn themselves.
                row_fraction=self.args.row_fraction if training and not self._at_anchors else 1.0,
                seed=self.args.seed,
                step=self.state.global_step,
            )

    def _whole_loss(self, result: AlignmentLoss, *, is_part_of_step: bool) -> Tensor:
        """The loss as the Trainer is to take it: with the weight penalty and the router's loss.

        Args:
            result: of the micro-batch.
            is_part_of_step: whether it is normalised over the whole step.
        """
        loss = result.loss
        if is_part_of_step:
            # DDP and FSDP average gradients over processes; the loss is divided by counts over all of them already.
            loss = loss * (self.accelerator.num_processes // self._tp_size)
        steps = self.current_gradient_accumulation_steps if is_part_of_step else 1
        if self.args.weight_penalty > 0 and self.model.training and not self._at_anchors:
            # Once a step: a part with each micro-batch, and the same on every process, which are averaged.
            penalty = lora_change(self.model)
            self._metrics["train"]["weight_change"].append(float(penalty.detach()) ** 0.5)
            loss = loss + self.args.weight_penalty * penalty / steps
        if self.aux_loss_enabled and not self._at_anchors:
            loss = loss + self.router_aux_loss_coef * result.output.aux_loss / steps
        return loss

    def _leave_out_router_loss(self) -> None:
        """Train without one: the config has its coefficient, and the model's output no such loss (Llama 4)."""
        inner = causal_model(self.model)
        logger.warning("%s has no loss of its router: it trains without", type(inner).__name__)
        self.aux_loss_enabled = False
        inner.config.get_text_config().output_router_logits = False

    # ---- metrics of a step, and logs

    def _take_in(self, result: AlignmentLoss, inputs: dict[str, Any]) -> None:
        """Add a micro-batch's sums to the step's (or the evaluation's)."""
        with_router = self.aux_loss_enabled and not self._at_anchors
        sums = batch_sums(
            result,
            inputs,
            router_loss=result.output.aux_loss if with_router else None,
            are_anchors=self._at_anchors,
            device=self.args.device,
        )
        if self.model.training:
            self._pending = sums if self._pending is None else self._pending + sums
        else:
            self._evaluation.sums.append(sums)

    def _finish_step(self) -> None:
        """Take the last step's sums over all processes: metrics, noise floor, and alpha for the next step."""
        if self._pending is None:
            return
        metrics, tokens = self._means(self._pending)
        self._pending = None
        self._total_train_tokens += int(tokens) // self._tp_size
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        if self._reference is None:
            return
        self._metrics["train"]["alpha"].append(self._alpha)
        # Where a step may have drawn no row, its 0 says nothing.
        if self.noise_floor is None and self.starts_at_reference and self.args.row_fraction == 1:
            self.noise_floor = metrics["alignment_loss"]
            self._metrics["train"]["noise_floor"].append(self.noise_floor)
        if self.controller is not None:
            self._alpha = self.controller.update(metrics["alignment_loss"])

    def _means(self, sums: Tensor) -> tuple[dict[str, float], float]:
        """Means over all processes from the sums of each, and the number of tokens."""
        return means_of(
            self.accelerator.reduce(sums, "sum"),
            has_reference=self._reference is not None,
            has_router_loss=self.aux_loss_enabled,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the metrics since the last log; a callback may call it on one process alone."""
        if self.model.training and (rate := self._token_rate.take(self._total_train_tokens)) is not None:
            self._metrics["train"]["tokens_per_second"] = [rate]
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's; evaluating and saving, with what callbacks do then, is no time of `tokens_per_second`."""
        # Here, where all processes come by: the last step is in the last log, that of the whole training, too.
        if self.control.should_log or self.control.should_training_stop:
            self._finish_step()
        with self._token_rate.paused():
            super()._maybe_log_save_evaluate(*args, **kwargs)

    # ---- evaluation

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The Trainer's; takes rows of every form that the trainer takes.

        Rows that the trainer was not made with are in no reference cache: the reference is had with the adapter off.

        Raises:
            CacheError: with a cache and such rows, if the whole model trains.
        """
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            is_formatted = self._formatting_func is not None
            eval_dataset = _each(
                eval_dataset, lambda rows: with_completions(rows, self.args, is_formatted=is_formatted)
            )
        return super().evaluate(eval_dataset, *args, **kwargs)  # type: ignore[no-any-return]

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The Trainer's, with nll and alignment loss over all tokens instead of a mean of batch means."""
        dataloader = kwargs["dataloader"] if "dataloader" in kwargs else args[0]
        self._evaluation = Evaluation(dataloader.dataset)
        if self._cache is not None:
            self.prepare_anchors()  # it is built once, for them too; and here the model is not wrapped yet
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        output.metrics.update({f"{prefix}_{name}": value for name, value in self._evaluated().items()})
        return output

    def _evaluated(self) -> dict[str, float]:
        """Metrics of the evaluation that is at its end; none of one without batches."""
        if not self._evaluation.sums:
            return {}
        metrics, _ = self._means(self._evaluation.total())
        # With the weight that the training starts from, also where a drift limit moves it: evaluations are compared
        # with each other.
        loss = metrics["nll"] + self.args.alpha * metrics.get("alignment_loss", 0.0)
        return {**metrics, "loss": loss}

    # ---- checkpoints

    def restore(self, checkpoint: Path) -> None:
        """Take a checkpoint's weights and state without training on: another number of processes may.

        Raises:
            StorageError: if it is not complete.
            ConfigError: if it was trained with another `alpha` or `drift_limit`.
        """
        self._load_state(checkpoint, trains_on=False)
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._finish_step()
        super()._save_checkpoint(model, trial)

    def _checkpoint_state(self) -> dict[str, Any]:
        return {
            "settings": self._alignment_settings(),
            "processes": self.accelerator.num_processes,
            "alpha": self._alpha,
            "noise_floor": self.noise_floor,
            "steps_without_prompts": self._prompt_watch.steps_without,
            "total_train_tokens": self._total_train_tokens,
            "controller": None if self.controller is None else self.controller.state(),
            "anchors": self.anchors,
            "reference": self.reference_kind,
            "reference_bytes": self.reference_bytes,
            "seconds": self.seconds,
            "anchor_seconds": self.anchor_seconds,
        }

    def _alignment_settings(self) -> dict[str, float | None]:
        """What alpha goes by from here on, which another value could not change on the way without a word."""
        return {"alpha": self.args.alpha, "drift_limit": self.args.drift_limit}

    def _load_state(self, folder: Path, *, trains_on: bool) -> None:
        """Take the state that `_checkpoint_state` gave.

        Args:
            folder: the checkpoint.
            trains_on: whether training goes on from it.
        """
        state = read_checkpoint_state(folder, self._alignment_settings())
        if trains_on:
            require_processes(str(folder), state["processes"], self.accelerator.num_processes)
        self._alpha = state["alpha"]
        self.noise_floor = state["noise_floor"]
        self._prompt_watch.steps_without = state["steps_without_prompts"]
        self._total_train_tokens = state["total_train_tokens"]
        self._take_anchors_of(state, folder)
        kind = state["reference"]
        if self.args.reference == "auto" and kind not in (None, self.reference_kind):
            # The free disk space, by which "auto" goes, is another now; numbers and memory are to stay the same.
            self._choose_reference(kind)
        self.reference_bytes = state["reference_bytes"]
        self._earlier_seconds = state["seconds"]
        self._began = time.monotonic()
        if self.controller is not None and state["controller"] is not None:
            self.controller = DriftController.from_state(state["controller"])

    def _take_anchors_of(self, state: dict[str, Any], checkpoint: Path) -> None:
        """Take a checkpoint's anchors, whatever anchors are given."""
        # Not written anew: on another machine the model could write others.
        anchors = state["anchors"]
        if anchors != self.anchors and not (anchors and self._anchors_to_write):
            logger.warning(
                "the anchors are the %d of %s, which is gone on from, not the %d that are given",
                len(anchors),
                checkpoint,
                len(self.anchors),
            )
        self._take_anchors(anchors, state["anchor_seconds"])


class _Prepare(TrainerCallback):  # type: ignore[misc]
    """Prepares the alignment when the model is wrapped and on its devices, and before its first step."""

    def __init__(self, trainer: SelfAugTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.prepare_alignment()


def _each(rows: Any, change: Callable[[Any], Any]) -> Any:
    """A changed data set, or several of them by name."""
    return {name: change(one) for name, one in rows.items()} if isinstance(rows, dict) else change(rows)
