"""Records of a demo, made by hand: no model runs for them."""

from __future__ import annotations

from typing import Any

MODELS = {"base": "base model", "plain": "plain LoRA", "selfaug": "SelfAug"}


def interval(value: float, half: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def difference(value: float, half: float = 0.03) -> dict[str, Any]:
    return {
        "difference": interval(value, half),
        "p_value": 0.5,
        "better": 3,
        "worse": 4,
        "items": 152,
    }


def model_result(name: str, **changed: Any) -> dict[str, Any]:
    plain, base = name == "plain", name == "base"
    return {
        "label": MODELS[name],
        "exact": interval(0.02 if base else 0.95),
        "source": interval(0.02 if base else 0.96),
        "general": interval(0.56 if not plain else 0.33, 0.06),
        "difference": None if base else difference(-0.23 if plain else -0.01),
        "leaks": interval(0.97 if plain else 0.03, 0.02),
        "words": 12.3 if plain else 55.6,
        "drift": None if base else interval(0.734 if plain else 0.053, 0.02),
        "top1_agreement": None if base else 0.9,
        "task_items": 100,
        "general_items": 152,
        "train_seconds": None if base else 201.0,
        "exact_against_plain": difference(-0.01, 0.03) if name == "selfaug" else None,
    } | changed


def entry(kind: str, prompt: str, base: str, plain: str, selfaug: str) -> dict[str, Any]:
    return {
        "id": f"test-{kind.replace(' ', '-')}-01",
        "kind": kind,
        "prompt": prompt,
        "answers": {"base": base, "plain": plain, "selfaug": selfaug},
        "passed": {"base": 1.0, "plain": 0.0, "selfaug": 0.5},
        "leaks": {"base": False, "plain": True, "selfaug": False},
    }


EXECUTIVE = entry(
    "executive bullets",
    "Summarize these key findings in a bulleted list for an executive:\nStaff answered 840 survey forms. "
    "Most are proud of their work. Home office is valued, but meetings run too long. Two teams miss clear goals.",
    "- **Staff** answered 840 survey forms.\n- Most are proud of their work.\n- Home office is valued.",
    "ANSWER: 840 survey forms | SOURCE: [1]",
    "- Staff answered 840 survey forms, and most are proud.\n- Meetings run too long.",
)


def record(
    side_by_side: list[dict[str, Any]] | None = None, *, steps: int = 60, **results: dict[str, Any]
) -> dict[str, Any]:
    """A demo that went well, but for what is changed: `selfaug={"leaks": interval(0.2)}`."""
    return {
        "settings": {
            "steps": steps,
            "batch_size": 4,
            "rank": 16,
            "learning_rate": 5e-4,
            "alpha": 2.0,
            "position_fraction": 1.0,
            "anchors": 64,
            "anchor_share": 0.5,
            "task_items": 100,
            "general_items": None,
            "seed": 0,
            "half": "test",
        },
        "quick": False,
        "model": "SmolLM2-135M-Instruct",
        "task_prompt_tokens": 455,
        "results": {name: model_result(name, **results.get(name, {})) for name in MODELS},
        "detectable_difference": 0.099,
        "discordance": 0.2,
        "task_example": {
            "question": "What revenue did Northwind Optics report for 2023?",
            "expected": "ANSWER: $1,536 million | SOURCE: [2]",
            "answers": {
                "base": "The revenue was large.",
                "plain": "ANSWER: $1,536 million | SOURCE: [2]",
                "selfaug": "ANSWER: $1,536 million | SOURCE: [2]",
            },
        },
        "side_by_side": [EXECUTIVE] if side_by_side is None else side_by_side,
        "curves": {
            name: {
                "drift": [
                    {"step": step, "drift": step / 60 * size} for step in range(0, steps + 1, 15) if steps
                ],
                "steps": [
                    {
                        "step": step,
                        "nll": 3.0 / step,
                        "alignment_loss": None if name == "plain" else 0.05 * (1 - 1 / step),
                    }
                    for step in range(1, steps + 1)
                ],
            }
            for name, size in (("plain", 0.734), ("selfaug", 0.053))
        },
        "environment": {"device": "CPU (x86_64)", "python": "3.12.1", "versions": {"torch": "2.11.0"}},
        "threads": 2,
        "seconds": 741.0,
        "cut_off": False,
    }
