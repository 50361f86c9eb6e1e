"""Which prompts runs have learnt, as each keeps them: its rows may change, go, or be too many to be read again."""

from __future__ import annotations

from dataclasses import dataclass

from selfaug.config import TrainConfig
from selfaug.data.same_prompt import PROMPT_BYTES, PROMPTS_FORM
from selfaug.phases.run_files import place_of, runs_before, sources_when_trained
from selfaug.records import read_record, write_record
from selfaug.rundir import RunDir

__all__ = ["Learnt", "learnt_so_far", "prompts_learnt_by", "write_learnt"]

_KIND = "learnt-prompts"


@dataclass(frozen=True)
class Learnt:
    """What a run has learnt, and those that it went on from.

    Attributes:
        prompts: digests of them, as `learnt_prompts` gives.
        sources: of the rows that were trained on or rehearsed; whole paths, or names of hub data sets.
    """

    prompts: set[bytes]
    sources: set[str]


def write_learnt(run: RunDir, digests: bytes) -> None:
    """Keep in a run which prompts it learns.

    Args:
        run: whose training begins.
        digests: of the prompts, one after the other, as `TrainingData` has them.

    Raises:
        StorageError: if it can't be written.
    """
    write_record(run.learnt, _KIND, {"form": PROMPTS_FORM, "prompts": digests.hex()})


def prompts_learnt_by(run: RunDir) -> set[bytes] | None:
    """Digests of the prompts that a run itself has learnt, or some of whose rows it has rehearsed.

    Args:
        run: a run.

    Returns:
        None of versions that wrote none, or other ones.

    Raises:
        DataError: if the record is damaged.
    """
    if not run.learnt.exists():
        return None
    data = read_record(run.learnt, _KIND)
    if data["form"] != PROMPTS_FORM:
        return None
    digests = bytes.fromhex(data["prompts"])
    return {digests[at : at + PROMPT_BYTES] for at in range(0, len(digests), PROMPT_BYTES)}


def learnt_so_far(run: RunDir, config: TrainConfig) -> Learnt | None:
    """What a run has learnt, and those that it went on from; None where one of them is gone or does not know.

    Args:
        run: a run.
        config: its settings, from `load_run_config`.

    Raises:
        ConfigError, DataError: if settings or records can't be read.
    """
    prompts, sources = set[bytes](), set[str]()
    its = config
    for one, its in ((run, config), *runs_before(config)):
        own = prompts_learnt_by(one)
        if own is None:
            return None
        prompts |= own
        sources |= set(map(place_of, its.data.train))
        if sources_when_trained(one, "replay"):  # what those before it have learnt
            return Learnt(prompts, sources | set(map(place_of, its.data.replay)))
    return Learnt(prompts, sources) if its.lora.start_from is None else None
