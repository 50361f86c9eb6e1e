"""The methods that `selfaug compare` compares: what each changes in one and the same training, and its main knob.

Every knob has the same number of values, tried on development items, so that no method is a straw man. Learning rates
and alpha are relative to the training's own: what suits an adapter would destroy full weights.

Sources: SelfAug (arXiv 2509.03934); self-anchors are selfaug's own; OSF: PEFT's orthogonal subspace fine-tuning;
self-distilled targets: SDFT (arXiv 2402.13669); self-dialogue replay: SA-SFT (arXiv 2602.20162); adapter scaling:
WiSE-FT (arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["METHODS", "Method", "Source", "why_not"]

Settings = dict[str, dict[str, Any]]
"""Settings of a training run, by section."""

Source = Literal["none", "self_dialogues", "distilled"]


@dataclass(frozen=True)
class Method:
    """One way to fine-tune with less forgetting.

    Attributes:
        name: for folders and `--method`.
        label: for people.
        knob: what is tried in several values.
        values: of the knob.
        change: puts a value of the knob into the settings of the training.
        data: what has to be written before training: nothing, requests with answers of the base model, or the rows
            with completions in the base model's words.
        trained: False where the trained plain LoRA of the same seed is used.
        models: that have to be served.
    """

    name: str
    label: str
    knob: str
    values: tuple[float, ...]
    change: Callable[[Settings, float], None] = lambda settings, value: None
    data: Source = "none"
    trained: bool = True
    models: int = 1


def _times(settings: Settings, factor: float) -> None:
    settings["train"]["learning_rate"] *= factor


def _plain(settings: Settings, value: float) -> None:
    settings["selfaug"].update(alpha=0.0, drift_limit=None, anchors="none")
    # General rows are what data replay is about: no other method trains on them.
    settings["data"]["replay"] = []
    _times(settings, value)


def _selfaug(settings: Settings, value: float) -> None:
    alpha = value * settings["selfaug"]["alpha"]
    settings["selfaug"].update(alpha=alpha, drift_limit=None, anchors="none")
    settings["data"]["replay"] = []


def _anchored(settings: Settings, value: float) -> None:
    given = settings["selfaug"]["anchors"]
    _selfaug(settings, value)
    settings["selfaug"]["anchors"] = "self" if given == "none" else given


def _full(settings: Settings, value: float) -> None:
    _plain(settings, value)
    settings["lora"]["method"] = "full"


def _replay(settings: Settings, value: float) -> None:
    sources = settings["data"]["replay"] or ["embedded"]
    _plain(settings, 1.0)
    settings["data"].update(replay=sources, replay_share=value)


def _penalty(settings: Settings, value: float) -> None:
    _plain(settings, 1.0)
    settings["lora"]["weight_penalty"] = value


def _osf(settings: Settings, value: float) -> None:
    _plain(settings, value)
    settings["lora"]["method"] = "osf"


def _distilled(settings: Settings, value: float) -> None:
    _plain(settings, value)
    settings["data"]["train"] = ["{data}"]


def _self_dialogues(settings: Settings, value: float) -> None:
    _plain(settings, 1.0)
    settings["data"].update(replay=["{data}"], replay_share=value)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("plain", "plain LoRA", "learning rate ×", (1.0, 0.5), _plain),
        Method("selfaug", "SelfAug", "alpha ×", (1.0, 2.0), _selfaug),
        Method("selfaug-anchors", "SelfAug with self-anchors", "alpha ×", (1.0, 2.0), _anchored),
        Method("full", "full fine-tuning", "learning rate ×", (0.02, 0.1), _full),
        Method("replay", "data replay", "share of general rows", (0.2, 0.5), _replay),
        Method("l2", "L2 on the weight change", "penalty", (1e-3, 1e-2), _penalty),
        Method("osf", "orthogonal subspace (OSF)", "learning rate ×", (0.01, 0.03), _osf),
        Method("distilled", "self-distilled targets", "learning rate ×", (1.0, 0.5), _distilled, "distilled"),
        Method("sa-sft", "self-dialogue replay (SA-SFT)", "share of dialogues", (0.2, 0.5), _self_dialogues,
               "self_dialogues"),
        Method("wise-ft", "adapter scaled down (WiSE-FT)", "scale", (0.7, 0.4), trained=False),
        Method("router", "plain LoRA behind a router", "threshold", (0.5, 0.3), data="self_dialogues",
               trained=False, models=2),
    )
}  # fmt: skip
"""By name, in the table's order."""


def why_not(method: Method, settings: Settings) -> str | None:
    """Why a method makes no sense with settings that could be trained, as a sentence; None if it does.

    Args:
        method: that would be compared.
        settings: of the training that all methods share.
    """
    if method.name == "wise-ft" and settings["lora"]["dora"]:
        return (
            "lora.dora: weights with a DoRA adapter scaled down don't lie between those of both models; set it to "
            "false"
        )
    return None
