"""Base and tuned model of a run, asked the same; answers are written as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.model.hidden import adapter_off
from selfaug.model.reference import FrozenModel
from selfaug.phases.drift_suites import measured_drifts
from selfaug.phases.lm_eval_suites import Benchmark, benchmark_answers
from selfaug.phases.progress import Progress
from selfaug.phases.suites import ChosenLevel, Suite, answers_to, fitting_level

__all__ = ["DRIFT_SO_FAR", "MODELS", "BothModels", "answers_file"]

MODELS = ("base", "tuned")

DRIFT_SO_FAR = "drift-so-far.jsonl"
"""File of the drift that is measured, beside the answers, until all of it is."""


def answers_file(work: Path, suite: str, model: str) -> Path:
    """File of a model's answers to a suite."""
    return work / f"{suite}-{model}.jsonl"


@dataclass(frozen=True)
class BothModels:
    """Two models that answer the same prompts; what was cut off goes on with the next ones.

    Attributes:
        base: that the run began from; None where it is the tuned model with its adapter off.
        tuned: that the run made.
        tokenizer: of both.
        template_arguments: for the chat template.
        batch_size: prompts that are answered together.
        work: folder of the answers.
        on_progress: called with what is being done.
    """

    base: PreTrainedModel | None
    tuned: Any
    tokenizer: PreTrainedTokenizerBase
    template_arguments: dict[str, Any]
    batch_size: int
    work: Path
    on_progress: Callable[[Progress], None]

    def fitting_level(self) -> ChosenLevel:
        """The hardest level of the general suite at which the base model still passes enough."""
        with self._answering("base") as model:
            return fitting_level(
                self.work / "level-base.jsonl",
                model,
                self.tokenizer,
                self.template_arguments,
                self.batch_size,
                self._report("base: which level"),
            )

    def answers(self, suites: Mapping[str, Suite]) -> dict[str, dict[str, list[str]]]:
        """Answers by suite and model, in the suite's order."""
        answers: dict[str, dict[str, list[str]]] = {}
        for name, suite in suites.items():
            answers[name] = {}
            for which in MODELS:
                with self._answering(which) as model:
                    answers[name][which] = answers_to(
                        suite,
                        answers_file(self.work, name, which),
                        model,
                        self.tokenizer,
                        self.batch_size,
                        self._report(f"{which}: {name}"),
                    )
        return answers

    def benchmarks(
        self, tasks: Sequence[str], folder: str | None, items: int | None
    ) -> dict[str, dict[str, Benchmark]]:
        """What lm-eval makes of both, by task and model.

        Args:
            tasks: of lm-eval.
            folder: with task files of the user's.
            items: of each task; None for all.
        """
        scored: dict[str, dict[str, Benchmark]] = {}
        for task in tasks:
            scored[task] = {}
            for which in MODELS:
                self.on_progress(
                    Progress(f"{which}: {task}", message=f"{which} model: {task}, through lm-eval")
                )
                with self._answering(which) as model:
                    scored[task][which] = benchmark_answers(
                        model,
                        self.tokenizer,
                        task,
                        answers_file(self.work, task, which),
                        folder=folder,
                        items=items,
                        batch_size=self.batch_size,
                        template_arguments=self.template_arguments,
                    )
        return scored

    def drifts(
        self, suites: Mapping[str, Suite], base_answers: Sequence[str]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Drift of the tuned model, and the texts that drifted most; see `measured_drifts`."""
        return measured_drifts(
            self.tuned,
            None if self.base is None else FrozenModel(self.base),
            self.tokenizer,
            suites,
            base_answers,
            self.work / DRIFT_SO_FAR,
            self._report,
        )

    @contextmanager
    def _answering(self, which: str) -> Iterator[Any]:
        if which == "tuned":
            yield self.tuned
        elif self.base is not None:
            yield self.base
        else:
            with adapter_off(self.tuned):
                yield self.tuned

    def _report(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self.on_progress(Progress(stage, done, total))
