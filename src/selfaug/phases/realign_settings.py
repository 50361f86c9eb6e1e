"""What a re-alignment is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfaug.config import LevelName
from selfaug.phases.held_out import HELD_OUT_SHARE

__all__ = ["REHEARSAL", "RealignSettings"]

REHEARSAL = 0.1
"""Share of old rows when new ones are learnt."""


@dataclass(frozen=True)
class RealignSettings:
    """How a run is re-aligned, and what the result may lose.

    Attributes:
        data: sources of the new rows.
        eval_data: sources of held-out new rows; without any, some of `data` are set apart.
        output: folder of the new run; None: beside the old one.
        rehearsal: share of old rows among all; 0 rehearses none.
        scorer: of the new rows, as for `evaluate`.
        old_scorer: of all old rows; None: each source's own, as remembered from the re-alignment that it came with,
            or that of the deployed run's evaluation; else `scorer`.
        level: of the general suite, as for `evaluate`.
        general_items: how many general requests; None for all.
        task_items: how many new rows, evenly over their sources, and how many of each source of old ones; None for
            all.
        max_new_tokens: longest answer to a row.
        batch_size: prompts answered together.
        max_task_loss: share; what the old task's score may lose against the deployed model.
        max_general_loss: share; what the general score may lose.
        min_new_gain: share; what the new task's score must gain.
        hold_out: share of the new rows that is set apart where `eval_data` names none; 0 sets none apart.
        allow_unmeasured: whether a run may pass though the old task or the new one has no held-out rows, and nobody
            knows what it loses or gains there.
        registry: file in which a new run that passes becomes the candidate; None: in none.
    """

    data: Sequence[str]
    eval_data: Sequence[str] = ()
    output: str | None = None
    rehearsal: float = REHEARSAL
    scorer: str = "exact"
    old_scorer: str | None = None
    level: LevelName = "auto"
    general_items: int | None = None
    task_items: int | None = None
    max_new_tokens: int = 128
    batch_size: int = 32
    max_task_loss: float = 0.03
    max_general_loss: float = 0.03
    min_new_gain: float = 0.0
    hold_out: float = HELD_OUT_SHARE
    allow_unmeasured: bool = False
    registry: str | None = None
