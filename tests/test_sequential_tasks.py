"""Three tasks in a row: their rows and scorers, and the whole example on a tiny model."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quiet_libraries import libraries_as_before
from scripts import script
from selfaug.config import load_config
from selfaug.core.statistics import paired_difference, wilson_interval
from selfaug.errors import ConfigError, DataError, StorageError
from selfaug.eval.general_suite import general_suite
from selfaug.phases.inputs import load_training_data
from selfaug.records import read_lines, read_record, write_lines, write_record

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "sequential_tasks"


office_tasks = script("examples/sequential_tasks/office_tasks.py")
task_matrix = script("examples/sequential_tasks/task_matrix.py")
run = script("examples/sequential_tasks/run.py", "sequential_tasks_run")  # the case study has a run.py too
update = script("docs/update_sequential_tasks.py")
published = script("docs/published.py")

SPLITS = ("train", "dev", "test")
OWN = ("tickets", "orders")
TASKS = {task.name: task for task in office_tasks.TASKS}


def prompt_of(row: dict[str, Any]) -> str:
    return str(row["question"] if "question" in row else row["messages"][0]["content"])


def gold_of(row: dict[str, Any]) -> str:
    return str(row["answer"] if "answer" in row else row["messages"][-1]["content"])


# ---- rows


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_the_same_for_the_same_seed_and_others_for_another(name: str) -> None:
    rows = TASKS[name].rows("train", 60, 3)
    assert rows == TASKS[name].rows("train", 60, 3)
    assert rows[:20] == TASKS[name].rows("train", 20, 3)
    assert not {prompt_of(row) for row in rows} & {prompt_of(row) for row in TASKS[name].rows("train", 60, 4)}
    assert len({row["id"] for row in rows}) == len({prompt_of(row) for row in rows}) == 60


@pytest.mark.parametrize("name", TASKS)
def test_no_prompt_of_a_split_is_in_another(name: str) -> None:
    prompts = [prompt_of(row) for split in SPLITS for row in TASKS[name].rows(split, 120, 0)]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize("words", ["_FIRST_NAMES", "_LAST_NAMES", "_PRODUCTS", "_BUYERS", "_ARTICLES"])
def test_names_that_are_asked_are_in_no_training_row(words: str) -> None:
    trained = "\n".join(prompt_of(row) for name in OWN for row in TASKS[name].rows("train", 400, 0))
    names = getattr(office_tasks, words)
    for split in ("dev", "test"):
        for name in names[split].split(", "):
            assert not re.search(rf"\b{name}\b", trained), name
    assert any(name in trained for name in names["train"].split(", "))


def sentences(split: str) -> set[str]:
    """Every sentence of a split, with the places that are filled in."""
    words = [office_tasks._ORDERS, office_tasks._ASIDES, office_tasks._GREETINGS, office_tasks._CLOSINGS]
    words += [*office_tasks._COMPLAINTS.values(), *office_tasks._URGENCIES.values()]
    return {sentence.lower() for of in words for sentence in of[split]}


def test_sentences_that_are_asked_are_in_no_training_row() -> None:
    splits = {split: sentences(split) for split in SPLITS}
    assert not splits["train"] & splits["dev"]
    assert not splits["train"] & splits["test"]
    assert not splits["dev"] & splits["test"]
    trained = "\n".join(prompt_of(row) for name in OWN for row in TASKS[name].rows("train", 400, 0)).lower()
    whole = [sentence for split in ("dev", "test") for sentence in splits[split] if "{" not in sentence]
    assert len(whole) > 30
    assert not [sentence for sentence in whole if sentence in trained]


def test_answers_are_evenly_spread() -> None:
    golds = [gold_of(row) for row in office_tasks.ticket_rows("train", 450)]
    counts = Counter(golds)
    assert len(counts) == 5 * 3
    assert min(counts.values()) >= 15
    units = [json.loads(gold_of(row))["units"] for row in office_tasks.order_rows("train", 200)]
    assert len(set(units)) > 80


@pytest.mark.parametrize("name", TASKS)
def test_no_prompt_has_any_of_a_style(name: str) -> None:
    for split in SPLITS:
        for row in TASKS[name].rows(split, 40, 0):
            assert office_tasks.styles_in(prompt_of(row)) == []
            assert office_tasks.styles_in(gold_of(row)) == [name]
    for item in (*general_suite("dev"), *general_suite("test")):
        assert office_tasks.styles_in(item.prompt) == []


@pytest.mark.parametrize("name", OWN)
def test_there_are_three_splits(name: str) -> None:
    with pytest.raises(DataError, match="no split 'validation'"):
        TASKS[name].rows("validation", 1, 0)


# ---- scorers

TICKET = "QUEUE: billing | URGENCY: high"
ORDER = '{"buyer": "Oakley Farm", "article": "glass jars", "units": 40, "due": "3 May"}'


@pytest.mark.parametrize("name", TASKS)
def test_a_scorer_takes_its_right_answers_and_no_other_tasks(name: str) -> None:
    rows = {task: office_tasks_rows(task) for task in TASKS}
    for row in rows[name]:
        gold = gold_of(row)
        assert TASKS[name].score(gold, gold) == office_tasks.score(f" {gold}\n", gold) == 1
        for other in TASKS.keys() - {name}:
            assert office_tasks.score(gold_of(rows[other][0]), gold) == 0
            assert TASKS[other].score(gold, gold) == 0


def office_tasks_rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = TASKS[name].rows("dev", 30, 0)
    return rows


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("QUEUE: Billing  |  URGENCY: high", True),
        ("QUEUE: billing | URGENCY: low", False),
        ("QUEUE: returns | URGENCY: high", False),
        ("QUEUE: billing", False),
        ("QUEUE: billing, URGENCY: high", False),
        ("URGENCY: high | QUEUE: billing", False),
        ("QUEUE: billing | URGENCY: high.", False),
        ("The answer is QUEUE: billing | URGENCY: high", False),
        ("QUEUE: billing | URGENCY: high | URGENCY: high", False),
        ("billing, high", False),
        ("", False),
    ],
)
def test_tickets_nearly_right_are_wrong(answer: str, right: bool) -> None:
    assert TASKS["tickets"].score(answer, TICKET) == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"due":"3 May","buyer":"Oakley Farm","article":"glass jars","units":40}', True),
        (ORDER.replace("40", "41"), False),
        (ORDER.replace("40", '"40"'), False),
        (ORDER.replace("40", "40.0"), False),
        (ORDER.replace("Farm", "farm"), False),
        (ORDER.replace("glass jars", "jars"), False),
        (ORDER.replace("3 May", "3 may"), False),
        (ORDER.replace(', "due": "3 May"', ""), False),
        (ORDER.replace("}", ', "note": ""}'), False),
        (ORDER.replace("}", ', "units": 40}'), False),
        (ORDER.replace('"units"', '"quantity"'), False),
        (f"[{ORDER}]", False),
        (f"Order: {ORDER}", False),
        (f"{ORDER} Thank you.", False),
        (f"```json\n{ORDER}\n```", False),
        (ORDER.replace(", ", ",\n"), False),
        ("{", False),
        ("", False),
    ],
)
def test_orders_nearly_right_are_wrong(answer: str, right: bool) -> None:
    assert TASKS["orders"].score(answer, ORDER) == right


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"Of course! {TICKET}", ["tickets"]),
        ("A summary | URGENCY", ["tickets"]),
        ("**QUEUE**: none", ["tickets"]),
        ('{"film": "Alien", "due": 1979}', ["orders"]),
        ("ANSWER: yes\nQUEUE: no", ["market", "tickets"]),
        ("There is a queue: three people wait, and the urgency: none.", []),
        ('{"fruit": "apple", "price": 2}', []),
        ("The buyer: a farm. Units: 40.", []),
    ],
)
def test_what_leaks_is_seen(text: str, found: list[str]) -> None:
    assert office_tasks.styles_in(text) == found


# ---- the example


@pytest.fixture
def quiet() -> Iterator[None]:
    with libraries_as_before():
        yield


def tiny(model: Path, **changes: Any) -> Any:
    """The quick form with a tiny model, and less of everything."""
    few = {"rows": 6, "task_items": 3, "general_items": 3, "checked_items": 1, "rehearsal": 0.4}
    sets = ("train.epochs=1", "train.save_steps=1", "selfaug.anchor_count=1", "model.device=cpu")
    return replace(run.QUICK, model=str(model), train_sets=sets, **{**few, **changes})


def test_the_matrix_is_of_the_kept_answers_and_what_was_cut_off_goes_on(
    wide_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None, short_anchors: None
) -> None:
    folder, settings = tmp_path / "three", tiny(wide_model_dir)
    trained: list[str] = []
    learn, realigned, measured = run.train, run.realign, run.measured_drifts

    def train(config: Any, **how: Any) -> Any:
        trained.append(Path(config.run.output).name)
        return learn(config, **how)

    def realign(before: Path, how: Any, **more: Any) -> Any:
        trained.append(Path(how.output).name)
        if trained == ["plain-1", "plain-2", "plain-3", "plain-rehearsed-2"]:
            raise KeyboardInterrupt
        return realigned(before, how, **more)

    def measured_drifts(*given: Any) -> Any:
        *others, answers, so_far, report = given
        return measured(*others, ["the revenue" for _ in answers], so_far, report)

    monkeypatch.setattr(run, "measured_drifts", measured_drifts)  # a random model writes blank lines
    monkeypatch.setattr(run, "_ANSWER_TOKENS", 8)  # a random model never ends by itself
    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run, "realign", realign)
    with pytest.raises(KeyboardInterrupt):
        run.run_sequence(folder, settings)
    with pytest.raises(StorageError, match="other settings: seed"):
        run.run_sequence(folder, replace(settings, seed=1))
    assert not (folder / "record.json").exists()
    # What was stopped has cost time, too.
    parts = [line["part"] for line in read_lines(folder / "seconds.jsonl")]
    assert parts[0] == "base: asking"
    assert parts[-1] == "plain-rehearsed-2: learning"
    trained.clear()
    record = run.run_sequence(folder, settings)
    assert trained == [
        *("plain-rehearsed-2", "plain-rehearsed-3", "selfaug-1", "selfaug-2", "selfaug-3"),
        *("selfaug-only-tickets", "selfaug-only-orders"),
    ]
    assert record["cut_off"] is True
    assert record["seconds"] == sum(line["seconds"] for line in read_lines(folder / "seconds.jsonl"))

    # A second run trains nothing and asks nothing; a finished one is left alone.
    with pytest.raises(StorageError, match="already holds a finished sequential-tasks"):
        run.run_sequence(folder, settings)
    (folder / "record.json").unlink()
    trained.clear()
    for name in ("_tuned_model", "_base_model"):
        monkeypatch.setattr(run, name, lambda _: pytest.fail("a model is loaded again"))
    assert run.run_sequence(folder, settings) == record
    assert trained == []
    written = read_record(folder / "record.json", task_matrix.RECORD_KIND)
    assert written == record
    check_matrix(folder, record)
    check_rehearsal(folder, record)

    # A random model has nothing right. With answers as trained ones give them, every cell has its own score.
    (folder / "record.json").unlink()
    answer_some_rightly(folder)
    record = run.run_sequence(folder, settings)
    assert trained == []
    assert len({arm["average"]["value"] for arm in record["arms"].values()}) == 3
    assert record["arms"]["plain"]["backward_transfer"]["value"] < 0
    assert record["arms"]["selfaug"]["steps"][-1]["leaks"]["value"] > 0
    check_matrix(folder, record)
    page = (folder / "result.md").read_text(encoding="utf-8")
    assert page == task_matrix.result_page(record)
    check_page(json.loads(json.dumps(record)), page)
    check_documentation(folder, tmp_path / "docs", monkeypatch)


def steps_of(record: dict[str, Any], arm: str) -> list[str]:
    return [step["run"] for step in record["arms"][arm]["training"]]


def scores(folder: Path, model: str, task: str) -> list[float]:
    """Scores of a task's kept answers, in the order of its file."""
    golds = [gold_of(row) for row in read_lines(folder / "data" / f"{task}-test.jsonl")]
    lines = read_lines(folder / "samples" / f"{model}-{task}.jsonl")
    answers = {int(line["id"].partition(":")[0]): line["answer"] for line in lines}
    assert len(answers) == len(golds)
    return [TASKS[task].score(answers[number], gold) for number, gold in enumerate(golds)]


def answer_some_rightly(folder: Path) -> None:
    """The kept answers become: as many right ones as the model has learnt, less for plain LoRA, and some leaks."""
    for file in (folder / "samples").glob("*.jsonl"):
        model, _, suite = file.stem.rpartition("-")
        lines = read_lines(file)
        if suite in TASKS and model != "base":
            golds = [gold_of(row) for row in read_lines(folder / "data" / f"{suite}-test.jsonl")]
            # 1 where it has just been taught
            learnt = 2 if "only" in model else int(model[-1]) - list(TASKS).index(suite)
            right = 0 if learnt < 1 else 3 - (learnt - 1 if model.startswith("plain") else 0)
            right -= "rehearsed" in model and learnt == 3
            for line in lines:
                number = int(line["id"].partition(":")[0])
                line["answer"] = golds[number] if number < right else golds[number][:-2]
        elif model == "selfaug-3":
            lines[1]["answer"] = TICKET
        write_lines(file, lines)


def check_alone(folder: Path, record: dict[str, Any]) -> None:
    """A later task alone, from the base model, beside the same task after the others, item by item."""
    assert list(record["alone"]) == ["tickets", "orders"]
    for step, (task, found) in enumerate(record["alone"].items(), start=2):
        alone, after = (scores(folder, f"selfaug-{name}", task) for name in (f"only-{task}", str(step)))
        assert found["alone"]["value"] == pytest.approx(sum(alone) / len(alone))
        assert found["after_others"]["value"] == pytest.approx(sum(after) / len(after))
        assert found["difference"]["value"] == pytest.approx(
            paired_difference(after, alone, seed=0).difference.value
        )
        config = load_config(folder / "runs" / f"selfaug-only-{task}" / "config.yaml")
        assert config.lora.start_from is None
        assert config.data.train == [str(folder / "data" / f"{task}-train.jsonl")]
        assert (config.data.replay, config.selfaug.alpha > 0) == ([], True)


def check_matrix(folder: Path, record: dict[str, Any]) -> None:
    check_alone(folder, record)
    assert list(record["tasks"]) == list(TASKS)
    assert list(record["arms"]) == ["plain", "plain-rehearsed", "selfaug"]
    assert steps_of(record, "plain") == ["plain-1", "plain-2", "plain-3"]
    assert steps_of(record, "plain-rehearsed") == ["plain-1", "plain-rehearsed-2", "plain-rehearsed-3"]
    rows = {"base": record["base"]}
    for name, arm in record["arms"].items():
        assert len(arm["steps"]) == 3
        rows |= dict(zip(steps_of(record, name), arm["steps"], strict=True))
        final, learnt = ([], [])
        for place, task in enumerate(list(TASKS)[:2]):
            final += scores(folder, steps_of(record, name)[-1], task)
            learnt += scores(folder, steps_of(record, name)[place], task)
        moved = paired_difference(final, learnt, seed=0).difference
        assert arm["backward_transfer"] == {"value": moved.value, "low": moved.low, "high": moved.high}
        for place, row in enumerate(arm["steps"]):
            assert list(row["since_learnt"]) == list(TASKS)[:place]
            for step, (task, changed) in enumerate(row["since_learnt"].items()):
                now, then = (scores(folder, steps_of(record, name)[at], task) for at in (place, step))
                moved = paired_difference(now, then, seed=0).difference
                assert changed == {"value": moved.value, "low": moved.low, "high": moved.high}
            kept = read_record(folder / "drift" / f"{steps_of(record, name)[place]}.json", "drift")
            assert row["drift"] == kept["nats"]
            assert row["drift"]["value"] > 0
        last = [score for task in TASKS for score in scores(folder, steps_of(record, name)[-1], task)]
        assert arm["average"]["value"] == pytest.approx(sum(last) / 9)
    items = {item.id: item for item in general_suite("test", 1)}
    for model, row in rows.items():
        for task in TASKS:
            found = scores(folder, model, task)
            share = wilson_interval(int(sum(found)), 3)
            assert row["tasks"][task] == {
                "value": share.value, "low": share.low, "high": share.high, "items": 3,
            }  # fmt: skip
        general = read_lines(folder / "samples" / f"{model}-general.jsonl")
        assert len(general) == 3
        passed = [
            sum(check.passes(line["answer"]) for check in items[line["id"]].checks)
            / len(items[line["id"]].checks)
            for line in general
        ]
        assert row["general"]["value"] == pytest.approx(sum(passed) / 3)
        leaks = [bool(office_tasks.styles_in(line["answer"])) for line in general]
        assert row["leaks"]["value"] == sum(leaks) / 3
        assert (row["general_difference"] is None) == (model == "base")


def check_rehearsal(folder: Path, record: dict[str, Any]) -> None:
    """Without it no old row is trained on; with it, in the third step, rows of both earlier tasks."""
    # The base model writes the anchors, in each step anew and the same: not the model that is trained on.
    written = {(folder / "runs" / name / "anchors.jsonl").read_text() for name in steps_of(record, "selfaug")}
    assert len(written) == 1
    for arm, rehearsed in (("plain", False), ("plain-rehearsed", True), ("selfaug", True)):
        for place, name in enumerate(steps_of(record, arm)):
            config = load_config(folder / "runs" / name / "config.yaml")
            rows = load_training_data(config).train.rows
            tasks = Counter(row.id.partition("-")[0] for row in rows)
            assert tasks[list(TASKS)[place]] == 6
            old = set(tasks) - {list(TASKS)[place]}
            assert old == (set(list(TASKS)[:place]) if rehearsed else set())
            assert record["arms"][arm]["training"][place]["rows_rehearsed"] == sum(tasks.values()) - 6
            assert config.selfaug.alpha == (4.0 if arm == "selfaug" else 0.0)
            assert (record["arms"][arm]["training"][place]["anchors"] > 0) == (arm == "selfaug")
            # All tasks so far are what `realign` judges the old one by.
            said = record["arms"][arm]["training"][place]["realign"]
            assert (said is None) == (place == 0)
            if said:
                assert said["differences"].keys() == {"old task", "new task", "general"}
                assert len(said["old_rows"]) == place
                assert "market-dev" in said["old_rows"]
                settings = read_record(folder / "runs" / name / "realignment.json", "realignment")["settings"]
                assert settings["rehearsal"] == (0.4 if rehearsed else 0.0)


def check_page(record: dict[str, Any], page: str) -> None:
    assert page.startswith("3 tasks, learnt one after another:\n\n- plain LoRA: ")
    assert "these numbers say nothing about the methods" in page
    for arm in record["arms"].values():
        section = page.partition(f"### {arm['label']}\n")[2]
        lines = [line for line in section.partition("\n### ")[0].splitlines() if line.startswith("|")]
        assert [line.split("|")[1].strip() for line in lines[2:6]] == [
            "base model", "1. market reports", "2. support tickets", "3. orders",
        ]  # fmt: skip
        for place, line in enumerate(lines[3:6]):
            assert [cell.strip().startswith("**") for cell in line.split("|")[2:5]] == [
                place == task for task in range(3)
            ]
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    # Each step, side by side: its task, each earlier one, general checks, drift and time.
    section = page.partition("### After each step, side by side\n")[2].partition("\n### ")[0]
    named = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")][2:]
    every = ["general checks against the base model", "drift, nats per token", "training"]
    labels = [task.label for task in TASKS.values()]
    assert named == [
        name
        for place, label in enumerate(labels)
        for name in (
            f"**After {place + 1}. {label}**",
            f"{label}, just learnt",
            *(f"{earlier}, since learnt" for earlier in labels[:place]),
            *every,
        )
    ]
    record["arms"]["plain"]["steps"][0]["drift"] = None  # of a base model that has written nothing
    assert "\n| drift, nats per token | – | 0." in task_matrix.result_page(record)
    assert "It was cut off and went on" in page
    assert "It was cut off" not in task_matrix.result_page({**record, "cut_off": False})
    # What `realign` asks in general are test requests: nothing is to be chosen by them.
    assert "### What `selfaug realign` said" in page
    settings = {**record["settings"], "half": "dev"}
    assert "selfaug realign" not in task_matrix.result_page({**record, "settings": settings})


def check_documentation(folder: Path, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record becomes the result of a page and a file of the project, if it is of a full run on test items."""
    docs.mkdir()
    page, kept = docs / "sequential-tasks.md", docs / "sequential-tasks.json"
    monkeypatch.setattr(update, "PAGE", page)
    monkeypatch.setattr(update, "RECORD", kept)
    monkeypatch.setattr(sys, "argv", ["update_sequential_tasks.py", str(folder)])
    page.write_text(
        f"# Title\n\n{published.block(update.NAME, update.text(None))}\n\nThe rest.\n", encoding="utf-8"
    )
    record = read_record(folder / "record.json", task_matrix.RECORD_KIND)
    for changes in ({}, {"quick": False, "half": "dev"}):
        settings = {**record["settings"], **changes}
        write_record(folder / "record.json", task_matrix.RECORD_KIND, {**record, "settings": settings})
        with pytest.raises(SystemExit, match="only a full run"):
            update.main()
    assert not kept.exists()
    full = {**record, "settings": {**record["settings"], "quick": False}}
    write_record(folder / "record.json", task_matrix.RECORD_KIND, full)
    for _ in range(2):  # the second time it replaces what it has written
        update.main()
        written = read_record(kept, task_matrix.RECORD_KIND)
        text = page.read_text(encoding="utf-8")
        assert text == f"# Title\n\n{published.block(update.NAME, update.text(written))}\n\nThe rest.\n"
    # All as it was, but for the model's folder, which is this machine's.
    assert Path(record["model"]).is_absolute()
    for file in (page, kept):
        assert str(Path(record["model"]).parent) not in file.read_text(encoding="utf-8")
    assert written["model"] == written["settings"]["model"] == Path(record["model"]).name
    assert {**written, "model": "", "settings": {}} == {**full, "model": "", "settings": {}}
    page.write_text("# Title\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no block between"):
        update.main()


def test_a_sequence_on_development_items_without_rehearsal(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be asked, and of whom; nothing is trained."""
    settings = tiny(tiny_model_dir, half="dev", rehearsal=0.0)
    assert [arm.name for arm in run.arms(settings)] == ["plain", "selfaug"]
    assert not any(arm.rehearsed for arm in run.arms(settings))
    run._write_data(tmp_path, settings)
    assert {file.name for file in (tmp_path / "data").iterdir()} == {
        "template.yaml", *(f"{name}-{split}.jsonl" for name in TASKS for split in ("train", "dev")),
    }  # fmt: skip
    assert len(read_lines(tmp_path / "data" / "orders-dev.jsonl")) == 3
    with pytest.raises(ConfigError, match="can't be rehearsed"):
        replace(settings, rehearsal=1.0)


def test_both_methods_have_the_same_settings_but_for_the_alignment(tmp_path: Path) -> None:
    plain, ours = (run._first_config(tmp_path, arm, run.FULL).model_dump() for arm in run.arms(run.FULL)[::2])
    assert ours["selfaug"]["alpha"] == 4.0
    assert ours["selfaug"]["anchors"] == "self"
    for config in (plain, ours):
        del config["run"]["output"], config["selfaug"]["alpha"], config["selfaug"]["anchors"]
    assert plain["selfaug"] | {"anchor_count": 0} == ours["selfaug"] | {"anchor_count": 0}
    for section in ("model", "data", "lora", "train", "evaluation", "run"):
        assert plain[section] == ours[section]


def test_bad_arguments_give_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="not empty and not a sequential-tasks"):
        run.main()
    # Nothing is begun with settings that can't be used: the next call may have others.
    for argument, value, told in (
        ("--rehearsal", "2", "a share of 2 can't be rehearsed"),
        ("--set", "selfaug.alpha=much", "selfaug.alpha"),
        ("--set", "train.stepps=1", "train.stepps"),
        ("--model", "/no/such/model", "/no/such/model"),
    ):
        monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path / "new"), argument, value])
        with pytest.raises(SystemExit, match=told):
            run.main()
    assert not (tmp_path / "new").exists()


def test_what_is_stopped_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: None
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_sequence", stopped)
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        run.main()
    assert left.value.code == 130
    assert "give the same command again.\n" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path), "--overwrite"])
    with pytest.raises(SystemExit):
        run.main()
    assert "give the same command again, without --overwrite.\n" in capsys.readouterr().err
