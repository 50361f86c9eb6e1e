"""`SelfAugTrainer`: trl's `SFTTrainer` with the alignment in its loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput
from trl import SFTTrainer

from selfaug.core.alignment import OutputHead
from selfaug.core.controller import DriftController
from selfaug.core.positions import IGNORED, count_tokens
from selfaug.core.printable import printable_size
from selfaug.errors import CacheError, ConfigError, DataError, StorageError
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
from selfaug.model.reference import AdapterOff, CachedReference, FrozenCopy, Reference
from selfaug.rundir import latest_complete_checkpoint
from selfaug.train.anchors import AnchorCollator, read_anchors, self_anchors
from selfaug.train.checkpoints import (
    delete_old_checkpoints,
    read_checkpoint_state,
    require_processes,
    write_checkpoint_state,
)
from selfaug.train.dataset_rows import (
    documents,
    masked_labels_error,
    no_prompt_tokens,
    require_prepared_rows,
    require_prompt_tokens,
    require_serving_prompts,
    warn_of_long_rows,
    with_completions,
)
from selfaug.train.filled_rows import count_added, fill_up, of_given_rows, without_added
from selfaug.train.length_order import LengthOrder
from selfaug.train.loss import AlignmentLoss, alignment_loss
from selfaug.train.model_checks import (
    forget_absent_layers,
    has_no_experts,
    require_one_device,
    uses_all_parameters,
)
from selfaug.train.reference_choice import (
    AlignedRows,
    choose_reference,
    require_shared_folder,
    require_untouched_base,
    warn_of_trained_adapter,
    why_rows_depend_on_their_batch,
)
from selfaug.train.selfaug_config import SelfAugConfig
from selfaug.train.weight_penalty import lora_change

__all__ = ["SelfAugTrainer"]

logger = logging.getLogger(__name__)

_MOST_STEPS_WITHOUT_PROMPTS = 10
"""So many steps of a stream, or of a collator of the user's, without one prompt token, and there will be none."""


class SelfAugTrainer(SFTTrainer):  # type: ignore[misc]
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
    eval_dataset: Any
    data_collator: Any
    compute_metrics: Any

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
        _refuse_arguments(model, args, kwargs)
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
        self._own_collator = data_collator is not None
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

    # ---- before training

    def _make_model_ready(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a model that can't be trained so, and set right what this training needs to be otherwise in it.

        Args:
            arguments: of the Trainer's.
        """
        if _takes_only_peft(self.args, arguments):
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
        parallelism = self.accelerator.parallelism_config
        if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
            raise ConfigError(
                "context and sequence parallelism split rows, which the alignment does not support.",
                hint="shard the weights instead (FSDP2), with reference='adapter_off'.",
            )
        # The loss is divided by counts over the whole optimizer step: the Trainer must not divide it again.
        self.loss_is_scaled_for_ga = True
        shards = getattr(self.accelerator.state, "fsdp_plugin", None)
        if shards is not None and isinstance(shards.mixed_precision_policy, MixedPrecisionPolicy):
            # accelerate would have gradients of micro-batches and processes added up in 16 bits.
            shards.mixed_precision_policy = replace(shards.mixed_precision_policy, reduce_dtype=torch.float32)
        if shards is not None and not isinstance(self.model, PeftModel):
            # Else each process keeps all gradients whole until the last micro-batch, as large as the model.
            self.accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
        if self.args.ddp_find_unused_parameters is None and uses_all_parameters(self.model):
            # transformers has DDP look for unused ones in every step of a PEFT model, which then warns.
            self.accelerator.ddp_handler.find_unused_parameters = False
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
        self._eval_sums: list[Tensor] = []
        self._eval_rows: Any = None
        self._eval_reference: Reference | None = None
        self._clock: tuple[float, float] | None = None
        self._is_saving = False
        self._cache: ReferenceCache | None = None
        self._own_head: OutputHead | None = None
        self._steps_without_prompts: int | None = 0  # None once a prompt was seen
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
            self._require_rows_to_draw()
        self._choose_reference()

    def _require_rows_to_draw(self) -> None:
        """Refuse row_fraction where what is left out of a batch changes what is in it."""
        if self.args.anchors != "none" and self._anchors_are_among_rows:
            raise ConfigError(
                "row_fraction would draw anchors too: they are among the rows of a batch with DeepSpeed, and of a "
                "stream that several processes share.",
                hint="leave row_fraction at 1, or anchors at 'none'.",
            )
        aligned, config = self._aligned_rows(), causal_model(self.model).config
        if not self.padding_free or aligned.has_stream():
            return
        if depends := why_rows_depend_on_their_batch(config, aligned.lengths()):
            raise ConfigError(
                f"row_fraction with packed or padding-free rows would align to another model: {depends}.",
                hint="leave row_fraction at 1, or leave packing and padding_free out.",
            )

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

    @property
    def _is_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed has the model; ZeRO-2, which leaves weights whole, is taken for it too."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

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

    @property
    def seconds(self) -> float:
        """Seconds of this training so far: writing anchors, the way to the checkpoint that it goes on from, and since.

        As if it had never been interrupted: steps that were lost after that checkpoint are not counted twice.
        """
        return self._earlier_seconds + (0.0 if self._began is None else time.monotonic() - self._began)

    def prepare_alignment(self) -> None:
        """Check the model and get the reference ready; called when training or evaluation starts."""
        if self._ready:
            return
        model = self.model_wrapped
        self._check_head(model)
        self._check_packing(model)
        if (cache := self._cache) is not None:
            documents = list(self._aligned_rows().documents())
            if (
                self.state.global_step > 0
                and not isinstance(self.model, PeftModel)
                and cache.missing(documents)
            ):
                raise StorageError(
                    f"the reference cache in {cache.folder} is not complete, and the model has moved from the "
                    "reference already.",
                    hint="start the training anew.",
                )
            require_shared_folder(cache, documents, is_sharded=self._is_sharded)
            for part in self._aligned_rows().parts():
                with self.accelerator.autocast():
                    self.reference_bytes += cache.build(
                        model,
                        part,
                        rank=self.accelerator.process_index,
                        processes=self.accelerator.num_processes,
                        barrier=self.accelerator.wait_for_everyone,
                        from_first=lambda value: broadcast_object_list([value])[0],
                        on_size=lambda size: self.on_cache_size(size, cache.folder),
                        on_progress=self.on_cache_progress,
                    )
            self._reference = CachedReference(cache, self.model, self._own_head)
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

    def on_cache_size(self, size: int, folder: Path) -> None:
        """Called with the bytes that the reference cache will take, before it is computed; replace it likewise."""
        logger.info("the reference cache takes %s in %s", printable_size(size), folder)

    def on_cache_progress(self, done: int, total: int) -> None:
        """Called while the reference cache is computed; replace it on the instance to show progress elsewhere."""
        if done == total or done % 100 == 0:
            logger.info("reference cache: %d of %d documents", done, total)

    # ---- the loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Micro-batches of one optimizer step; counts its completion tokens and aligned positions on all processes."""
        if self.state.global_step >= self.state.max_steps > 0:
            # Resumed from its last checkpoint: the Trainer looks whether it is done only after a step.
            self.control.should_training_stop = True
            return [], None
        self._finish_step()
        if self._clock is None:
            self._clock = (time.perf_counter(), float(self._total_train_tokens))
        batches = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        # Added up where they are, and fetched once: on a GPU each fetch waits for all that was begun.
        are_unseen = (
            self.args.alpha > 0
            and self._steps_without_prompts is not None
            and (self._own_collator or isinstance(self.train_dataset, IterableDataset))
        )
        counts = torch.zeros(5, dtype=torch.int64, device=device)
        counts[3] = len(batches)
        for batch in batches:
            for part in (batch, batch.get("anchors")):
                if part is not None:
                    counts[:2] += _count(part, self.args.align_boundary).to(device)
            if are_unseen:  # without the boundary: a document that is all completion has one too
                counts[2] += _count(batch, False)[1].to(device)
            if self._own_collator:
                counts[4] += _count_masked_labels(batch).to(device)
        counts = self.accelerator.reduce(counts, "sum") // self._tp_size
        completion_tokens, aligned_positions, within_prompts, batches_of_all, masked_labels = counts.tolist()
        self._counts = (float(completion_tokens), float(aligned_positions))
        if masked_labels:
            raise masked_labels_error(f"{masked_labels} tokens of a step")
        # After the last row of a stream, the Trainer asks for more until the steps are full: those have no batches.
        if are_unseen and batches_of_all:
            self._check_unseen_rows(within_prompts)
        return batches, counts[0]

    def _check_unseen_rows(self, within_prompts: int) -> None:
        """What `require_prompt_tokens` does, for rows that are only seen as they come, or as a collator makes them.

        One prompt token is enough, as there: later steps may be without, where few rows have a prompt.
        """
        if within_prompts or self._steps_without_prompts is None:
            self._steps_without_prompts = None
            return
        self._steps_without_prompts += 1
        if self._steps_without_prompts == _MOST_STEPS_WITHOUT_PROMPTS:
            raise no_prompt_tokens(
                f"the rows of the first {self._steps_without_prompts} steps", own_collator=self._own_collator
            )

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
        training = self.model.training
        if not training:
            self.prepare_alignment()
        reference = self._reference if training else self._reference_of_evaluation()
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        completion_tokens, aligned_positions = (
            self._counts if training and num_items_in_batch is not None else (None,) * 2
        )
        with self.accelerator.autocast():
            result = alignment_loss(
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
        loss = result.loss
        if training and num_items_in_batch is not None:
            # DDP and FSDP average gradients over processes; the loss is divided by counts over all of them already.
            loss = loss * (self.accelerator.num_processes // self._tp_size)
        steps = self.current_gradient_accumulation_steps if training and num_items_in_batch is not None else 1
        if self.args.weight_penalty > 0 and training and not self._at_anchors:
            # Once a step: a part with each micro-batch, and the same on every process, which are averaged.
            penalty = lora_change(self.model)
            self._metrics["train"]["weight_change"].append(float(penalty.detach()) ** 0.5)
            loss = loss + self.args.weight_penalty * penalty / steps
        if self.aux_loss_enabled and getattr(result.output, "aux_loss", None) is None:
            self._leave_out_router_loss()
        if self.aux_loss_enabled and not self._at_anchors:
            aux_loss = result.output.aux_loss
            loss = loss + self.router_aux_loss_coef * aux_loss / steps
        tokens = _real_tokens(inputs)
        if self._at_anchors:  # one that stands for none doesn't count
            tokens = tokens * (result.aligned_positions > 0)
        self._take_in(result, tokens, training)
        if not return_outputs:
            return loss
        with torch.no_grad():
            return loss, model(
                **{name: value for name, value in inputs.items() if name != "labels"}, use_cache=False
            )

    def _leave_out_router_loss(self) -> None:
        """Train without one: the config has its coefficient, and the model's output no such loss (Llama 4)."""
        inner = causal_model(self.model)
        logger.warning("%s has no loss of its router: it trains without", type(inner).__name__)
        self.aux_loss_enabled = False
        inner.config.get_text_config().output_router_logits = False

    def _take_in(self, result: AlignmentLoss, tokens: Tensor, training: bool) -> None:
        """Add a micro-batch's sums to the step's (or the evaluation's)."""
        with_aux = self.aux_loss_enabled and not self._at_anchors
        device = self.args.device
        aux = result.output.aux_loss.detach() if with_aux else torch.zeros((), device=device)
        sums = torch.stack(
            [
                value.detach().to(device=device, dtype=torch.float64 if self._has_float64 else torch.float32)
                for value in (
                    result.nll_sum,
                    result.alignment_sum,
                    result.entropy_sum,
                    result.correct,
                    result.completion_tokens,
                    result.aligned_positions,
                    tokens,
                    aux,
                    torch.full((), float(not self._at_anchors), device=device),
                )
            ]
        )
        if training:
            self._pending = sums if self._pending is None else self._pending + sums
        else:
            self._eval_sums.append(sums)

    @property
    def _has_float64(self) -> bool:
        return self.args.device.type in ("cpu", "cuda")

    def _finish_step(self) -> None:
        """Take the last step's sums over all processes: metrics, noise floor, and alpha for the next step."""
        if self._pending is None:
            return
        metrics, tokens = self._reduce(self._pending)
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

    def _reduce(self, sums: Tensor) -> tuple[dict[str, float], float]:
        """Means over all processes from sums, and the number of tokens."""
        nll, alignment, entropy, correct, completions, aligned, tokens, aux, batches = (
            self.accelerator.reduce(sums, "sum").tolist()
        )
        metrics = {
            "nll": nll / max(completions, 1.0),
            "entropy": entropy / max(completions, 1.0),
            "mean_token_accuracy": correct / max(completions, 1.0),
        }
        if self._reference is not None:
            metrics["alignment_loss"] = alignment / max(aligned, 1.0)
        if self.aux_loss_enabled:
            metrics["aux_loss"] = aux / batches
        return metrics, tokens

    # ---- logs, evaluation, checkpoints

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the metrics since the last log; a callback may call it on one process alone."""
        if self.model.training:
            now = (time.perf_counter(), float(self._total_train_tokens))
            if self._clock is not None and now[1] > self._clock[1]:
                rate = (now[1] - self._clock[1]) / (now[0] - self._clock[0])
                self._metrics["train"]["tokens_per_second"] = [rate]
                self._clock = now
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's; evaluating and saving, with what callbacks do then, is no time of `tokens_per_second`."""
        # Here, where all processes come by: the last step is in the last log, that of the whole training, too.
        if self.control.should_log or self.control.should_training_stop:
            self._finish_step()
        began = time.perf_counter()
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._clock is not None:
            at, tokens = self._clock  # of the log in between, if there was one
            self._clock = (at + time.perf_counter() - max(began, at), tokens)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The Trainer's, with nll and alignment loss over all tokens instead of a mean of batch means."""
        self._eval_sums = []
        dataloader = kwargs["dataloader"] if "dataloader" in kwargs else args[0]
        self._eval_rows, self._eval_reference = dataloader.dataset, None
        if self._cache is not None:
            self.prepare_anchors()  # it is built once, for them too; and here the model is not wrapped yet
        compute_metrics = self.compute_metrics
        if compute_metrics is not None and (added := self._added_rows()):
            # Where batches stay apart, the added rows are in the last one.
            apart = not self.args.eval_do_concat_batches
            whole = self._whole_batch if apart or self.args.batch_eval_metrics else len(self._eval_rows)
            self.compute_metrics = of_given_rows(compute_metrics, whole, whole - added, apart=apart)
        try:
            output = super().evaluation_loop(*args, **kwargs)
        finally:
            self.compute_metrics = compute_metrics
        prefix = kwargs.get("metric_key_prefix", "eval")
        if self._eval_sums:
            metrics, _ = self._reduce(torch.stack(self._eval_sums).sum(0))
            # With the weight that the training starts from, also where a drift limit moves it: evaluations are
            # compared with each other.
            loss = metrics["nll"] + self.args.alpha * metrics.get("alignment_loss", 0.0)
            output.metrics.update({f"{prefix}_{name}": value for name, value in metrics.items()})
            output.metrics[f"{prefix}_loss"] = loss
        return output

    def _reference_of_evaluation(self) -> Reference | None:
        """The reference for the rows of this evaluation: rows that the trainer was not made with are in no cache.

        Decided for all rows at once, so that all processes do the same.

        Raises:
            CacheError: if there is nothing else to have it from.
        """
        if not isinstance(self._reference, CachedReference):
            return self._reference
        if self._eval_reference is None:
            rows, cache = self._eval_rows, self._reference.cache
            # A stream can't be looked through first.
            known = isinstance(rows, Dataset) and not cache.missing(documents(rows))
            if known:
                self._eval_reference = self._reference
            elif isinstance(self.model, PeftModel):
                self._eval_reference = AdapterOff(self.model)
            else:
                what = "in the reference cache" if isinstance(rows, Dataset) else "a data set but a stream"
                copied = ", or use reference='frozen_copy'"  # which shards refuse
                if self._is_sharded:
                    copied = ""
                raise CacheError(
                    f"these rows are not {what}, and the whole model trains: the reference model is no more.",
                    hint=f"give them as eval_dataset when the trainer is made{copied}.",
                )
        return self._eval_reference

    @property
    def _anchors_are_among_rows(self) -> bool:
        several = self.accelerator.num_processes > 1
        return self.is_deepspeed_enabled or (several and isinstance(self.train_dataset, IterableDataset))

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

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """The Trainer's; for several processes in the rows' own order, also where training rows go by length.

        By length, the empty rows would come anywhere, and not at the end, from where results are cut off.
        """
        return None if self.accelerator.num_processes > 1 else super()._get_eval_sampler(eval_dataset)

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

    def _fill_up(self, rows: Any) -> Any:
        if not self._has_to_be_filled(rows):
            return rows
        return fill_up(rows, self._whole_batch, self._tokenizer.pad_token_id)

    def _added_rows(self) -> int:
        """How many empty rows the rows of this evaluation were filled up with."""
        return count_added(self._eval_rows) if self._has_to_be_filled(self._eval_rows) else 0

    def _has_to_be_filled(self, rows: Any) -> bool:
        several = self.accelerator.num_processes > 1
        return several and isinstance(rows, Dataset) and "input_ids" in rows.column_names

    @property
    def _whole_batch(self) -> int:
        """Rows that all processes evaluate at once."""
        return int(self.args.eval_batch_size * self.accelerator.num_processes)

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

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; `resume_from_checkpoint=True` takes the latest checkpoint that was written to its end.

        Raises:
            StorageError: if there is none, or the one that is named is not complete.
            ConfigError: if it was trained with another `alpha` or `drift_limit`, or by another number of processes.
        """
        if resume_from_checkpoint is True:
            latest = latest_complete_checkpoint(self.args.output_dir)
            if latest is None:
                raise StorageError(
                    f"no complete checkpoint in {self.args.output_dir}.", hint="start without resuming."
                )
            resume_from_checkpoint = str(latest)
        self._forget_earlier_training()
        if resume_from_checkpoint:
            self._load_state(Path(resume_from_checkpoint), trains_on=True)
        self.prepare_anchors()
        self._forget_evaluation()
        self._began = time.monotonic()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; steps between checkpoints, lines of metrics and evaluations are those of the settings.

        A checkpoint's state brings those that it was saved with.
        """
        begun = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)
        return begun

    def _forget_earlier_training(self) -> None:
        """What a training that was broken off in this process has left of its last steps."""
        self._pending = None
        self._clock = None
        self._metrics["train"].clear()
        if self.controller is None:
            self._alpha = self.args.alpha

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

    def restore(self, checkpoint: Path) -> None:
        """Take a checkpoint's weights and state without training on: another number of processes may.

        Raises:
            StorageError: if it is not complete.
            ConfigError: if it was trained with another `alpha` or `drift_limit`.
        """
        self._load_state(checkpoint, trains_on=False)
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's; beside checkpoints only if they are pushed to a hub."""
        if not self._is_saving or self.args.push_to_hub:
            super().create_model_card(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._finish_step()
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
        if not self.args.should_save:
            return
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if not self.args.push_to_hub:
            (folder / "README.md").unlink(missing_ok=True)  # peft's form, which nobody has filled in
        torch.save(self.args, folder / TRAINING_ARGS_NAME)  # with the limit, which they lacked a moment ago
        state = {
            "settings": self._alignment_settings(),
            "processes": self.accelerator.num_processes,
            "alpha": self._alpha,
            "noise_floor": self.noise_floor,
            "steps_without_prompts": self._steps_without_prompts,
            "total_train_tokens": self._total_train_tokens,
            "controller": None if self.controller is None else self.controller.state(),
            "anchors": self.anchors,
            "reference": self.reference_kind,
            "reference_bytes": self.reference_bytes,
            "seconds": self.seconds,
            "anchor_seconds": self.anchor_seconds,
        }
        write_checkpoint_state(folder, state)
        delete_old_checkpoints(folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _alignment_settings(self) -> dict[str, float | None]:
        """What alpha goes by from here on, which another value could not change on the way without a word."""
        return {"alpha": self.args.alpha, "drift_limit": self.args.drift_limit}

    def _load_state(self, folder: Path, *, trains_on: bool) -> None:
        state = read_checkpoint_state(folder, self._alignment_settings())
        if trains_on:
            require_processes(str(folder), state["processes"], self.accelerator.num_processes)
        self._alpha = state["alpha"]
        self.noise_floor = state["noise_floor"]
        self._steps_without_prompts = state["steps_without_prompts"]
        self._total_train_tokens = state["total_train_tokens"]
        # Not written anew: on another machine the model could write others.
        anchors = state["anchors"]
        if anchors != self.anchors and not (anchors and self._anchors_to_write):
            logger.warning(
                "the anchors are the %d of %s, which is gone on from, not the %d that are given",
                len(anchors),
                folder,
                len(self.anchors),
            )
        self._take_anchors(anchors, state["anchor_seconds"])
        kind = state["reference"]
        if self.args.reference == "auto" and kind not in (None, self.reference_kind):
            # The free disk space, by which "auto" goes, is another now; numbers and memory are to stay the same.
            self._choose_reference(kind)
        self.reference_bytes = state["reference_bytes"]
        self._earlier_seconds = state["seconds"]
        self._began = time.monotonic()
        if self.controller is not None and state["controller"] is not None:
            self.controller = DriftController.from_state(state["controller"])


def _refuse_arguments(model: Any, args: Any, others: Mapping[str, Any]) -> None:
    """Refuse what can't be seen any more, or can't be undone, once trl has the model.

    Args:
        model: as it is given: a name, too.
        args: the settings.
        others: arguments of the Trainer's.
    """
    if not isinstance(args, SelfAugConfig):
        raise ConfigError(
            f"args is a {type(args).__name__}.",
            hint="make it a SelfAugConfig: it takes all of SFTConfig's fields.",
        )
    if others.get("compute_loss_func") is not None:
        raise ConfigError(
            "compute_loss_func can't be used: the loss is nll plus alignment.",
            hint="leave it out; `selfaug.alignment_loss` is the loss for a loop of your own.",
        )
    if _takes_only_peft(args, others) and isinstance(model, nn.Module):
        require_adapters_of_peft(model)  # before trl puts another adapter into it, and the first one is lost
    if args.alpha > 0 and isinstance(model, PeftModel):
        require_untouched_base(model)


def _takes_only_peft(args: SelfAugConfig, others: Mapping[str, Any]) -> bool:
    """Whether an adapter of another library than PEFT would be in the way."""
    return args.alpha > 0 or others.get("peft_config") is not None


class _Prepare(TrainerCallback):  # type: ignore[misc]
    """Prepares the alignment when the model is wrapped and on its devices, and before its first step."""

    def __init__(self, trainer: SelfAugTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.prepare_alignment()


def _each(rows: Any, change: Callable[[Any], Any]) -> Any:
    """A changed data set, or several of them by name."""
    return {name: change(one) for name, one in rows.items()} if isinstance(rows, dict) else change(rows)


def _count(batch: dict[str, Tensor], align_boundary: bool) -> Tensor:
    return count_tokens(
        batch["labels"], batch.get("attention_mask"), batch.get("position_ids"), align_boundary=align_boundary
    )


def _count_masked_labels(batch: dict[str, Tensor]) -> Tensor:
    mask = batch.get("attention_mask")
    labels = batch["labels"]
    return torch.zeros((), dtype=torch.int64) if mask is None else ((labels != IGNORED) & (mask == 0)).sum()


def _real_tokens(inputs: dict[str, Any]) -> Tensor:
    """Tokens of a micro-batch without padding, where the batch says what is padding."""
    mask = inputs.get("attention_mask")
    return mask.sum() if mask is not None else torch.tensor(inputs["input_ids"].numel())
