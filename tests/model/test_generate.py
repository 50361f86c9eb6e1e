from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM as AutoModel
from transformers import (
    BloomConfig,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from selfaug.errors import DataError, ModelError
from selfaug.model.generate import (
    chat_ends,
    chat_prompt_ids,
    end_tokens,
    generate_greedy,
    generate_greedy_ids,
    sample_ids,
    stream_greedy,
)
from selfaug.model.loading import DEMO_MODEL, load_model, load_tokenizer
from selfaug.model.running_batch import RunningBatch
from tiny_models import build

VOCABULARY = 64
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    # Wide enough that the arg max is far from a tie, and that answers depend on their prompts.
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tiny_llama() -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModel.from_config(LlamaConfig(**SHAPE, num_key_value_heads=2)).eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    letters = pre_tokenizers.ByteLevel.alphabet()
    words = Tokenizer(models.BPE({letter: index for index, letter in enumerate(sorted(letters))}, []))
    words.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=words)


def other_architectures() -> dict[str, PreTrainedModel]:
    torch.manual_seed(1)
    return {
        "qwen2": AutoModel.from_config(Qwen2Config(**SHAPE, num_key_value_heads=2)).eval(),
        "gpt_neox": AutoModel.from_config(GPTNeoXConfig(**SHAPE)).eval(),
        # Has no position ids: ALiBi reads places from the mask.
        "bloom": AutoModel.from_config(
            BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5)
        ).eval(),
        # A sliding window shorter than prompt and answer, in every other layer.
        "gemma3": Gemma3ForCausalLM(
            Gemma3TextConfig(
                **SHAPE,
                num_key_value_heads=2,
                head_dim=8,
                sliding_window=8,
                layer_types=["sliding_attention", "full_attention"],
            )
        ).eval(),
    }


def prompts_of(lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]


@torch.no_grad()
def naive(model: PreTrainedModel, prompt: list[int], limit: int, ends: set[int]) -> list[int]:
    """One prompt at a time, the whole text again for each token: no cache, no padding."""
    answer: list[int] = []
    while len(answer) < limit:
        token = int(model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        answer.append(token)
    return answer


LENGTHS = [1, 17, 5, 9, 30, 2, 12, 3, 3, 21, 8]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 16])
def test_equals_one_by_one(batch_size: int) -> None:
    model = tiny_llama()
    prompts = prompts_of(LENGTHS)
    # These ends cut most answers off, at different places, so that rows leave the batch.
    ends = set(range(2, 8))
    expected = [naive(model, prompt, 24, ends) for prompt in prompts]
    assert len({len(answer) for answer in expected}) > 4
    answers = generate_greedy_ids(
        model, prompts, eos_ids=frozenset(ends), max_new_tokens=24, batch_size=batch_size
    )
    assert answers == expected


@pytest.mark.parametrize("name", ["qwen2", "gpt_neox", "bloom", "gemma3"])
def test_equals_one_by_one_on_other_architectures(name: str) -> None:
    model = other_architectures()[name]
    prompts = prompts_of(LENGTHS, seed=1)
    ends = set(range(2, 8))
    expected = [naive(model, prompt, 20, ends) for prompt in prompts]
    assert len({tuple(answer) for answer in expected}) > 4
    assert generate_greedy_ids(model, prompts, eos_ids=frozenset(ends), max_new_tokens=20) == expected


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon_mamba", "qwen3_5_text"])
def test_equals_one_by_one_on_models_with_states(name: str) -> None:
    """A prompt's padding must not get into them, nor may they stay where an answer leaves."""
    model = build(name, seed=1)
    prompts = prompts_of([1, 17, 5, 9, 2], seed=1)
    ends = set(range(2, 26))
    expected = [naive(model, prompt, 8, ends) for prompt in prompts]
    assert len({len(answer) for answer in expected}) > 2
    assert generate_greedy_ids(model, prompts, eos_ids=frozenset(ends), max_new_tokens=8) == expected


def test_bfloat16_differs_from_one_by_one_only_where_the_first_two_are_closer_than_the_noise() -> None:
    torch.manual_seed(3)
    # Logits close together: in bfloat16 some arg max depends on how the batch is padded.
    model = AutoModel.from_config(LlamaConfig(**{**SHAPE, "initializer_range": 0.02})).eval().bfloat16()
    exact = AutoModel.from_config(model.config).eval()
    exact.load_state_dict(model.state_dict())
    exact = exact.double()
    prompts = prompts_of([1 + number % 30 for number in range(96)])
    batched = generate_greedy_ids(model, prompts, max_new_tokens=12, batch_size=16)
    alone = [naive(model, prompt, 12, {2}) for prompt in prompts]
    differing = 0
    for prompt, one, other in zip(prompts, alone, batched, strict=True):
        place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if place is None:
            assert one == other
            continue
        differing += 1
        prefix = torch.tensor([prompt + one[:place]])
        with torch.no_grad():
            rounded, right = (which(input_ids=prefix).logits[0, -1].double() for which in (model, exact))
        noise = float((rounded - right).abs().max())
        assert abs(float(right[one[place]] - right[other[place]])) <= 4 * noise
    assert differing < len(prompts) / 2


def test_each_prompt_may_have_its_own_limit() -> None:
    model = tiny_llama()
    prompts = prompts_of([4, 9, 2, 6])
    limits = [0, 3, 12, 1]
    expected = [naive(model, prompt, limit, set()) for prompt, limit in zip(prompts, limits, strict=True)]
    answers = generate_greedy_ids(model, prompts, eos_ids=frozenset(), max_new_tokens=limits)
    assert [len(answer) for answer in answers] == limits
    assert answers == expected


def test_stops_at_every_end_of_the_generation_config() -> None:
    model = tiny_llama()
    prompts = prompts_of(LENGTHS)
    model.generation_config.eos_token_id = [5, 9, 11, 13, 17]
    expected = [naive(model, prompt, 24, {5, 9, 11, 13, 17}) for prompt in prompts]
    assert expected != [naive(model, prompt, 24, {5}) for prompt in prompts]
    assert generate_greedy_ids(model, prompts, max_new_tokens=24) == expected


def test_what_the_chat_template_writes_after_an_answer_ends_it(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """A base model's generation config knows the end of a text only, and training on chats teaches another end."""
    model = tiny_llama()
    model.generation_config.eos_token_id = 5
    base = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<|pad|>")
    assert end_tokens(model, base) == {5, base.eos_token_id}
    base.chat_template = tiny_tokenizer.chat_template
    assert end_tokens(model, base) == {5, base.eos_token_id, tiny_tokenizer.eos_token_id}
    assert end_tokens(model) == {5}
    # Behind a space, before a line break, and of a token that its user has not called a special one.
    base.add_tokens(["<end_of_turn>"])
    own = base.convert_tokens_to_ids("<end_of_turn>")
    base.chat_template = "{% for m in messages %}{{ m.content + ' <end_of_turn>\n' }}{% endfor %}"
    assert end_tokens(model, base) == {5, base.eos_token_id, own}
    assert chat_ends(base) == {base.eos_token_id, own}
    for without in (
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content }} end{% endfor %}",
        "{% for m in messages %}<|im_end|>{{ m.content | upper }}{% endfor %}",
        "{{ raise_exception('no') }}",
    ):
        base.chat_template = without
        assert end_tokens(model, base) == {5, base.eos_token_id}


def test_sampling_options_of_the_model_do_not_matter() -> None:
    model = tiny_llama()
    prompts = prompts_of([5, 3])
    expected = generate_greedy_ids(model, prompts, max_new_tokens=16)
    model.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=1.8)
    before = model.generation_config.to_dict()
    assert generate_greedy_ids(model, prompts, max_new_tokens=16) == expected
    assert model.generation_config.to_dict() == before


def test_training_modes_come_back_and_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(LlamaConfig(**SHAPE, num_key_value_heads=2, attention_dropout=0.5)).train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    prompts = prompts_of([6, 11])
    first = generate_greedy_ids(model, prompts, max_new_tokens=20)
    assert [module.training for module in model.modules()] == modes
    assert first == generate_greedy_ids(model.eval(), prompts, max_new_tokens=20)


def test_training_mode_comes_back_after_an_error() -> None:
    model = tiny_llama().train()
    with pytest.raises(IndexError):
        generate_greedy_ids(model, [[VOCABULARY + 1]], max_new_tokens=2)
    assert model.training


def test_progress_counts_up_to_all_prompts() -> None:
    calls: list[tuple[int, int]] = []
    generate_greedy_ids(
        tiny_llama(),
        prompts_of([3] * 7),
        max_new_tokens=2,
        batch_size=3,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(done, 7) for done in range(1, 8)]


def test_the_next_prompts_take_the_places_of_finished_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes, ended = tiny_llama(), [], []
    step = RunningBatch.step

    def counted(batch: RunningBatch, token_ids: torch.Tensor, **more: Any) -> torch.Tensor:
        sizes.append(len(batch))
        return step(batch, token_ids, **more)

    monkeypatch.setattr(RunningBatch, "step", counted)
    limits = [20, 1, 5, 0, 3, 20, 2, 9, 4, 4, 20, 7, 1, 6]
    texts = generate_greedy(
        model,
        byte_tokenizer(),
        prompts_of(list(range(1, 15))),
        max_new_tokens=limits,
        batch_size=4,
        on_answer=lambda place, text: ended.append((place, text)),
    )
    assert sorted(ended) == list(enumerate(texts))
    assert next(place for place, _ in ended) == 3, "a limit of 0 ends at once"
    assert max(sizes) == 4
    # Its first token is an answer's at once, each of the others takes a step.
    needed = sum(max(limit - 1, 0) for limit in limits)
    assert len(sizes) <= needed / 4 + 12, "the batch is full until the last prompts have joined"


def test_ended_answers_that_are_carried_along_stay_within_the_models_window() -> None:
    """Learned positions have no place beyond it; the next prompts go on for long beside answers that have ended."""
    torch.manual_seed(0)
    model = AutoModel.from_config(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=24, n_embd=32, n_layer=2, n_head=4, initializer_range=0.5,
            bos_token_id=1, eos_token_id=2,
        )
    ).eval()  # fmt: skip
    prompts = prompts_of([20, 20, 20, 20, 4, 4, 4, 4, 4, 4])
    limits = [4, 4, 4, 4, 20, 18, 16, 20, 17, 19]
    expected = [naive(model, prompt, limit, {2}) for prompt, limit in zip(prompts, limits, strict=True)]
    for batch_size in (5, 7, 9):
        answers = generate_greedy_ids(
            model, prompts, eos_ids=frozenset({2}), max_new_tokens=limits, batch_size=batch_size
        )
        assert answers == expected


@contextmanager
def memory_for(model: PreTrainedModel, rows: int) -> Iterator[None]:
    """The model as on a GPU whose memory suffices for so many rows."""

    def ask(_: Any, __: Any, given: dict[str, Any]) -> None:
        if len(given["input_ids"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.register_forward_pre_hook(ask, with_kwargs=True)
    yield
    hook.remove()


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_fewer_prompts_go_together_where_memory_is_too_small(rows: int) -> None:
    model, prompts, ends = tiny_llama(), prompts_of(LENGTHS), frozenset(range(2, 8))
    expected = [naive(model, prompt, 24, set(ends)) for prompt in prompts]
    finished: list[int] = []
    with memory_for(model, rows):
        answers = generate_greedy_ids(
            model,
            prompts,
            eos_ids=ends,
            max_new_tokens=24,
            batch_size=8,
            on_answer=lambda index, _: finished.append(index),
        )
    assert answers == expected
    assert sorted(finished) == list(range(len(prompts)))


def test_memory_that_runs_out_between_two_tokens_loses_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, ends = tiny_llama(), prompts_of(LENGTHS), frozenset(range(2, 8))
    expected = [naive(model, prompt, 24, set(ends)) for prompt in prompts]
    step, steps = RunningBatch.step, []

    def full_at_times(batch: RunningBatch, *args: Any, **options: Any) -> torch.Tensor:
        steps.append(len(batch))
        if len(steps) in (3, 9) and len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(batch, *args, **options)

    monkeypatch.setattr(RunningBatch, "step", full_at_times)
    answers = generate_greedy_ids(model, prompts, eos_ids=ends, max_new_tokens=24, batch_size=8)
    assert answers == expected
    assert max(steps[3:9]) <= steps[2] // 2


def test_short_prompts_go_together_again_where_memory_was_too_small_for_long_ones() -> None:
    model, prompts = tiny_llama(), prompts_of([40, 39, 38, 37, *[2] * 14])
    expected = generate_greedy_ids(model, prompts, eos_ids=frozenset(), max_new_tokens=4)
    together: list[int] = []

    def ask(_: Any, __: Any, given: dict[str, Any]) -> None:
        together.append(len(given["input_ids"]))
        if given["attention_mask"].numel() > 132:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(ask, with_kwargs=True)
    answers = generate_greedy_ids(model, prompts, eos_ids=frozenset(), max_new_tokens=4, batch_size=12)
    assert answers == expected
    assert together[:3] == [12, 6, 3]
    assert together[-1] == 12


def test_one_prompt_that_memory_does_not_suffice_for_is_an_error() -> None:
    model = tiny_llama()
    with memory_for(model, 0), pytest.raises(torch.OutOfMemoryError):
        generate_greedy_ids(model, prompts_of([3, 4]), max_new_tokens=4)


def test_no_prompts_no_answers() -> None:
    assert generate_greedy_ids(tiny_llama(), [], max_new_tokens=4) == []


def test_wrong_arguments_are_refused() -> None:
    model = tiny_llama()
    with pytest.raises(ValueError, match="2 prompts, but 1 values"):
        generate_greedy_ids(model, [[3], [4]], max_new_tokens=[4])
    with pytest.raises(ValueError, match="no tokens"):
        generate_greedy_ids(model, [[3], []], max_new_tokens=4)


@pytest.mark.real_model
def test_chat_prompt_waits_for_the_assistant() -> None:
    tokenizer = load_tokenizer(DEMO_MODEL)
    ids = chat_prompt_ids(tokenizer, "Hello")
    assert ids == chat_prompt_ids(tokenizer, [{"role": "user", "content": "Hello"}])
    assert tokenizer.decode(ids).endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        chat_prompt_ids(tokenizer, "Hello")


def test_messages_that_a_template_refuses_are_wrong_data() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for one in messages %}{% if one.role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
        "{{ one.content }}{% endfor %}"
    )
    system = {"role": "system", "content": "a"}
    with pytest.raises(DataError, match="the chat template refuses these messages: no system message"):
        chat_prompt_ids(tokenizer, [system, {"role": "user", "content": "b"}])
    assert chat_prompt_ids(tokenizer, "b")


@pytest.mark.real_model
def test_real_model_answers_as_model_generate_does(capfd: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(DEMO_MODEL), load_model(DEMO_MODEL, dtype="float32", device="cpu")
    requests = (
        "What is the capital of France?",
        "Name two planets.",
        "Say yes.",
        "Write a poem about a dog.",
    )
    prompts = [chat_prompt_ids(tokenizer, request) for request in requests]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        expected.append(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True))
    capfd.readouterr()
    answers = generate_greedy(model, tokenizer, prompts, max_new_tokens=16)
    assert answers == expected
    assert "Paris" in answers[0]
    assert capfd.readouterr() == ("", "")


def test_a_cache_that_outgrows_its_room_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, ends = tiny_llama(), prompts_of(LENGTHS), frozenset(range(2, 8))
    whole = generate_greedy_ids(model, prompts, eos_ids=ends, max_new_tokens=24)
    monkeypatch.setattr("selfaug.model.running_batch._ROOM", 3)
    assert generate_greedy_ids(model, prompts, eos_ids=ends, max_new_tokens=24) == whole


def test_sampling_near_temperature_zero_is_greedy() -> None:
    model, prompts = tiny_llama(), prompts_of([3, 9, 5])
    greedy = generate_greedy_ids(model, prompts, max_new_tokens=12)
    for options in (
        {"temperature": 1e-5},
        {"temperature": 1e-5, "top_p": 0.9},
        {"top_p": 1e-6},
        {"top_p": 5e-324},
    ):
        assert sample_ids(model, prompts, seed=0, max_new_tokens=12, **options) == greedy


@pytest.mark.parametrize(("top_p", "likely"), [(1.0, 1000), (0.6, 1000), (0.6, 2)])
def test_samples_have_the_models_distribution(
    top_p: float, likely: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First tokens of many draws against the nucleus computed by hand."""
    monkeypatch.setattr("selfaug.model.generate._LIKELY", likely)
    model, prompt, draws = tiny_llama(), [5, 9, 11], 4000
    with torch.no_grad():
        p = (model(input_ids=torch.tensor([prompt])).logits[0, -1].double() / 1.5).softmax(-1)
    ranked = p.argsort(descending=True).tolist()
    kept, total = [], 0.0
    for token in ranked:
        if total >= top_p:
            break
        kept.append(token)
        total += p[token].item()
    assert (len(kept) < VOCABULARY // 2) == (top_p < 1)
    state = torch.get_rng_state()
    options = {"seed": 3, "temperature": 1.5, "top_p": top_p, "max_new_tokens": 1, "batch_size": draws}
    drawn = sample_ids(model, [prompt] * draws, eos_ids=frozenset(), **options)
    assert torch.equal(torch.get_rng_state(), state)
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=VOCABULARY).double() / draws
    for token in range(VOCABULARY):
        expected = p[token].item() / total if token in kept else 0.0
        assert abs(counts[token].item() - expected) <= 5 * (expected / draws) ** 0.5
    assert drawn == sample_ids(model, [prompt] * draws, eos_ids=frozenset(), **options)
    assert drawn != sample_ids(model, [prompt] * draws, eos_ids=frozenset(), **{**options, "seed": 4})


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_sampling_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="temperature must be positive and top_p"):
        sample_ids(tiny_llama(), [[3]], seed=0, max_new_tokens=1, **options)


def test_a_stream_tells_the_same_answer_piece_by_piece() -> None:
    """With a token a byte, most of what a random model writes is not yet, or never, a character."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            bos_token_id=None, eos_token_id=7, tie_word_embeddings=False,
        )
    ).train()  # fmt: skip
    several = 0
    for seed in range(6):
        prompt = [random.Random(seed).randrange(256) for _ in range(9)]
        pieces: list[str] = []
        answer = stream_greedy(model, tokenizer, prompt, max_new_tokens=40, on_text=pieces.append)
        assert answer == generate_greedy(model, tokenizer, [prompt], max_new_tokens=40)[0]
        assert "".join(pieces) == answer
        assert all(pieces)
        several += len(pieces) > 1
    assert several >= 3
    assert model.training
