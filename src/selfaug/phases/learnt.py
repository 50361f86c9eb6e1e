"""What runs have learnt, as each keeps it: its rows may change, go, or be too many to be read again."""

from __future__ import annotations

from dataclasses import dataclass

from selfaug.config import TrainConfig
from selfaug.data.same_prompt import DIGEST_BYTES
from selfaug.phases.run_files import place_of, runs_before, sources_when_trained
from selfaug.records import read_record, write_record
from selfaug.rundir import RunDir

__all__ = ["Learnt", "learnt_so_far", "write_learnt"]

_KIND = "learnt"


@dataclass(frozen=True)
class Learnt:
    """What a run has learnt, and those that it went on from.

    Attributes:
        digests: of their rows, as `learnt_digests` gives.
        sources: of the rows that were trained on or rehearsed; whole paths, or names of hub data sets.
        whole: whether that is all: no run is gone, or what it had learnt was rehearsed since.
    """

    digests: set[bytes]
    sources: set[str]
    whole: bool


def write_learnt(run: RunDir, digests: bytes) -> None:
    """Keep in a run what it learns.

    Args:
        run: whose training begins.
        digests: of its rows, one after the other, as `TrainingData` has them.

    Raises:
        StorageError: if it can't be written.
    """
    write_record(run.learnt, _KIND, {"digests": digests.hex()})


def learnt_so_far(run: RunDir, config: TrainConfig) -> Learnt:
    """What a run has learnt, and those that it went on from, as far as they are there.

    Args:
        run: a run.
        config: its settings, from `load_run_config`.

    Raises:
        ConfigError, DataError: if settings or records can't be read.
    """
    digests, sources = set[bytes](), set[str]()
    all_kept, rehearsed, first = True, False, config
    for one, first in ((run, config), *runs_before(config)):
        if one.learnt.exists():
            digests |= _digests_of(one)
        else:
            all_kept = False
        sources |= set(map(place_of, first.data.train))
        if sources_when_trained(one, "replay"):  # what those before it have learnt
            sources |= set(map(place_of, first.data.replay))
            rehearsed = rehearsed or set(first.data.replay) != {"embedded"}
    return Learnt(digests, sources, all_kept and (rehearsed or first.lora.start_from is None))


def _digests_of(run: RunDir) -> set[bytes]:
    digests = bytes.fromhex(read_record(run.learnt, _KIND)["digests"])
    return {digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)}
