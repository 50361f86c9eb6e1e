"""The variants of a comparison: how each is trained, and its answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selfaug.config import TrainConfig
from selfaug.eval.general_suite import Half
from selfaug.eval.router import PromptRouter
from selfaug.model.generate import chat_prompt_ids
from selfaug.phases.bench import Answers, Bench, to_the_last_step
from selfaug.phases.method_data import forget_parts, write_distilled_rows, write_self_dialogues
from selfaug.phases.methods import METHODS, Method, why_not
from selfaug.phases.own_process import train_in_own_process
from selfaug.phases.suites import training_prompts
from selfaug.phases.work_time import WORKED, WorkTime
from selfaug.records import read_lines, read_record, write_record
from selfaug.rundir import RunDir

__all__ = ["MethodBench", "Variant", "problems_of"]

_DIALOGUES = 96


@dataclass(frozen=True)
class Variant:
    """A method with a value of its knob and a training seed."""

    method: Method
    value: float
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.method.name}-{self.value:g}-seed{self.seed}"


def problems_of(config: TrainConfig, method: Method) -> list[str]:
    """Why some value of a method's knob can't be trained with these settings, as sentences; none if all can."""
    problems = [] if (reason := why_not(method, json.loads(config.model_dump_json()))) is None else [reason]
    trained = method if method.trained else METHODS["plain"]
    for value in trained.values:
        try:
            _training(config, trained, value, config.train.seed, Path(config.run.output), None)
        except ValidationError as error:
            for detail in error.errors():
                name = ".".join(map(str, detail["loc"]))
                # A combination of settings is told in lines that begin with a name.
                problems += [f"{name}: {line}" if name else line for line in detail["msg"].splitlines()]
    return list(dict.fromkeys(problems))


def _training(
    config: TrainConfig, method: Method, value: float, seed: int, output: Path, written: Path | None
) -> TrainConfig:
    """Settings of a run of a method.

    Args:
        config: of the training that all methods share.
        method: that is trained.
        value: of its knob.
        seed: of the run.
        output: its folder.
        written: what the base model has written for the method, if it has.

    Raises:
        ValidationError: if they don't fit together.
    """
    values = json.loads(config.model_dump_json())
    method.change(values, value)
    if written is not None:
        for key in ("train", "replay"):
            values["data"][key] = [
                str(written) if source == "{data}" else source for source in values["data"][key]
            ]
    to_the_last_step(values)
    values["train"].update(seed=seed)
    values["run"].update(output=str(output), overwrite=False)
    return TrainConfig.model_validate(values)


class MethodBench:
    """Trains and asks variants, each once.

    Args:
        bench: what they are asked.
        data_seed: of the requests that the base model writes.

    Attributes:
        plain_value: the learning rate of plain LoRA, once chosen: scaled and routed variants are made of it.
    """

    def __init__(self, bench: Bench, data_seed: int) -> None:
        self.bench, self._data_seed = bench, data_seed
        self.plain_value = METHODS["plain"].values[0]
        self._router: PromptRouter | None = None

    def answers(self, variant: Variant, half: Half) -> Answers:
        """Answers of a variant; these, its training and its drift are made where they are missing."""
        if variant.method.name == "router":
            return self._routed_answers(variant, half)
        return self.bench.answers(variant.name, half, lambda: self._model(variant))

    def routes(self, variant: Variant, half: Half) -> dict[str, list[bool]]:
        """Of each prompt of each suite, whether the router sends it to the tuned model."""
        if self._router is None:
            self._router = self._trained_router()
        return {
            name: [score > variant.value for score in self._router.scores(suite.prompts)]
            for name, suite in self.bench.suites[half].items()
        }

    def training_record(self, variant: Variant) -> dict[str, Any]:
        """Record of the run that a variant's weights come from."""
        return read_record(self._run(variant).record, "train")

    def written_data(self, method: Method, seed: int) -> tuple[Path, dict[str, Any]] | None:
        """File of what the base model writes for runs of a method and a seed; `rows`, `seconds` and more counts."""
        if method.data == "none":
            return None
        bench = self.bench
        path = bench.folder / "data" / f"{method.data}.jsonl"
        if method.data == "distilled":
            path = path.with_stem(f"{path.stem}-seed{seed}")
        report = path.with_suffix(".json")
        if not report.exists():
            spent = WorkTime(path.with_suffix(f".{WORKED}"))
            show = bench.report(f"base model writes: {method.data.replace('_', ' ')}")
            try:
                if method.data == "self_dialogues":
                    counts = write_self_dialogues(
                        path,
                        bench.base_model(),
                        bench.tokenizer,
                        _DIALOGUES,
                        self._data_seed,
                        bench.config.data.chat_template_kwargs,
                        show,
                    )
                else:
                    counts = write_distilled_rows(
                        path,
                        bench.config,
                        bench.base_model(),
                        bench.tokenizer,
                        bench.settings.max_new_tokens,
                        seed,
                        show,
                    )
            except BaseException:
                spent.keep()  # what was written until then is kept, too
                raise
            write_record(report, "written-data", {**counts, "seconds": spent.seconds})
            forget_parts(path)
        return path, read_record(report, "written-data")

    def _run(self, variant: Variant) -> RunDir:
        if not variant.method.trained:
            variant = Variant(METHODS["plain"], self.plain_value, variant.seed)
        return RunDir(self.bench.folder / "runs" / variant.name)

    def _model(self, variant: Variant) -> Any:
        """The variant's model, trained if it isn't yet."""
        run = self._run(variant)
        config = self._training(variant, run)
        stage = (
            f"{variant.method.label}, {variant.method.knob} {variant.value:g}, seed {variant.seed}: training"
        )
        self.bench.leave_device()
        train_in_own_process(config, stage, self.bench.on_progress)
        # Checkpoints are for going on with a run; this one is complete, and optimizer states are large.
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        return self.bench.model(run, config, scale=1.0 if variant.method.trained else variant.value)

    def _training(self, variant: Variant, run: RunDir) -> TrainConfig:
        """Settings of the run that the variant's weights come from."""
        method = variant.method if variant.method.trained else METHODS["plain"]
        value = variant.value if variant.method.trained else self.plain_value
        written = self.written_data(method, variant.seed)
        return _training(
            self.bench.config, method, value, variant.seed, run.path, written[0] if written else None
        )

    def _routed_answers(self, variant: Variant, half: Half) -> Answers:
        """Answers of plain LoRA where the router sends the prompt to it, else the base model's."""
        tuned = self.answers(Variant(METHODS["plain"], self.plain_value, variant.seed), half)
        base, routes = self.bench.kept("base", half), self.routes(variant, half)
        return {
            name: [
                own if to_tuned else other
                for own, other, to_tuned in zip(answers, base[name], routes[name], strict=True)
            ]
            for name, answers in tuned.items()
        }

    def _trained_router(self) -> PromptRouter:
        """Knows the training prompts from requests that the base model wrote."""
        bench = self.bench
        written = self.written_data(METHODS["router"], self._data_seed)
        dialogues = read_lines(written[0]) if written else []
        template = bench.config.data.chat_template_kwargs
        others = [
            chat_prompt_ids(bench.tokenizer, row["messages"][0]["content"], **template) for row in dialogues
        ]
        return PromptRouter(bench.base_model(), training_prompts(bench.config, bench.day), others)
