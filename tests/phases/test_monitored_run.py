"""A run that is watched: its reference window, its monitor, and what the command shows."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from selfaug.cli.main import app
from selfaug.config import load_config
from selfaug.core.alert_state import STATES
from selfaug.data import RetrievalTemplate, load_rows
from selfaug.errors import StorageError
from selfaug.eval.drift import measure_drift
from selfaug.model.generate import chat_prompt_ids
from selfaug.model.loading import load_tokenizer
from selfaug.monitoring.monitor import Monitor, MonitorSettings
from selfaug.monitoring.observation import Observation
from selfaug.monitoring.store import Batch, Store, read_kept
from selfaug.phases.chat import Chat, open_chat
from selfaug.phases.inputs import on_day
from selfaug.phases.monitor import (
    drift_score,
    monitor_status,
    open_monitor,
    purge_monitor,
    record_reference_window,
    write_rules,
)
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

DAY = 86_400.0


def run_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["monitor", *arguments])


@pytest.fixture
def chat(copied_run: Path) -> Chat:
    return open_chat(copied_run, device="cpu", offline=True)


@pytest.fixture
def watched(copied_run: Path, chat: Chat) -> Iterator[Monitor]:
    monitor = open_monitor(copied_run, drift_score(chat.tuned, None), settings=MonitorSettings(sample=1.0))
    yield monitor
    monitor.close()


def until(condition: Any) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_the_reference_window_is_what_measure_drift_says(copied_run: Path, chat: Chat) -> None:
    window = record_reference_window(copied_run, device="cpu", offline=True)
    config = load_config(copied_run / "config.yaml")
    # The run evaluates on its training rows: 24 of each.
    assert window.sources == {"held out": 24, "training": 24}
    prompts = sorted(
        (
            chat_prompt_ids(chat.tokenizer, row.prompt)
            for row in load_rows(config.data.train, template=RetrievalTemplate()).rows
        ),
        key=len,
    )
    drift = measure_drift(chat.tuned, prompts)
    means = sorted(sum(nats) / len(nats) for nats in drift.per_token)
    assert sorted(window.drift)[::2] == pytest.approx(means, rel=1e-4)
    assert sorted(window.lengths)[::2] == sorted(map(len, prompts))


def test_it_is_measured_once_and_again_for_another_adapter(copied_run: Path) -> None:
    first = record_reference_window(copied_run, device="cpu", offline=True)

    def never(prompts: list[list[int]]) -> list[float]:
        raise AssertionError("measured again")

    assert record_reference_window(copied_run, score=never).drift == pytest.approx(first.drift)
    for prompts in (48, 60, 2000):  # the rows have no more
        assert len(record_reference_window(copied_run, score=never, prompts=prompts).drift) == 48
    with pytest.raises(StorageError, match="48 prompts already, which --data and --prompts would not change"):
        record_reference_window(copied_run, score=never, data=["more.jsonl"], prompts=20)
    weights = next((copied_run / "adapter").glob("*.safetensors"))
    shutil.copy(copied_run / "checkpoints" / "checkpoint-2" / weights.name, weights)
    other = record_reference_window(copied_run, score=lambda prompts: [0.5] * len(prompts))
    assert other.drift.tolist() == [0.5] * 48
    assert other.adapter != first.adapter


def test_a_date_that_the_chat_template_writes_is_nothing_novel(
    copied_run: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """As Llama 3.2's does: the reference window is measured once, and each day has another date."""
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    template = model / "chat_template.jinja"
    template.write_text(
        "{{ strftime_now('%d %b %Y') }}\n" + template.read_text(encoding="utf-8"), encoding="utf-8"
    )
    run = RunDir(copied_run)
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    settings["model"]["name"] = str(model)
    run.config.write_text(run.config_text(yaml.safe_dump(settings)), encoding="utf-8")

    def score(prompts: list[list[int]]) -> list[float]:
        return [0.5] * len(prompts)

    window = record_reference_window(copied_run, score=score)
    tokenizer, now = load_tokenizer(str(model), offline=True), time.time()
    clock = [now]
    monitor = open_monitor(copied_run, score, settings=MonitorSettings(sample=0.0), clock=lambda: clock[0])
    prompts = []
    for clock[0] in (now, now + 40 * DAY, now + 400 * DAY):
        dated = on_day(tokenizer, date.fromtimestamp(clock[0]))
        prompts.append(chat_prompt_ids(dated, "revenue of company 7?"))
        monitor.offer(Observation(f"{clock[0]}", prompts[-1], 5))
    monitor.close()
    store = Store(run.monitor)
    found = store.history("novelty", window.adapter, None)[1].tolist()
    store.close()
    assert len(set(map(tuple, prompts))) == 3
    assert len(found) == 3
    assert len(set(found)) == 1
    assert found[0] < window.sketch.novelty(prompts[1])
    # Without the base model's tokeniser, all else is watched.
    model.rename(tmp_path / "elsewhere")
    told: list[str] = []
    without = open_monitor(
        copied_run, score, settings=MonitorSettings(sample=0.0), tell=told.append, offline=True
    )
    without.offer(Observation("without", prompts[-1], 5))
    without.close()
    assert without.counts()["processed"] == 4
    assert "a date that the chat template writes into prompts counts as novel" in told[0]


def test_prompts_are_watched_with_the_runs_own_models(watched: Monitor, copied_run: Path, chat: Chat) -> None:
    prompts = [chat_prompt_ids(chat.tokenizer, f"revenue of company {number}?") for number in range(12)]
    for number, prompt in enumerate(prompts):
        watched.offer(Observation(f"{number}", prompt, 5))
    watched.vote("3", False)
    until(lambda: watched.counts()["processed"] + len(watched._pending) >= 13)
    watched.close()
    status = monitor_status(copied_run)
    assert status["state"] == "learning"
    assert status["counts"]["offered"] == 13
    assert 1 <= status["counts"]["scored"] <= 12
    drift = next(signal for signal in status["signals"] if signal["name"] == "drift")
    measured = measure_drift(chat.tuned, prompts)
    means = [sum(nats) / len(nats) for nats in measured.per_token]
    assert min(means) * 0.999 <= drift["value"] <= max(means) * 1.001
    assert purge_monitor(copied_run, older_than_days=1) == 0
    assert purge_monitor(copied_run) == 12
    assert monitor_status(copied_run)["counts"]["offered"] == 13


def test_nothing_else_uses_the_model_while_it_is_measured(chat: Chat) -> None:
    lock, held = threading.Lock(), []

    def alone(work: Callable[[], list[float]]) -> list[float]:
        with lock:
            return work()

    measured = drift_score(chat.tuned, None, alone)
    forward = chat.tuned.forward

    def watching(*arguments: Any, **more: Any) -> Any:
        held.append(lock.locked())
        return forward(*arguments, **more)

    chat.tuned.forward = watching  # type: ignore[method-assign]
    assert measured([[5, 6, 7], [8, 9]]) == pytest.approx(
        drift_score(chat.tuned, None)([[5, 6, 7], [8, 9]]), abs=1e-6
    )
    # Two passes say whether it needs the mask of padding; then two prompts, one by one, with the adapter on and off.
    assert held[:6] == [True] * 6
    assert held[6:]
    assert not any(held[6:])
    assert not lock.locked()


@pytest.fixture
def alerted(copied_run: Path, chat: Chat) -> Iterator[Monitor]:
    """A monitor that has learnt within an hour, and then sees prompts of another domain."""
    now = [1_750_000_000.0]
    monitor = open_monitor(
        copied_run,
        drift_score(chat.tuned, None),
        settings=MonitorSettings(sample=0.0, learning_days=0.0),
        clock=lambda: now[0],
    )
    rows = load_rows(load_config(copied_run / "config.yaml").data.train, template=RetrievalTemplate()).rows
    like_training = [chat_prompt_ids(chat.tokenizer, row.prompt) for row in rows]
    for number in range(1200):
        prompt = like_training[number % len(like_training)]
        # Twice as long, and backwards: no three tokens in a row are those of training.
        monitor.offer(Observation(f"{number}", prompt if number < 600 else 2 * prompt[::-1], 5))
        now[0] += 60
        if number % 100 == 99:
            until(lambda: monitor._queue.empty())
    yield monitor
    monitor.close()


def test_the_file_of_an_alert_realigns_through_the_gate(copied_run: Path, alerted: Monitor) -> None:
    until(lambda: list((copied_run / "monitor" / "alerts").glob("*/record.json")))
    (file,) = (copied_run / "monitor" / "alerts").glob("*/realign.yaml")
    new = copied_run / "monitor" / "new.jsonl"
    assert yaml.safe_load(file.read_text()) == {"run": str(copied_run), "data": [str(new)], "rehearsal": 0.1}
    rows = Path(load_config(copied_run / "config.yaml").data.train[0]).read_text(encoding="utf-8")
    new.write_text(rows.replace("revenue", "profit"), encoding="utf-8")
    few = [
        "--steps",
        "1",
        "--general-items",
        "2",
        "--task-items",
        "2",
        "--max-new-tokens",
        "2",
        "--level",
        "1",
    ]
    asked = ["realign", "--config", str(file), *few, "--set", "model.device=cpu", "--json"]
    realigned = CliRunner().invoke(app, asked)
    assert realigned.exit_code in (0, 3), realigned.stderr
    assert json.loads(realigned.stdout)["gate"]["outcome"] in ("pass", "fail", "inconclusive")
    before, after = (load_config(Path(f"{copied_run}{of}") / "config.yaml") for of in ("", "-realigned"))
    assert after.model.name == before.model.name
    assert (after.data.replay, after.data.replay_share) == (before.data.train, 0.1)
    assert after.lora.start_from == str(copied_run)
    result = run_command(str(copied_run))
    assert result.exit_code == 4
    assert str(file.parent) in result.stdout.replace("\n", "")


def written(run: Path, state: str, **more: Any) -> None:
    """A status as a monitor writes it, with the state replaced."""
    kept, _ = read_kept(run / "monitor", ["status"])
    store = Store(run / "monitor")
    store.commit(Batch(kept={"status": {**kept["status"], "state": state, "time": time.time(), **more}}))
    store.close()


@pytest.fixture
def seen(copied_run: Path, watched: Monitor) -> Path:
    """A run whose monitor has stopped after a request."""
    watched.offer(Observation("a", [5, 6, 7, 8], 5))
    until(lambda: watched.counts()["scored"] == 1)
    watched.close()
    return copied_run


def test_exit_code_four_is_for_drift_and_nothing_else(seen: Path) -> None:
    for state in STATES:
        written(seen, state)
        result = run_command(str(seen))
        assert result.exit_code == (4 if state in ("drift", "realign") else 0)
        assert f"{state}: " in result.stdout
        for text in ("drift", "novelty", "thumbs down", "measured on 100.00%", "dropped 0, lost 0 of 1"):
            assert text in result.stdout
        as_json = json.loads(run_command(str(seen), "--json").stdout)
        assert as_json["state"] == state
        assert {signal["name"] for signal in as_json["signals"]} >= {"drift", "refusals"}


def test_watching_ends_with_drift(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        written(seen, "drift" if len(looks) == 3 else "ok")

    monkeypatch.setattr("selfaug.cli.monitor_commands.time.sleep", sleep)
    result = run_command(str(seen), "--watch", "--every", "7")
    assert result.exit_code == 4
    assert looks == [7, 7, 7]


def test_the_champion_of_a_registry_is_looked_at_whichever_it_is(
    seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switch is no reason for a cron job to look at a run that nobody asks any more."""
    second = Path(shutil.copytree(seen, tmp_path / "second"))
    written(seen, "ok")
    written(second, "drift")
    monkeypatch.chdir(tmp_path)
    registry = ("--registry", "runs/registry.sqlite")
    assert run_command(*registry).exit_code == 2  # there is none

    def promote(run: Path) -> None:
        assert CliRunner().invoke(app, ["registry", "promote", str(run), *registry]).exit_code == 0

    promote(seen)
    first = run_command(*registry, "--json")
    assert (first.exit_code, json.loads(first.stdout)["state"]) == (0, "ok")
    assert f"the champion is {seen.resolve()}" in first.stderr
    assert "champion" not in run_command(str(seen)).stderr
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1:  # it is the champion, and its server is still measuring its reference window
            promote(second)
            (second / "monitor").rename(second / "measuring")
        else:
            (second / "measuring").rename(second / "monitor")

    monkeypatch.setattr("selfaug.cli.monitor_commands.time.sleep", sleep)
    followed = run_command(*registry, "--watch")
    assert followed.exit_code == 4
    assert len(looks) == 2
    assert "no request has been watched yet" in followed.stderr
    assert followed.stderr.count("the champion is ") == 2
    assert run_command(*registry).exit_code == 4
    # Whoever still looks at the one before is told.
    before = run_command(str(seen))
    assert before.exit_code == 0
    assert f"that is {second.resolve()}" in before.stderr
    assert "selfaug monitor --registry runs/registry.sqlite" in before.stderr
    assert json.loads(run_command(*registry, "--purge", "--json").stdout) == {"deleted": 1}
    for arguments in ([], [str(seen), *registry]):
        refused = run_command(*arguments)
        assert refused.exit_code == 2
        assert "selfaug monitor --registry FILE" in refused.stderr


def test_watching_ends_with_ctrl_c(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("selfaug.cli.monitor_commands.time.sleep", sleep)
    result = run_command(str(seen), "--watch")
    assert result.exit_code == 0
    assert "the server goes on" in result.stderr


def test_a_monitor_that_was_left_alone_has_no_data(seen: Path) -> None:
    assert monitor_status(seen)["state"] == "learning"
    assert monitor_status(seen, now=time.time() + 2 * DAY)["state"] == "no_data"
    written(seen, "drift")
    assert monitor_status(seen, now=time.time() + 2 * DAY)["state"] == "drift"  # nobody has answered it


def test_that_all_was_well_is_not_said_of_a_run_that_nobody_watches_any_more(seen: Path) -> None:
    written(seen, "ok", time=time.time() - 60)
    assert json.loads(run_command(str(seen), "--json").stdout)["watched"] is True
    written(seen, "ok", time=time.time() - 3600)
    shown = run_command(str(seen))
    assert shown.exit_code == 0
    assert shown.stdout.startswith("not watched: nobody has watched since 20")
    assert "the state was ok then" in shown.stdout
    assert json.loads(run_command(str(seen), "--json").stdout)["watched"] is False
    written(seen, "drift", time=time.time() - 3600)
    shown = run_command(str(seen))
    assert shown.exit_code == 4
    assert shown.stdout.startswith("drift: live traffic is not like")
    assert "; nobody has watched since" in shown.stdout


def test_what_others_write_is_shown_and_not_obeyed(seen: Path) -> None:
    written(seen, "drift", canary={"passed": False, "why": "\x1b[2J[bold]x"}, last_error="\x1b]0;y")
    shown = run_command(str(seen)).stdout
    assert "\x1b" not in shown
    assert "[bold]x" in shown


def test_purge_rules_and_reference_by_command(seen: Path, tmp_path: Path) -> None:
    none_kept = run_command(str(seen), "--texts", str(tmp_path / "texts.jsonl"))
    assert none_kept.exit_code == 1
    assert "has kept no text" in none_kept.stderr
    assert "of 1 request." in run_command(str(seen), "--purge").stdout
    assert json.loads(run_command(str(seen), "--purge", "--json").stdout) == {"deleted": 0}
    folder = tmp_path / "rules"
    assert run_command(str(seen), "--rules", str(folder)).exit_code == 0
    assert yaml.safe_load((folder / "prometheus_rules.yaml").read_text(encoding="utf-8"))["groups"]
    assert json.loads((folder / "grafana_dashboard.json").read_text(encoding="utf-8"))["panels"]
    again = run_command(str(seen), "--rules", str(folder))
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    assert write_rules(folder, overwrite=True)
    result = run_command(str(seen), "--reference", "--prompts", "30", "--overwrite", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "30 prompts, 24 held out and 6 of training; with fewer than 1,000" in result.stdout
    more = run_command(str(seen), "--reference", "--prompts", "40")
    assert "30 prompts already, which --prompts would not change" in more.stderr


@pytest.mark.parametrize("flags", [["--purge", "--reference"], ["--watch", "--purge"]])
def test_different_things_at_once_are_refused(copied_run: Path, flags: list[str]) -> None:
    result = run_command(str(copied_run), *flags)
    assert result.exit_code == 2
    assert "different things" in result.stderr


def test_an_alert_that_is_dealt_with_can_be_ended(seen: Path) -> None:
    kept, _ = read_kept(seen / "monitor", ["status"])
    signals = [
        {**one, "state": "drift" if one["name"] == "thumbs_down" else "ok"}
        for one in kept["status"]["signals"]
    ]
    written(seen, "drift", signals=signals)
    refused = run_command(str(seen), "--acknowledge", "novelty")
    assert refused.exit_code == 2
    assert "thumbs_down alerts" in refused.stderr
    assert "within a minute" in run_command(str(seen), "--acknowledge", "thumbs down").stdout
    assert list(read_kept(seen / "monitor", ["acknowledged"])[0]["acknowledged"]) == ["thumbs_down"]
    written(seen, "drift", signals=signals, time=time.time() - 3600)
    found = json.loads(run_command(str(seen), "--acknowledge", "all", "--json").stdout)
    assert found == {"acknowledged": ["thumbs_down"], "watched": False}


def test_a_run_that_is_not_served_has_no_state(copied_run: Path) -> None:
    with pytest.raises(StorageError, match="no request has been watched"):
        monitor_status(copied_run)
    result = run_command(str(copied_run))
    assert result.exit_code == 1
    assert "`selfaug serve` watches" in result.stderr
