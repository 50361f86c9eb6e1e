"""Recipes: each loads, and the command in its head is one that the command line takes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser

from selfaug.cli.main import app
from selfaug.config import FLAGS, TrainConfig, load_config

ROOT = Path(__file__).parents[1]
FSDP = ROOT / "recipes" / "accelerate-fsdp2.yaml"
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if path != FSDP)


def command_of(recipe: Path) -> list[str]:
    """The command in the head of a recipe."""
    lines = [line[1:].strip() for line in recipe.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    commands = [line for line in lines if line.startswith(("selfaug train ", "accelerate launch "))]
    assert len(commands) == 1, f"{recipe.name}: {commands}"
    return shlex.split(commands[0])


def parse_train(arguments: list[str]) -> dict[str, object]:
    """What `selfaug train` takes from these arguments; fails on a flag that it doesn't know."""
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    context = command.make_context("train", list(arguments))
    return {name: value for name, value in context.params.items() if value}


def test_every_family_has_a_recipe_for_one_gpu_and_for_eight() -> None:
    names = [path.stem for path in RECIPES]
    for family in ("smollm2", "qwen3", "llama3", "gemma3"):
        sizes = [name.rpartition("-")[2] for name in names if name.startswith(family)]
        assert sizes == ["1gpu", "8gpu"] or sizes == ["8gpu", "1gpu"], family


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads_and_its_command_parses(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    launcher, _, selfaug = " ".join(command_of(recipe)).rpartition("selfaug train ")
    given = parse_train(selfaug.split())
    assert Path(str(given["config"])) == recipe.relative_to(ROOT)
    flags = {"--train": given["rows"], "--output": given["output"]}
    config = load_config(recipe, flags)
    assert isinstance(config, TrainConfig)
    # Rows in a recipe would win over those of a prepared folder.
    assert "train" not in yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]
    assert load_config(recipe, {"--train": given["rows"]}).run.output == given["output"]
    if recipe.stem.endswith("8gpu"):
        launched = launch_command_parser().parse_args([*launcher.split()[2:], "selfaug"])
        assert launched.module
        if launched.config_file is None:
            assert (launched.multi_gpu, launched.num_processes) == (True, 8)
        else:
            assert Path(launched.config_file) == FSDP.relative_to(ROOT)
            assert config.selfaug.reference == "adapter_off"
    else:
        assert launcher == ""


def test_fsdp_settings_are_those_that_accelerate_reads() -> None:
    settings = load_config_from_file(str(FSDP))
    assert isinstance(settings, ClusterConfig)
    assert settings.num_processes == 8
    assert settings.fsdp_config["fsdp_version"] == 2


def test_flags_of_the_command_line_are_the_flags_of_the_settings() -> None:
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    assert set(FLAGS) <= options
