"""The ways to train that are compared, each as a trainer of the same model on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn import functional
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.shapes import RANK, Shape, build_model, build_tokenizer
from selfaug import SelfAugConfig, SelfAugTrainer

__all__ = ["VARIANTS", "PublishedTrainer", "Variant", "make_trainer"]

ALPHA = 0.5


class PublishedTrainer(SFTTrainer):
    """What the authors' published code computes, written anew and naive (arXiv 2509.03934).

    A second forward with the adapter off, the logits of both models whole and in float32, the divergence over all
    positions whose own label is -100. Its mask is not shifted and its mean is over the micro-batch.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        labels_BT = inputs.pop("labels")
        peft_model = self.accelerator.unwrap_model(model)
        with torch.no_grad(), peft_model.disable_adapter():
            reference_BTV = model(**inputs, use_cache=False).logits.float()
        logits_BTV = model(**inputs, use_cache=False).logits.float()
        nll = functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten())
        prompt = labels_BT == -100
        log_p = functional.log_softmax(logits_BTV[prompt], -1)
        divergence = functional.kl_div(
            log_p, functional.softmax(reference_BTV[prompt], -1), reduction="batchmean"
        )
        return nll + ALPHA * divergence


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        label: in tables.
        trainer: class of the trainer.
        config: class of its settings.
        settings: of the alignment.
    """

    label: str
    trainer: type[SFTTrainer] = SelfAugTrainer
    config: type[SFTConfig] = SelfAugConfig
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def cached(self) -> bool:
        """Whether the reference comes from a cache."""
        return self.settings.get("reference") == "cache"

    @property
    def fraction(self) -> float:
        """Share of the prompt positions that is aligned."""
        return float(self.settings.get("position_fraction", 1.0))

    @property
    def rows(self) -> float:
        """Share of the rows that is aligned."""
        return float(self.settings.get("row_fraction", 1.0))


VARIANTS = {
    "trl": Variant("trl `SFTTrainer`", SFTTrainer, SFTConfig),
    "alpha0": Variant("`alpha=0`", settings={"alpha": 0.0}),
    "published": Variant("published pattern", PublishedTrainer, SFTConfig),
    "adapter_off": Variant("SelfAug, adapter off", settings={"alpha": ALPHA, "reference": "adapter_off"}),
    "rows_25": Variant(
        "SelfAug, adapter off, 25 % of rows",
        settings={"alpha": ALPHA, "reference": "adapter_off", "row_fraction": 0.25},
    ),
    "cache": Variant("SelfAug, cached", settings={"alpha": ALPHA, "reference": "cache"}),
    "cache_25": Variant(
        "SelfAug, cached, 25 % of positions",
        settings={"alpha": ALPHA, "reference": "cache", "position_fraction": 0.25},
    ),
}


def make_trainer(
    name: str,
    shape: Shape,
    rows: Dataset,
    folder: Path,
    *,
    dtype: str,
    device: str,
    callbacks: Sequence[TrainerCallback] = (),
    **settings: Any,
) -> SFTTrainer:
    """A trainer that does everything alike but its loss; caches are built in `folder`."""
    variant = VARIANTS[name]
    if variant.cached:
        settings["reference_cache_dir"] = str(folder / "cache")
    trainer = variant.trainer(
        model=build_model(shape, dtype, device),
        args=variant.config(
            output_dir=str(folder / "run"),
            per_device_train_batch_size=shape.batch,
            learning_rate=1e-4,
            optim="adamw_torch",
            max_length=None,
            # As `selfaug train` does it: autocast on a GPU, the weights' own dtype on a CPU.
            bf16=device == "cuda" and dtype == "bfloat16",
            activation_checkpointing=shape.checkpointing,
            use_cpu=device == "cpu",
            dataloader_pin_memory=device == "cuda",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **variant.settings,
            **settings,
        ),
        train_dataset=rows,
        processing_class=build_tokenizer(),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
