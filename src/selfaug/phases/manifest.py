"""The manifest of trained weights: hashes of them and of all that they were made of, in a file beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfaug.config import TrainConfig
from selfaug.phases.model_card import MANIFEST, public_base, public_source
from selfaug.phases.resuming import WENT_ON_FROM
from selfaug.phases.run_models import hashed_weights
from selfaug.records import write_record

__all__ = ["RECORD_KIND", "write_manifest"]

RECORD_KIND = "manifest"


def write_manifest(
    folder: Path, config: TrainConfig, record: Mapping[str, Any], *, exported: Mapping[str, Any] | None = None
) -> None:
    """Write it into the folder of the weights, which leaves the machine without the run's record.

    As the model card, it names files and folders without the places where they are.

    Args:
        folder: with the adapter or the model.
        config: the run's settings.
        record: data of the run's record.
        exported: of a model that was made of the run's weights, how: `dtype`, and `of`, these as `hashed_weights`.

    Raises:
        StorageError: if it can't be written.
    """
    identity = {key: value for key, value in record["model"].items() if key not in ("name", "trainable")}
    before = record.get(WENT_ON_FROM)  # not in records of earlier versions of selfaug
    trained = [{**one, "file": Path(one["file"]).name} for one in record["weights"]]
    content: dict[str, Any] = {
        "run": Path(config.run.output).absolute().name,
        "method": config.lora.method,
        "base_model": {"name": public_base(config)[0], **identity},
        "data": {
            part: {
                "digest": described["digest"],
                "sources": [
                    {"source": public_source(source), "sha256": source.get("sha256")}
                    for source in described["sources"]
                ],
            }
            for part in ("train", "replay", "eval")
            if (described := record["data"].get(part)) is not None
        },
        WENT_ON_FROM: before and {**before, "run": Path(before["run"]).name},
        "settings_sha256": record["settings_sha256"],
        "weights": trained if exported is None else hashed_weights(folder),
        "exported": exported,
    }
    write_record(folder / MANIFEST, RECORD_KIND, content)
