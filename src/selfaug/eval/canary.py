"""The canary set: fixed prompts whose drift and answers are recorded at training and must come back in deployment.

With fixed weights a prompt's drift is a function of the prompt. If it is another one, then the adapter, the template,
the quantisation or the base model is not what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from selfaug.eval.drift import measure_drift
from selfaug.model.generate import generate_greedy_ids
from selfaug.model.hidden import evaluation_mode
from selfaug.model.reference import Reference
from selfaug.model.running_batch import forward_options

__all__ = ["record_canary", "replay_canary"]

_ANSWER_TOKENS = 16

# Times what another batch shape changes: other kernels and other machines change somewhat more.
_NOISE_MARGIN = 4
_NOISE_PROMPTS = 4
_SMALLEST_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 5e-3}

# Of a drift, between a record in 32 bits and a server in 16 (on another device, say), or the other way round: rounding
# changes a large drift by more than any fixed number of nats, and another adapter by far more than this.
_OTHER_DTYPE = 0.02


def record_canary(
    model: PreTrainedModel,
    reference: Reference | None,
    prompts: Mapping[str, Sequence[int]],
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """What a tuned model does on some prompts.

    Args:
        model: the tuned model.
        reference: of the drift; None records answers alone.
        prompts: token ids, by a name of the prompt.
        dtype: of the model's products, which is not that of its weights under autocast; None: it is.

    Returns:
        For a record: of each prompt its tokens, drift (nats per token), greedy answer, and how many tokens of that
        answer rounding can't change, in the model's dtype (`sure`) and in 16 bits (`sure_16_bits`), which other servers
        may compute in; the tolerance of drifts; the dtype.
    """
    dtype = model.dtype if dtype is None else dtype
    sequences = [list(prompt) for prompt in prompts.values()]
    answers = generate_greedy_ids(model, sequences, max_new_tokens=_ANSWER_TOKENS)
    nats = [None] * len(sequences) if reference is None else _nats(model, reference, sequences, 8)
    noise = 0.0
    if reference is not None:
        # Some tell as much as all: what a batch shape changes is much the same for each.
        some = range(0, len(sequences), -(-len(sequences) // _NOISE_PROMPTS))
        alone = _nats(model, reference, [sequences[one] for one in some], 1)
        noise = max(abs(nats[one] - other) for one, other in zip(some, alone, strict=True))  # type: ignore[operator]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "noise_nats": noise,
        "tolerance_nats": max(_NOISE_MARGIN * noise, _SMALLEST_TOLERANCE.get(dtype, 1e-4)),
        "prompts": [
            {"id": name, "ids": ids, "nats": drift, "answer": answer, **_sure(model, ids, answer, dtype)}
            for name, ids, drift, answer in zip(prompts, sequences, nats, answers, strict=True)
        ],
    }


def replay_canary(
    record: Mapping[str, Any], model: PreTrainedModel, reference: Reference | None
) -> list[str]:
    """What a deployed model does otherwise than `record_canary` found, in words; nothing if all is the same."""
    prompts = record["prompts"]
    sequences = [one["ids"] for one in prompts]
    size = model.get_input_embeddings().weight.shape[0]
    if any(token >= size for ids in sequences for token in ids):
        return [f"the record has tokens beyond this model's vocabulary of {size:,}: it is of another model"]
    problems = []
    if reference is not None and prompts[0]["nats"] is not None:
        tolerance = max(record["tolerance_nats"], _SMALLEST_TOLERANCE.get(model.dtype, 1e-4))
        share = 0.0 if str(model.dtype) == f"torch.{record['dtype']}" else _OTHER_DTYPE
        found = _nats(model, reference, sequences, 8)
        off = [
            (abs(now - one["nats"]), now, one)
            for now, one in zip(found, prompts, strict=True)
            if not abs(now - one["nats"]) <= max(tolerance, share * one["nats"])  # NaN is off
        ]
        if off:
            _, now, one = max(off, key=lambda item: item[0])
            problems.append(
                f"the drift of {len(off)} of {len(prompts)} canary prompts is not as recorded: {one['id']} has "
                f"{now:.4f} nats per token, recorded {one['nats']:.4f} (tolerance "
                f"{max(tolerance, share * one['nats']):.4f})"
            )
    answers = generate_greedy_ids(model, sequences, max_new_tokens=_ANSWER_TOKENS)
    # Recorded in 32 bits and served in 16, an answer is what was trained as far as rounding in 16 can't change it.
    sure = "sure_16_bits" if torch.finfo(model.dtype).bits < 32 else "sure"
    other = [
        one["id"]
        for answer, one in zip(answers, prompts, strict=True)
        if answer[: (tokens := one[sure])] != one["answer"][:tokens]
    ]
    if other:
        problems.append(
            f"the answers to {len(other)} of {len(prompts)} canary prompts are not as recorded: {', '.join(other[:3])}"
        )
    return problems


def _nats(
    model: nn.Module, reference: Reference, sequences: Sequence[Sequence[int]], batch_size: int
) -> list[float]:
    drift = measure_drift(model, sequences, reference=reference, batch_size=batch_size)
    return [sum(nats) / max(len(nats), 1) for nats in drift.per_token]


def _sure(
    model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int], dtype: torch.dtype
) -> dict[str, int]:
    """Tokens of the answer before the first one whose runner-up is as close as rounding."""
    if not answer:
        return {"sure": 0, "sure_16_bits": 0}
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    # Of the answer's tokens alone, where the model can: a head is a large part of a small model.
    keep = {"logits_to_keep": len(answer) + 1} if "logits_to_keep" in forward_options(model) else {}
    with evaluation_mode(model):
        logits_TV = model(input_ids=ids, **keep).logits[0, -len(answer) - 1 : -1].float()
    best_T2 = logits_TV.topk(2, dim=-1).values

    def before_close(dtype: torch.dtype) -> int:
        noise = max(1e-3, 2 * torch.finfo(dtype).eps * float(logits_TV.abs().max()))
        close_T = best_T2[:, 0] - best_T2[:, 1] <= noise
        return int(close_T.int().argmax()) if bool(close_T.any()) else len(answer)

    return {"sure": before_close(dtype), "sure_16_bits": before_close(torch.bfloat16)}
