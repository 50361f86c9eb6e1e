from __future__ import annotations

import errno
import os
from pathlib import Path

import filelock
import pytest

from selfaug.errors import StorageError
from selfaug.rundir import RunDir, alone_in, holder_of


def make_run(path: Path, *, complete: bool = True) -> RunDir:
    run = RunDir.create(path)
    run.config.write_text(run.config_text("model: {name: m}\n"), encoding="utf-8")
    run.metrics.write_text('{"step": 1}\n', encoding="utf-8")
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    if complete:
        run.record.write_text("{}", encoding="utf-8")
    return run


def test_create_makes_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs" / "first")
    assert run.path.is_dir()
    assert list(run.path.iterdir()) == []


def test_an_empty_folder_that_exists_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    RunDir.create(tmp_path / "run")


@pytest.mark.parametrize("complete", [True, False])
def test_an_existing_run_is_refused_with_the_ways_out(tmp_path: Path, complete: bool) -> None:
    make_run(tmp_path / "run", complete=complete)
    with pytest.raises(StorageError, match="already holds a run") as error:
        RunDir.create(tmp_path / "run")
    assert "--overwrite" in str(error.value)
    # A run that is complete has nothing to go on with.
    assert ("--resume" in str(error.value)) is not complete
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


def visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".replaced")]


def test_a_run_that_is_overwritten_comes_back_if_nothing_came_of_the_new(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    run = RunDir.create(tmp_path / "run", overwrite=True)
    assert visible(run.path) == []
    run.config.write_text(run.config_text("model: {name: other}\n"), encoding="utf-8")
    run.metrics.write_text('{"step": 1}\n', encoding="utf-8")
    assert not run.is_worth_keeping()
    run.discard()
    assert RunDir.open(run.path).is_complete()
    assert "name: m" in run.config.read_text(encoding="utf-8")


def test_a_run_that_is_overwritten_goes_with_the_first_checkpoint(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    run = RunDir.create(tmp_path / "run", overwrite=True)
    (run.checkpoints / "checkpoint-1").mkdir(parents=True)
    (run.checkpoints / "checkpoint-1" / "selfaug_state.json").touch()
    assert run.is_worth_keeping()
    run.replaced.settle()
    assert list(run.path.iterdir()) == [run.checkpoints]


def test_a_working_directory_and_a_link_can_be_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    run = RunDir.create(".", overwrite=True)
    assert visible(tmp_path / "run") == []
    run.discard()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    run = RunDir.create(tmp_path / "link", overwrite=True)
    assert visible(tmp_path / "run") == []
    run.discard()
    assert RunDir.open(tmp_path / "run").is_complete()
    assert (tmp_path / "link").is_symlink()


def test_overwrite_never_deletes_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "config.yaml").write_text("title: my thesis\n", encoding="utf-8")
    with pytest.raises(StorageError, match="not a selfaug run"):
        RunDir.create(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "config.yaml").exists()


def test_overwrite_never_deletes_what_someone_put_into_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run.path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(StorageError, match=r"did not write: notes\.txt"):
        RunDir.create(run.path, overwrite=True)
    assert run.record.exists()
    assert (run.path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_overwrite_follows_no_link_out_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    run.samples.symlink_to(outside)
    (RunDir.create(run.path, overwrite=True).checkpoints / "checkpoint-1").mkdir(parents=True)
    (run.checkpoints / "checkpoint-1" / "selfaug_state.json").touch()
    run.replaced.settle()
    assert not run.samples.exists()
    assert (outside / "precious").exists()


def test_overwrite_clears_what_a_crash_left_behind(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run.path / ".record.json.x1y2").touch()
    (run.path / "adapter.partial").mkdir()
    for of_a_mac in (".DS_Store", "._record.json"):
        (run.path / of_a_mac).touch()
    RunDir.create(run.path, overwrite=True)
    assert {entry.name for entry in visible(run.path)} == {".DS_Store", "._record.json"}


def test_a_file_in_the_way_and_an_unwritable_place_are_storage_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is a file, not a folder"):
        RunDir.create(tmp_path / "file")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        RunDir.create(tmp_path / "file" / "run")
    with pytest.raises(StorageError, match="can't write into"):
        RunDir.create("/proc/selfaug-run")


def test_a_place_that_can_not_be_written_is_seen_without_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def read_only(place: Path, mode: int) -> bool:
        asked.append(place)
        return mode == os.R_OK

    monkeypatch.setattr("selfaug.rundir.os.access", read_only)
    with pytest.raises(StorageError, match="can't write into") as error:
        RunDir.require_free(tmp_path / "runs" / "first")
    assert asked == [tmp_path]
    assert "--output" in str(error.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_came_to_nothing_is_deleted_also_without_a_file(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.discard()
    assert not run.path.exists()
    run = RunDir.create(tmp_path / "run")
    (run.path / "mine").touch()
    with pytest.raises(StorageError, match="not a selfaug run"):
        run.discard()


def test_the_command_that_resumes_is_for_a_shell(tmp_path: Path) -> None:
    assert RunDir("runs/a").resume_command == "selfaug train --resume --output runs/a"
    assert RunDir("my runs/a").resume_command == "selfaug train --resume --output 'my runs/a'"


def test_open_needs_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    assert RunDir.open(tmp_path / "run").is_complete()
    with pytest.raises(StorageError, match="there is no such folder"):
        RunDir.open(tmp_path / "missing")
    with pytest.raises(StorageError, match=r"has no config\.yaml"):
        RunDir.open(tmp_path)


def test_the_latest_complete_checkpoint_has_the_file_that_is_written_last(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    assert run.latest_complete_checkpoint() is None
    for step in (9, 10, 100):
        (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    (run.checkpoints / "checkpoint-best").mkdir()
    assert run.latest_complete_checkpoint() is None
    for step in (9, 10):  # 100 was cut off; 10 comes after 9 as a number, before it as text
        (run.checkpoints / f"checkpoint-{step}" / "selfaug_state.json").touch()
    assert run.latest_complete_checkpoint() == run.checkpoints / "checkpoint-10"


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOSYS, "no locks")])
def test_a_file_system_without_locks_holds_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in their place would outlive a process that is killed, and keep its run for ever."""

    def without(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", without)
    with alone_in(tmp_path / "run", "is being trained", hint=""):
        assert holder_of(tmp_path / "run") is None
        with alone_in(tmp_path / "run", "is being trained", hint=""):
            (tmp_path / "run" / "something").write_text("x", encoding="utf-8")
    assert [entry.name for entry in (tmp_path / "run").iterdir() if entry.suffix != ".lock"] == ["something"]


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with alone_in(tmp_path / "run", "is being trained", hint="wait for it"):
        assert holder_of(tmp_path / "run") == f"another process (PID {os.getpid()})"
        # On Windows, a locked first byte can be neither written nor read.
        assert (tmp_path / "run" / ".lock").read_bytes() == f"\0{os.getpid()}\n".encode()
        with (
            pytest.raises(StorageError, match=rf"is being trained by another process \(PID {os.getpid()}\)"),
            alone_in(tmp_path / "run", "is being trained", hint="wait for it"),
        ):
            pass
    assert holder_of(tmp_path / "run") is None
    assert not (tmp_path / "run").exists()
