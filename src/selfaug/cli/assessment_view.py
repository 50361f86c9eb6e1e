"""What `selfaug assess` prints: the data's checks, the scores, and the verdict."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfaug.cli.evaluation_view import drift_table, show_cut_off, suites_table
from selfaug.config import FLAGS, TrainConfig
from selfaug.core.printable import printable
from selfaug.wording.evaluation_words import budget_items_in_words, found_in_words

__all__ = ["show_assessment"]

# Less than that is no difference to speak of.
_NOTABLE_NATS = 0.1

# Longest answer to a row, where `selfaug evaluate` isn't told of another.
_MAX_NEW_TOKENS = 128

# Settings that the commands to go on with name anyway.
_NAMED = {"model.name", "data.train", "data.eval", "data.template", "data.prepared", "selfaug.anchors"}

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "bold yellow")}


def show_assessment(record: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """Print an assessment on stdout.

    Args:
        record: data of the assessment's record.
        output: the assessment's folder.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    checks = Table(box=None, show_header=False, pad_edge=False)
    for finding in record["findings"]:
        sign, style = _SIGNS[finding["status"]]
        checks.add_row(Text(sign, style), finding["name"], Text(printable(finding["found"])))
    surprise = record["surprise"]
    nats = f"{surprise['prompt_nll']:.2f} nats per prompt token, {surprise['completion_nll']:.2f} per completion token"
    new = surprise["completion_nll"] > surprise["prompt_nll"] + _NOTABLE_NATS
    checks.add_row("", "base model", nats + (": completions are new to it in their form" if new else ""))
    console.print(checks)
    width = console.width
    console.print(suites_table(record["suites"], record["settings"]["scorer"], tuned="probe", width=width))
    show_cut_off(record["suites"], console, tuned="probe")
    drift_of = f"Drift of the probe after {record['probe']['steps']} steps"
    console.print(drift_table(record["drift"], drift_of, width=width))
    console.print(Text.assemble("\n", (printable(record["verdict"]), "bold"), "\n"))
    budget = record["budget"]
    if budget is None:
        console.print(
            "budget: none proposed: the base model passes too few of the general requests to show a loss",
            soft_wrap=True,
        )
    else:
        console.print(
            f"budget: {100 * budget:.1f} points of forgetting; with {budget_items_in_words(record)}, a loss of so much "
            f"{found_in_words(None)}",
            soft_wrap=True,
        )
    for told in _next(record):
        console.print(Text(printable(told)), soft_wrap=True)
    console.print(Text(printable(f"kept:   {output / 'record.json'}")), soft_wrap=True)
    console.print(Text(printable(f"page:   {output / 'report.html'}")), soft_wrap=True)


def _next(record: Mapping[str, Any]) -> list[str]:
    """Commands that go on from here, with the same rows and settings and the proposed budget."""
    settings = record["settings"]
    config, scorer, level = settings["config"], settings["scorer"], settings["level"]
    data = config["data"]
    prepared, template = data["prepared"], data.get("template")
    given = {
        "--model": [config["model"]["name"]],
        "--prepared": [] if prepared is None else [prepared],
        "--train": data["train"],
        "--eval": data["eval"],
        "--template": [] if template is None else [template],
    }
    if prepared is not None:  # what was given beside it counts; the rest is taken from there
        of_prepared = {"--train": "train.jsonl", "--eval": "validation.jsonl", "--template": "template.yaml"}
        for flag, name in of_prepared.items():
            if given[flag] == [str(Path(prepared) / name)]:
                given[flag] = []
    anchors = config.get("selfaug", {}).get("anchors", "none")
    given["--anchors"] = ["self" if anchors == "none" else anchors]
    flags = [word for flag, values in given.items() for value in values for word in (flag, value)]
    train = ["selfaug", "train", *flags, *_others(config), "--output", "runs/first"]
    told = [f"next:   {shlex.join(train)}"]
    if record["budget"] is not None:
        gate = ["selfaug", "evaluate", "runs/first", "--scorer", scorer]
        gate += [] if level == "auto" else ["--level", level]
        if (limit := settings.get("max_new_tokens", _MAX_NEW_TOKENS)) != _MAX_NEW_TOKENS:
            gate += ["--max-new-tokens", str(limit)]
        gate += [word for suite in settings.get("suites", []) for word in ("--suite", suite)]
        gate += [word for task in settings.get("benchmarks", []) for word in ("--benchmark", task)]
        for name in ("benchmark_tasks", "benchmark_items"):
            if (value := settings.get(name)) is not None:
                gate += [f"--{name.replace('_', '-')}", str(value)]
        told.append(f"then:   {shlex.join([*gate, '--max-forgetting', format(record['budget'], 'g')])}")
    return told


def _others(config: Mapping[str, Any]) -> list[str]:
    """Flags of the other settings that were given: without them, another training than the assessed one would begin."""
    least = {"model": {"name": config["model"]["name"]}, "data": {"train": config["data"]["train"]}}
    by_default = TrainConfig.model_validate(least).model_dump(mode="json")
    flag_of = {name: flag for flag, name in FLAGS.items()}
    flags: list[str] = []
    for section, values in config.items():
        for key, value in values.items():
            name = f"{section}.{key}"
            # An alpha of 0 is left out: what is proposed aligns.
            if name in _NAMED or (name, value) == ("selfaug.alpha", 0):
                continue
            if value == by_default[section][key]:
                continue
            if name in flag_of and isinstance(value, int | float | str) and not isinstance(value, bool):
                flags += [flag_of[name], str(value)]
            else:
                flags += ["--set", f"{name}={json.dumps(value, ensure_ascii=False)}"]
    return flags
