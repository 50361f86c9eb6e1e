"""Records and folders as the commands write them, made by hand: no model runs for them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfaug.config import dump_config, load_config
from selfaug.records import read_record, write_lines, write_record
from selfaug.rundir import RunDir

RESULTS = Path(__file__).parents[1] / "docs" / "results"

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)"> <a href="javascript:alert(1)">http://example.com</a>',
    "</div></article></main></td></table><style>body{display:none}</style>",
    "{{ report }} {% include 'x' %} &amp; &#x3c;",
    "\x1b[2J\x00\x08\r bell\x07 \u202eevil\u2066 \u2028 \ufeff שלום",
    "````\n# heading | cell | cell\n```\n- list *bold* _x_ [a](http://example.com) ~~~",
]
"""Texts of a model that means ill. What JSON files can't hold as UTF-8 is `LONE`."""

LONE = "a lone surrogate: \ud800"


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def suite(
    scores: Mapping[str, tuple[float, float]],
    difference: Mapping[str, float],
    retention: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """As `compare_answers` gives it: scores of base and tuned model by item."""
    return {
        "items": len(scores),
        "base": interval(0.6, 0.5, 0.7),
        "tuned": interval(0.5, 0.4, 0.6),
        "difference": {
            "difference": dict(difference),
            "p_value": 0.2,
            "better": 1,
            "worse": 2,
            "items": len(scores),
            "discordance": 0.3,
            "clusters": None,
        },
        "retention": retention,
        "detectable_difference": 0.3,
        "scores": {name: {"base": base, "tuned": tuned} for name, (base, tuned) in scores.items()},
    }


def bound(outcome: str = "inconclusive", name: str = "forgetting") -> dict[str, Any]:
    return {
        "name": name, "outcome": outcome, "value": interval(0.05, -0.02, 0.1), "bound": 0.05,
        "sense": "at most", "items": 3, "items_needed": 4000 if outcome == "inconclusive" else None,
    }  # fmt: skip


DRIFT = {
    "nats": interval(0.02, 0.01, 0.03),
    "top1_agreement": 0.95,
    "tokens": 1234,
    "by_tenth": [None, *[0.01] * 8, 0.09],
    "by_prompt": {"same": 0.02},
}

EVALUATION: dict[str, Any] = {
    "run": "runs/first",
    "settings": {"scorer": "exact", "half": "test", "step": None, "weights": "ab" * 32},
    "level": {"level": 1, "scores": {"1": 0.6}},
    "suites": {
        "task": suite({"t1": (0, 1)}, interval(0.5, 0.2, 0.8)),
        "general": suite({"same": (1, 1), "gained": (0, 1), "lost": (1, 0)}, interval(-0.05, -0.1, 0.02)),
    },
    "benchmarks": {},
    "also": {},
    "sides": {},
    "drift": {"general prompts": DRIFT},
    "forecast": None,
    "gate": {"outcome": "inconclusive", "bounds": [bound()]},
    "device": "cpu",
    "threads": 2,
    "seconds": 61.0,
}

TRAINING: dict[str, Any] = {
    "model": {"name": "tiny", "trainable": 28_000, "weights_hash": "cd" * 32},
    "data": {"train": {"sources": [{"source": "rows.jsonl", "bytes": 9, "sha256": "9a" * 32}]}},
    "settings": {},
    "settings_sha256": "ef" * 32,
    "steps": 60,
    "epochs": 1.0,
    "seconds": 125.0,
    "anchor_seconds": 0.0,
    "noise_floor": 1.5e-9,
    "final": {"nll": 0.51234, "alignment_loss": 0.0123, "alpha": 0.5},
    "evaluation": {},
    "reference_cache_bytes": 0,
    "anchors": 0,
    "peak_memory_bytes": None,
    "weights": [{"file": "adapter/adapter_model.safetensors", "sha256": "12" * 32}],
    "environment": {
        "device": "CPU (x86_64)",
        "processes": 1,
        "python": "3.11.7",
        "versions": {"selfaug": "0.1.0", "torch": "2.11.0"},
        "versions_before": [],
    },
}

MADE_OF: dict[str, Any] = {
    "base": {
        "weights_hash": "34" * 32,
        "stored_weights_hash": "56" * 16,
        "stored_tokenizer_hash": "78" * 16,
    },
    "sources": {
        "data.train rows.jsonl": ["9a" * 32],
        "--dev folder": ["bc" * 32] * 6,
        "--test owner/rows": ["owner/rows"],
    },
    "settings_sha256": "de" * 32,
}

REALIGNMENT: dict[str, Any] = {
    "deployed": "runs/old",
    "run": "runs/old-2",
    "settings": {"data": ["new.jsonl"], "scorer": "exact", "max_task_loss": 0.02, "max_general_loss": 0.02},
    "level": {"level": 1, "scores": {"1": 0.6}},
    "suites": {
        "old task": suite({"o1": (1, 1)}, interval(0.0, -0.01, 0.01), interval(1.0, 0.98, 1.02)),
        "general": suite({"g1": (1, 0)}, interval(-0.01, -0.05, 0.03), interval(0.98, 0.9, 1.05)),
    },
    "judged": "",
    "gate": {
        "outcome": "inconclusive",
        "of_bounds": "inconclusive",
        "bounds": [bound(name="loss, general")],
        "unmeasured": [],
    },
}


def config_of(folder: Path, *sets: str) -> Any:
    return load_config(
        None, {"--model": "a/model", "--train": ["rows.jsonl"], "--output": str(folder)}, list(sets)
    )


def write_samples(folder: Path, suites: Mapping[str, Any], texts: Sequence[str] = ()) -> Path:
    """Answers of both models, and two texts that drifted; `texts` take the places of prompts and answers."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in suites.items():
        for model in ("base", "tuned"):
            rows = [
                {"id": one, "prompt": f"ask {one}", "answer": f"{model} says {one}"}
                for one in found["scores"]
            ]
            for row, text in zip(rows, texts, strict=False):
                row["prompt"] = row["answer"] = text
            write_lines(folder / f"{name}-{model}.jsonl", rows)
    drifted = [
        {"kind": "general prompts", "id": "same", "tokens": ["Hi", " there", "!\n"], "nats": [None, 0.25, 4.0]},
        {"kind": "general prompts", "id": "lost", "tokens": [" a", " b"], "nats": [None, 0.0]},
    ]  # fmt: skip
    write_lines(folder / "drift.jsonl", drifted)
    return folder


def write_run(
    folder: Path,
    *,
    training: Mapping[str, Any] | None = TRAINING,
    evaluation: Mapping[str, Any] | None = None,
    realignment: Mapping[str, Any] | None = None,
    steps: int = 60,
    sets: Sequence[str] = (),
) -> RunDir:
    """A run's folder; without `training` it is not finished."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RunDir(folder)
    run.config.write_text(run.config_text(dump_config(config_of(folder, *sets))), encoding="utf-8")
    if steps:
        lines: list[dict[str, Any]] = [{"step": 0, "general_drift": 0.0}]
        for step in range(1, steps + 1):
            line = {
                "step": step, "nll": 3 / step, "alignment_loss": 0.05 * (1 - 1 / step), "alpha": 0.5,
                "learning_rate": 1e-4, "num_tokens": 100 * step,
            }  # fmt: skip
            lines.append(line)
            if step % 20 == 0:
                lines.append({"step": step, "general_drift": step / 1000, "eval_nll": 2 / step})
        write_lines(run.metrics, lines)
    if training is not None:
        write_record(run.record, "train", training)
    if evaluation is not None:
        write_record(run.evaluation, "evaluation", evaluation)
        write_samples(run.samples / "evaluation", evaluation["suites"])
    if realignment is not None:
        write_record(run.realignment, "realignment", realignment)
    return run


def assessment_record() -> dict[str, Any]:
    return {
        "settings": {
            "config": {
                "model": {"name": "a/model"},
                "data": {"prepared": None, "train": ["rows.jsonl"], "eval": ["held-out.jsonl"]},
                "train": {"seed": 42},
            },
            "scorer": "exact",
        },
        "made_of": MADE_OF,
        "environment": TRAINING["environment"],
        "data": {},
        "findings": [
            {"name": "duplicates", "status": "ok", "found": "0 of 24 training rows are there already"},
            {"name": "leakage", "status": "warning", "found": "24 of 24 held-out prompts are trained on"},
        ],
        "surprise": {"rows": 24, "prompt_nll": 2.4, "completion_nll": 3.2},
        "level": EVALUATION["level"],
        "suites": EVALUATION["suites"],
        "drift": EVALUATION["drift"],
        "probe": {"steps": 40, "seconds": 61.0, "nll": 0.5},
        "budget": 0.099,
        "budget_items": 336,
        "verdict": "Plain LoRA makes this model forget: after 40 steps it lost 5.0 points.",
        "seconds": 200.0,
    }


def write_assessment(folder: Path, **changed: Any) -> Path:
    write_run(folder / "probe", evaluation={**EVALUATION, "gate": None})
    write_record(folder / "record.json", "assessment", {**assessment_record(), **changed})
    return folder


def balance_record(outcome: str = "pass") -> dict[str, Any]:
    def point(run: str, scale: float, task: float, general: float, drift: float) -> dict[str, Any]:
        return {
            "run": run, "scale": scale, "task": task, "general": general, "forgetting": 0.6 - general, "drift": drift,
            "task_interval": interval(task, task - 0.1, task + 0.05),
            "forgetting_interval": interval(0.6 - general, -0.01, 0.12),
        }  # fmt: skip

    def trial(alpha: float, task: float, general: float) -> dict[str, Any]:
        settings = {"alpha": alpha, "learning_rate": 2e-4, "rank": 16, "length": 1.0}
        name = f"alpha-{alpha:g}-lr-0.0002-rank-16-length-1"
        return {"settings": settings, **point(name, 1.0, task, general, 0.1)}

    general = suite({"g1": (1, 1), "g2": (1, 0)}, interval(-0.02, -0.04, 0.01), interval(0.97, 0.93, 1.02))
    return {
        "settings": {
            "config": {
                "model": {"name": "a/model"}, "data": {"train": ["rows.jsonl"]}, "train": {"seed": 42},
            },
            "scorer": "exact", "max_forgetting": 0.05, "trials": 3, "seed": 7,
        },
        "made_of": MADE_OF,
        "environment": TRAINING["environment"],
        "level": {"level": 1, "scores": {"1": 0.6}},
        "test_prompts_seen": {"dev": 0, "train": 0},
        "trials": [trial(0.5, 0.9, 0.5), trial(2.0, 0.8, 0.58), trial(1.0, 0.85, 0.55)],
        "failed_trials": [{"settings": {"alpha": 8.0, "rank": 32}, "error": "the loss is not finite"}],
        "points": [
            point("alpha-0.5-lr-0.0002-rank-16-length-1", 1.0, 0.9, 0.5, 0.5),
            point("alpha-0.5-lr-0.0002-rank-16-length-1", 0.5, 0.7, 0.52, 0.25),
            point("alpha-2-lr-0.0002-rank-16-length-1", 1.0, 0.8, 0.58, 0.1),
        ],
        "front": [0, 2],
        "knee": 0,
        "chosen": 2,
        "best": "best",
        "reason": "the best at the job of 1 points, out of 3, that forget at most 5.0 points on development items",
        "base": {"dev": {"task": 0.02, "general": 0.6}},
        "test": {"task": suite({"t1": (0, 1)}, interval(0.7, 0.6, 0.8)), "general": general},
        "test_gate": bound(outcome),
        "test_drift": 0.11,
        "device": "cpu",
        "seconds": 4000.0,
    }  # fmt: skip


def write_balance(folder: Path, record: Mapping[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / "record.json", "balance", record or balance_record())
    return folder


def comparison_record(name: str = "comparison-demo") -> dict[str, Any]:
    """A whole record of a real comparison."""
    return read_record(RESULTS / f"{name}.json", "comparison")


def comparison_in_doubt() -> dict[str, Any]:
    """The same, where SelfAug may have lost 10.2 points of the general score."""
    record = comparison_record()
    general = record["methods"][record["subject"]]["suites"]["general"]["difference"]
    general["difference"] = interval(-0.019, -0.102, 0.068)
    return record


def write_comparison(folder: Path, record: Mapping[str, Any], texts: Sequence[str] = ("x",)) -> Path:
    """A comparison with the answers that its report shows."""
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    write_record(folder / "record.json", "comparison", record)
    names = ["base"]
    for method in ("plain", record["subject"]):
        row = record["methods"][method]
        names.append(f"{method}-{row['value']:g}-seed{row['seeds'][0]}")
    for name in names:
        for one in ("task", "general"):
            write_lines(
                folder / "answers" / f"test-{name}-{one}.jsonl",
                [
                    {"id": f"{one}-{number}", "prompt": text, "answer": text}
                    for number, text in enumerate(texts)
                ],
            )
    return folder


def changed_everywhere(value: Any, text: str) -> Any:
    """The same record with this text for every text that the report does not calculate with or choose by."""
    if isinstance(value, dict):
        return {
            key: one if key in _CHOSEN_BY else changed_everywhere(one, text) for key, one in value.items()
        }
    if isinstance(value, list):
        return [changed_everywhere(one, text) for one in value]
    return text if isinstance(value, str) else copy.copy(value)


# Texts that are names of cases, of files or of methods.
_CHOSEN_BY = {"outcome", "half", "method", "subject", "status", "sense"}


def raw_record(folder: Path, kind: str, data: Any) -> None:
    """A record as another program might write it: with escapes of what UTF-8 can't hold."""
    text = json.dumps({"kind": kind, "version": 1, "created": "", "selfaug": "0", "data": data})
    (folder / "record.json").write_text(text, encoding="utf-8")
