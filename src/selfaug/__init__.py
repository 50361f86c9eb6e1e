"""selfaug: fine-tune a causal language model for one job without making it forget the rest.

The public names are imported when they are first used, so that `import selfaug` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfaug.eval.drift import measure_drift
    from selfaug.model.cache import ReferenceCache
    from selfaug.phases.ask import open_assistant
    from selfaug.train.loss import alignment_loss
    from selfaug.train.selfaug_config import SelfAugConfig
    from selfaug.train.selfaug_trainer import SelfAugTrainer

__all__ = [
    "ReferenceCache",
    "SelfAugConfig",
    "SelfAugTrainer",
    "alignment_loss",
    "measure_drift",
    "open_assistant",
]
__version__ = "0.1.0"

_MODULES = {
    "ReferenceCache": "selfaug.model.cache",
    "SelfAugConfig": "selfaug.train.selfaug_config",
    "SelfAugTrainer": "selfaug.train.selfaug_trainer",
    "alignment_loss": "selfaug.train.loss",
    "measure_drift": "selfaug.eval.drift",
    "open_assistant": "selfaug.phases.ask",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'selfaug' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
