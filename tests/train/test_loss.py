"""`alignment_loss` on whole models, against a twin in float64: full logits, own masks, loops over tokens."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfaug.core.alignment import OutputHead
from selfaug.core.positions import document_spans, find_positions
from selfaug.errors import ConfigError, DataError
from selfaug.model.adapters import fused_layers
from selfaug.model.reference import AdapterOff, FrozenCopy
from selfaug.train.loss import alignment_loss
from tiny_models import ARCHITECTURES, RECURRENT, Doc, build, linear_names, make_docs, packed, padded

SHAPES = ((7, 3), (12, 5), (2, 6), (1, 4))

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture
def _one_thread():
    torch.set_num_threads(1)


def lora(
    name: str, *, dropout: float = 0.0, trained: bool = True, seed: int = 0, **options: Any
) -> PeftModel:
    """A tiny model with LoRA on its linear layers; `trained` gives the adapter weights, so that it drifts."""
    config = LoraConfig(
        target_modules=linear_names(name), r=4, lora_dropout=dropout, task_type="CAUSAL_LM", **options
    )
    model = get_peft_model(build(name, seed=seed), config)
    if trained:
        perturb(model)
    return model.train()


def perturb(model: nn.Module, scale: float = 0.1, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=scale
                )


class Twin(NamedTuple):
    loss: Tensor
    nll: Tensor
    alignment: Tensor
    completions: int
    aligned: int


def twin_of(
    model: nn.Module,
    reference: nn.Module | None,
    docs: list[Doc],
    *,
    alpha: float = 0.7,
    align_boundary: bool = True,
    divergence: str = "forward",
    temperature: float = 1.0,
    n_completion: float | None = None,
    n_aligned: float | None = None,
) -> Twin:
    """The definition, one document at a time and one token at a time; `reference=None`: adapter off."""
    nll = alignment = torch.zeros((), dtype=torch.float64)
    completions = aligned = 0
    for doc in docs:
        ids = torch.tensor([doc.ids])
        tuned = model(input_ids=ids, use_cache=False).logits[0].double()
        with torch.no_grad():
            if reference is None:
                with model.disable_adapter():
                    base = model(input_ids=ids, use_cache=False).logits[0].double()
            else:
                base = reference(input_ids=ids, use_cache=False).logits[0].double()
        for token in range(1, len(doc.ids)):
            if token >= doc.prompt:
                nll = nll - torch.log_softmax(tuned[token - 1], -1)[doc.ids[token]]
                completions += 1
            if token < doc.prompt or (align_boundary and token == max(doc.prompt, 1)):
                log_p = torch.log_softmax(tuned[token - 1] / temperature, -1)
                log_q = torch.log_softmax(base[token - 1] / temperature, -1)
                a, b = (log_q, log_p) if divergence == "forward" else (log_p, log_q)
                alignment = alignment + (a.exp() * (a - b)).sum()
                aligned += 1
    n_completion = max(1, completions) if n_completion is None else n_completion
    n_aligned = max(1, aligned) if n_aligned is None else n_aligned
    loss = nll / n_completion + alpha * alignment / n_aligned
    return Twin(loss, nll.detach(), alignment.detach(), completions, aligned)


def in_float64(model: nn.Module) -> nn.Module:
    double = copy.deepcopy(model).double()
    double.config._experts_implementation = "eager"  # grouped products don't know float64
    double.zero_grad()
    return double


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        # Of text, a multimodal model's eyes see nothing.
        if parameter.requires_grad and "vision_tower" not in name and "multi_modal_projector" not in name
    }
    assert all(grad is not None for grad in found.values()), [n for n, grad in found.items() if grad is None]
    return {name: grad.clone() for name, grad in found.items()}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative L2 difference over all parameters together."""
    assert a.keys() == b.keys()
    over = sum((a[name].double() - b[name].double()).square().sum() for name in a)
    return math.sqrt(over / sum(grad.double().square().sum() for grad in b.values()))


def gradients_of(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    model.zero_grad()
    alignment_loss(model, inputs, **options).loss.backward()
    return gradients(model)


def assert_is_the_twin(got: Any, want: Twin) -> None:
    assert got.completion_tokens.item() == want.completions
    assert got.aligned_positions.item() == want.aligned
    assert got.nll_sum.item() == pytest.approx(want.nll.item(), rel=1e-5)
    assert got.alignment_sum.item() == pytest.approx(want.alignment.item(), rel=1e-5, abs=2e-6 * want.aligned)
    assert got.loss.item() == pytest.approx(want.loss.item(), rel=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_lora_equals_the_float64_twin(name, side):
    model, docs = lora(name), make_docs(*SHAPES)
    double = in_float64(model)
    want = twin_of(double, None, docs)
    want.loss.backward()
    assert want.alignment.item() > 0.05  # both models do differ
    model.zero_grad()
    got = alignment_loss(model, padded(docs, side), alpha=0.7)
    got.loss.backward()
    assert_is_the_twin(got, want)
    assert distance(gradients(model), gradients(double)) < 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_full_fine_tuning_equals_the_float64_twin(name):
    """Head and embeddings train, tied or not; the reference is a copy of what the model was."""
    model, docs = build(name).train(), make_docs(*SHAPES)
    reference = FrozenCopy(model)
    base = in_float64(model)
    perturb(model, 0.02)
    double = in_float64(model)
    want = twin_of(double, base, docs)
    want.loss.backward()
    assert want.alignment.item() > 0.05
    got = alignment_loss(model, padded(docs), alpha=0.7, reference=reference)
    got.loss.backward()
    assert_is_the_twin(got, want)
    mine = gradients(model)
    assert distance(mine, gradients(double)) < 1e-5
    head = next(n for n, p in model.named_parameters() if p is model.get_output_embeddings().weight)
    assert mine[head].count_nonzero() > 0


@pytest.mark.parametrize("name", ["gemma2-softcap", "phi-bias", "cohere-scale", "llama-tied"])
@pytest.mark.parametrize(
    "options",
    [
        {"divergence": "reverse"},
        {"temperature": 2.0},
        {"align_boundary": False},
        {"alpha": 3.0},
        {"divergence": "reverse", "temperature": 0.5, "align_boundary": False},
    ],
    ids=str,
)
def test_options_equal_the_float64_twin(name, options):
    model, docs = lora(name), make_docs(*SHAPES)
    double = in_float64(model)
    want = twin_of(double, None, docs, **options)
    want.loss.backward()
    got = alignment_loss(model, padded(docs), **{"alpha": 0.7, **options})
    got.loss.backward()
    assert_is_the_twin(got, want)
    assert distance(gradients(model), gradients(double)) < 1e-5


@pytest.mark.parametrize("name", ["gpt-neox", "llama-tied"])
def test_a_head_that_an_adapter_trains(name):
    """`modules_to_save`: the reference has the original head, and the copy gets a gradient."""
    head = "embed_out" if name == "gpt-neox" and hasattr(build(name), "embed_out") else "lm_head"
    untied = "llama-untied" if name == "llama-tied" else name
    model, docs = lora(untied, modules_to_save=[head]), make_docs(*SHAPES)
    double = in_float64(model)
    want = twin_of(double, None, docs)
    want.loss.backward()
    got = alignment_loss(model, padded(docs), alpha=0.7)
    got.loss.backward()
    assert_is_the_twin(got, want)
    mine = gradients(model)
    assert distance(mine, gradients(double)) < 1e-5
    assert any(head in n for n in mine)


@pytest.mark.parametrize("align_boundary", [True, False])
@pytest.mark.parametrize(
    "shapes", [((0, 5), (0, 3)), ((6, 0), (4, 0)), ((1, 0),), ((0, 1), (1, 0)), ((1, 3), (1, 1))]
)
@pytest.mark.parametrize("name", ["llama-untied", "qwen3-moe", "phi-bias"])
def test_batches_that_lack_prompt_or_completion_tokens(name, shapes, align_boundary):
    model, docs = lora(name), make_docs(*shapes)
    want = twin_of(in_float64(model), None, docs, align_boundary=align_boundary)
    for inputs in (padded(docs), packed(docs)):
        model.zero_grad()
        got = alignment_loss(model, inputs, alpha=0.7, align_boundary=align_boundary)
        got.loss.backward()
        assert torch.isfinite(got.loss)
        assert all(torch.isfinite(grad).all() for grad in gradients(model).values())
        assert_is_the_twin(got, want)


def test_full_fine_tuning_without_any_position_reaches_every_parameter():
    model = build("qwen2").train()
    got = alignment_loss(model, padded(make_docs((1, 0))), reference=FrozenCopy(model))
    got.loss.backward()
    assert got.loss.item() == 0.0
    assert all(grad.count_nonzero() == 0 for grad in gradients(model).values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_do_not_depend_on_padding_packing_or_splits(name):
    model, docs = lora(name), make_docs(*SHAPES)
    whole = gradients_of(model, padded(docs))
    for other in (padded(docs, "left"), padded(docs, extra=6), padded(docs[::-1]), packed(docs)):
        assert distance(gradients_of(model, other), whole) < 1e-5
    # micro-batches of the same step, normalised by the counts of the step
    counts = alignment_loss(model, padded(docs))
    totals = {
        "completion_tokens": counts.completion_tokens.item(),
        "aligned_positions": counts.aligned_positions.item(),
    }
    for split in ([[0], [1], [2], [3]], [[0, 3], [1, 2]], [[0], [1, 2, 3]]):
        model.zero_grad()
        for k, group in enumerate(split):
            make = packed if k % 2 else padded
            alignment_loss(model, make([docs[i] for i in group]), **totals).loss.backward()
        assert distance(gradients(model), whole) < 1e-5


@pytest.mark.parametrize(
    "shares",
    [
        {"position_fraction": 0.3},
        {"position_fraction": 0.6},
        {"row_fraction": 0.5},
        {"position_fraction": 0.6, "row_fraction": 0.5},
    ],
)
def test_gradients_of_sampled_positions_do_not_depend_on_the_batch(shares):
    model, docs = lora("qwen3"), make_docs((20, 3), (12, 5), (9, 6))
    options = {**shares, "seed": 3, "step": 11}
    whole = gradients_of(model, padded(docs), **options)
    for other in (padded(docs, "left"), packed(docs)):
        assert distance(gradients_of(model, other, **options), whole) < 1e-5
    counts = alignment_loss(model, padded(docs), **options)
    model.zero_grad()
    for doc in docs:
        alignment_loss(
            model,
            padded([doc]),
            completion_tokens=counts.completion_tokens.item(),
            aligned_positions=counts.aligned_positions.item(),
            **options,
        ).loss.backward()
    assert distance(gradients(model), whole) < 1e-5
    assert distance(gradients_of(model, padded(docs), **{**options, "step": 12}), whole) > 1e-3


@pytest.mark.parametrize(
    "shares",
    [
        {"position_fraction": 0.25},
        {"row_fraction": 0.5},
        {"position_fraction": 0.5, "row_fraction": 0.5},
    ],
)
def test_sampling_is_unbiased(shares):
    """The mean of the sampled alignment over many steps is the whole alignment."""
    model, docs = lora("llama-tied").eval(), make_docs((20, 3), (12, 5))
    inputs = padded(docs)
    with torch.no_grad():
        whole = alignment_loss(model, inputs, alpha=1.0)
        drawn = [alignment_loss(model, inputs, alpha=1.0, step=step, **shares) for step in range(150)]
    # the loss without its nll: what was divided by fraction · N_p
    values = torch.stack([d.loss - d.nll_sum / d.completion_tokens for d in drawn]).double()
    told = torch.stack([d.alignment_sum / d.aligned_positions for d in drawn]).double()
    assert torch.allclose(told, values, rtol=1e-4, atol=1e-7)
    want = (whole.alignment_sum / whole.aligned_positions).item()
    assert values.std() > 0.05 * want
    assert abs(values.mean().item() - want) < 4 * values.std().item() / math.sqrt(len(values))
    assert {d.aligned_positions.item() for d in drawn} == {32}


@pytest.mark.parametrize("full", [False, True])
def test_the_reference_reads_drawn_rows_alone(full):
    """One token where none is drawn: where weights are sharded, all processes make a pass."""
    model = build("qwen3").train() if full else lora("qwen3")
    reference = FrozenCopy(model) if full else AdapterOff(model)
    base = reference.model if full else model
    docs = make_docs((20, 3), (12, 5), (9, 6))
    alignment_loss(model, padded(docs), reference=reference)  # looks at the head once
    sizes: list[tuple[int, int]] = []
    layer = next(module for module in base.modules() if isinstance(module, nn.Embedding))
    layer.register_forward_hook(lambda _module, given, _output: sizes.append(tuple(given[0].shape)))
    seen = set()
    for step in range(12):
        for inputs in (padded(docs), packed(docs)):
            sizes.clear()
            alignment_loss(model, inputs, reference=reference, row_fraction=0.4, step=step)
            rows, width = inputs["input_ids"].shape
            drawn = find_positions(
                inputs["input_ids"],
                inputs["labels"],
                inputs.get("attention_mask"),
                inputs.get("position_ids"),
                document_fraction=0.4,
                step=step,
            ).aligned_order
            asked = len((drawn // width).unique())
            if rows == 1:  # of the row, the documents that are drawn
                spans = document_spans(None, inputs["position_ids"], (1, width))
                asked, width = (
                    int(asked > 0),
                    sum(e - b for b, e in spans if (b <= drawn).logical_and(drawn < e).any()),
                )
            assert sizes[0] == ((asked, width) if asked else (1, 1))
            assert sizes[1:] == ([] if full else [tuple(inputs["input_ids"].shape)])
            seen.add((rows, *sizes[0]))
    assert seen >= {(3, 1, 1), (3, 1, 23), (3, 2, 23), (1, 1, 1)}
    assert len([width for rows, _, width in seen if rows == 1]) > 3


def test_shares_that_can_not_be_drawn_are_refused():
    model, inputs = lora("qwen3"), padded(make_docs((3, 2)))
    with pytest.raises(ValueError, match=r"row_fraction must be in \(0, 1\], got 0"):
        alignment_loss(model, inputs, row_fraction=0)
    for share in ("row_fraction", "position_fraction"):
        with pytest.raises(ValueError, match="give the optimizer step"):
            alignment_loss(model, inputs, **{share: 0.5})


@pytest.mark.parametrize("name", ["llama-tied", "phi-bias"])
def test_parity_with_the_published_definition(name):
    """Mean nll, plus the mean KL over the positions where labels, unshifted, are -100."""
    model, docs = lora(name), make_docs((8, 4), (8, 4))  # no padding
    inputs = padded(docs)
    double = in_float64(model)
    logits = double(input_ids=inputs["input_ids"]).logits
    with torch.no_grad(), double.disable_adapter():
        reference_logits = double(input_ids=inputs["input_ids"]).logits
    nll = nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), inputs["labels"][:, 1:].reshape(-1), ignore_index=-100
    )
    mask = inputs["labels"] == -100
    kl = nn.functional.kl_div(
        torch.log_softmax(logits[mask], -1), torch.softmax(reference_logits[mask], -1), reduction="none"
    )
    (nll + 0.5 * kl.sum(-1).mean()).backward()
    got = alignment_loss(model, inputs, alpha=0.5)
    got.loss.backward()
    assert got.loss.item() == pytest.approx((nll + 0.5 * kl.sum(-1).mean()).item(), rel=1e-5)
    assert distance(gradients(model), gradients(double)) < 1e-5


@pytest.mark.parametrize(("name", "dropout"), [*((name, 0.3) for name in ARCHITECTURES), ("llama-tied", 0.0)])
def test_no_alignment_before_the_first_step(name, dropout):
    """B is zero at the start, so that the tuned model is the reference, dropout or not: exactly 0."""
    model = lora(name, dropout=dropout, trained=False)
    docs = make_docs(*SHAPES)
    for inputs in (padded(docs), padded(docs, "left"), packed(docs)):
        for options in (
            {},
            {"align_boundary": False},
            {"divergence": "reverse"},
            {"position_fraction": 0.5, "step": 3},
        ):
            got = alignment_loss(model, inputs, **options)
            assert got.alignment_sum.item() == 0.0, options
            assert got.aligned_positions.item() > 0
    got.loss.backward()
    gradients(model)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_no_alignment_before_the_first_step_of_models_with_states(name, full):
    """Their documents can't share a row, so that there are padded batches only."""
    if full:
        model = build(name).train()
    else:
        model = lora(name, trained=False, exclude_modules=fused_layers(build(name)) or None)
    reference = FrozenCopy(model) if full else AdapterOff(model)
    for side in ("right", "left"):
        got = alignment_loss(model, padded(make_docs(*SHAPES), side), reference=reference)
        assert got.alignment_sum.item() == 0.0, side
        assert got.aligned_positions.item() > 0
    perturb(model)
    assert alignment_loss(model, padded(make_docs(*SHAPES)), reference=reference).alignment_sum.item() > 0.01


@pytest.mark.parametrize("name", [*ARCHITECTURES, *RECURRENT])
def test_no_alignment_before_the_first_step_in_bf16(name):
    model = build(name, dtype=torch.bfloat16)
    got = alignment_loss(model, padded(make_docs(*SHAPES)), reference=FrozenCopy(model))
    assert got.alignment_sum.item() == 0.0
    model = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = alignment_loss(model, padded(make_docs(*SHAPES)), reference=FrozenCopy(model))
    assert got.alignment_sum.item() == 0.0


@pytest.mark.parametrize("full", [False, True])
def test_the_first_batch_under_autocast_has_its_gradient(full):
    """The head is checked on it, without gradient; weights that autocast has cast by then are used again."""
    model = build("llama-untied").train() if full else lora("llama-untied")
    inputs, reference = padded(make_docs(*SHAPES)), FrozenCopy(model) if full else AdapterOff(model)
    found = []
    for _ in range(2):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = alignment_loss(model, inputs, reference=reference).loss
        loss.backward()
        found.append(gradients(model))
    assert distance(*found) == 0


@pytest.mark.parametrize("side", ["right", "left"])
def test_each_position_is_projected_once_and_padding_never(side, monkeypatch):
    """The forward asks the head for one position a row; all else goes through the loss."""
    model, docs = lora("llama-untied"), make_docs(*SHAPES)
    inputs = padded(docs, side)
    alignment_loss(model, inputs)  # the head is looked at once, on the first batch
    rows = []
    project = OutputHead.logits
    monkeypatch.setattr(
        OutputHead, "logits", lambda head, hidden: rows.append(len(hidden)) or project(head, hidden)
    )
    for options, carrying, aligned in (
        ({}, sum(len(doc.ids) - 1 for doc in docs), sum(max(doc.prompt, 1) for doc in docs)),
        ({"alpha": 0.0}, sum(len(doc.ids) - doc.prompt for doc in docs), 0),
    ):
        rows.clear()
        alignment_loss(model, inputs, **options)
        assert sum(rows) == carrying + aligned  # the tuned model's once, the reference model's once


def test_alpha_zero_is_plain_fine_tuning_and_needs_no_reference():
    model, docs = build("llama-untied").train(), make_docs(*SHAPES)
    inputs = padded(docs)
    own = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=inputs["labels"]
    ).loss
    own.backward()
    want = gradients(model)
    got = alignment_loss(model, inputs, alpha=0.0)
    assert got.alignment_sum.item() == 0.0
    assert got.loss.item() == pytest.approx(own.item(), rel=1e-5)
    assert distance(gradients_of(model, inputs, alpha=0.0), want) < 1e-5


def test_alignment_without_adapter_or_reference_is_refused():
    with pytest.raises(ConfigError, match="no adapter") as error:
        alignment_loss(build("llama-tied"), padded(make_docs((3, 2))))
    assert "FrozenCopy" in error.value.hint


def test_a_bare_model_is_no_reference():
    model = lora("llama-tied")
    with pytest.raises(ConfigError, match=r"reference is a model \(LlamaForCausalLM\)") as error:
        alignment_loss(model, padded(make_docs((3, 2))), reference=build("llama-tied"))
    assert "FrozenModel(model)" in error.value.hint


def test_a_reference_of_ones_own_may_be_a_module():
    class Own(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def head(self, model):
            return self.inner.head(model)

        def hidden(self, model, inputs, positions):
            return self.inner.hidden(model, inputs, positions)

    model, inputs = lora("llama-tied"), padded(make_docs((3, 2)))
    perturb(model)
    expected = alignment_loss(model, inputs).loss
    assert alignment_loss(model, inputs, reference=Own(AdapterOff(model))).loss == expected


def test_ddp_with_a_static_graph_is_refused():
    """Its gradients would stay those of each process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model, inputs = lora("llama-tied"), padded(make_docs((3, 2)))
        alignment_loss(DistributedDataParallel(model), inputs).loss.backward()
        with pytest.raises(ConfigError, match="static graph"):
            alignment_loss(DistributedDataParallel(model, static_graph=True), inputs)
    finally:
        torch.distributed.destroy_process_group()


def test_a_batch_of_more_than_text_is_refused():
    """Its images would not reach the model, and the loss would be another one."""
    model, inputs = lora("llama-tied"), padded(make_docs((3, 2), (2, 2)))
    loss = alignment_loss(model, inputs).loss
    more = torch.ones_like(inputs["input_ids"])
    for name in (
        "pixel_values",
        "pixel_values_videos",
        "image_grid_thw",
        "images",
        "audio_values",
        "inputs_embeds",
        "input_features",
        "input_values",
        "token_type_ids",
        "mm_token_type_ids",
    ):
        with pytest.raises(DataError, match=f"the batch has {name}, ") as error:
            alignment_loss(model, {**inputs, name: more})
        assert "text only" in error.value.hint
    harmless = {"pixel_values": None, "token_type_ids": 0 * more, "mm_token_type_ids": 0 * more}
    assert alignment_loss(model, {**inputs, **harmless}).loss == loss


def test_entropy_and_accuracy_are_those_of_the_completion():
    model, docs = lora("qwen2").eval(), make_docs(*SHAPES)
    got = alignment_loss(model, padded(docs))
    entropy, correct = 0.0, 0
    for doc in docs:
        logits = model(input_ids=torch.tensor([doc.ids])).logits[0].double()
        for token in range(max(1, doc.prompt), len(doc.ids)):
            log_p = torch.log_softmax(logits[token - 1], -1)
            entropy -= (log_p.exp() * log_p).sum().item()
            correct += int(log_p.argmax() == doc.ids[token])
    assert got.entropy_sum.item() == pytest.approx(entropy, rel=1e-5)
    assert got.correct.item() == correct


def test_gradient_checkpointing_changes_nothing():
    model, docs = lora("llama-tied", dropout=0.0), make_docs(*SHAPES)
    plain = gradients_of(model, padded(docs))
    model.enable_input_require_grads()
    model.activation_checkpointing_enable()
    assert distance(gradients_of(model, padded(docs)), plain) < 1e-6


def test_the_reference_pass_draws_no_random_number():
    """With dropout, the tuned pass sees the masks that it would see without alignment."""
    model, inputs = lora("llama-tied", dropout=0.5), padded(make_docs(*SHAPES))
    torch.manual_seed(5)
    without = alignment_loss(model, inputs, alpha=0.0)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    aligned = alignment_loss(model, inputs, alpha=1.0, reference=AdapterOff(model))
    assert torch.equal(torch.get_rng_state(), after)
    assert aligned.nll_sum.item() == pytest.approx(without.nll_sum.item(), rel=1e-6)
