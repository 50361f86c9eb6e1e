"""Real prompts on a simulated clock: a week like training's is quiet, and another domain in half of it is found."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from selfaug.config import load_config
from selfaug.data.market_reports import market_report_rows, market_report_template
from selfaug.eval.general_suite import general_suite
from selfaug.model.generate import chat_prompt_ids
from selfaug.monitoring.monitor import Monitor, MonitorSettings
from selfaug.monitoring.observation import Observation
from selfaug.phases.chat import open_chat
from selfaug.phases.monitor import drift_score, open_monitor
from selfaug.phases.train import train
from selfaug.records import write_lines, write_text
from tiny_models import with_window

DAY = 86_400.0
EVERY = 300.0
"""Seconds from request to request."""
TRAINED, HELD_OUT, LIVE, GENERAL = 100, 500, 400, 80

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def short(row: dict[str, object]) -> dict[str, object]:
    """With the report that answers it alone."""
    context = row["context"]
    assert isinstance(context, list)
    assert isinstance(row["gold"], int)
    return {**row, "context": [context[row["gold"] - 1]]}


@pytest.fixture(scope="module")
def market_run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, trained on a few reports, with others held out."""
    folder = tmp_path_factory.mktemp("market")
    model = with_window(tiny_model_dir, folder / "tiny", 1024)
    rows = [short(row) for row in market_report_rows("train", TRAINED + HELD_OUT)]
    for name, part in (("train", rows[:TRAINED]), ("held-out", rows[TRAINED:])):
        keys = ("id", "question", "context", "answer")
        write_lines(folder / f"{name}.jsonl", [{key: row[key] for key in keys} for row in part])
    write_text(folder / "template.yaml", json.dumps(market_report_template().to_dict()))
    flags = {
        "--model": str(model),
        "--train": str(folder / "train.jsonl"),
        "--eval": str(folder / "held-out.jsonl"),
        "--template": str(folder / "template.yaml"),
        "--output": str(folder / "run"),
    }
    sets = ["train.batch_size=4", "train.steps=20", "train.learning_rate=1e-2", "model.dtype=float32"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(load_config(None, flags, [*sets, "selfaug.monitor_prompts=0", "train.save_steps=20"]))
    return folder / "run"


class Replay:
    """Requests on a clock that goes on with each."""

    def __init__(self, run: Path) -> None:
        chat = open_chat(run, device="cpu", offline=True)
        measured = drift_score(chat.tuned, None)
        known: dict[tuple[int, ...], float] = {}

        def score(prompts: list[list[int]]) -> list[float]:
            new = [prompt for prompt in prompts if tuple(prompt) not in known]
            known.update(zip(map(tuple, new), measured(new) if new else [], strict=True))
            return [known[tuple(prompt)] for prompt in prompts]

        self.now = 1_700_000_000.0
        settings = MonitorSettings(sample=1.0, compute_share=1.0, batch_size=5)
        self.monitor: Monitor = open_monitor(run, score, settings=settings, clock=lambda: self.now)
        self.monitor.close()  # it has a thread: another one without takes its place
        self.monitor = Monitor(
            run / "monitor",
            self.monitor._window,
            score,
            settings=settings,
            clock=lambda: self.now,
            threaded=False,
        )
        template = market_report_template()
        rows = [short(row) for row in market_report_rows("train", TRAINED + HELD_OUT + LIVE)][-LIVE:]
        self.market = [
            chat_prompt_ids(chat.tokenizer, template.messages(row["question"], row["context"]))  # type: ignore[arg-type]
            for row in rows
        ]
        items = [item for item in general_suite("dev") if not item.choices]
        self.general = [
            chat_prompt_ids(chat.tokenizer, item.prompt) for item in items[:: len(items) // GENERAL]
        ]
        self.rng = random.Random(0)

    def states(self, count: int, draw: Callable[[int], list[int]]) -> list[str]:
        """The state after each of so many requests."""
        states = []
        for number in range(count):
            self.now += EVERY
            prompt = draw(number)
            self.monitor.offer(Observation(f"{self.now}", prompt, self.rng.randint(10, 20), refused=False))
            if number % 5 == 4:
                self.monitor.work()
            states.append(self.monitor.state())
        return states


def test_a_week_like_training_is_quiet_and_another_domain_is_found(market_run: Path) -> None:
    replay = Replay(market_run)
    first = replay.states(round(3 * DAY / EVERY) + 5, lambda _: replay.rng.choice(replay.market))
    assert set(first[5:-5]) == {"learning"}
    week = replay.states(round(7 * DAY / EVERY), lambda _: replay.rng.choice(replay.market))
    assert set(week) <= {"ok", "watch"}, replay.monitor.status()["signals"]
    before = replay.monitor.counts()["scored"]
    mixed = replay.states(
        300,
        lambda number: replay.rng.choice(replay.general if number % 2 else replay.market),
    )
    assert "drift" in mixed
    assert mixed.index("drift") < 150
    assert replay.monitor.counts()["scored"] == before + 300  # each of them was scored
    found = {view["name"]: view["state"] for view in replay.monitor.status()["signals"]}
    assert found["novelty"] == "drift"
    replay.monitor.close()
