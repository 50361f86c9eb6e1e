"""A run for vLLM: its adapter beside the base model, how to start the server, and the gateway before it."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from selfaug.config import load_config
from selfaug.errors import ConfigError, StorageError
from selfaug.model.loading import resolve_name
from selfaug.phases.live_run import tuned_name
from selfaug.phases.run_models import trained_weights
from selfaug.records import write_text
from selfaug.rundir import RunDir

__all__ = ["VllmLaunch", "export_vllm"]

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank takes."""


@dataclass(frozen=True)
class VllmLaunch:
    """What was written.

    Attributes:
        folder: with `adapter`, `vllm.sh` and `compose.yaml`.
        commands: how to start it, one way or the other.
    """

    folder: Path
    commands: list[str]


def export_vllm(run: str | os.PathLike[str], to: str | os.PathLike[str]) -> VllmLaunch:
    """Write a run's adapter with the launch of vLLM that serves it beside its base model, and a gateway before both.

    Args:
        run: folder of the run.
        to: a folder that does not exist yet or is empty.

    Raises:
        ConfigError: if vLLM can't serve its adapter.
        StorageError: if the folder is taken or can't be written, or the run has no weights yet.
    """
    folder, target = RunDir.open(run), Path(to)
    config = load_config(folder.config)
    problems = []
    if config.lora.method != "lora":
        problems.append(f"it was trained with lora.method {config.lora.method}, and vLLM takes LoRA adapters")
    if config.lora.dora:
        problems.append("its adapter is DoRA, which vLLM doesn't take")
    if config.lora.rank > _RANKS[-1]:
        problems.append(f"its rank is {config.lora.rank}, and vLLM takes {_RANKS[-1]} at most")
    if problems:
        raise ConfigError(
            f"{folder.path} can't be served by vLLM beside its base model.",
            problems=problems,
            hint=f"merge it: selfaug export {shlex.quote(str(folder.path))} --to FOLDER, and vllm serve FOLDER.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(f"{target} exists and is not empty.", hint="give a new folder with --to.")
    weights, _ = trained_weights(folder, config)
    name, model = tuned_name(folder, config), str(resolve_name(config.model.name))
    rank = next(one for one in _RANKS if one >= config.lora.rank)
    try:
        (target / "adapter").mkdir(parents=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(weights / file, target / "adapter" / file)
        write_text(target / "vllm.sh", _script(config.model.name, model, name, rank))
        (target / "vllm.sh").chmod(0o755)
        write_text(
            target / "compose.yaml", _compose(config.model.name, model, name, rank, folder.path.resolve())
        )
    except OSError as error:
        raise StorageError(
            f"can't write {target}: {error.strerror or error}", hint="give another folder with --to."
        ) from error
    return VllmLaunch(
        target,
        [
            shlex.join([str(target / "vllm.sh")]),
            shlex.join(["selfaug", "serve", str(folder.path), "--upstream", "http://127.0.0.1:8001/v1"]),
            shlex.join(["docker", "compose", "-f", str(target / "compose.yaml"), "up"]),
        ],
    )


def _arguments(served: str, model: str, name: str, rank: int, adapter: str) -> list[str]:
    return [
        model, "--served-model-name", served, "--enable-lora", "--max-lora-rank", str(rank),
        "--lora-modules", f"{name}={adapter}",
    ]  # fmt: skip


def _script(served: str, model: str, name: str, rank: int) -> str:
    command = shlex.join(["vllm", "serve", *_arguments(served, model, name, rank, "ADAPTER")])
    command = command.replace("ADAPTER", '"$folder"/adapter').replace(" --", " \\\n    --")
    return (
        "#!/bin/sh\n"
        f"# vLLM with the base model {served!r} and the tuned model {name!r} on its adapter.\n"
        "# VLLM_API_KEY is its key; the gateway has the same one as SELFAUG_UPSTREAM_KEY.\n"
        "set -eu\n"
        'folder=$(cd "$(dirname "$0")" && pwd)\n'
        f'exec {command} \\\n    --host 127.0.0.1 --port 8001 "$@"\n'
    )


def _compose(served: str, model: str, name: str, rank: int, run: Path) -> str:
    """vLLM on the GPUs, which only the gateway reaches."""
    volumes = ["./adapter:/adapter:ro"]
    if Path(model).is_dir():
        volumes.append(f"{Path(model).resolve()}:/model:ro")
        model = "/model"
    head = (
        "# The gateway at port 8000, and vLLM behind it. Both keys come from the environment:\n"
        "#   SELFAUG_API_KEY for clients, SELFAUG_UPSTREAM_KEY between the two.\n"
        "# The image `selfaug` is built from the project's Dockerfile. Neither Docker nor vLLM was at hand to try\n"
        "# this.\n"
    )
    services = {
        "vllm": {
            "image": "vllm/vllm-openai:latest",
            "command": _arguments(served, model, name, rank, "/adapter"),
            "environment": {"VLLM_API_KEY": "${SELFAUG_UPSTREAM_KEY:?}"},
            "volumes": volumes,
            "ipc": "host",
            "deploy": {
                "resources": {
                    "reservations": {
                        "devices": [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
                    }
                }
            },
        },
        "gateway": {
            "image": "selfaug",
            "command": [
                "serve", f"/run/{run.name}", "--host", "0.0.0.0", "--upstream", "http://vllm:8000/v1",
                "--max-batch", "256", "--max-waiting", "256",
            ],
            "environment": {
                "SELFAUG_API_KEY": "${SELFAUG_API_KEY:?}",
                "SELFAUG_UPSTREAM_KEY": "${SELFAUG_UPSTREAM_KEY:?}",
            },
            "volumes": [f"{run}:/run/{run.name}"],
            "ports": ["127.0.0.1:8000:8000"],
            "depends_on": ["vllm"],
            "restart": "on-failure",
        },
    }  # fmt: skip
    return head + yaml.safe_dump({"services": services}, sort_keys=False, allow_unicode=True)
