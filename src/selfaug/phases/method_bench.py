"""What the variants of a comparison are made and asked with: each trained, answered and measured once, and kept."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from selfaug.config import TrainConfig
from selfaug.eval.drift import measure_drift
from selfaug.eval.general_suite import Half
from selfaug.eval.router import PromptRouter
from selfaug.model.adapters import scale_adapter
from selfaug.model.generate import chat_prompt_ids
from selfaug.model.loading import load_model
from selfaug.model.reference import FrozenModel, Reference, Remembered
from selfaug.phases.inputs import compute_dtype, load_base_model
from selfaug.phases.method_data import write_distilled_rows, write_self_dialogues
from selfaug.phases.methods import METHODS, Method
from selfaug.phases.own_process import train_in_own_process
from selfaug.phases.suites import Suite, answers_to, task_prompts
from selfaug.phases.train import Progress
from selfaug.records import read_lines, read_record, write_record
from selfaug.rundir import RunDir

__all__ = ["FOLDERS", "Answers", "MethodBench", "Variant"]

Answers = dict[str, list[str]]
"""Answers to the items of each suite, by its name."""

FOLDERS = ("runs", "data", "answers", "drift")
"""What a bench keeps, in its folder."""

# Drift is measured on so many general prompts with the base model's answers.
_DRIFT_PROMPTS = 48

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


@dataclass
class MethodBench:
    """One training and one evaluation for all variants.

    Attributes:
        folder: where everything is kept.
        config: the training that the methods share.
        tokenizer: of the base model.
        base: the base model.
        device: where all of it runs.
        suites: questions, by half and suite.
        batch_size: prompts answered together.
        max_new_tokens: longest completion that the base model rewrites.
        data_seed: of the requests that the base model writes.
        on_progress: called with what is being done.
        plain_value: the learning rate of plain LoRA, once chosen: scaled and routed variants are made of it.
    """

    folder: Path
    config: TrainConfig
    tokenizer: PreTrainedTokenizerBase
    base: Any
    device: torch.device
    suites: dict[Half, dict[str, Suite]]
    batch_size: int
    max_new_tokens: int
    data_seed: int
    on_progress: Callable[[Progress], None]
    plain_value: float = METHODS["plain"].values[0]
    _references: dict[Half, Reference] = field(default_factory=dict)
    _router: PromptRouter | None = None

    def base_answers(self, half: Half) -> Answers:
        """Answers of the base model, made where they are missing."""
        return self._answered(half, "base", self.base)

    def answers(self, variant: Variant, half: Half) -> Answers:
        """Answers of a variant; these, its training and its drift are made where they are missing."""
        if variant.method.name == "router":
            return self._routed_answers(variant, half)
        if not (self._is_answered(half, variant.name) and self._drift_file(half, variant).exists()):
            model = self._model(variant)
            self._answered(half, variant.name, model)
            self._measure_drift(half, variant, model)
            del model
            gc.collect()
        return self._kept(half, variant.name)

    def drift(self, variant: Variant, half: Half) -> dict[str, Any] | None:
        """Sums of nats and tokens by prompt; None behind a router, where each prompt has one model's drift or none."""
        file = self._drift_file(half, variant)
        return read_record(file, "drift") if file.exists() else None

    def routes(self, variant: Variant, half: Half) -> dict[str, list[bool]]:
        """Of each prompt of each suite, whether the router sends it to the tuned model."""
        if self._router is None:
            self._router = self._trained_router()
        return {
            name: [score > variant.value for score in self._router.scores(suite.prompts)]
            for name, suite in self.suites[half].items()
        }

    def training_record(self, variant: Variant) -> dict[str, Any]:
        """Record of the run that a variant's weights come from."""
        return read_record(self._run(variant).record, "train")

    def written_data(self, method: Method) -> tuple[Path, dict[str, Any]] | None:
        """File of what the base model writes for a method, and its record with `rows` and `seconds`."""
        if method.data == "none":
            return None
        path = self.folder / "data" / f"{method.data}.jsonl"
        report = path.with_suffix(".json")
        if not report.exists():
            began = time.monotonic()
            show = self._report(f"base model writes: {method.data.replace('_', ' ')}")
            if method.data == "self_dialogues":
                count = write_self_dialogues(
                    path, self.base, self.tokenizer, _DIALOGUES, self.data_seed, show
                )
            else:
                count = write_distilled_rows(
                    path, self.config, self.base, self.tokenizer, self.max_new_tokens, show
                )
            write_record(report, "written-data", {"rows": count, "seconds": time.monotonic() - began})
        return path, read_record(report, "written-data")

    # ---- models

    def _run(self, variant: Variant) -> RunDir:
        if not variant.method.trained:
            variant = Variant(METHODS["plain"], self.plain_value, variant.seed)
        return RunDir(self.folder / "runs" / variant.name)

    def _model(self, variant: Variant) -> Any:
        """The variant's model, trained if it isn't yet, with its adapter merged."""
        run = self._run(variant)
        config = self._training(variant, run)
        stage = (
            f"{variant.method.label}, {variant.method.knob} {variant.value:g}, seed {variant.seed}: training"
        )
        train_in_own_process(config, stage, self.on_progress)
        # Checkpoints are for going on with a run; this one is complete, and optimizer states are large.
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        dtype = compute_dtype(config, self.device)
        if config.lora.method == "full":
            return load_model(run.model, dtype=dtype, device=self.device, offline=True)
        base = load_base_model(config.model, dtype=dtype, device=self.device, offline=config.run.offline)
        model = PeftModel.from_pretrained(base, run.adapter)
        if not variant.method.trained:
            scale_adapter(model, variant.value)
        return model.merge_and_unload().eval()

    def _training(self, variant: Variant, run: RunDir) -> TrainConfig:
        """Settings of the run that the variant's weights come from."""
        method = variant.method if variant.method.trained else METHODS["plain"]
        values = json.loads(self.config.model_dump_json())
        method.change(values, variant.value if variant.method.trained else self.plain_value)
        if written := self.written_data(method):
            for key in ("train", "replay"):
                values["data"][key] = [
                    str(written[0]) if source == "{data}" else source for source in values["data"][key]
                ]
        values["data"]["eval"] = []
        values["train"].update(seed=variant.seed, keep_checkpoints=1, report_to=[])
        values["run"].update(output=str(run.path), overwrite=False)
        return TrainConfig.model_validate(values)

    def _routed_answers(self, variant: Variant, half: Half) -> Answers:
        """Answers of plain LoRA where the router sends the prompt to it, else the base model's."""
        tuned = self.answers(Variant(METHODS["plain"], self.plain_value, variant.seed), half)
        base, routes = self._kept(half, "base"), self.routes(variant, half)
        return {
            name: [
                own if to_tuned else other
                for own, other, to_tuned in zip(answers, base[name], routes[name], strict=True)
            ]
            for name, answers in tuned.items()
        }

    def _trained_router(self) -> PromptRouter:
        """Knows the training prompts from requests that the base model wrote."""
        written = self.written_data(METHODS["router"])
        dialogues = read_lines(written[0]) if written else []
        template = self.config.data.chat_template_kwargs
        others = [
            chat_prompt_ids(self.tokenizer, row["messages"][0]["content"], **template) for row in dialogues
        ]
        rows = task_prompts(
            self.config,
            self.tokenizer,
            self.config.data.train,
            score=lambda answer, gold: 0.0,
            items=None,
            max_new_tokens=1,
            offline=self.config.run.offline,
        )
        return PromptRouter(self.base, rows.prompts, others)

    # ---- answers and drift

    def _report(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self.on_progress(Progress(stage, done, total))

    def _answer_file(self, half: Half, name: str, suite: str) -> Path:
        return self.folder / "answers" / f"{half}-{name}-{suite}.jsonl"

    def _drift_file(self, half: Half, variant: Variant) -> Path:
        return self.folder / "drift" / f"{half}-{variant.name}.json"

    def _answered(self, half: Half, name: str, model: Any) -> Answers:
        return {
            suite_name: answers_to(
                suite,
                self._answer_file(half, name, suite_name),
                model,
                self.tokenizer,
                self.batch_size,
                self._report(f"{name}: {half} {suite_name}"),
            )
            for suite_name, suite in self.suites[half].items()
        }

    def _is_answered(self, half: Half, name: str) -> bool:
        for suite_name, suite in self.suites[half].items():
            path = self._answer_file(half, name, suite_name)
            if not path.exists() or len(read_lines(path)) < len(suite.ids):
                return False
        return True

    def _kept(self, half: Half, name: str) -> Answers:
        kept = {}
        for suite_name, suite in self.suites[half].items():
            lines = read_lines(self._answer_file(half, name, suite_name))
            answers = {row["id"]: row["answer"] for row in lines}
            kept[suite_name] = [answers[one] for one in suite.ids]
        return kept

    def _measure_drift(self, half: Half, variant: Variant, model: Any) -> None:
        """Over the base model's own answers to general prompts."""
        path = self._drift_file(half, variant)
        if path.exists():
            return
        suite, answers = self.suites[half]["general"], self._kept(half, "base")["general"]
        every = max(1, len(suite.written) // _DRIFT_PROMPTS)
        prompts = [
            (suite.prompts[index], self.tokenizer(answers[index], add_special_tokens=False)["input_ids"])
            for index in suite.written[::every][:_DRIFT_PROMPTS]
        ]
        drift = measure_drift(
            model,
            [prompt + answer for prompt, answer in prompts],
            starts=[len(prompt) for prompt, _ in prompts],
            reference=self._references.setdefault(half, Remembered(FrozenModel(self.base))),
            on_progress=self._report(f"{variant.name}: {half} drift"),
        )
        write_record(
            path,
            "drift",
            {
                "nats": [sum(tokens) for tokens in drift.per_token],
                "tokens": [len(tokens) for tokens in drift.per_token],
                "top1_agreement": drift.top1_agreement,
            },
        )
