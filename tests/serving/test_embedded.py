from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from serving_fixtures import tiny_pair
from transformers import PreTrainedTokenizerFast

from selfaug.model.generate import generate_greedy_ids
from selfaug.model.running_batch import NoRoomError
from selfaug.phases.monitor import drift_score
from selfaug.serving import embedded
from selfaug.serving.embedded import Cancellation, EmbeddedEngine, _Job
from selfaug.serving.generation import EngineError, Model, OverloadedError, Piece, Sampling
from selfaug.serving.lanes import lanes_of


async def answer(
    engine: EmbeddedEngine, model: Model, prompt: Sequence[int], sampling: Sampling
) -> tuple[str, list[Piece]]:
    async with aclosing(engine.generate(model, prompt, sampling)) as made:
        pieces = [piece async for piece in made]
    return "".join(piece.text for piece in pieces), pieces


def slow_down(engine: EmbeddedEngine, seconds: float = 0.02) -> None:
    """Make each step of the engine, which the test has to itself, take longer."""
    lane = engine._lanes[0]
    step = lane.step

    def slow(token_ids: torch.Tensor) -> torch.Tensor:
        time.sleep(seconds)
        return step(token_ids)

    lane.step = slow  # type: ignore[method-assign]


def prompts_of(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 280) for _ in range(rng.choice((2, 5, 17, 40)))] for _ in range(count)]


def alone(
    tuned: PeftModel, tokenizer: PreTrainedTokenizerFast, model: Model, prompt: list[int], limit: int
) -> str:
    """The greedy answer without anything else in the batch."""
    if model == "base":
        with tuned.disable_adapter():
            ids = generate_greedy_ids(tuned, [prompt], max_new_tokens=limit)[0]
    else:
        ids = generate_greedy_ids(tuned, [prompt], max_new_tokens=limit)[0]
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def test_concurrent_answers_of_both_models_are_those_of_one_at_a_time(
    engine: EmbeddedEngine, tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = prompts_of(12)
    models: list[Model] = [("base", "tuned")[number % 3 > 0] for number in range(len(prompts))]
    limits = [3 + 5 * (number % 4) for number in range(len(prompts))]
    expected = [
        alone(tuned, tiny_tokenizer, model, prompt, limit)
        for model, prompt, limit in zip(models, prompts, limits, strict=True)
    ]
    assert expected[0] != alone(tuned, tiny_tokenizer, "tuned", prompts[0], limits[0])

    async def all_of_them() -> list[str]:
        async def later(number: int) -> str:
            await asyncio.sleep(0.01 * (number % 5))
            return (await answer(engine, models[number], prompts[number], Sampling(limits[number])))[0]

        return await asyncio.gather(*map(later, range(len(prompts))))

    assert asyncio.run(all_of_them()) == expected
    assert engine.running == engine.waiting == 0


@pytest.mark.parametrize(
    "lora", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {}], ids=["dora", "trained-head", "full"]
)
def test_models_that_cannot_share_a_batch_have_one_each(
    lora: dict[str, object], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tuned = tiny_pair(tiny_tokenizer, **lora)
    base = None
    if not lora:
        base = tiny_pair(tiny_tokenizer).unload()
        assert len(lanes_of(tuned, base)) == 2
    assert len(lanes_of(tuned, base)) == 2
    engine = EmbeddedEngine(tuned, base, tiny_tokenizer, max_batch=4)
    prompts = prompts_of(4)
    models: list[Model] = ["base", "tuned", "tuned", "base"]

    async def together() -> list[str]:
        found = await asyncio.gather(
            *(
                answer(engine, model, prompt, Sampling(8))
                for model, prompt in zip(models, prompts, strict=True)
            )
        )
        return [text for text, _ in found]

    try:
        expected = [alone(tuned, tiny_tokenizer, m, p, 8) for m, p in zip(models, prompts, strict=True)]
        assert asyncio.run(together()) == expected
    finally:
        engine.close()


@pytest.mark.parametrize("many", ["base", "tuned"])
def test_neither_model_keeps_the_other_waiting(many: Model, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    engine = EmbeddedEngine(
        tiny_pair(tiny_tokenizer, use_dora=True), None, tiny_tokenizer, max_batch=2, max_waiting=20
    )
    one: Model = "tuned" if many == "base" else "base"
    models: list[Model] = [many, many, many, one, many, many, many, many]
    begun: list[Model] = []

    async def ask(model: Model) -> None:
        async with aclosing(engine.generate(model, [5, 6, 7], Sampling(6))) as made:
            await anext(made)
            begun.append(model)
            async for _ in made:
                pass

    with all_at_once(engine) as go:

        async def crowd() -> None:
            tasks = [asyncio.create_task(ask(model)) for model in models]
            while engine.waiting < len(models):
                await asyncio.sleep(0.001)
            go()
            await asyncio.gather(*tasks)

        try:
            asyncio.run(crowd())
        finally:
            engine.close()
    # It begins with the second pair: after those that came before it, before those that came after it.
    assert begun.index(one) in (2, 3)


def test_padding_is_bounded_too_when_prompts_are_run(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_PREFILL_TOKENS", 40)
    joined: list[list[int]] = []
    join = engine._lanes[0].join

    def noted(prompts: Sequence[Sequence[int]], models: Sequence[Model]) -> torch.Tensor:
        joined.append([len(prompt) for prompt in prompts])
        return join(prompts, models)

    monkeypatch.setattr(engine._lanes[0], "join", noted)
    lengths = [5, 5, 30, 60, 3, 10]
    with all_at_once(engine) as go:

        async def crowd() -> None:
            asked = [
                asyncio.create_task(answer(engine, "tuned", [7] * length, Sampling(2))) for length in lengths
            ]
            while engine.waiting < len(lengths):
                await asyncio.sleep(0.001)
            go()
            await asyncio.gather(*asked)

        asyncio.run(crowd())
    assert joined == [[5, 5], [30], [60], [3, 10]]  # one that is longer than all may be has a turn of its own


@contextmanager
def all_at_once(engine: EmbeddedEngine) -> Iterator[Callable[[], None]]:
    """Keeps an engine busy until what is given here is called: it finds all that was asked for meanwhile at once."""
    begun, go = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        go.wait(30)

    job = threading.Thread(target=engine.in_turn, args=[busy])
    job.start()
    try:
        assert begun.wait(30)
        yield go.set
    finally:
        go.set()
        job.join()


def test_an_answer_ends_at_its_limit_its_end_token_or_a_stop_text(
    engine: EmbeddedEngine, tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = prompts_of(1)[0]
    text, pieces = asyncio.run(answer(engine, "tuned", prompt, Sampling(6)))
    assert [piece.finish for piece in pieces] == [None] * 5 + ["length"]
    assert sum(piece.tokens for piece in pieces) == 6
    stop = text[2:4]
    stopped, pieces = asyncio.run(answer(engine, "tuned", prompt, Sampling(6, stop=(stop,))))
    assert stopped == text[: text.find(stop)]
    assert pieces[-1].finish == "stop"
    # With the first token's successor as the end token, nothing but the first is said.
    first, second = generate_greedy_ids(tuned, [prompt], max_new_tokens=2)[0]
    ending = EmbeddedEngine(tuned, None, tiny_tokenizer)
    ending._ends = frozenset({second})
    try:
        ended, pieces = asyncio.run(answer(ending, "tuned", prompt, Sampling(6)))
    finally:
        ending.close()
    assert (ended, pieces[-1].finish) == (tiny_tokenizer.decode([first]), "stop")
    assert sum(piece.tokens for piece in pieces) == 1


def test_draws_are_the_seeds_own_whatever_else_is_in_the_batch(engine: EmbeddedEngine) -> None:
    prompt, others = prompts_of(1)[0], prompts_of(3, seed=1)
    drawn = Sampling(10, temperature=1.5, top_p=0.9, seed=7)

    async def beside_others() -> str:
        found = await asyncio.gather(
            answer(engine, "tuned", prompt, drawn),
            *(answer(engine, "base", other, Sampling(12, temperature=1.0)) for other in others),
        )
        return found[0][0]

    by_itself = asyncio.run(answer(engine, "tuned", prompt, drawn))[0]
    assert asyncio.run(beside_others()) == by_itself
    texts = {
        asyncio.run(answer(engine, "tuned", prompt, Sampling(10, temperature=1.5, seed=seed)))[0]
        for seed in range(4)
    }
    assert len(texts) > 1
    greedy = asyncio.run(answer(engine, "tuned", prompt, Sampling(10)))[0]
    # Temperatures by which no logit can be divided fail no batch.
    for temperature, top_p in ((1.0, 1e-6), (1e-10, 1.0), (1e-216, 1.0), (5e-324, 0.9)):
        nearly_greedy = Sampling(10, temperature=temperature, top_p=top_p, seed=0)
        assert asyncio.run(answer(engine, "tuned", prompt, nearly_greedy))[0] == greedy


def test_draws_follow_the_models_distribution(engine: EmbeddedEngine, tuned: PeftModel) -> None:
    prompt = prompts_of(1)[0]
    with torch.no_grad():
        p = (tuned(input_ids=torch.tensor([prompt])).logits[0, -1] / 2.0).softmax(-1)

    async def draws() -> list[str]:
        found = []
        for seed in range(400):
            sampling = Sampling(1, temperature=2.0, seed=seed, chances=0)
            chances = (await answer(engine, "tuned", prompt, sampling))[1][0].chances
            found.append(chances[0].token if chances else "")  # the end token has none
        return found

    found = asyncio.run(draws())
    texts = [
        engine._tokenizer.decode([token]) if token not in engine._ends else "" for token in range(len(p))
    ]
    # Many tokens are a part of a character, and have the same text.
    likeliest = max(
        set(texts), key=lambda text: sum(float(p[i]) for i, one in enumerate(texts) if one == text)
    )
    expected = sum(float(p[i]) for i, one in enumerate(texts) if one == likeliest)
    share = found.count(likeliest) / len(found)
    assert 0.1 < expected < 0.9
    assert abs(share - expected) < 4 * (expected * (1 - expected) / len(found)) ** 0.5


def test_chances_are_the_models_log_probabilities(
    engine: EmbeddedEngine, tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = prompts_of(1)[0]
    _, pieces = asyncio.run(answer(engine, "tuned", prompt, Sampling(4, chances=3)))
    ids = generate_greedy_ids(tuned, [prompt], max_new_tokens=4)[0]
    with torch.no_grad():
        logits = tuned(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    logprobs = logits.double().log_softmax(-1)
    chances = [chance for piece in pieces for chance in piece.chances]
    for token, row, chance in zip(ids, logprobs, chances, strict=True):
        assert chance.token == tiny_tokenizer.decode([token])
        assert chance.logprob == pytest.approx(float(row[token]), abs=1e-4)
        best = row.topk(3)
        assert [one.token for one in chance.alternatives] == [
            tiny_tokenizer.decode([t]) for t in best.indices
        ]
        assert [one.logprob for one in chance.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
    _, pieces = asyncio.run(answer(engine, "tuned", prompt, Sampling(4)))
    assert all(piece.chances == [] for piece in pieces)


def test_an_answer_that_nobody_waits_for_is_given_up(engine: EmbeddedEngine) -> None:
    async def leave_early() -> None:
        made = engine.generate("tuned", prompts_of(1)[0], Sampling(200))
        await anext(made)
        assert engine.running == 1
        await made.aclose()
        for _ in range(200):
            if engine.running == 0:
                return
            await asyncio.sleep(0.01)
        pytest.fail("it still runs")

    asyncio.run(leave_early())


def test_what_waits_is_bounded_and_those_that_left_make_room(
    tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=1, max_waiting=2)
    engine._ends = frozenset()
    slow_down(engine, 0.05)
    prompt = prompts_of(1)[0]

    async def crowd() -> None:
        running = engine.generate("tuned", prompt, Sampling(150))
        await anext(running)
        waiting = [asyncio.create_task(anext(engine.generate("base", prompt, Sampling(2)))) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert engine.waiting == 2
        with pytest.raises(OverloadedError) as refused:
            await anext(engine.generate("tuned", prompt, Sampling(2)))
        assert refused.value.retry_after >= 1
        waiting[0].cancel()
        await asyncio.sleep(0.1)
        assert engine.waiting == 1
        accepted = asyncio.create_task(anext(engine.generate("tuned", prompt, Sampling(2))))
        await running.aclose()
        assert (await waiting[1]).tokens == (await accepted).tokens == 1

    try:
        asyncio.run(crowd())
    finally:
        engine.close()


def test_a_batch_that_fails_fails_alone(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = engine._lanes[0]
    step, steps = lane.step, []

    def breaking(token_ids: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        if len(steps) == 2:
            raise MemoryError("no more")
        return step(token_ids)

    monkeypatch.setattr(lane, "step", breaking)
    prompt = prompts_of(1)[0]
    with pytest.raises(EngineError, match="MemoryError"):
        asyncio.run(answer(engine, "tuned", prompt, Sampling(8)))
    assert asyncio.run(answer(engine, "tuned", prompt, Sampling(8)))[1][-1].finish == "length"


def test_a_prompt_that_memory_does_not_suffice_for_fails_alone(
    engine: EmbeddedEngine,
    tuned: PeftModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    def ask(_: object, __: object, given: dict[str, torch.Tensor]) -> None:
        if given["input_ids"].shape[1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    async def both() -> str:
        async with aclosing(engine.generate("tuned", short, Sampling(40))) as made:
            text = (await anext(made)).text
            with pytest.raises(EngineError, match="beside what is being answered") as refused:
                await answer(engine, "base", [7] * 60, Sampling(2))
            assert refused.value.status == 503
            assert refused.value.retry_after > 0
            return text + "".join([piece.text async for piece in made])

    short = prompts_of(1)[0]
    engine._ends = frozenset()
    expected = generate_greedy_ids(tuned, [short], eos_ids=frozenset(), max_new_tokens=40)[0]
    slow_down(engine)  # it is still being answered when the long prompt comes
    hook = tuned.register_forward_pre_hook(ask, with_kwargs=True)
    try:
        assert asyncio.run(both()) == tiny_tokenizer.decode(expected, skip_special_tokens=True)
        with pytest.raises(EngineError, match="send a shorter one") as refused:
            asyncio.run(answer(engine, "tuned", [7] * 60, Sampling(2)))
        assert refused.value.status == 413
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("lengths", "statuses"),
    [([60, 60], [413, 413]), ([20, 60, 20], [None, 413, None]), ([30, 30], [None, None])],
    ids=["none fits", "one does not fit", "not at once"],
)
def test_of_prompts_that_come_together_each_that_fits_alone_is_answered(
    lengths: list[int], statuses: list[int | None], engine: EmbeddedEngine, tuned: PeftModel
) -> None:
    """Nothing else is being answered: to come again later would not help."""

    def ask(_: object, __: object, given: dict[str, torch.Tensor]) -> None:
        if given["input_ids"].numel() > 50:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    async def status(length: int) -> int | None:
        try:
            await answer(engine, "tuned", [7] * length, Sampling(2))
        except EngineError as error:
            return error.status
        return None

    with all_at_once(engine) as go:

        async def crowd() -> list[int | None]:
            asked = [asyncio.create_task(status(length)) for length in lengths]
            while engine.waiting < len(lengths):
                await asyncio.sleep(0.001)
            go()
            return list(await asyncio.gather(*asked))

        hook = tuned.register_forward_pre_hook(ask, with_kwargs=True)
        try:
            assert asyncio.run(crowd()) == statuses
        finally:
            hook.remove()
    assert (engine.waiting, engine.running) == (0, 0)


def test_the_answer_that_came_last_gives_way_where_memory_does_not_suffice_for_all(
    engine: EmbeddedEngine,
    tuned: PeftModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    def ask(_: object, __: object, given: dict[str, torch.Tensor]) -> None:
        if given["input_ids"].shape == (2, 1):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    first, second = prompts_of(2)

    async def both() -> str:
        async with aclosing(engine.generate("tuned", first, Sampling(40))) as made:
            text = (await anext(made)).text
            with pytest.raises(EngineError, match="beside what is being answered") as refused:
                await answer(engine, "tuned", second, Sampling(40))
            assert (refused.value.status, engine.running) == (503, 1)
            assert refused.value.retry_after > 0
            return text + "".join([piece.text async for piece in made])

    engine._ends = frozenset()
    slow_down(engine)  # the first is still being answered when the second comes
    expected = generate_greedy_ids(tuned, [first], eos_ids=frozenset(), max_new_tokens=40)[0]
    hook = tuned.register_forward_pre_hook(ask, with_kwargs=True)
    try:
        assert asyncio.run(both()) == tiny_tokenizer.decode(expected, skip_special_tokens=True)
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", [NoRoomError, torch.OutOfMemoryError])
def test_an_answer_that_has_the_memory_to_itself_is_told_what_would_fit(
    kind: type[Exception], engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its token can be taken back, as with plain layers, or not, as with sliding windows."""

    def full(token_ids: torch.Tensor) -> torch.Tensor:
        raise kind("CUDA out of memory.")

    engine._ends = frozenset()
    monkeypatch.setattr(engine._lanes[0], "step", full)
    with pytest.raises(EngineError, match="answer as long as this one: ask for fewer tokens") as refused:
        asyncio.run(answer(engine, "tuned", prompts_of(1)[0], Sampling(8)))
    assert refused.value.status == 413


@pytest.mark.skipif(torch.cuda.is_available(), reason="that one is not lost")
def test_an_engine_whose_gpu_is_lost_says_so_and_stops(
    tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer)
    told: list[str] = []
    engine.on_lost = told.append

    def lost(token_ids: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered\nmore")

    monkeypatch.setattr(engine._lanes[0], "step", lost)
    with pytest.raises(EngineError, match="RuntimeError"):
        asyncio.run(answer(engine, "tuned", prompts_of(1)[0], Sampling(8)))
    engine._thread.join(10)
    assert not engine._thread.is_alive()
    assert told == ["the GPU failed: CUDA error: device-side assert triggered"]
    with pytest.raises(EngineError, match="stopped"):
        asyncio.run(answer(engine, "tuned", prompts_of(1)[0], Sampling(8)))
    engine.close()


def test_closing_fails_what_runs_and_what_comes(
    tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer)

    async def cut() -> None:
        made = engine.generate("tuned", prompts_of(1)[0], Sampling(200))
        await anext(made)
        await asyncio.to_thread(engine.close)
        with pytest.raises(EngineError, match="stopped"):
            async for _ in made:
                pass
        with pytest.raises(EngineError, match="stopped"):
            await anext(engine.generate("tuned", [5], Sampling(2)))

    asyncio.run(cut())


def test_a_second_signal_in_the_handler_of_the_first_waits_for_nothing(engine: EmbeddedEngine) -> None:
    """Whatever line the first one is at."""

    def again(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            engine.begin_no_more()
        return again

    def handle() -> None:
        usual = sys.gettrace()
        sys.settrace(again)
        try:
            engine.begin_no_more()
        finally:
            sys.settrace(usual)

    handling = threading.Thread(target=handle, daemon=True)
    handling.start()
    handling.join(10)
    assert not handling.is_alive()
    with pytest.raises(EngineError, match="shutting down"):
        asyncio.run(answer(engine, "tuned", [5], Sampling(2)))


def test_closing_while_requests_that_were_given_up_still_wait(
    tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=1)
    begun, go_on = threading.Event(), threading.Event()
    step = engine._lanes[0].step

    def held(token_ids: torch.Tensor) -> torch.Tensor:
        begun.set()
        assert go_on.wait(10)
        return step(token_ids)

    monkeypatch.setattr(engine._lanes[0], "step", held)

    async def cut() -> None:
        made = engine.generate("tuned", prompts_of(1)[0], Sampling(200))
        await anext(made)
        assert await asyncio.to_thread(begun.wait, 10)
        # It arrives and is given up while the engine is busy with a step, in which the engine is closed, too.
        waiting = asyncio.create_task(anext(engine.generate("tuned", [5], Sampling(2))))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        closing = threading.Thread(target=engine.close)
        closing.start()
        while not engine._stopping.is_set():
            await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.to_thread(closing.join, 10)
        assert not closing.is_alive()
        await made.aclose()

    asyncio.run(cut())


def test_a_request_that_could_not_be_answered_in_time_is_refused(
    tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=1, max_seconds=25)
    engine._seconds.extend([10.0] * 4)  # what the last answers took
    prompt = prompts_of(1)[0]

    async def crowd() -> None:
        running = engine.generate("tuned", prompt, Sampling(150))
        await anext(running)
        waiting = [asyncio.create_task(anext(engine.generate("base", prompt, Sampling(2)))) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert engine.waiting == 2
        with pytest.raises(OverloadedError):  # behind one that runs and two that wait: 30 seconds
            await anext(engine.generate("tuned", prompt, Sampling(2)))
        await running.aclose()
        assert [(await one).tokens for one in waiting] == [1, 1]

    try:
        asyncio.run(crowd())
    finally:
        engine.close()


def test_requests_that_have_a_place_are_never_late(
    tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=4, max_seconds=25)
    engine._seconds.extend([20.0] * 4)  # what the last answers took
    begun, go_on = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        go_on.wait(10)

    async def at_once() -> None:
        job = threading.Thread(target=engine.in_turn, args=[busy])
        job.start()
        assert await asyncio.to_thread(begun.wait, 10)
        # All four have come before the engine looks at the first.
        asked = [asyncio.create_task(anext(engine.generate("tuned", [5, 6], Sampling(2)))) for _ in range(4)]
        await asyncio.sleep(0.05)
        assert engine.waiting == 4
        go_on.set()
        assert [(await one).tokens for one in asked] == [1] * 4
        job.join()

    try:
        asyncio.run(at_once())
    finally:
        engine.close()


def test_other_work_is_done_while_nothing_is_answered(engine: EmbeddedEngine) -> None:
    assert engine.when_idle(lambda: threading.current_thread().name) == "selfaug-engine"
    before = engine.job_seconds
    engine.when_idle(lambda: time.sleep(0.05))
    assert engine.job_seconds - before >= 0.05
    with pytest.raises(ZeroDivisionError):
        engine.when_idle(lambda: 1 / 0)

    async def answered() -> dict[str, int]:
        still_running: dict[str, int] = {}

        async def work(name: str, patience: float) -> None:
            def note() -> None:
                still_running[name] = engine.running

            await asyncio.to_thread(engine.when_idle, note, patience=patience)

        asking = asyncio.create_task(answer(engine, "tuned", [5, 6, 7], Sampling(120)))
        while not engine.running:
            await asyncio.sleep(0.001)
        await asyncio.gather(asking, work("patient", 60), work("in a hurry", 0))
        return still_running

    # First come, first served among themselves, too: the hurried one may be due only after the patient one.
    still_running = asyncio.run(answered())
    assert set(still_running) == {"in a hurry", "patient"}
    assert still_running["patient"] == 0


def test_an_adapter_that_is_switched_off_between_two_tokens_changes_no_answer(
    engine: EmbeddedEngine, tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = prompts_of(8, seed=4)
    expected = [alone(tuned, tiny_tokenizer, "tuned", prompt, 20) for prompt in prompts]
    off = drift_score(tuned, None, lambda work: engine.when_idle(work, patience=0))
    stop, scored = threading.Event(), []

    def score() -> None:
        while not stop.is_set():
            scored.append(off([prompts[3], prompts[5]]))

    thread = threading.Thread(target=score)
    thread.start()

    async def all_of_them() -> list[str]:
        answers = await asyncio.gather(*(answer(engine, "tuned", one, Sampling(20)) for one in prompts))
        return [text for text, _ in answers]

    found = asyncio.run(all_of_them())
    stop.set()
    thread.join()
    assert found == expected
    assert len(scored) > 3
    assert all(one == pytest.approx(scored[0]) for one in scored)


def test_work_that_waits_fails_when_the_engine_ends(
    tuned: PeftModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer)
    begun, go, failed = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        go.wait(10)

    def waits() -> None:
        try:
            engine.when_idle(lambda: None)
        except EngineError as error:
            failed.append(str(error))

    threads = [threading.Thread(target=engine.when_idle, args=[first]), threading.Thread(target=waits)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    while not engine._jobs:
        time.sleep(0.001)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._stopping.is_set():
        time.sleep(0.001)
    go.set()
    for thread in (*threads, closing):
        thread.join(10)
    assert failed == ["the engine has stopped"]
    with pytest.raises(EngineError, match="has stopped"):
        engine.when_idle(lambda: None)


def test_work_that_nobody_wants_any_more_is_not_waited_for_and_not_done(engine: EmbeddedEngine) -> None:
    begun, go = threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        begun.set()
        go.wait(60)

    unwanted = Cancellation()
    failed: list[str] = []

    def waits() -> None:
        try:
            engine.when_idle(lambda: done.append("unwanted"), patience=3600, unless=unwanted)
        except EngineError as error:
            failed.append(str(error))

    running = threading.Thread(target=engine.when_idle, args=[first])
    running.start()
    assert begun.wait(10)
    waiting = threading.Thread(target=waits)
    waiting.start()
    while not engine._jobs:
        time.sleep(0.001)
    behind = threading.Thread(target=engine.when_idle, args=[lambda: done.append("behind it")])
    behind.start()
    unwanted.cancel()
    waiting.join(10)  # while the engine is still busy
    assert failed == ["nobody wants this any more"]
    with pytest.raises(EngineError, match="nobody wants"):
        engine.when_idle(lambda: done.append("later"), unless=unwanted)
    go.set()
    behind.join(10)
    running.join(10)
    assert engine.when_idle(lambda: 3) == 3
    assert done == ["behind it"]


def test_an_adapter_is_exchanged_between_two_requests_and_none_of_them_fails(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tuned = tiny_pair(tiny_tokenizer)
    torch.manual_seed(11)
    tuned.add_adapter("next", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    prompt = prompts_of(1, seed=7)[0]
    first = alone(tuned, tiny_tokenizer, "tuned", prompt, 30)
    tuned.set_adapter("next")
    second = alone(tuned, tiny_tokenizer, "tuned", prompt, 30)
    base = alone(tuned, tiny_tokenizer, "base", prompt, 30)
    tuned.set_adapter("default")
    assert len({first, second, base}) == 3
    engine = EmbeddedEngine(tuned, None, tiny_tokenizer, max_batch=3, max_waiting=100)
    found: list[tuple[str, str]] = []

    async def ask(name: str, model: Model) -> None:
        text, _ = await answer(engine, model, prompt, Sampling(30))
        found.append((name, text))

    async def all_of_them() -> None:
        before = [asyncio.create_task(ask("before", "tuned")) for _ in range(5)]
        while engine.waiting < 2:
            await asyncio.sleep(0.001)
        change = asyncio.create_task(asyncio.to_thread(engine.in_turn, lambda: engine.use_adapter("next")))
        while not any(isinstance(one, _Job) for one in list(engine._queue)):
            await asyncio.sleep(0.001)
        models: list[Model] = ["tuned", "base", "tuned", "base"]
        after = [asyncio.create_task(ask(f"after, {model}", model)) for model in models]
        await asyncio.gather(*before, change, *after)

    asyncio.run(all_of_them())
    assert [name for name, _ in found][:5] == ["before"] * 5
    expected = {"before": first, "after, tuned": second, "after, base": base}
    assert all(text == expected[name] for name, text in found)
    with pytest.raises(ZeroDivisionError):
        engine.in_turn(lambda: 1 / 0)
    engine.close()
    with pytest.raises(EngineError, match="has stopped"):
        engine.in_turn(lambda: None)
