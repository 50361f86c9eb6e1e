"""Three tasks learnt one after another: plain LoRA, plain LoRA with old rows rehearsed, and SelfAug.

    python examples/sequential_tasks/run.py FOLDER [--quick] [--seed 0]

The first task is learnt as by `selfaug train`, each further one as by `selfaug realign` from the adapter so far, with
the original base model as the reference. SelfAug learns each later task alone, too, from the base model. After every
step the model is asked held-out items of all three tasks, and general requests, and its drift is measured. The matrix
of all scores is in FOLDER/record.json and FOLDER/result.md, every answer in FOLDER/samples. On two CPU cores it takes
some two hours; what was cut off goes on when the same command is given again. `--quick` is a taste of a few minutes.

Settings are chosen with `--half dev`, which asks development items; test items are for what is reported.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from office_tasks import TASKS, Task
from peft import PeftModel
from task_matrix import (
    GENERAL,
    RECORD_KIND,
    Arm,
    alone_result,
    arm_result,
    differences,
    examples,
    model_result,
    result_page,
)
from transformers import PreTrainedTokenizerBase

from selfaug.cli.app import INTERRUPTED, going_on, quiet_libraries
from selfaug.cli.terminal import RunProgress, say
from selfaug.config import LevelName, TrainConfig, load_config
from selfaug.data.market_reports import market_report_template
from selfaug.errors import ConfigError, SelfAugError
from selfaug.eval.general_suite import Half, Level
from selfaug.model.loading import DEMO_MODEL, load_tokenizer
from selfaug.phases.bench import Answers
from selfaug.phases.drift_suites import OWN_ANSWERS, measured_drifts
from selfaug.phases.inputs import compute_dtype, load_base_model, resolve_device
from selfaug.phases.progress import Progress
from selfaug.phases.realign import RECORD_KIND as REALIGNMENT
from selfaug.phases.realign import REHEARSAL, RealignSettings, realign
from selfaug.phases.run_models import load_run_models, trained_weights
from selfaug.phases.suites import Suite, answers_to, general_prompts, select_items, task_prompts
from selfaug.phases.train import train
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import append_line, read_lines, read_record, write_lines, write_record, write_text
from selfaug.rundir import RunDir
from selfaug.wording.numbers import duration

__all__ = ["FULL", "QUICK", "SequenceSettings", "arms", "run_sequence"]

HERE = Path(__file__).parent

DRIFT = "drift"
"""Kind of the records in FOLDER/drift."""

_CONTENTS = {"record.json", "result.md", "samples", "drift", "data", "runs", "seconds.jsonl"}

_PLAIN = Arm("plain", "plain LoRA", aligned=False, rehearsed=False)
_PLAIN_REHEARSED = Arm("plain-rehearsed", "plain LoRA, old rows rehearsed", aligned=False, rehearsed=True)
_SELFAUG = Arm("selfaug", "SelfAug", aligned=True, rehearsed=False)
_SELFAUG_REHEARSED = Arm("selfaug", "SelfAug, old rows rehearsed", aligned=True, rehearsed=True)

# Level of the general suite that is made for models as small as the demo's, and its name.
_LEVEL: Level = 1
_LEVEL_NAME: LevelName = "1"

# A line of JSON has some 40 tokens; the other styles have fewer.
_ANSWER_TOKENS = 64
_BATCH = 64

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class SequenceSettings:
    """What is learnt and asked, beyond train.yaml.

    Attributes:
        quick: whether it is only a taste.
        seed: of the training rows, their order, and the adapters. Held-out items are the same for every seed.
        half: "test" asks test items; "dev", to choose settings on, development items.
        model: that is trained.
        rows: new rows of each task.
        rehearsal: share of old rows among all where they are rehearsed; 0 rehearses nowhere.
        task_items: held-out items asked of each task.
        general_items: general requests of the embedded suite.
        checked_items: development rows of a task, and general requests, that `realign` compares its models on.
        train_sets: further settings of `selfaug train`, as `a.b=value`.
    """

    quick: bool = False
    seed: int = 0
    half: Half = "test"
    model: str = DEMO_MODEL
    rows: int = 224
    rehearsal: float = REHEARSAL
    task_items: int = 96
    general_items: int = 192
    checked_items: int = 24
    train_sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.rehearsal < 1:
            raise ConfigError(f"a share of {self.rehearsal:g} can't be rehearsed.", hint="give 0 to 0.99.")


FULL = SequenceSettings()
QUICK = SequenceSettings(
    quick=True,
    rows=12,
    task_items=6,
    general_items=12,
    checked_items=4,
    train_sets=("train.epochs=1", "train.save_steps=2", "selfaug.anchor_count=4"),
)


def arms(settings: SequenceSettings) -> tuple[Arm, ...]:
    """What is compared: without rehearsal there are two arms, else three."""
    return (_PLAIN, _PLAIN_REHEARSED, _SELFAUG_REHEARSED) if settings.rehearsal else (_PLAIN, _SELFAUG)


def run_sequence(
    folder: Path,
    settings: SequenceSettings = FULL,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> dict[str, Any]:
    """Everything, or what is missing of it; returns the data of the record.

    Raises:
        StorageError: if the folder holds something else, a finished sequence, or one with other settings.
        ConfigError, ModelError: if settings or the model can't be used; nothing is written then.
        KeyboardInterrupt: after Ctrl-C, when what is in training has saved a checkpoint.
    """
    # Before the folder is made: what is mistyped would else be what it was begun with.
    config, _ = (_first_config(folder, arm, settings) for arm in (_PLAIN, arms(settings)[-1]))
    tokenizer = load_tokenizer(config.model.name, offline=True)
    work = WorkFolder(folder, "sequential-tasks", _CONTENTS, last=["record.json"], at_once=["data"])
    with work.settled():
        cut_off = work.open(asdict(settings), overwrite=overwrite)
        return _sequence(folder, settings, config, tokenizer, cut_off, on_progress)


def _sequence(
    folder: Path,
    settings: SequenceSettings,
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    cut_off: bool,
    on_progress: OnProgress,
) -> dict[str, Any]:
    _write_data(folder, settings)
    for part in ("runs", "samples", "drift"):
        (folder / part).mkdir(exist_ok=True)
    suites = _suites(folder, config, tokenizer, settings)
    chosen = arms(settings)
    runs = {arm.name: [_run(folder, arm, step) for step in range(len(TASKS))] for arm in chosen}
    alone = {task.name: _run_alone(folder, task) for task in TASKS[1:]}
    every_run = [*(run for of in runs.values() for run in of), *alone.values()]
    models = list(dict.fromkeys(["base", *(run.path.name for run in every_run)]))

    def show(name: str) -> OnProgress:
        return partial(_show, f"{models.index(name) + 1}/{len(models)} {name}", on_progress)

    def ask(
        name: str, make: Callable[[], Any], base: Answers | None, suites: dict[str, Suite] = suites
    ) -> Answers:
        answers = _answers(folder, name, suites)
        if answers is None or not (base is None or _drift_file(folder, name).exists()):
            with _timed(folder, f"{name}: asking"):
                answers = _ask(folder, name, suites, tokenizer, make, base, show(name))
            done = f"{models.index(name) + 1} of {len(models)} models are done"
            on_progress(Progress("", message=f"{done}; {duration(_seconds(folder))} so far."))
            gc.collect()
        return answers

    on_progress(Progress("", message=_announced(folder, settings, models)))
    base = ask("base", partial(_base_model, config), None)
    answers: dict[str, list[Answers]] = {arm.name: [] for arm in chosen}
    for arm in chosen:
        for step, run in enumerate(runs[arm.name]):
            name = run.path.name
            _learn(folder, arm, step, settings, show(name))
            answers[arm.name].append(ask(name, partial(_tuned_model, run), base))
    answers_alone: dict[str, Answers] = {}
    for task in TASKS[1:]:
        run = alone[task.name]
        _learn_alone(folder, task, settings, show(run.path.name))
        answers_alone[task.name] = ask(
            run.path.name, partial(_tuned_model, run), None, {task.name: suites[task.name]}
        )

    last = {arm.name: answers[arm.name][-1] for arm in chosen}
    first = read_record(_run(folder, _PLAIN, 0).record, "train")
    record: dict[str, Any] = {
        "settings": asdict(settings),
        "tasks": {task.name: {"label": task.label} for task in TASKS},
        "base": model_result(suites, base, None),
        "arms": {
            arm.name: {
                **asdict(arm),
                **arm_result(
                    suites, answers[arm.name], base, [_drift(folder, run) for run in runs[arm.name]]
                ),
                "training": [_training(run) for run in runs[arm.name]],
            }
            for arm in chosen
        },
        "alone": {
            task.name: {
                **alone_result(suites, task, answers[chosen[-1].name][step], answers_alone[task.name]),
                "training": _training(alone[task.name]),
            }
            for step, task in enumerate(TASKS)
            if task.name in alone
        },
        "differences": {
            f"{ours.name} against {theirs.name}": {
                "label": f"{ours.label} against {theirs.label}",
                **differences(suites, last[ours.name], last[theirs.name]),
            }
            for ours, theirs in combinations(reversed(chosen), 2)
        },
        "examples": examples(suites, {"base model": base} | {arm.label: last[arm.name] for arm in chosen}),
        "model": config.model.name,
        "epochs": config.train.epochs,
        "dtype": first["model"]["dtype"],
        "environment": first["environment"],
        "threads": torch.get_num_threads(),
        "seconds": _seconds(folder),
        "cut_off": cut_off,
    }
    record = json.loads(json.dumps(record))  # as it will be read: tuples are lists there
    write_text(folder / "result.md", result_page(record))
    write_record(folder / "record.json", RECORD_KIND, record)
    return record


def _announced(folder: Path, settings: SequenceSettings, models: list[str]) -> str:
    there = sum(RunDir(folder / "runs" / name).is_complete() for name in models)
    return (
        f"{len(models)} models are asked, {len(models) - 1} of which are trained before"
        f"{f'; {there} of these are there already' if there else ''}. On two CPU cores this takes "
        f"{'a few minutes' if settings.quick else 'some two hours in all'}. Ctrl-C keeps what is done."
    )


def _show(name: str, on_progress: OnProgress, progress: Progress) -> None:
    """Progress with the model that it is of."""
    on_progress(replace(progress, stage=f"{name}, {progress.stage}") if progress.total else progress)


@contextmanager
def _timed(folder: Path, part: str) -> Iterator[None]:
    """Adds a part's seconds to FOLDER/seconds.jsonl, also where it is stopped; only what is killed is not counted."""
    began = time.monotonic()
    try:
        yield
    finally:
        append_line(folder / "seconds.jsonl", {"part": part, "seconds": time.monotonic() - began})


def _seconds(folder: Path) -> float:
    return float(sum(line["seconds"] for line in read_lines(folder / "seconds.jsonl")))


# ---- data


def _write_data(folder: Path, settings: SequenceSettings) -> None:
    """Rows of all tasks as files, as a user would have them, and the template of the market reports."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        write_lines(_data(folder, task, "train"), task.rows("train", settings.rows, settings.seed))
        # The same items for every seed of the training, so that seeds can be compared.
        dev = max(settings.checked_items, settings.task_items if settings.half == "dev" else 0)
        write_lines(_data(folder, task, "dev"), task.rows("dev", dev, 0))
        if settings.half == "test":
            write_lines(_data(folder, task, "test"), task.rows("test", settings.task_items, 0))
    template = json.dumps(market_report_template().to_dict(), indent=1)
    write_text(folder / "data" / "template.yaml", f"{template}\n")


def _data(folder: Path, task: Task, split: str) -> Path:
    return folder / "data" / f"{task.name}-{split}.jsonl"


def _suites(
    folder: Path, config: TrainConfig, tokenizer: PreTrainedTokenizerBase, settings: SequenceSettings
) -> dict[str, Suite]:
    """Held-out items of every task, each with its own scorer, and general requests."""

    def of(task: Task) -> Suite:
        return task_prompts(
            config,
            tokenizer,
            [str(_data(folder, task, settings.half))],
            score=lambda answer, gold, prompt: task.score(answer, gold),
            items=settings.task_items,
            max_new_tokens=_ANSWER_TOKENS,
        )

    items = select_items(settings.half, _LEVEL, settings.general_items)
    general = general_prompts(tokenizer, items, config.data.chat_template_kwargs)
    return {**{task.name: of(task) for task in TASKS}, GENERAL: general}


# ---- learning


def _run(folder: Path, arm: Arm, step: int) -> RunDir:
    """The run of a step. The first one rehearses nothing: both arms of plain LoRA share it."""
    name = _PLAIN.name if step == 0 and not arm.aligned else arm.name
    return RunDir(folder / "runs" / f"{name}-{step + 1}")


def _run_alone(folder: Path, task: Task) -> RunDir:
    """The run of a later task that SelfAug learns from the base model, as if it were the only one."""
    return RunDir(folder / "runs" / f"{_SELFAUG.name}-only-{task.name}")


def _first_config(folder: Path, arm: Arm, settings: SequenceSettings) -> TrainConfig:
    """Settings of the first step; those of the others are made from them, as `selfaug realign` does."""
    return _config(folder, arm, TASKS[0], _run(folder, arm, 0), settings)


def _config(folder: Path, arm: Arm, task: Task, run: RunDir, settings: SequenceSettings) -> TrainConfig:
    """Settings of a training on one task, from the base model."""
    flags = {
        "--model": settings.model,
        "--train": [str(_data(folder, task, "train"))],
        "--eval": [str(_data(folder, task, "dev"))],
        "--template": str(folder / "data" / "template.yaml"),
        "--seed": settings.seed,
        "--output": str(run.path),
    }
    sets = list(settings.train_sets)
    if not arm.aligned:  # what concerns the alignment alone is SelfAug's
        sets = [one for one in sets if not one.startswith("selfaug.")]
        sets += ["selfaug.alpha=0", "selfaug.anchors=none"]
    return load_config(HERE / "train.yaml", flags, sets)


def _learn(folder: Path, arm: Arm, step: int, settings: SequenceSettings, on_progress: OnProgress) -> None:
    """Learn a task, from the adapter of the step before; goes on where it was cut off."""
    run = _run(folder, arm, step)
    if run.is_run() and not run.started.exists():  # killed while its folder was made
        run.discard()
    if run.is_complete() and (step == 0 or run.realignment.exists()):
        return
    on_progress(Progress("", message=f"{run.path.name} learns: {TASKS[step].label}"))
    with _timed(folder, f"{run.path.name}: learning"):
        if step == 0:
            train(_first_config(folder, arm, settings), resume=run.is_run(), on_progress=on_progress)
        else:
            _learn_next(folder, arm, step, settings, on_progress)
    gc.collect()  # trainer and optimizer, which know each other


def _learn_alone(folder: Path, task: Task, settings: SequenceSettings, on_progress: OnProgress) -> None:
    """Learn a later task from the base model: what `realign` is held against; goes on where it was cut off."""
    run = _run_alone(folder, task)
    if run.is_run() and not run.started.exists():  # killed while its folder was made
        run.discard()
    if run.is_complete():
        return
    on_progress(Progress("", message=f"{run.path.name} learns, from the base model: {task.label}"))
    with _timed(folder, f"{run.path.name}: learning"):
        train(_config(folder, _SELFAUG, task, run, settings), resume=run.is_run(), on_progress=on_progress)
    gc.collect()


def _learn_next(
    folder: Path, arm: Arm, step: int, settings: SequenceSettings, on_progress: OnProgress
) -> None:
    """As `selfaug realign` does, from the adapter of the step before."""
    run, task = _run(folder, arm, step), TASKS[step]
    before, data = _run(folder, arm, step - 1), [str(_data(folder, task, "train"))]
    held_out = [str(_data(folder, task, "dev"))]
    how = RealignSettings(
        data,
        eval_data=held_out,
        output=str(run.path),
        rehearsal=settings.rehearsal if arm.rehearsed else 0.0,
        scorer="office_tasks:score",
        level=_LEVEL_NAME,
        general_items=settings.checked_items,
        task_items=settings.checked_items,
        max_new_tokens=_ANSWER_TOKENS,
        batch_size=_BATCH,
    )
    realign(before.path, how, on_progress=on_progress)


def _training(run: RunDir) -> dict[str, Any]:
    """What a step has taken, and what `realign` said of it."""
    trained = read_record(run.record, "train")
    realigned = None
    if run.realignment.exists():
        said = read_record(run.realignment, REALIGNMENT)
        deployed = load_config(RunDir(said["deployed"]).config)
        realigned = {
            "outcome": said["gate"]["outcome"],
            "old_rows": [Path(source).stem for source in deployed.data.eval],
            "differences": {
                name: suite["difference"]["difference"] for name, suite in said["suites"].items()
            },
        }
    return {
        "run": run.path.name,
        **{key: trained[key] for key in ("steps", "seconds", "anchors")},
        "alpha": trained["settings"]["selfaug"]["alpha"],
        "rows_rehearsed": trained["data"].get("replay", {}).get("rows_replayed", 0),
        "realign": realigned,
    }


# ---- asking


def _answers_file(folder: Path, name: str, suite: str) -> Path:
    return folder / "samples" / f"{name}-{suite}.jsonl"


def _drift_file(folder: Path, name: str) -> Path:
    return folder / "drift" / f"{name}.json"


def _answers(folder: Path, name: str, suites: dict[str, Suite]) -> Answers | None:
    """Answers of a model; None if some are missing."""
    answers: Answers = {}
    for suite, asked in suites.items():
        file = _answers_file(folder, name, suite)
        kept = {line["id"]: line["answer"] for line in read_lines(file)} if file.exists() else {}
        if not kept.keys() >= set(asked.ids):
            return None
        answers[suite] = [kept[one] for one in asked.ids]
    return answers


def _drift(folder: Path, run: RunDir) -> dict[str, float] | None:
    """Nats per token on the base model's own answers; None if it has answered nothing."""
    nats: dict[str, float] | None = read_record(_drift_file(folder, run.path.name), DRIFT)["nats"]
    return nats


def _ask(
    folder: Path,
    name: str,
    suites: dict[str, Suite],
    tokenizer: PreTrainedTokenizerBase,
    make: Callable[[], Any],
    base: Answers | None,
    on_progress: OnProgress,
) -> Answers:
    """Ask a model what is missing, and measure its drift where the base model's answers are given."""

    def report(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(Progress(what, done, total))

    on_progress(Progress("model"))
    model = make()
    if base is not None and not _drift_file(folder, name).exists():
        general = {GENERAL: suites[GENERAL]}
        so_far = _drift_file(folder, name).with_suffix(".jsonl")
        so_far.parent.mkdir(exist_ok=True)
        found, _ = measured_drifts(model, None, tokenizer, general, base[GENERAL], so_far, report)
        nats = found[OWN_ANSWERS]["nats"] if OWN_ANSWERS in found else None
        write_record(_drift_file(folder, name), DRIFT, {"nats": nats})
        so_far.unlink(missing_ok=True)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload().eval()  # it answers as fast as the base model then
    return {
        suite: answers_to(
            asked, _answers_file(folder, name, suite), model, tokenizer, _BATCH, report(f"asking: {suite}")
        )
        for suite, asked in suites.items()
    }


def _base_model(config: TrainConfig) -> Any:
    device = resolve_device(config.model.device)
    dtype = compute_dtype(config, device)
    return load_base_model(config, dtype=dtype, device=device).eval()


def _tuned_model(run: RunDir) -> Any:
    config = load_config(run.config)
    weights, device = trained_weights(run, config)[0], resolve_device(config.model.device)
    return load_run_models(run, config, weights, device=device)[1].eval()


# ---- the command line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where everything is written")
    parser.add_argument(
        "--quick", action="store_true", help="a taste of a few minutes: its numbers mean nothing"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", choices=("test", "dev"), default="test", help="dev: to choose settings on")
    parser.add_argument(
        "--rehearsal",
        type=float,
        default=REHEARSAL,
        metavar="SHARE",
        help=f"old rows among all, where they are rehearsed; 0: nowhere (default: {REHEARSAL:g})",
    )
    parser.add_argument("--model", default=DEMO_MODEL, help=f"default: {DEMO_MODEL}")
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further setting of `selfaug train`; may be repeated",
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew")
    given = parser.parse_args()
    chosen = QUICK if given.quick else FULL
    quiet_libraries(offline=True, debug=False)
    try:
        settings = replace(
            chosen,
            seed=given.seed,
            half=given.half,
            rehearsal=given.rehearsal,
            model=given.model,
            train_sets=(*chosen.train_sets, *given.sets),
        )
        with RunProgress() as progress:
            record = run_sequence(
                given.folder, settings, overwrite=given.overwrite, on_progress=progress.show
            )
    except SelfAugError as error:
        sys.exit(f"error: {error}".replace("--output", "FOLDER"))  # as the folder is called here
    except KeyboardInterrupt:
        say(str(going_on(given.folder / "record.json" if given.overwrite else None)))
        sys.exit(INTERRUPTED)
    print(result_page(record))
    print(f"record: {given.folder / 'record.json'}, samples: {given.folder / 'samples'}")


if __name__ == "__main__":
    main()
