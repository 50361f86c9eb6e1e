"""The loss of one micro-batch, from a model and a batch: what the trainer calls, and any other training loop can."""

from __future__ import annotations

from typing import Any, NamedTuple

from peft import PeftModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfaug.core.alignment import Divergence, fused_loss
from selfaug.core.positions import count_tokens, find_positions
from selfaug.errors import ConfigError, DataError
from selfaug.model.head import find_head, require_verified_head
from selfaug.model.hidden import hidden_states, unwrap
from selfaug.model.reference import AdapterOff, Reference
from selfaug.model.right_padding import mark_needless_mask

__all__ = ["AlignmentLoss", "alignment_loss"]

_OTHER_THAN_TEXT = (
    "pixel_values",
    "image_",
    "images",
    "audio_",
    "inputs_embeds",
    "input_features",
    "input_values",
)
"""How names of inputs begin that would make another forward, and that `hidden_states` doesn't hand on."""

_KINDS_OF_TOKENS = ("token_type_ids", "mm_token_type_ids")
"""Inputs that change nothing as long as they are 0."""


class AlignmentLoss(NamedTuple):
    """The loss of one micro-batch and what it is made of.

    Attributes:
        loss: nll + alpha · alignment, normalised as asked; call `backward()` on it.
        nll_sum: nats over the completion tokens of the batch.
        alignment_sum: nats over the aligned positions of the batch; an unbiased estimate if they are sampled.
        entropy_sum: nats over the completion tokens of the batch.
        correct: completion tokens that are the tuned model's first choice.
        completion_tokens: number of completion tokens of the batch.
        aligned_positions: number of aligned positions of the batch, before sampling.
        output: what the tuned model's forward returned; its logits are of one position.
    """

    loss: Tensor
    nll_sum: Tensor
    alignment_sum: Tensor
    entropy_sum: Tensor
    correct: Tensor
    completion_tokens: Tensor
    aligned_positions: Tensor
    output: Any


def alignment_loss(
    model: nn.Module,
    inputs: dict[str, Any],
    *,
    alpha: float = 0.5,
    reference: Reference | None = None,
    completion_tokens: float | None = None,
    aligned_positions: float | None = None,
    align_boundary: bool = True,
    divergence: Divergence = "forward",
    temperature: float = 1.0,
    position_fraction: float = 1.0,
    row_fraction: float = 1.0,
    seed: int = 0,
    step: int | None = None,
) -> AlignmentLoss:
    """nll over completion tokens plus alpha times the alignment over prompt tokens (SelfAug, arXiv 2509.03934).

        L = (1/N_c) Σ −log p_tuned(x_t | x_<t)  +  alpha · (1/N_p) Σ KL(p_reference ‖ p_tuned)

    Args:
        model: the tuned model, wrapped as the training loop calls it.
        inputs: `input_ids` and `labels` (-100 on the prompt) [B, T]; `attention_mask`, or `position_ids` for packed
            and padding-free rows. Where the mask is 0 is padding, whatever its label.
        alpha: weight of the alignment. 0 is plain fine-tuning; no reference is needed then.
        reference: where the reference model's hidden states come from; None switches the model's adapter off.
        completion_tokens: N_c of the whole optimizer step, over all micro-batches and processes; None: this batch's.
        aligned_positions: N_p of the whole optimizer step; None: this batch's.
        align_boundary: align the position that predicts the first completion token too.
        divergence: "forward" is KL(reference ‖ tuned), "reverse" the other way.
        temperature: of both distributions in the divergence.
        position_fraction: share of the prompt positions that is aligned per step, drawn by hash; boundary positions
            always are.
        row_fraction: share of the rows that is aligned per step, drawn by hash; of packed rows, of their documents.
            The reference model reads no others.
        seed: of these draws.
        step: optimizer step, so that each step draws others; needed where a share is less than 1.

    Raises:
        ConfigError: if there is no adapter to switch off and no `reference`, or it is a bare model; or DDP has a
            static graph.
        ValueError: if a share is not in (0, 1], or less than 1 without a step.
        DataError: if the batch has more than text: images, sound, embeddings or token types.
        ModelError: if the adapter changes base weights, the model hides its hidden states, or its logits are not what
            they and its head give (looked at once for each model, on a few tokens).
    """
    _require_text(inputs)
    if not 0 < row_fraction <= 1:
        raise ValueError(f"row_fraction must be in (0, 1], got {row_fraction}.")
    if step is None and min(position_fraction, row_fraction) < 1:
        raise ValueError(
            "give the optimizer step: without it, each step would align the same positions and rows."
        )
    if _is_bare_model(reference):
        raise ConfigError(
            f"reference is a model ({type(reference).__name__}), not a Reference.",
            hint="pass reference=FrozenModel(model) (from selfaug.model.reference).",
        )
    if isinstance(model, DistributedDataParallel) and model.static_graph:
        raise ConfigError(
            "with a static graph DDP would leave gradients without their mean over the processes: it waits for the "
            "backward pass of the model's output, and the loss is taken before its head.",
            hint="leave static_graph (ddp_static_graph) out.",
        )
    require_verified_head(model, inputs["input_ids"])
    labels, mask, position_ids = inputs["labels"], inputs.get("attention_mask"), inputs.get("position_ids")
    counts = count_tokens(labels, mask, position_ids, align_boundary=align_boundary)
    positions = find_positions(
        inputs["input_ids"],
        labels,
        mask,
        position_ids,
        align=alpha > 0,
        align_boundary=align_boundary,
        fraction=position_fraction,
        document_fraction=row_fraction,
        seed=seed,
        step=step or 0,
    )
    inputs = mark_needless_mask(model, inputs)
    reference_hidden = reference_head = None
    if alpha > 0:
        if reference is None:
            if not isinstance(unwrap(model), PeftModel):
                raise ConfigError(
                    "alignment needs a reference model, and this model has no adapter that could be switched off.",
                    hint="pass reference=FrozenCopy(model) (from selfaug.model.reference), made before training.",
                )
            reference = AdapterOff(model)
        # The reference goes first: its memory is free again before the tuned model's activations are kept.
        reference_hidden = reference.hidden(model, inputs, positions)
    hidden_BTH, output = hidden_states(model, inputs)
    head = find_head(model)
    if reference is not None and alpha > 0:
        reference_head = reference.head(model)
    if completion_tokens is None or aligned_positions is None:
        # One transfer for both, and none where they are known: on a GPU it waits for all that was begun.
        own_completions, own_aligned = counts.tolist()
        completion_tokens = own_completions if completion_tokens is None else completion_tokens
        aligned_positions = own_aligned if aligned_positions is None else aligned_positions
    # `max(1, …)` keeps a batch without completion or prompt tokens finite.
    n_completion, n_aligned = max(1.0, completion_tokens), max(1.0, aligned_positions)
    fused = fused_loss(
        hidden_BTH.flatten(0, 1)[positions.order],
        head,
        positions.targets,
        nll_weight=1.0 / n_completion,
        reference_hidden_AH=reference_hidden,
        reference_head=reference_head,
        alignment_weight=alpha / (n_aligned * row_fraction),
        prompt_fraction=position_fraction,
        divergence=divergence,
        temperature=temperature,
    )
    fused = fused._replace(alignment_sum=fused.alignment_sum / row_fraction)
    return AlignmentLoss(*fused, counts[0], counts[1], output)


def _is_bare_model(reference: object) -> bool:
    return isinstance(reference, nn.Module) and not hasattr(reference, "hidden")


def _require_text(inputs: dict[str, Any]) -> None:
    """Refuse a batch whose loss would be that of a model which doesn't see all of it."""
    unseen = [
        name
        for name, value in inputs.items()
        if value is not None
        and (name.startswith(_OTHER_THAN_TEXT) or (name in _KINDS_OF_TOKENS and bool(value.any())))
    ]
    if unseen:
        raise DataError(
            f"the batch has {', '.join(unseen)}, which would not reach the model: the loss would be another one.",
            hint="rows are text only: leave these inputs out, with the rows that need them.",
        )
