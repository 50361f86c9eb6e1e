"""Training: the loss of a micro-batch, the trainer and its settings."""

from selfaug.train.loss import AlignmentLoss, alignment_loss
from selfaug.train.selfaug_config import SelfAugConfig
from selfaug.train.selfaug_trainer import SelfAugTrainer

__all__ = ["AlignmentLoss", "SelfAugConfig", "SelfAugTrainer", "alignment_loss"]
