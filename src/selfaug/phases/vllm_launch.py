"""A run for vLLM: its adapter or merged weights, how to start the server, and the gateway before it."""

from __future__ import annotations

import os
import posixpath
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selfaug.config import TrainConfig, load_config
from selfaug.errors import StorageError
from selfaug.model.loading import resolve_name
from selfaug.phases.export import export, require_new_folder
from selfaug.phases.live_run import tuned_name
from selfaug.phases.model_card import MANIFEST
from selfaug.phases.run_files import load_run_config, require_named_base
from selfaug.phases.run_models import trained_weights
from selfaug.records import write_text
from selfaug.rundir import RunDir

__all__ = ["VllmLaunch", "export_vllm"]

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank takes."""


_MANY = ("--max-batch", "256", "--max-waiting", "256")
"""Of the gateway: vLLM answers more requests at once than a server that loads the models itself."""

_WORKING_FOLDER = "/work"
"""Where the image of the project's Dockerfile works: relative paths of a run's settings are taken from there."""

_HUB_CACHE = "/root/.cache/huggingface"
"""Where vLLM's image keeps what it has downloaded."""


@dataclass(frozen=True)
class VllmLaunch:
    """What was written.

    Attributes:
        folder: with `adapter` or `merged`, `vllm.sh` and `compose.yaml`.
        commands: what its requests are compared with when they are watched, and how to start it, one way or the
            other.
        warnings: what the user should know.
    """

    folder: Path
    commands: list[str]
    warnings: list[str]


def export_vllm(
    run: str | os.PathLike[str], to: str | os.PathLike[str], *, offline: bool = False
) -> VllmLaunch:
    """Write a run for vLLM: what it loads, how to start it, and the gateway before it.

    That is the adapter, which vLLM serves beside its base model, or merged weights where it can't load the adapter.
    These are a model of their own: the base model needs another server then.

    Args:
        run: folder of the run.
        to: a folder that does not exist yet or is empty.
        offline: never ask a hub; only merging loads the base model.

    Raises:
        StorageError: if the folder is taken or can't be written, or the run has no weights yet.
        ModelError: if the base model can't be loaded for merging, or is another than the run's.
    """
    folder, target = RunDir.open(run), Path(to)
    config = load_run_config(folder)
    require_new_folder(target)
    weights, step = trained_weights(folder, config)
    require_named_base(folder, config)
    why = _no_adapter(config)
    models = _Models.of(folder, config, merged=why is not None)
    options, warnings = [*_MANY], []
    if step is not None:
        warnings.append(f"{folder.path} is not complete; this is its checkpoint at step {step}.")
    if why is not None:
        options.append("--upstream-no-base")
        warnings.append(f"{why}: it is merged, and the base model, where it is wanted, needs another server.")
    if config.model.quantization != "none":
        options.append("--no-check")  # the record of training is of other weights
        warnings.append(
            "trained on 4-bit weights, and vLLM serves the full ones: answers differ, so they aren't compared."
        )
    try:
        if models.merged:
            export(run, target / "merged", offline=offline)
        else:
            (target / "adapter").mkdir(parents=True)
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                shutil.copyfile(weights / file, target / "adapter" / file)
            for file in ("README.md", MANIFEST):
                if (weights / file).is_file():  # a checkpoint has neither
                    shutil.copyfile(weights / file, target / "adapter" / file)
        write_text(target / "vllm.sh", _script(models))
        (target / "vllm.sh").chmod(0o755)
        write_text(target / "compose.yaml", _compose(models, folder.path.resolve(), config, options))
    except OSError as error:
        raise StorageError(
            f"can't write {target}: {error.strerror or error}", hint="give another folder with --to."
        ) from error
    return VllmLaunch(
        target,
        [
            shlex.join(_reference_command(str(folder.path))),
            shlex.join([str(target / "vllm.sh")]),
            shlex.join(
                ["selfaug", "serve", str(folder.path), "--upstream", "http://127.0.0.1:8001/v1", *options]
            ),
            shlex.join(["docker", "compose", "-f", str(target / "compose.yaml"), "up"]),
        ],
        warnings,
    )


def _reference_command(run: str) -> list[str]:
    """Measures what a gateway without models can't: it watches nothing until that is there."""
    return ["selfaug", "monitor", run, "--reference"]


def _no_adapter(config: TrainConfig) -> str | None:
    """Why vLLM can't load what was trained beside the base model; None if it can."""
    if config.lora.method != "lora":
        return f"trained with lora.method {config.lora.method}, and vLLM takes LoRA adapters"
    if config.lora.dora:
        return "the adapter is DoRA, which vLLM doesn't take"
    if config.lora.rank > _RANKS[-1]:
        return f"the adapter's rank is {config.lora.rank}, and vLLM takes {_RANKS[-1]} at most"
    return None


@dataclass(frozen=True)
class _Models:
    """The models, as vLLM is told of them.

    Attributes:
        served: what the base model is called there.
        base: its folder, or its name on the hub.
        tuned: what the tuned model is called.
        rank: of adapters, at most; None if there is none, but merged weights.
        trusted: whether the base model's own code is run.
    """

    served: str
    base: str
    tuned: str
    rank: int | None
    trusted: bool

    @classmethod
    def of(cls, run: RunDir, config: TrainConfig, *, merged: bool) -> _Models:
        base = str(resolve_name(config.model.name))
        named = load_config(run.config)  # what clients ask for does not depend on where it is found
        return cls(
            named.model.name,
            str(Path(base).resolve()) if Path(base).is_dir() else base,
            tuned_name(run, named.model.name),
            None if merged else next(one for one in _RANKS if one >= config.lora.rank),
            config.model.trust_remote_code,
        )

    @property
    def merged(self) -> bool:
        """Whether the tuned model is served alone."""
        return self.rank is None

    def arguments(self) -> list[str]:
        """Of `vllm serve`, between the model and the adapter."""
        return [
            "--served-model-name", self.tuned if self.merged else self.served,
            # Sampling settings and penalties of the model's own would change answers that are asked for otherwise.
            "--generation-config", "vllm",
            # As long as there is memory for; a model's longest context is often more.
            "--max-model-len", "auto",
            *(["--trust-remote-code"] if self.trusted else []),
            *([] if self.merged else ["--enable-lora", "--max-lora-rank", str(self.rank), "--lora-modules"]),
        ]  # fmt: skip


def _script(models: _Models) -> str:
    if models.merged:
        what, model, adapter = f"the tuned model {models.tuned!r}, merged", '"$folder"/merged', ""
    else:
        what = f"the base model {models.served!r} and the tuned model {models.tuned!r} on its adapter"
        model, adapter = shlex.quote(models.base), f' {shlex.quote(models.tuned + "=")}"$folder"/adapter'
    words = map(shlex.quote, models.arguments())
    options = " ".join(f"\\\n    {word}" if word.startswith("--") else word for word in words)
    return (
        "#!/bin/sh\n"
        f"# vLLM with {what}.\n"
        "# VLLM_API_KEY is its key; the gateway has the same one as SELFAUG_UPSTREAM_KEY.\n"
        "set -eu\n"
        'folder=$(cd "$(dirname "$0")" && pwd)\n'
        f"exec vllm serve {model} {options}{adapter} \\\n"
        '    --host 127.0.0.1 --port 8001 "$@"\n'
    )


def _compose(models: _Models, run: Path, config: TrainConfig, options: list[str]) -> str:
    """vLLM on the GPUs, which only the gateway reaches; the gateway with these options."""
    if models.merged:
        model, adapter, loaded = "/model", [], ["./merged:/model:ro"]
    else:
        model, adapter, loaded = models.base, [f"{models.tuned}=/adapter"], ["./adapter:/adapter:ro"]
        if Path(model).is_dir():
            loaded += _volumes(Path(model), "/model")
            model = "/model"
    # Found there under the names that the settings have.
    named = load_config(RunDir(run).config)
    needed = dict.fromkeys(  # Docker refuses one that is there twice
        volume
        for found, name in (
            (config.model.name, named.model.name),
            (config.data.prepared, named.data.prepared),
        )
        if found is not None and name is not None and Path(found).is_dir()
        for volume in _volumes(Path(found).resolve(), _joined(_WORKING_FOLDER, name))
    )
    owner = run.stat()
    head = (
        "# The gateway at port 8000, and vLLM behind it. Keys come from the environment:\n"
        "#   SELFAUG_API_KEY for clients (16 characters or more; SELFAUG_OLD_API_KEY one that it has replaced),\n"
        "#   SELFAUG_UPSTREAM_KEY between the two, HF_TOKEN where the hub wants one.\n"
        "# The image `selfaug` is built from the project's Dockerfile: docker build -t selfaug .\n"
        "# vLLM must be 0.19.1 or newer. Neither Docker nor vLLM was at hand to try this.\n"
        "# Requests are watched once the reference window is there. It is measured with the run's own models, once,\n"
        "# before or after this is started:\n"
        f"#   {shlex.join(_reference_command(str(run)))}\n"
        "# Drift is not measured unless the gateway's command has --score-drift, which loads the models on the CPU.\n"
    )
    services = {
        "vllm": {
            "image": "vllm/vllm-openai:latest",
            "command": [model, *models.arguments(), *adapter],
            "environment": {"VLLM_API_KEY": "${SELFAUG_UPSTREAM_KEY:?}", "HF_TOKEN": "${HF_TOKEN:-}"},
            "volumes": [*loaded, f"huggingface:{_HUB_CACHE}"],
            "ipc": "host",
            "deploy": {
                "resources": {
                    "reservations": {
                        "devices": [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
                    }
                }
            },
            "healthcheck": {
                "test": ["CMD", "python3", "-c", _ASK_HEALTH],
                "interval": "10s",
                "timeout": "5s",
                "retries": 3,
                # A large model is downloaded and loaded first.
                "start_period": "60m",
            },
            **_kept_running(),
        },
        "gateway": {
            "image": "selfaug",
            "pull_policy": "never",
            # Who owns the run, so that what is watched can be kept with it.
            "user": f"{owner.st_uid}:{owner.st_gid}",
            "command": [
                "serve", f"/run/{run.name}", "--host", "0.0.0.0", "--upstream", "http://vllm:8000/v1",
                "--rate-limit", "600", *options,
            ],
            "environment": {
                "SELFAUG_API_KEY": "${SELFAUG_API_KEY:?}",
                # Without a value: as it is outside, and not there where it isn't. An empty key is refused.
                "SELFAUG_OLD_API_KEY": None,
                "SELFAUG_UPSTREAM_KEY": "${SELFAUG_UPSTREAM_KEY:?}",
                "HF_TOKEN": "${HF_TOKEN:-}",
            },
            "volumes": [f"{run}:/run/{run.name}", *needed, "cache:/cache"],
            "ports": ["127.0.0.1:8000:8000"],
            "depends_on": {"vllm": {"condition": "service_healthy"}},
            # Docker would kill it after ten seconds; running answers have thirty, by --drain.
            "stop_grace_period": "45s",
            **_kept_running(),
        },
    }  # fmt: skip
    whole = {"services": services, "volumes": {"huggingface": None, "cache": None}}
    return head + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)


_ASK_HEALTH = "import urllib.request as r; r.urlopen('http://localhost:8000/health', timeout=4)"


def _kept_running() -> dict[str, Any]:
    """How a service outlives a crash, a restart of the machine, and its own log."""
    return {
        # Docker's own restart is no failure: `on-failure` would not start it again.
        "restart": "unless-stopped",
        "logging": {"driver": "json-file", "options": {"max-size": "20m", "max-file": "5"}},
    }


def _volumes(folder: Path, inside: str) -> list[str]:
    """What puts a folder into a container, and what links in it lead to: the hub's cache has files of that kind.

    Args:
        folder: here, resolved.
        inside: its path there.
    """
    places = {inside: folder}
    for link in folder.rglob("*"):
        if not link.is_symlink() or not link.exists():
            continue
        target = os.readlink(link)
        here = Path(os.path.normpath(link.parent / target))
        there = _joined(_joined(inside, link.parent.relative_to(folder).as_posix()), target)
        # One within the folder may lead elsewhere there: an absolute one, or one through the folder's own name.
        holds = here.is_relative_to(folder) and there == _joined(inside, here.relative_to(folder).as_posix())
        if not holds:
            # Alone: whatever else is beside it is nobody's business there.
            places[there] = link.resolve()
    return [f"{here}:{there}:ro" for there, here in places.items()]


def _joined(folder: str, path: str) -> str:
    """A path in a container that starts at a folder there."""
    return posixpath.normpath(posixpath.join(folder, path))
