"""A directory of runs as the commands leave it, made by hand, and a browser without pictures that looks at it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from looking import looking_at
from starlette.testclient import TestClient

from demo_records import record as demo_record
from report_records import (
    EVALUATION,
    HOSTILE,
    REALIGNMENT,
    balance_record,
    changed_everywhere,
    comparison_record,
    config_of,
    interval,
    suite,
    write_assessment,
    write_balance,
    write_comparison,
    write_run,
)
from selfaug.config import dump_config
from selfaug.dashboard.app import _Pages
from selfaug.records import write_lines, write_record
from selfaug.rundir import RunDir

# The monitor's simulated traffic.
sys.path.append(str(Path(__file__).parents[1] / "monitoring"))

HOSTILE_NAME = "<img src=x onerror=alert(1)> \"'&;?#% \x1b[31m \u202e ü\n{{ 7 * 7 }}"


def write_plan(folder: Path, steps: int) -> None:
    """As a training would write it that began half a minute ago."""
    write_record(folder / "plan.json", "plan", {"steps": steps, "from_step": 0, "began": time.time() - 30})


@pytest.fixture(scope="session")
def runs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Something of every kind. Don't change it: it is shared."""
    root = tmp_path_factory.mktemp("runs")
    _hostile(root / HOSTILE_NAME)
    comparison = comparison_record("comparison-demo")
    texts = ["What is it?", "Write a letter to Ms. Ünsal.", "x " * 700, "the same", "<b>bold</b>"]
    write_comparison(root / "comparison", comparison, texts)
    for name in ("plain-0-seed0", "selfaug-anchors-2-seed0"):
        write_run(root / "comparison" / "runs" / name)
    write_demo(root / "demo")
    write_balance(root / "balance", balance_record())
    write_run(root / "balance" / "runs" / "alpha-0.5-lr-0.0002-rank-16-length-1")
    write_assessment(root / "assessment")
    write_run(root / "evaluated", evaluation=EVALUATION)
    write_run(root / "team" / "trained")
    write_run(root / "team" / "realigned", realignment=REALIGNMENT)
    write_run(root / "gone", training=None, steps=9)
    write_plan(root / "gone", 40)
    for file in (root / "gone").iterdir():  # heard of last a while ago
        os.utime(file, (time.time() - 1000,) * 2)
    _damaged(root)
    write_run(root / "served")
    _watched(root / "served" / "monitor")
    write_run(root / "training", training=None, steps=12)
    write_plan(root / "training", 40)
    return root


def write_demo(folder: Path) -> None:
    folder.mkdir()
    write_record(folder / "record.json", "demo", demo_record())


def _hostile(folder: Path) -> None:
    texts = [*HOSTILE, "long " * 20_000, "\"'`"]
    names = [f"{number} {text[:60]}" for number, text in enumerate(texts)]
    scores = dict.fromkeys(names, (1.0, 0.0))
    evaluation = changed_everywhere(EVALUATION, HOSTILE[0])
    evaluation["suites"]["task"] = suite(scores, interval(-1, -1, -1))
    run = write_run(folder, evaluation=evaluation)
    # It was trained under another name.
    settings = dump_config(config_of(Path("runs/first")))
    run.config.write_text(RunDir("runs/first").config_text(settings), encoding="utf-8")
    for model in ("base", "tuned"):
        rows = [
            {"id": name, "prompt": text, "answer": f"{model} {text}"}
            for name, text in zip(names, texts, strict=True)
        ]
        write_lines(run.samples / "evaluation" / f"task-{model}.jsonl", rows)
    for file in folder.rglob("*"):  # the others are newer
        os.utime(file, (1.7e9, 1.7e9))


def _damaged(root: Path) -> None:
    (root / "damaged").mkdir()
    (root / "damaged" / "record.json").write_text('{"kind": "comparison", "ver')
    write_run(root / "damaged-run").record.write_text("\x00\xff")
    (root / "lacking").mkdir()
    write_record(root / "lacking" / "record.json", "comparison", {"methods": {}})
    # Not ours: they aren't shown.
    for name, content in (
        ("other", '{"kind": "prepare", "version": 1, "data": {}}'),
        ("foreign", '{"a": 1}'),
    ):
        (root / name).mkdir()
        (root / name / "record.json").write_text(content)


def _watched(folder: Path) -> None:
    """By the real monitor, on a clock that is moved by hand: half a day is learnt, and then drift is twice as much."""
    from simulated import Clock, Prompts, run, simulated, window

    from selfaug.monitoring.monitor import MonitorSettings

    clock, source = Clock(time.time() - 16 * 3600), Prompts()
    settings = MonitorSettings(sample=1.0, compute_share=1.0, learning_days=0.5)
    monitor = simulated(folder, clock, settings=settings, window=window(300))
    run(monitor, clock, (source.draw() for _ in range(725)))
    run(monitor, clock, (source.draw(factor=2.0) for _ in range(200)), name="moved")
    monitor.close()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_warmed_up() -> Iterator[None]:
    """For each of many applications it would cost more than it saves."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_Pages, "warm_up", lambda _: None)
        yield


@pytest.fixture(scope="session")
def client(runs_root: Path) -> TestClient:
    """Looks at `runs_root`, without a token."""
    return looking_at(runs_root, follow_redirects=False)
