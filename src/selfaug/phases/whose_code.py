"""Whose code is run besides selfaug's own, where a run's folder or prepared documents decide that."""

from __future__ import annotations

import os
from pathlib import Path

from selfaug.phases.prepared_folder import is_prepared, prepared_record
from selfaug.phases.run_files import load_run_config
from selfaug.rundir import RunDir

__all__ = ["code_of_prepared", "code_of_run"]


def code_of_run(
    run: str | os.PathLike[str],
    *,
    searches: bool = False,
    prepared: str | os.PathLike[str] | None = None,
) -> list[str]:
    """What to tell whoever uses a run before its models are loaded: whose code that runs, a sentence for each.

    Args:
        run: folder of the run.
        searches: whether its documents are searched, too.
        prepared: their folder; by default the one that the run was trained on.

    Raises:
        StorageError: if there is no such run.
        ConfigError, DataError: if its settings, or the record of its documents, can't be read.
    """
    folder = RunDir.open(run)
    config = load_run_config(folder)
    found = []
    if config.model.trust_remote_code:
        models = [config.model.name, *([str(folder.model)] if config.lora.method == "full" else [])]
        found.append(
            f"{folder.config} has model.trust_remote_code, so code that comes with {' and '.join(models)} is run"
        )
    documents = prepared or config.data.prepared
    if searches and documents is not None:
        found += code_of_prepared(documents)
    return found


def code_of_prepared(folder: str | os.PathLike[str]) -> list[str]:
    """The same of prepared documents that are searched; nothing of a folder that is refused anyway.

    Args:
        folder: that `selfaug prepare` wrote.

    Raises:
        DataError: if its record can't be read.
    """
    place = Path(folder)
    if not is_prepared(place):
        return []
    retriever = prepared_record(place)["retrieval"]["retriever"]
    if retriever == "bm25":
        return []
    return [f"{place / 'record.json'} names the retriever {retriever}, so that function is run"]
