from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from selfaug import __version__
from selfaug.phases.doctor import EXTRAS, _runs_on, examine, memory

MIB = 2**20


def test_this_machine_can_train() -> None:
    findings = {finding.name: finding for finding in examine()}
    assert {"Python", "torch", "trl", "CPU", "Memory", "Cache folder", "Demo model"} <= findings.keys()
    assert findings["selfaug"].found.startswith(f"{__version__} (")
    assert findings["torch"].status == "ok"
    assert not [finding for finding in findings.values() if finding.status == "missing"]


def test_what_is_not_ok_says_what_to_do() -> None:
    assert all(finding.hint for finding in examine() if finding.status != "ok")


def test_development_tools_are_not_asked_for() -> None:
    assert not [finding for finding in examine() if "mypy" in finding.name + finding.found]


def test_every_extra_is_listed_with_its_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert EXTRAS.keys() == extras.keys() - {"dev"}
    findings = {finding.name: finding for finding in examine()}
    for name in EXTRAS:
        for package in extras[name]:
            assert f" {Requirement(package).name} " in findings[f"Extra {name}"].found
    # What has the same module without a server will do.
    assert findings["Extra mlflow"].status == findings["Extra serve"].status == "ok"


def installed(folder: Path, name: str, version: str, *required: str) -> None:
    """A package as pip tells of it: its name, its version and what it asks for."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in required)]
    (place / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_what_is_missing_or_too_old_is_told_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(
        tmp_path, "selfaug", "9.0",
        "numpy>=2", "no-such-package>=3", 'no-such-extra>=1; extra == "serve"', 'bitsandbytes>=0.46; extra == "qlora"',
    )  # fmt: skip
    installed(tmp_path, "numpy", "1.0")
    installed(tmp_path, "bitsandbytes", "0.1")
    monkeypatch.syspath_prepend(tmp_path)
    findings = {finding.name: finding for finding in examine()}
    told = {name: (findings[name].status, findings[name].found, findings[name].hint) for name in findings}
    assert told["numpy"] == ("missing", "1.0, tested with >=2", 'pip install "numpy>=2"')
    assert told["no-such-package"] == ("missing", "not installed", 'pip install "no-such-package>=3"')
    # Training works without these.
    status, found, hint = told["Extra serve"]
    assert (status, hint) == ("warning", 'pip install "selfaug[serve]"')
    assert found.endswith(": no-such-extra not installed")
    status, found, hint = told["Extra qlora"]
    assert (status, hint) == ("warning", 'pip install "selfaug[qlora]"')
    assert found.endswith(": bitsandbytes 0.1, tested with >=0.46")


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


def test_a_user_without_a_home_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SELFAUG_CACHE", "HF_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    found = {finding.name: finding for finding in examine()}
    for name, variable in (("Cache folder", "SELFAUG_CACHE"), ("Hub cache", "HF_HOME")):
        assert found[name].status == "missing"
        assert variable in found[name].hint


def limited(root: Path, groups: dict[str, tuple[object, int]], version: int, own: str, cached: int) -> None:
    """A system with these limits and bytes in use of control groups, as the kernel tells them."""
    (root / "proc" / "self").mkdir(parents=True)
    told = f"0::{own}\n" if version == 2 else f"9:name=systemd:/x:y\n4:memory:{own}\n0::/\n"
    (root / "proc" / "self" / "cgroup").write_text(told)
    (root / "proc" / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable: 1024000 kB\n")
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for group, (limit, used) in groups.items():
        folder = root / "sys" / "fs" / "cgroup" / ("memory" if version == 1 else "") / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        if cached:
            (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("own", "groups", "cached", "want"),
    [
        # The container's own group is what it has as the topmost, whatever its path on the host.
        ("/docker/abc", {"": (100 * MIB, 30 * MIB)}, 0, (70 * MIB, 100 * MIB)),
        ("/docker/abc", {"": (100 * MIB, 30 * MIB)}, 20 * MIB, (90 * MIB, 100 * MIB)),
        ("/", {"": (100 * MIB, 101 * MIB)}, 0, (0, 100 * MIB)),
        # A slice limits the groups within it.
        ("/s/job", {"s/job": ("max", 30 * MIB), "s": (50 * MIB, 35 * MIB)}, 0, (15 * MIB, 50 * MIB)),
        ("/s/job", {"s/job": (40 * MIB, 30 * MIB), "s": (50 * MIB, 45 * MIB)}, 0, (5 * MIB, 40 * MIB)),
    ],
)
def test_memory_is_what_a_container_may_have(
    tmp_path: Path,
    version: int,
    own: str,
    groups: dict[str, tuple[object, int]],
    cached: int,
    want: tuple[int, int],
) -> None:
    limited(tmp_path, groups, version, own, cached)
    assert memory(tmp_path) == want


@pytest.mark.parametrize("limit", ["max", 9223372036854771712])
def test_memory_without_a_limit_is_the_systems(tmp_path: Path, limit: object) -> None:
    limited(tmp_path, {"": (limit, MIB)}, 2, "/", 0)
    known, system = memory(tmp_path), memory(tmp_path / "nothing")
    assert known is not None
    assert system is not None
    assert known == (1024000 * 1024, system[1])


def test_a_cuda_build_that_sees_no_gpu_points_to_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cuda, told in (("13.0", "`nvidia-smi`"), (None, "install a CUDA build")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        gpu = next(finding for finding in examine() if finding.name == "GPU")
        assert told in gpu.hint
        assert "`pip uninstall torch` first" in gpu.hint
        assert (cuda or "the CPU") in gpu.found


def test_an_apple_gpu_is_no_reason_for_a_cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    gpu = next(finding for finding in examine() if finding.name == "GPU")
    assert "the commands don't use" in gpu.found
    assert "CUDA" not in gpu.hint


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
