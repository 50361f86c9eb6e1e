from __future__ import annotations

from pathlib import Path

import pytest
import torch

from selfaug.phases.doctor import _runs_on, examine


def test_this_machine_can_train() -> None:
    findings = {finding.name: finding for finding in examine()}
    assert {"Python", "torch", "trl", "CPU", "Memory", "Cache folder", "Demo model"} <= findings.keys()
    assert findings["torch"].status == "ok"
    assert not [finding for finding in findings.values() if finding.status == "missing"]


def test_what_is_not_ok_says_what_to_do() -> None:
    assert all(finding.hint for finding in examine() if finding.status != "ok")


def test_development_tools_are_not_asked_for() -> None:
    assert "mypy" not in {finding.name for finding in examine()}


def test_a_folder_that_can_not_be_looked_for_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As without the right to look into the folder above: no name of a file may be so long.
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path / ("x" * 300)))
    monkeypatch.setenv("HF_HOME", str(tmp_path / ("y" * 300)))
    names = {finding.name for finding in examine()}
    assert {"Cache folder", "Hub cache", "Demo model"} <= names


def test_a_cache_folder_that_can_not_be_written_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path / "file"))
    cache = next(finding for finding in examine() if finding.name == "Cache folder")
    assert cache.status == "missing"
    assert "SELFAUG_CACHE" in cache.hint


def test_a_cuda_build_that_sees_no_gpu_points_to_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cuda, told in (("13.0", "`nvidia-smi`"), (None, "install a CUDA build")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        gpu = next(finding for finding in examine() if finding.name == "GPU")
        assert told in gpu.hint
        assert (cuda or "the CPU") in gpu.found


@pytest.mark.parametrize(
    ("builds", "major", "minor", "runs"),
    [
        (["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"], 8, 9, True),  # as 8.6
        (["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"], 7, 0, False),  # Volta with CUDA 13
        (["sm_86", "sm_90a"], 8, 0, False),
        (["sm_80", "sm_90"], 12, 0, False),
        (["sm_80", "sm_90", "compute_90"], 12, 0, True),  # compiled when it is needed
        ([], 8, 0, True),  # not known
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_known(
    builds: list[str], major: int, minor: int, runs: bool
) -> None:
    assert _runs_on(builds, major, minor) is runs
