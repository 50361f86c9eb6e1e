"""The case study from end to end: an investment firm's reports become a model that answers with sources.

    python examples/case_study/run.py FOLDER [--quick] [--seed 0]

It writes reports and questions, and then gives the commands that anyone would give: `selfaug prepare`, `assess`,
`train` (plain LoRA and SelfAug, on the same rows), `evaluate` and `ask`, each printed before it runs. The result is in
FOLDER/record.json and FOLDER/result.md, every answer in FOLDER/samples. What was cut off goes on when the same command
is given again. On two CPU cores it takes some five hours; `--quick` is a taste of a few minutes.

Settings are chosen with `--half dev`, which asks validation rows and development requests; test rows and test requests
are for what is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import questions
from case_results import RECORD_KIND, collect, result_page
from world import COMPANIES

from selfaug.cli.app import INTERRUPTED, going_on
from selfaug.errors import SelfAugError
from selfaug.eval.general_suite import Half
from selfaug.model.loading import DEMO_MODEL
from selfaug.phases.ask import open_assistant
from selfaug.phases.work_folder import WorkFolder
from selfaug.records import append_line, read_lines, write_lines, write_record, write_text
from selfaug.rundir import RunDir

__all__ = ["FULL", "QUICK", "CaseSettings", "run_case_study"]

HERE = Path(__file__).parent

_CONTENTS = {
    "record.json", "result.md", "samples", "reports", "questions.jsonl", "unanswerable.jsonl", "prepared",
    "asked.jsonl", "assessment", "plain", "selfaug", "from_documents.jsonl", "deployed.jsonl", "steps.jsonl",
}  # fmt: skip

# An answer in the house style has 20 tokens at most.
_ANSWER_TOKENS = 24
_BATCH = 64


@dataclass(frozen=True)
class CaseSettings:
    """What a case study does, beyond prepare.yaml and train.yaml.

    Attributes:
        quick: whether it is only a taste.
        seed: of the split by document, of the rows' order, and of the adapters.
        half: "test" asks test rows and all requests of the executive; "dev", to choose settings on, validation rows
            and the development half of the requests.
        model: that is trained.
        companies: that the reports cover.
        answerable: questions asked of which the passages have the answer.
        unanswerable: questions asked of which they don't.
        general_items: general requests of the embedded suite.
        probe_steps: of the assessment.
        from_documents: questions answered by `selfaug ask`, whose passages are only searched for.
        prepare_sets: further settings of `selfaug prepare`, as `a.b=value`.
        train_sets: further settings of `selfaug train`.
    """

    quick: bool = False
    seed: int = 0
    half: Half = "test"
    model: str = DEMO_MODEL
    companies: int = len(COMPANIES)
    answerable: int = 120
    unanswerable: int = 30
    general_items: int = 48
    probe_steps: int = 8
    from_documents: int = 3
    prepare_sets: tuple[str, ...] = ()
    train_sets: tuple[str, ...] = ()

    @property
    def suite(self) -> str:
        """The executive's requests, as `selfaug evaluate --suite` takes them."""
        if self.quick:
            return "executive:executive_requests_of_each_kind"
        return "executive:executive_requests" if self.half == "test" else "executive:development_requests"


FULL = CaseSettings()
QUICK = CaseSettings(
    quick=True,
    companies=8,
    answerable=8,
    unanswerable=4,
    general_items=8,
    probe_steps=1,
    from_documents=1,
    train_sets=("train.steps=4", "train.save_steps=2", "selfaug.anchor_count=4"),
)


def run_case_study(folder: Path, settings: CaseSettings = FULL, *, overwrite: bool = False) -> dict[str, Any]:
    """Everything, or what is missing of it; returns the data of the record.

    Raises:
        StorageError: if the folder holds something else, a finished case study, or one with other settings.
        SystemExit: with the exit code of a command that failed; it has said why.
    """
    WorkFolder(folder, "case-study", _CONTENTS, last=["record.json"]).open(
        asdict(settings), overwrite=overwrite
    )
    command = commands(folder, settings)

    def run(step: str, instead: Sequence[str] = ()) -> None:
        with _timed(folder, step):
            selfaug(instead or command[step])

    if not (folder / "prepared" / "record.json").exists():
        with _timed(folder, "write"):
            questions.main([str(folder), "--companies", str(settings.companies)])
        run("prepare")
    write_lines(folder / "asked.jsonl", _asked(folder, settings))
    if not (folder / "assessment" / "record.json").exists():
        run("assess")
    for name in ("plain", "selfaug"):
        if not RunDir(folder / name).is_complete():
            run(f"train {name}", _going_on(RunDir(folder / name)))
    for name in ("plain", "selfaug"):
        if not RunDir(folder / name).evaluation.exists():
            run(f"evaluate {name}")
    _ask_from_documents(folder, settings)
    _ask_all_as_deployed(folder)

    record, samples = collect(folder, asdict(settings))
    (folder / "samples").mkdir(exist_ok=True)
    for model, lines in samples.items():
        write_lines(folder / "samples" / f"{model}.jsonl", lines)
    write_text(folder / "result.md", result_page(record))
    write_record(folder / "record.json", RECORD_KIND, record)
    return record


# ---- the commands


def commands(folder: Path, settings: CaseSettings = FULL) -> dict[str, list[str]]:
    """The arguments of every `selfaug` command but `ask`, by step, in their order."""
    model = [] if settings.model == DEMO_MODEL else ["--model", settings.model]
    seed = [] if settings.seed == 0 else ["--seed", str(settings.seed)]
    training = ["--config", _here("train.yaml"), *model, "--prepared", str(folder / "prepared")]
    # What concerns the alignment alone is SelfAug's.
    plain_sets = [one for one in settings.train_sets if not one.startswith("selfaug.")]
    evaluation = [
        *("--data", str(folder / "asked.jsonl"), "--scorer", "value", "--suite", settings.suite),
        *([] if settings.half == "test" else ["--half", settings.half]),
        *("--level", "1", "--general-items", str(settings.general_items)),
        *("--max-new-tokens", str(_ANSWER_TOKENS), "--batch-size", str(_BATCH)),
    ]
    return {
        "prepare": [
            *("prepare", str(folder / "reports"), "--config", _here("prepare.yaml"), *model),
            *("--questions", str(folder / "questions.jsonl"), "--questions", str(folder / "unanswerable.jsonl")),
            *("--glossary", _here("glossary.txt"), *_sets(settings.prepare_sets)),
            *(*seed, "--output", str(folder / "prepared")),
        ],
        # Small: a short probe, and few questions, on validation rows; the test rows are not touched.
        "assess": [
            *("assess", *training, "--scorer", "value", "--level", "1", "--probe-steps", str(settings.probe_steps)),
            *("--task-items", "12", "--general-items", "24", "--max-new-tokens", str(_ANSWER_TOKENS)),
            *("--output", str(folder / "assessment")),
            *_sets([*settings.train_sets, *([f"train.seed={settings.seed}"] if seed else [])]),
        ],
        "train plain": [
            *("train", *training, "--alpha", "0", "--anchors", "none", *seed),
            *("--output", str(folder / "plain"), *_sets(plain_sets)),
        ],
        "train selfaug": [
            *("train", *training, *seed, "--output", str(folder / "selfaug"), *_sets(settings.train_sets)),
        ],
        "evaluate plain": ["evaluate", str(folder / "plain"), *evaluation],
        # The base model answers once.
        "evaluate selfaug": [
            *("evaluate", str(folder / "selfaug"), *evaluation, "--base-from", str(folder / "plain")),
        ],
    }  # fmt: skip


def _here(name: str) -> str:
    return os.path.relpath(HERE / name)


def _sets(sets: Sequence[str]) -> list[str]:
    return [part for one in sets for part in ("--set", one)]


def _going_on(run: RunDir) -> list[str]:
    """Arguments of `selfaug train` for a run that was cut off; empty if there is none."""
    if not run.is_run():
        return []
    if run.started.exists():
        return ["train", "--resume", "--output", str(run.path)]
    run.discard()  # killed while its folder was made
    return []


def selfaug(arguments: Sequence[str]) -> str:
    """Print a command and run it in a process of its own; returns what it prints with `--json`, else nothing.

    Raises:
        SystemExit: with its exit code, if it fails.
    """
    environment, shown = dict(os.environ), ""
    if "--suite" in arguments:  # its module is found here
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), environment.get("PYTHONPATH"))))
        shown = f"PYTHONPATH={os.path.relpath(HERE)} "
    print(f"\n$ {shown}selfaug {shlex.join(arguments)}", file=sys.stderr, flush=True)
    with subprocess.Popen(
        [sys.executable, "-m", "selfaug", *arguments],
        env=environment,
        stdout=subprocess.PIPE if "--json" in arguments else None,
        encoding="utf-8",
    ) as command:
        try:
            shown_by_it, _ = command.communicate()
        except KeyboardInterrupt:
            command.wait()  # a training saves a checkpoint first; `subprocess.run` would kill it
            raise
    if command.returncode:
        sys.exit(command.returncode)
    return shown_by_it or ""


@contextmanager
def _timed(folder: Path, step: str) -> Iterator[None]:
    """Adds a step and its seconds to FOLDER/steps.jsonl once it is done; what was cut off before is not counted."""
    began = time.monotonic()
    yield
    append_line(folder / "steps.jsonl", {"step": step, "seconds": time.monotonic() - began})


# ---- what is asked


def _asked(folder: Path, settings: CaseSettings) -> list[dict[str, Any]]:
    """Rows of documents that were not trained on, evenly over their order: with an answer, and without."""
    name = "test" if settings.half == "test" else "validation"
    rows = read_lines(folder / "prepared" / f"{name}.jsonl")
    with_answer = [row for row in rows if row["value"] is not None]
    without = [row for row in rows if row["value"] is None]
    return [
        *_spread(with_answer, settings.answerable),
        *_spread(without, settings.unanswerable),
    ]


def _spread(rows: Sequence[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    count = min(count, len(rows))
    return (rows[place * len(rows) // count] for place in range(count))


def _ask_from_documents(folder: Path, settings: CaseSettings) -> None:
    """A few of the questions as in deployment: nothing places the right passage among those that are found."""
    file = folder / "from_documents.jsonl"
    rows = [row for row in read_lines(folder / "asked.jsonl") if row["value"] is not None]
    known = len(read_lines(file)) if file.exists() else 0
    for row in list(_spread(rows, settings.from_documents))[known:]:
        arguments = ["ask", str(folder / "selfaug"), row["question"]]
        with _timed(folder, "ask"):
            answer = json.loads(selfaug([*arguments, "--max-new-tokens", str(_ANSWER_TOKENS), "--json"]))
        append_line(file, {"expected": row["value"], "documents": row["documents"], **answer})


def _ask_all_as_deployed(folder: Path) -> None:
    """All questions that have an answer, as `selfaug ask` answers them, with the models loaded once."""
    file = folder / "deployed.jsonl"
    rows = [row for row in read_lines(folder / "asked.jsonl") if row["value"] is not None]
    missing = rows[len(read_lines(file)) if file.exists() else 0 :]
    if not missing:
        return
    assistant = open_assistant(folder / "selfaug", max_new_tokens=_ANSWER_TOKENS, offline=True)
    with _timed(folder, "ask all"):
        for number, row in enumerate(missing, 1):
            answer = assistant.ask(row["question"])
            found = {
                "id": row["id"],
                "expected": row["answer"],
                "documents": row["documents"],
                "gold": row["passages"][row["gold"] - 1],
                "passages": [{"id": one.id, "document": one.document} for one in answer.passages],
                "answer": answer.text,
                "cited": answer.cited,
            }
            append_line(file, found)
            if number % 12 == 0 or number == len(missing):
                print(f"asked as deployed: {number} of {len(missing)}", file=sys.stderr, flush=True)


# ---- the command line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where everything is written")
    parser.add_argument(
        "--quick", action="store_true", help="a taste of a few minutes: its numbers mean nothing"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", choices=("test", "dev"), default="test", help="dev: to choose settings on")
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
    settings = CaseSettings(
        **{
            **asdict(chosen),
            "seed": given.seed,
            "half": given.half,
            "model": given.model,
            "train_sets": (*chosen.train_sets, *given.sets),
        }
    )
    try:
        record = run_case_study(given.folder, settings, overwrite=given.overwrite)
    except SelfAugError as error:
        sys.exit(f"error: {error}".replace("--output", "FOLDER"))  # as the folder is called here
    except KeyboardInterrupt:
        print(going_on(given.folder / "record.json" if given.overwrite else None), file=sys.stderr)
        sys.exit(INTERRUPTED)
    print(result_page(record))
    print(f"record: {given.folder / 'record.json'}, samples: {given.folder / 'samples'}")


if __name__ == "__main__":
    main()
