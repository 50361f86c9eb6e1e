"""Three tasks learnt one after another: plain LoRA, plain LoRA with old rows rehearsed, and SelfAug.

    python examples/sequential_tasks/run.py FOLDER [--quick] [--seed 0]

The first task is learnt as by `selfaug train`, each further one as by `selfaug realign` from the adapter so far, with
the original base model as the reference. After every step the model is asked held-out items of all three tasks, and
general requests. The matrix of all scores is in FOLDER/record.json and FOLDER/result.md, every answer in
FOLDER/samples. What was cut off goes on when the same command is given again. `--quick` is a taste of a few minutes.

Settings are chosen with `--half dev`, which asks development items; test items are for what is reported.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from office_tasks import TASKS, Task
from task_matrix import (
    GENERAL,
    RECORD_KIND,
    Arm,
    arm_result,
    differences,
    examples,
    model_result,
    result_page,
)
from transformers import PreTrainedTokenizerBase

from selfaug.cli.app import quiet_libraries
from selfaug.cli.terminal import RunProgress
from selfaug.config import LevelName, TrainConfig, load_config
from selfaug.data.market_reports import market_report_template
from selfaug.errors import ConfigError, SelfAugError
from selfaug.eval.general_suite import Half, Level
from selfaug.model.loading import DEMO_MODEL, load_tokenizer
from selfaug.phases.bench import Answers
from selfaug.phases.inputs import compute_dtype, load_base_model, resolve_device
from selfaug.phases.progress import Progress
from selfaug.phases.realign import RECORD_KIND as REALIGNMENT
from selfaug.phases.realign import REHEARSAL, RealignSettings, realign, realign_config
from selfaug.phases.run_models import load_run_models, trained_weights
from selfaug.phases.suites import Suite, answers_to, general_prompts, select_items, task_prompts
from selfaug.phases.train import train
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import append_line, read_lines, read_record, write_lines, write_record, write_text
from selfaug.rundir import RunDir

__all__ = ["FULL", "QUICK", "SequenceSettings", "arms", "run_sequence"]

HERE = Path(__file__).parent

_CONTENTS = {"record.json", "result.md", "samples", "data", "runs", "seconds.jsonl"}

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
    task_items: int = 48
    general_items: int = 96
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
    train_sets=("train.save_steps=2", "selfaug.anchor_count=4"),
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
        KeyboardInterrupt: after Ctrl-C, when what is in training has saved a checkpoint.
    """
    work = WorkFolder(folder, "sequential-tasks", _CONTENTS, last=["record.json"], at_once=["data"])
    with work.settled():
        work.open(asdict(settings), overwrite=overwrite)
        return _sequence(folder, settings, on_progress)


def _sequence(folder: Path, settings: SequenceSettings, on_progress: OnProgress) -> dict[str, Any]:
    _write_data(folder, settings)
    for part in ("runs", "samples"):
        (folder / part).mkdir(exist_ok=True)
    config = _first_config(folder, _PLAIN, settings)
    tokenizer = load_tokenizer(config.model.name, offline=True)
    suites = _suites(folder, config, tokenizer, settings)

    def answers_of(name: str, make: Callable[[], Any]) -> Answers:
        return _answers(folder, name, suites, tokenizer, make, on_progress)

    base = answers_of("base", partial(_base_model, config))
    chosen = arms(settings)
    answers: dict[str, list[Answers]] = {arm.name: [] for arm in chosen}
    for arm in chosen:
        for step in range(len(TASKS)):
            run = _learn(folder, arm, step, settings, on_progress)
            answers[arm.name].append(answers_of(run.path.name, partial(_tuned_model, run)))

    last = {arm.name: answers[arm.name][-1] for arm in chosen}
    first = read_record(_run(folder, _PLAIN, 0).record, "train")
    record: dict[str, Any] = {
        "settings": asdict(settings),
        "tasks": {task.name: {"label": task.label} for task in TASKS},
        "base": model_result(suites, base, None),
        "arms": {
            arm.name: {
                **asdict(arm),
                **arm_result(suites, answers[arm.name], base),
                "training": [_training(_run(folder, arm, step)) for step in range(len(TASKS))],
            }
            for arm in chosen
        },
        "differences": {
            arm.name: {
                "label": f"{chosen[-1].label} against {arm.label}",
                **differences(suites, last[chosen[-1].name], last[arm.name]),
            }
            for arm in chosen[:-1]
        },
        "examples": examples(suites, {"base model": base} | {arm.label: last[arm.name] for arm in chosen}),
        "model": config.model.name,
        "dtype": first["model"]["dtype"],
        "environment": first["environment"],
        "threads": torch.get_num_threads(),
        # What was cut off is not counted: nobody wrote its time down.
        "seconds": sum(line["seconds"] for line in read_lines(folder / "seconds.jsonl")),
    }
    record = json.loads(json.dumps(record))  # as it will be read: tuples are lists there
    write_text(folder / "result.md", result_page(record))
    write_record(folder / "record.json", RECORD_KIND, record)
    return record


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
            offline=True,
        )

    items = select_items(settings.half, _LEVEL, settings.general_items)
    general = general_prompts(tokenizer, items, config.data.chat_template_kwargs)
    return {**{task.name: of(task) for task in TASKS}, GENERAL: general}


# ---- learning


def _run(folder: Path, arm: Arm, step: int) -> RunDir:
    """The run of a step. The first one rehearses nothing: both arms of plain LoRA share it."""
    name = _PLAIN.name if step == 0 and not arm.aligned else arm.name
    return RunDir(folder / "runs" / f"{name}-{step + 1}")


def _first_config(folder: Path, arm: Arm, settings: SequenceSettings) -> TrainConfig:
    """Settings of the first step; those of the others are made from them, as `selfaug realign` does."""
    flags = {
        "--model": settings.model,
        "--train": [str(_data(folder, TASKS[0], "train"))],
        "--eval": [str(_data(folder, TASKS[0], "dev"))],
        "--template": str(folder / "data" / "template.yaml"),
        "--seed": settings.seed,
        "--output": str(_run(folder, arm, 0).path),
    }
    sets = list(settings.train_sets)
    if not arm.aligned:  # what concerns the alignment alone is SelfAug's
        sets = [one for one in sets if not one.startswith("selfaug.")]
        sets += ["selfaug.alpha=0", "selfaug.anchors=none"]
    return load_config(HERE / "train.yaml", flags, sets)


def _learn(folder: Path, arm: Arm, step: int, settings: SequenceSettings, on_progress: OnProgress) -> RunDir:
    """Learn a task, from the adapter of the step before; goes on where it was cut off."""
    run, task = _run(folder, arm, step), TASKS[step]
    if run.is_run() and not run.started.exists():  # killed while its folder was made
        run.discard()
    if run.is_complete() and (step == 0 or run.realignment.exists()):
        return run

    def show(progress: Progress) -> None:
        if progress.total:
            progress = replace(progress, stage=f"{run.path.name}, {task.label}: {progress.stage}")
        on_progress(progress)

    began = time.monotonic()
    if step == 0:
        train(_first_config(folder, arm, settings), resume=run.is_run(), on_progress=show)
    else:
        before, data = _run(folder, arm, step - 1), [str(_data(folder, task, "train"))]
        held_out = [str(_data(folder, task, "dev"))]
        share = settings.rehearsal if arm.rehearsed else 0.0
        config = realign_config(
            before,
            data,
            eval_data=held_out,
            output=str(run.path),
            # A share of nothing can't be asked for; no old rows can.
            **({"rehearsal": share} if share else {"sets": ["data.replay=[]"]}),
        )
        how = RealignSettings(
            data,
            eval_data=held_out,
            output=str(run.path),
            rehearsal=share,
            scorer="office_tasks:score",
            level=_LEVEL_NAME,
            general_items=settings.checked_items,
            task_items=settings.checked_items,
            max_new_tokens=_ANSWER_TOKENS,
            batch_size=_BATCH,
        )
        realign(before.path, how, config=config, on_progress=show)
    gc.collect()  # trainer and optimizer, which know each other
    append_line(folder / "seconds.jsonl", {"step": run.path.name, "seconds": time.monotonic() - began})
    return run


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


def _answers(
    folder: Path,
    name: str,
    suites: dict[str, Suite],
    tokenizer: PreTrainedTokenizerBase,
    make: Callable[[], Any],
    on_progress: OnProgress,
) -> Answers:
    """Answers of a model, which is loaded only if some are missing."""
    files = {suite: folder / "samples" / f"{name}-{suite}.jsonl" for suite in suites}
    kept = {suite: len(read_lines(file)) if file.exists() else 0 for suite, file in files.items()}
    complete = all(kept[suite] >= len(asked.ids) for suite, asked in suites.items())
    began, model = time.monotonic(), None if complete else make()

    def report(suite: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(Progress(f"{name}: asking, {suite}", done, total))

    answers = {
        suite: answers_to(asked, files[suite], model, tokenizer, _BATCH, report(suite))
        for suite, asked in suites.items()
    }
    if not complete:
        append_line(
            folder / "seconds.jsonl", {"step": f"{name}: asking", "seconds": time.monotonic() - began}
        )
    return answers


def _base_model(config: TrainConfig) -> Any:
    device = resolve_device(config.model.device)
    dtype = compute_dtype(config, device)
    return load_base_model(config.model, dtype=dtype, device=device, offline=True).eval()


def _tuned_model(run: RunDir) -> Any:
    """With its adapter merged into it: it answers as fast as the base model."""
    config = load_config(run.config)
    weights, device = trained_weights(run, config)[0], resolve_device(config.model.device)
    return load_run_models(run, config, weights, device=device, offline=True)[1].merge_and_unload().eval()


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
        sys.exit("stopped; what is done is kept. To go on, give the same command again.")
    print(result_page(record))
    print(f"record: {given.folder / 'record.json'}, samples: {given.folder / 'samples'}")


if __name__ == "__main__":
    main()
