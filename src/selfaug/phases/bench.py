"""One evaluation for many models: the same questions to all, with every answer and every drift made once and kept."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from selfaug.config import EvaluationSettings, TrainConfig
from selfaug.data.encoded_rows import token_digest
from selfaug.data.sources import describe_sources
from selfaug.errors import ConfigError, DivergedError
from selfaug.eval.drift import measure_drift
from selfaug.eval.general_suite import Half
from selfaug.eval.scorers import files_of_scorer, named_scorer
from selfaug.eval.suite_files import read_suite
from selfaug.model.adapters import scale_adapter, why_not_exact
from selfaug.model.loading import load_adapter, load_model
from selfaug.model.memory import release_memory
from selfaug.model.merging import merge
from selfaug.model.reference import AdapterOff, FrozenModel, Reference, Remembered
from selfaug.model.stored_weights import stored_tokenizer_hash, stored_weights_hash
from selfaug.phases.inputs import (
    compute_dtype,
    load_base_model,
    model_window,
    on_day,
    tokenizer_of,
    training_device,
)
from selfaug.phases.progress import Progress
from selfaug.phases.run_models import require_same_base
from selfaug.phases.suites import (
    AskSettings,
    Suite,
    answers_to,
    fitting_level,
    general_prompts,
    level_of,
    select_items,
    share_cut_off,
    suite_file_prompts,
    task_prompts,
    training_prompts,
)
from selfaug.records import read_lines, read_record, write_lines, write_record
from selfaug.rundir import RunDir

__all__ = [
    "FOLDERS",
    "Answers",
    "Bench",
    "BenchSettings",
    "DriftOn",
    "content_of_base",
    "contents_of",
    "contents_of_sources",
    "day_of",
    "open_bench",
    "said_of_evaluation",
    "said_of_left_out",
    "scores_of",
    "to_the_last_step",
]

Answers = dict[str, list[str]]
"""Answers to the items of each suite, by its name."""

FOLDERS = ("runs", "data", "answers", "drift")
"""What is kept in the folder of a bench."""

DriftOn = Literal["own", "task"]
"""What drift is measured on: general prompts with the base model's own answers, or the job's prompts."""

# So many of them.
_DRIFT_PROMPTS = 48

# Where results are reported; drift on the job's prompts is measured nowhere else.
_REPORTED = "test"

# Of the prompts that are counted: those of --dev among the training rows. Only where there are some.
_DEV_TRAINED_ON = "dev_trained_on"


@dataclass(frozen=True, kw_only=True)
class BenchSettings(AskSettings):
    """What models are asked, on rows to choose on and on rows to report on, so many of each.

    Attributes:
        dev: sources of rows to choose on.
        test: sources of rows to report on; the user's own suites, JSONL files here, are reported beside them.
    """

    dev: Sequence[str]
    test: Sequence[str]
    max_new_tokens: int = 64
    batch_size: int = 64

    def problems(self) -> list[str]:
        """What is wrong with them, as sentences."""
        problems = []
        if not self.dev or not self.test:
            problems.append("rows to choose on (--dev) and rows to report on (--test) are needed")
        names = [Path(file).stem for file in self.suites]
        if len(set(names)) < len(names) or {"task", "general"} & set(names):
            problems.append(
                f"suites need names of their own, other than task and general: {', '.join(names)}"
            )
        return problems


@dataclass
class Bench:
    """Questions, the base model, and what has been answered so far.

    Attributes:
        folder: where everything is kept.
        config: the training that all models share.
        settings: what is asked.
        tokenizer: of the base model.
        base: the base model.
        device: where all of it runs.
        suites: questions, by part ("dev", "test", or a subset of one) and suite.
        level: of the general suite, with the base model's scores that it was chosen by.
        seen: of the job's test prompts, how many are among those of --dev ("dev"), and of the training rows
            ("train"); and where there are any, of the prompts of --dev, how many are among the latter
            ("dev_trained_on").
        on_progress: called with what is being done.
        day: that a chat template writes into prompts as today's.
    """

    folder: Path
    config: TrainConfig
    settings: BenchSettings
    tokenizer: PreTrainedTokenizerBase
    base: Any
    device: torch.device
    suites: dict[str, dict[str, Suite]]
    level: dict[str, Any]
    seen: dict[str, int]
    on_progress: Callable[[Progress], None]
    day: date
    _subsets: dict[str, str] = field(default_factory=dict)
    _references: dict[tuple[str, DriftOn, bool], Reference] = field(default_factory=dict)

    def base_model(self) -> Any:
        """The base model, on its device."""
        if self._may_leave:
            self.base.to(self.device)
        return self.base

    def leave_device(self) -> None:
        """Leave a GPU's memory to another process; the base model comes back when it is asked for."""
        if self._may_leave:
            self.base.to("cpu")
        release_memory()

    @property
    def _may_leave(self) -> bool:
        # Weights that are quantised, here or by who stored them, don't go everywhere.
        return self.device.type == "cuda" and not getattr(self.base, "is_quantized", False)

    def base_answers(self, part: str) -> Answers:
        """Answers of the base model, made where they are missing.

        Raises:
            ConfigError: if no drift can be measured on them.
        """
        answers = self._answered(part, "base", self.base_model())
        self._require_own_answers(part)
        return answers

    def add_subset(self, name: str, of: str, **counts: int | None) -> None:
        """A part with some of another part's items, so many of each suite; answers to them count in both.

        Args:
            name: of the new part.
            of: which part they are from.
            counts: items of each suite; None for all.
        """
        self.suites[name] = {suite: self.suites[of][suite].spread(count) for suite, count in counts.items()}
        self._subsets[of] = name
        for suite_name, suite in self.suites[name].items():
            kept = {row["id"]: row for row in read_lines(self._answer_file(of, "base", suite_name))}
            write_lines(self._answer_file(name, "base", suite_name), [kept[one] for one in suite.ids])
        self._require_own_answers(name)

    def answers(self, name: str, part: str, make: Callable[[], Any]) -> Answers:
        """Answers of a model; they and its drift are made where they are missing.

        Args:
            name: of the model, for files.
            part: whose questions.
            make: loads the model, if it has to be asked.
        """
        if not (self._is_answered(part, name) and self._is_drift_measured(part, name)):
            self.leave_device()  # a GPU may have room for one model
            model = make()
            self._answered(part, name, model)
            for on in self._drifts_of(part):
                self._measure_drift(part, name, model, on)
            del model
            release_memory()
        return self.kept(name, part)

    def kept(self, name: str, part: str) -> Answers:
        """Answers of a model that has been asked."""
        kept = {}
        for suite_name, suite in self.suites[part].items():
            lines = read_lines(self._answer_file(part, name, suite_name))
            answers = {row["id"]: row["answer"] for row in lines}
            kept[suite_name] = [answers[one] for one in suite.ids]
        return kept

    def cut_off(self, name: str, part: str) -> dict[str, float | None]:
        """Share of each suite's written answers that reached their limit; None where it isn't known."""
        return {
            suite_name: share_cut_off(suite, self._answer_file(part, name, suite_name))
            for suite_name, suite in self.suites[part].items()
        }

    def drift(self, name: str, part: str, on: DriftOn = "own") -> dict[str, Any] | None:
        """Sums of nats and tokens by prompt, of a model that has been measured; else None."""
        file = self._drift_file(part, name, on)
        if not file.exists():
            return None
        kept = read_record(file, "drift")
        self._require_measured(name, kept["nats"])
        return kept

    def _require_measured(self, name: str, nats: Sequence[float | None]) -> None:
        """Refuse a model whose drift is not a number: nothing can be said of it, nor chosen by it.

        Raises:
            DivergedError: if it isn't; records have null for it.
        """
        if any(value is None or not math.isfinite(value) for value in nats):
            raise DivergedError(
                f"the drift of {name} in {self.folder} is not a number: what this model computes is not finite.",
                hint="its training has diverged: begin anew with a smaller train.learning_rate, or without the method "
                "that it is of; model.dtype float32 may help, too.",
            )

    def model(self, run: RunDir, config: TrainConfig, *, scale: float = 1.0) -> Any:
        """The model of a complete run, with its adapter, scaled; merged into it where that rounds nothing away."""
        dtype = compute_dtype(config, self.device)
        if config.lora.method == "full":
            return load_model(
                run.model,
                dtype=dtype,
                device=self.device,
                trust_remote_code=config.model.trust_remote_code,
                offline=True,
            )
        base = load_base_model(config, dtype=dtype, device=self.device)
        require_same_base(run, config, base)
        model = load_adapter(base, run.adapter)
        if scale != 1.0:
            scale_adapter(model, scale)
        # The settings don't tell of weights that are stored quantised.
        if dtype is torch.float32 and not getattr(base, "is_quantized", False):
            model = merge(model)
        return model.eval()

    def mean_scores(self, answers: Answers, part: str) -> dict[str, float]:
        """Mean score of each suite: for choosing, not for reporting."""
        return {
            name: float(np.mean(scores_of(suite, answers[name]))) for name, suite in self.suites[part].items()
        }

    def report(self, stage: str) -> Callable[[int, int], None]:
        """Progress of a stage."""
        return lambda done, total: self.on_progress(Progress(stage, done, total))

    def _answer_file(self, part: str, name: str, suite: str) -> Path:
        return self.folder / "answers" / f"{part}-{name}-{suite}.jsonl"

    def _drift_file(self, part: str, name: str, on: DriftOn) -> Path:
        return self.folder / "drift" / f"{part}-{name}{'' if on == 'own' else f'-{on}'}.json"

    def _drifts_of(self, part: str) -> tuple[DriftOn, ...]:
        return ("own", "task") if part == _REPORTED else ("own",)

    def _is_drift_measured(self, part: str, name: str) -> bool:
        return all(self._is_measured(part, name, on) for on in self._drifts_of(part))

    def _is_measured(self, part: str, name: str, on: DriftOn) -> bool:
        """Whether a drift is known, and not on answers of the base model that have been made again since."""
        path = self._drift_file(part, name, on)
        if not path.exists():
            return False
        sequences, starts = self._measured_on(part, on)
        tokens = [max(0, len(sequence) - start) for sequence, start in zip(sequences, starts, strict=True)]
        return bool(read_record(path, "drift")["tokens"] == tokens)

    def _answered(self, part: str, name: str, model: Any) -> Answers:
        if part in self._subsets:  # what has been asked for the subset needs no second answer
            for suite_name in self.suites[part]:
                before = self._answer_file(self._subsets[part], name, suite_name)
                target = self._answer_file(part, name, suite_name)
                if before.exists() and not target.exists():
                    write_lines(target, read_lines(before))
        return {
            suite_name: answers_to(
                suite,
                self._answer_file(part, name, suite_name),
                model,
                self.tokenizer,
                self.settings.batch_size,
                self.report(f"{name}: {part} {suite_name}"),
            )
            for suite_name, suite in self.suites[part].items()
        }

    def _is_answered(self, part: str, name: str) -> bool:
        for suite_name, suite in self.suites[part].items():
            path = self._answer_file(part, name, suite_name)
            if not path.exists() or len(suite.kept(read_lines(path))) < len(suite.ids):
                return False
        return True

    def _measure_drift(self, part: str, name: str, model: Any, on: DriftOn) -> None:
        if self._is_measured(part, name, on):
            return
        path = self._drift_file(part, name, on)
        sequences, starts = self._measured_on(part, on)
        so_far = path.with_suffix(".jsonl")
        so_far.parent.mkdir(parents=True, exist_ok=True)
        drift = measure_drift(
            model,
            sequences,
            starts=starts,
            reference=self._reference(part, model, on),
            keep_in=so_far,
            on_progress=self.report(
                f"{name}: {part} drift" + (" on the job's prompts" if on == "task" else "")
            ),
        )
        nats = [sum(tokens) for tokens in drift.per_token]
        self._require_measured(name, nats)
        write_record(
            path,
            "drift",
            {
                "nats": nats,
                "tokens": [len(tokens) for tokens in drift.per_token],
                "top1_agreement": drift.top1_agreement,
            },
        )
        so_far.unlink(missing_ok=True)

    def _reference(self, part: str, model: Any, on: DriftOn) -> Reference:
        """The base model: under a model's adapter where it has one, so that a GPU holds no second model."""
        under = isinstance(model, PeftModel) and why_not_exact(model) is None
        reference: Reference = AdapterOff(model) if under else FrozenModel(self.base_model())
        return self._references.setdefault((part, on, under), Remembered(reference))

    def _measured_on(self, part: str, on: DriftOn) -> tuple[list[list[int]], list[int]]:
        """Sequences that drift is measured on, and of each its first token that is."""
        return self._own_answers(part) if on == "own" else self._task_prompts(part)

    def _own_answers(self, part: str) -> tuple[list[list[int]], list[int]]:
        """General prompts with the base model's own answers, and where the answers begin."""
        suite, answers = self.suites[part]["general"], self.kept("base", part)["general"]
        chosen = suite.evenly(suite.written, _DRIFT_PROMPTS)
        texts = [self.tokenizer(answers[index], add_special_tokens=False)["input_ids"] for index in chosen]
        return (
            [suite.prompts[index] + text for index, text in zip(chosen, texts, strict=True)],
            [len(suite.prompts[index]) for index in chosen],
        )

    def _require_own_answers(self, part: str) -> None:
        """Refuse general requests on which no drift can be measured, before anything is trained.

        Raises:
            ConfigError: if the base model has written nothing.
        """
        sequences, starts = self._own_answers(part)
        if not any(len(sequence) > start for sequence, start in zip(sequences, starts, strict=True)):
            raise ConfigError(
                f"drift is measured on what the base model writes, and of {len(self.suites[part]['general'].ids):,} "
                "general requests it has answered none in words of its own: they are multiple choice, or it said "
                "nothing.",
                hint="ask more of them, with --general-items, or of another --level.",
            )

    def _task_prompts(self, part: str) -> tuple[list[list[int]], list[int]]:
        """The job's prompts, measured from their second token on."""
        prompts = self.suites[part]["task"].spread(_DRIFT_PROMPTS).prompts
        return prompts, [1] * len(prompts)


def day_of(begun: Mapping[str, Any] | None) -> str:
    """The day that chat templates take for today, in prompts that they write it into, as in ISO 8601.

    On another day, the prompts are those of the day that the folder was begun on: with others, all models would be
    asked anew.

    Args:
        begun: the settings that the folder was begun with; None where nothing was begun.
    """
    return date.today().isoformat() if begun is None else str(begun["day"])


def to_the_last_step(values: dict[str, Any]) -> None:
    """Change a training's settings to those of one of many: it goes to its last step, and only the bench asks it.

    Args:
        values: of the settings, by section.
    """
    if values["data"]["skip_held_out"] and values["data"]["eval"]:  # held-out rows say what isn't trained on
        values["train"]["eval_steps"] = 0
    else:
        values["data"]["eval"] = []
    values["selfaug"].update(monitor_prompts=0, stop_at_drift=None)
    values["train"].update(keep_checkpoints=1, report_to=[], best_of_rows=0)
    values["evaluation"].update(at_end="none")


def said_of_left_out(config: TrainConfig) -> str | None:
    """Which settings that would end a run elsewhere are left out by `to_the_last_step`; None if none is set."""
    given = {
        "selfaug.stop_at_drift": config.selfaug.stop_at_drift is not None,
        "train.best_of_rows": config.train.best_of_rows > 0,
    }
    return _left_out([name for name, is_set in given.items() if is_set], "every run goes to its last step")


def said_of_evaluation(config: TrainConfig, asked: str, *, with_suites: bool = False) -> str | None:
    """Which settings of `evaluation` ask nothing here; None if none of them is set.

    Args:
        config: the settings.
        asked: what is asked instead, as a sentence.
        with_suites: whether its suites are asked.
    """
    usual, names = (
        EvaluationSettings(),
        ["at_end", "data", "also_score", *([] if with_suites else ["suites"])],
    )
    changed = [name for name in names if getattr(config.evaluation, name) != getattr(usual, name)]
    return _left_out([f"evaluation.{name}" for name in changed], asked)


def _left_out(names: Sequence[str], why: str) -> str | None:
    if not names:
        return None
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} left out: {why}."


def contents_of_sources(config: TrainConfig, settings: BenchSettings) -> dict[str, Any]:
    """What identifies the content of each file that results are made of, and of the base model, by its name.

    A hub data set is known by its name alone; a base model that is not on this machine yet by nothing.
    """
    judged_by = (file for suite in settings.suites for row in read_suite(suite) for file in row.judged_by)
    return {
        **contents_of(
            {
                "data.train": config.data.train,
                "data.eval": config.data.eval if config.data.skip_held_out else [],
                "data.replay": [source for source in config.data.replay if source != "embedded"],
                "data.template": [config.data.template] if config.data.template else [],
                "selfaug.anchors": []
                if config.selfaug.anchors in ("none", "self")
                else [config.selfaug.anchors],
                "--dev": settings.dev,
                "--test": settings.test,
                "--suite": settings.suites,
                "--scorer": files_of_scorer(settings.scorer),
                "scorers of --suite": sorted(set(judged_by)),
            }
        ),
        **content_of_base(config),
    }


def contents_of(sources: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What identifies the content of sources, by what they are named by; a hub data set by its name alone."""
    return {
        f"{name} {source}": [
            one.get("sha256", one["source"]) for one in describe_sources([str(Path(source).expanduser())])
        ]
        for name, of_name in sources.items()
        for source in of_name
    }


def content_of_base(config: TrainConfig) -> dict[str, Any]:
    """What identifies the base model and its tokeniser, by its name; None for one that is not on this machine yet."""
    name = config.model.name
    return {
        f"model.name {name}": stored_weights_hash(name),
        f"tokeniser and chat template of {name}": stored_tokenizer_hash(name),
    }


def open_bench(
    folder: Path,
    config: TrainConfig,
    settings: BenchSettings,
    open_folder: Callable[[], object],
    keep_base: Callable[[Mapping[str, Any]], object],
    on_progress: Callable[[Progress], None],
    day: date,
) -> Bench:
    """Read the questions, load the base model, and ask it.

    Args:
        folder: where everything is kept.
        config: the training that all models share.
        settings: what is asked.
        open_folder: makes the folder: after the rows have been read, before anything long.
        keep_base: is told what identifies the base model, as `contents_of_sources` does: one from a hub may not have
            been on this machine before it was loaded.
        on_progress: called with what is being done.
        day: that a chat template writes into prompts as today's.

    Raises:
        ConfigError, DataError, ModelError, StorageError: if any of it can't be had.
    """
    on_progress(Progress("data"))
    scorer = named_scorer(settings.scorer)
    tokenizer = on_day(tokenizer_of(config), day)
    window = model_window(config)
    template = config.data.chat_template_kwargs
    halves: dict[Half, Sequence[str]] = {"dev": settings.dev, "test": settings.test}
    suites: dict[str, dict[str, Suite]] = {
        half: {
            "task": task_prompts(
                config,
                tokenizer,
                sources,
                score=scorer,
                items=settings.task_items,
                max_new_tokens=settings.max_new_tokens,
                day=day,
            )
        }
        for half, sources in halves.items()
    }
    if (worth := suites["test"]["task"].warning) is not None:
        on_progress(Progress("warning", message=worth))
    for file in settings.suites:
        suites["test"][Path(file).stem] = suite_file_prompts(
            tokenizer, read_suite(file), settings.max_new_tokens, template, window=window
        )
    open_folder()
    seen = _seen_prompts(config, suites, day)
    if seen["dev"] or seen["train"]:
        total = len(suites["test"]["task"].prompts)
        on_progress(
            Progress(
                "warning",
                message=f"of {total:,} test prompts, {seen['dev']:,} are among those of --dev and {seen['train']:,} "
                "among the training rows: their scores say less of prompts that are new.",
            )
        )
    if remembered := seen.get(_DEV_TRAINED_ON, 0):
        on_progress(
            Progress(
                "warning",
                message=f"of {len(suites['dev']['task'].prompts):,} prompts of --dev, {remembered:,} are among the "
                "training rows: what is chosen on them is chosen for what models remember.",
            )
        )
    on_progress(Progress("model"))
    device = training_device(config.model.device)
    base = load_base_model(config, dtype=compute_dtype(config, device), device=device).eval()
    keep_base(content_of_base(config))
    for part in FOLDERS:
        (folder / part).mkdir(exist_ok=True)
    level = level_of(settings.level) or fitting_level(
        folder / "answers" / "level.jsonl",
        base,
        tokenizer,
        template,
        settings.batch_size,
        lambda done, total: on_progress(Progress("base model: which level", done, total)),
    )
    for warning in level.warnings:
        on_progress(Progress("warning", message=warning))
    for half in halves:
        items = select_items(half, level.level, settings.general_items)
        suites[half]["general"] = general_prompts(tokenizer, items, template)
    bench = Bench(
        folder, config, settings, tokenizer, base, device, suites, asdict(level), seen, on_progress, day
    )  # fmt: skip
    for half in halves:
        bench.base_answers(half)
    return bench


def _seen_prompts(config: TrainConfig, suites: dict[str, dict[str, Suite]], day: date) -> dict[str, int]:
    """How many of the job's test prompts are chosen on, and trained on, too; see `Bench.seen`.

    Raises:
        DataError: if training rows can't be used.
    """
    tested, chosen_on = (
        [token_digest(array("i", prompt)) for prompt in suites[half]["task"].prompts]
        for half in ("test", "dev")
    )
    trained_on = {token_digest(prompt) for prompt in training_prompts(config, day)}
    known = set(chosen_on)
    seen = {
        "dev": sum(prompt in known for prompt in tested),
        "train": sum(prompt in trained_on for prompt in tested),
    }
    if remembered := sum(prompt in trained_on for prompt in chosen_on):
        seen[_DEV_TRAINED_ON] = remembered
    return seen


def scores_of(suite: Suite, answers: Sequence[str]) -> list[float]:
    """Score of each answer."""
    return [suite.score(index, answer) for index, answer in enumerate(answers)]
