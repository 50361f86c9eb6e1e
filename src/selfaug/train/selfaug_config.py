"""Settings of `SelfAugTrainer`: trl's `SFTConfig` and the alignment."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils import is_torch_xla_available
from trl import SFTConfig

from selfaug.errors import ConfigError
from selfaug.model.loading import best_dtype

__all__ = ["SelfAugConfig"]

logger = logging.getLogger(__name__)


@dataclass
class SelfAugConfig(SFTConfig):  # type: ignore[misc]
    """trl's `SFTConfig` and the settings of the alignment.

    `max_length` is None here (trl: 1024): trl cuts long rows at the end, where a retrieval prompt has its question
    and every row its completion. `use_cpu` is True where there is no GPU (trl: an error, unless `bf16` is given), and
    `bf16` on a CPU only where that is faster than float32. A `metric_for_best_model` that ends with "nll" is better
    when it is less.

    Attributes:
        alpha: weight of the alignment; 0 is plain supervised fine-tuning. With `drift_limit`, where alpha starts.
        drift_limit: nats per prompt token that the alignment loss is held to; None keeps alpha constant.
        divergence: "forward" is KL(reference ‖ tuned), "reverse" is KL(tuned ‖ reference).
        divergence_temperature: of both distributions in the divergence.
        align_boundary: align the position that predicts the first completion token too.
        position_fraction: share of the prompt positions that is aligned per step, drawn anew by hash (boundary
            positions always are); the same loss in expectation, for less work.
        row_fraction: share of the rows that is aligned per step, drawn anew by hash; of packed rows, of their
            documents. The reference model reads no others: the same loss in expectation, for fewer passes of it. Not
            with `drift_limit`.
        reference: where the reference model comes from. "adapter_off" needs an adapter that leaves base weights
            exact; "frozen_copy" takes memory for a second model; "cache" keeps hidden states on disk; "auto" takes
            adapter off or a frozen copy, and the cache when three or more passes of the reference over the data are
            planned, it fits on the disk and is exact; not of streams, nor beside a `data_collator` of your own. Where
            weights are sharded without an adapter, it takes the cache for fewer passes too.
        reference_cache_dir: folder of the cache; None for one in the user's cache folder, named by the model.
        anchors: "self" aligns requests and answers that the reference model writes itself, beside the rows: without
            any data, it keeps what the rows' prompts say nothing about. A path is a JSONL file of such texts; "none"
            aligns the rows' prompts only.
        anchor_count: how many the reference model writes, once, before training.
        anchor_share: anchors that go with a training row; 0.5 is one with every second row.
        chat_template_kwargs: arguments of the chat template, such as `{"enable_thinking": False}`, that chat rows
            and anchors are rendered with. Rows with a column `chat_template_kwargs`, as in trl, keep their own.
        weight_penalty: a constraint of the weights, the usual alternative to aligning outputs: so much times the
            squared Frobenius norm of the LoRA adapter's change, summed over layers, is added to the loss.

    Raises:
        ConfigError: with everything that is wrong at once.
    """

    # Which fields may be given as JSON on a command line.
    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "chat_template_kwargs"]  # noqa: RUF012 (trl's own)

    max_length: int | None = field(
        default=None, metadata={"help": "Longest row in tokens; None for no limit."}
    )
    alpha: float = field(default=0.5, metadata={"help": "Weight of the alignment loss."})
    drift_limit: float | None = field(
        default=None, metadata={"help": "Nats per prompt token to hold drift to."}
    )
    divergence: str = field(default="forward", metadata={"help": "forward: KL(reference‖tuned); or reverse."})
    divergence_temperature: float = field(default=1.0, metadata={"help": "Temperature of the divergence."})
    align_boundary: bool = field(default=True, metadata={"help": "Align the boundary position too."})
    position_fraction: float = field(default=1.0, metadata={"help": "Share of prompt positions per step."})
    row_fraction: float = field(default=1.0, metadata={"help": "Share of the rows that is aligned per step."})
    reference: str = field(default="auto", metadata={"help": "auto, adapter_off, frozen_copy or cache."})
    reference_cache_dir: str | None = field(default=None, metadata={"help": "Folder of the reference cache."})
    anchors: str = field(default="none", metadata={"help": "none, self, or a JSONL file."})
    anchor_count: int = field(default=96, metadata={"help": "Anchors that the reference model writes."})
    anchor_share: float = field(default=0.5, metadata={"help": "Anchors a training row."})
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of the chat template."}
    )
    weight_penalty: float = field(default=0.0, metadata={"help": "Times the squared norm of the change."})

    def __post_init__(self) -> None:
        problems = []
        if self.alpha < 0:
            problems.append(f"alpha must be 0 or more, got {self.alpha}")
        if self.drift_limit is not None and self.drift_limit <= 0:
            problems.append(f"drift_limit must be positive (nats per prompt token), got {self.drift_limit}")
        if self.drift_limit is not None and self.alpha == 0:
            problems.append("drift_limit needs alpha > 0 to start from")
        if self.drift_limit is not None and self.row_fraction < 1:
            problems.append(
                "drift_limit goes by each step's alignment loss, which is 0 where no row is drawn: "
                "leave row_fraction at 1"
            )
        if self.divergence not in ("forward", "reverse"):
            problems.append(f"divergence must be 'forward' or 'reverse', got {self.divergence!r}")
        if self.divergence_temperature <= 0:
            problems.append(f"divergence_temperature must be positive, got {self.divergence_temperature}")
        if not 0 < self.position_fraction <= 1:
            problems.append(f"position_fraction must be in (0, 1], got {self.position_fraction}")
        if not 0 < self.row_fraction <= 1:
            problems.append(f"row_fraction must be in (0, 1], got {self.row_fraction}")
        if self.reference not in ("auto", "adapter_off", "frozen_copy", "cache"):
            problems.append(
                f"reference must be 'auto', 'adapter_off', 'frozen_copy' or 'cache', got {self.reference!r}"
            )
        if not self.anchors:
            problems.append("anchors must be 'none', 'self' or a file, got an empty text")
        if self.anchors != "none" and self.alpha == 0:
            problems.append("anchors need alpha > 0: they are aligned and nothing else")
        if self.anchor_count < 1:
            problems.append(f"anchor_count must be at least 1, got {self.anchor_count}")
        if not 0 < self.anchor_share <= 16:
            problems.append(f"anchor_share must be in (0, 16], got {self.anchor_share}")
        if self.weight_penalty < 0:
            problems.append(f"weight_penalty must be 0 or more, got {self.weight_penalty}")
        if self.loss_type != "nll":
            problems.append(f"loss_type must be 'nll', got {self.loss_type!r}")
        if self.label_smoothing_factor:
            problems.append(f"label_smoothing_factor must be 0, got {self.label_smoothing_factor}")
        if self.use_liger_kernel:
            problems.append(
                "use_liger_kernel must be False: it replaces the forward that hidden states come from"
            )
        if self.packing and self.packing_strategy != "bfd" and self.alpha > 0:
            problems.append(
                f"packing_strategy={self.packing_strategy!r} cuts documents in two or joins them without a boundary, "
                "so prompt tokens would be aligned after the wrong text; use 'bfd'"
            )
        if self.packing and self.max_length is None:
            problems.append("packing needs max_length: the tokens that rows are packed into, e.g. 2048")
        if self.eval_packing and not (self.packing or self.padding_free):
            problems.append(
                "eval_packing needs packing or padding_free: without them, nothing tells the documents of a row apart"
            )
        if problems:
            raise ConfigError(
                "these settings can't be used:",
                problems=problems,
                hint="the docstring of SelfAugConfig says what each is.",
            )
        by_nll = (self.metric_for_best_model or "").endswith("nll")
        given: Any = self  # trl's fields have no types here
        if by_nll and given.greater_is_better is None:
            self.greater_is_better = False  # transformers takes for a loss what is called so
        type_is_open = given.bf16 is None and not given.fp16
        was_asked_for = given.use_cpu
        if type_is_open and (was_asked_for or not _has_accelerator()):
            # trl takes bf16 where it isn't told, which transformers refuses on a CPU that nobody has asked for, and
            # which takes eight times the time where the CPU only emulates it.
            self.bf16 = best_dtype("cpu") is torch.bfloat16
            self.use_cpu = True
            if not was_asked_for:
                logger.warning("no GPU found: training on the CPU")
        super().__post_init__()


def _has_accelerator() -> bool:
    return bool(torch.accelerator.is_available() or is_torch_xla_available())
