"""What all commands share: the application, its error handling, options that several have, and how they set up."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from typer.core import TyperGroup

from selfaug.cli.terminal import printable, say, say_error
from selfaug.errors import SelfAugError, StorageError

if TYPE_CHECKING:
    from selfaug.config import LevelName, TrainConfig

__all__ = [
    "DRIFT_ALERT",
    "GATE_FAILED",
    "INTERRUPTED",
    "Config",
    "Debug",
    "Device",
    "EveryTurn",
    "Json",
    "Level",
    "MaxLength",
    "MaxNewTokens",
    "Model",
    "Offline",
    "Prepared",
    "Rows",
    "Run",
    "RunOrChampion",
    "Scorer",
    "Sets",
    "SkipBadRows",
    "Template",
    "app",
    "asking_flags",
    "debugging",
    "going_on",
    "level_name",
    "load_settings",
    "quiet_libraries",
]

INTERRUPTED = 130
GATE_FAILED = 3
DRIFT_ALERT = 4


# As one meets them: first contact, then the phases of a project.
_ORDER = (
    "demo", "doctor", "prepare", "recall", "assess", "preview", "train", "evaluate", "compare", "balance", "chat",
    "ask", "serve", "monitor", "realign", "registry", "export", "report", "dashboard", "roi",
)  # fmt: skip


class _Commands(TyperGroup):
    """The one place that turns errors into exit codes."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order in which one meets them."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; say its error in a line, or with --debug in full."""
        try:
            return super().invoke(ctx)
        except SelfAugError as error:
            _say_traceback(ctx)
            say_error(error.text(every_problem=debugging(ctx)))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            say(str(interrupt) or "interrupted.")
            raise typer.Exit(INTERRUPTED) from interrupt
        except BrokenPipeError as error:
            # `selfaug preview | head`: the reader has what it wanted. Python would complain at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error
        except Exception as error:
            # Typer's own (usage errors, exits) know their exit codes.
            if type(error).__module__.startswith("typer"):
                raise
            _say_traceback(ctx)
            lines = [line for line in str(error).splitlines() if line.strip()]
            first = lines[0] if lines else "no message"
            # torch's, which is not imported for its name.
            if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
                say_error(f"out of GPU memory: {first}")
                say(_LESS_MEMORY)
                raise typer.Exit(1) from error
            # Windows calls it so, too, where another program has the file open.
            shared = getattr(error, "winerror", None) == 32
            if isinstance(error, PermissionError) and error.filename is not None and not shared:
                # Whether something is there can't be asked below a folder that may not be entered.
                say_error(str(_not_permitted(error)))
                raise typer.Exit(StorageError.exit_code) from error
            say_error(f"{type(error).__name__}: {first}")
            if not debugging(ctx):
                say("Hint: this was not expected; run again with --debug for the traceback.")
            raise typer.Exit(1) from error


_LESS_MEMORY = (
    "Hint: `nvidia-smi` shows what else is on the GPU; a smaller --batch-size, where the command has one, a smaller "
    "model or one trained with model.quantization=4bit needs less; --device cpu needs none."
)


def _not_permitted(error: PermissionError) -> StorageError:
    return StorageError(
        f"{printable(str(error.filename))}: {(error.strerror or 'permission denied').lower()}.",
        hint="its permissions, or those of a folder above it, keep this user out: change them, or give another path.",
    )


def debugging(ctx: Any) -> bool:
    """Whether the user asked for tracebacks and the libraries' own logs."""
    return bool(ctx.find_root().meta.get("selfaug.debug"))


def _say_traceback(ctx: Any) -> None:
    if debugging(ctx):
        say(traceback.format_exc())


def _remember_debug(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.find_root().meta["selfaug.debug"] = True
    return value


app = typer.Typer(
    cls=_Commands,
    name="selfaug",
    help="Fine-tune a causal language model for one job without making it forget the rest.",
    epilog="First contact: selfaug demo. What this machine can do: selfaug doctor.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# ---- options that several commands have

Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_remember_debug,
        help="Show tracebacks, all problems of an error, and the libraries' own logs.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Config = Annotated[str | None, typer.Option("--config", metavar="FILE", help="YAML file with settings.")]
RunOrChampion = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]", help="Folder of a run; left out, the champion of --registry.", show_default=False
    ),
]

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be repeated. Wins over flags."),
]
Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Model: a folder or a hub id.")]
Rows = Annotated[
    list[str] | None,
    typer.Option(
        "--train", metavar="SOURCE", help="Training rows: file, folder or hub data set; may be repeated."
    ),
]
Prepared = Annotated[
    str | None,
    typer.Option(
        "--prepared", metavar="FOLDER", help="The --output of selfaug prepare: rows, template, index."
    ),
]
Template = Annotated[
    str | None, typer.Option("--template", metavar="FILE", help="Template of the prompts of retrieval rows.")
]
EveryTurn = Annotated[
    bool, typer.Option("--every-assistant-turn", help="Messages: train every assistant turn, not the last.")
]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave bad rows out, and say how many.")]
MaxLength = Annotated[
    str | None, typer.Option("--max-length", metavar="TOKENS", help="Most tokens in a row. Default: 2048.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")]
Scorer = Annotated[
    str,
    typer.Option(
        "--scorer",
        metavar="NAME",
        help="exact, f1, numeric, citations, grounded, regex:…, schema:FILE, module:function, and more.",
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", metavar="TOKENS", min=1, help="Longest answer to a row.")
]
Level = Annotated[
    str,
    typer.Option(
        "--level",
        metavar="NAME",
        help="Of the general requests: 1, 2, 3, all, or auto: what fits the base model.",
    ),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run (the --output of its training).")]


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("selfaug"))
        raise typer.Exit


@app.callback()
def _root(
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


def load_settings(
    config: str | None, flags: Mapping[str, object], sets: list[str] | None, *, command: str = "train"
) -> TrainConfig:
    """Settings from file, flags and `--set`; an error names the command whose help shows them."""
    from selfaug.config import load_config

    return load_config(config, flags, sets or [], command=f"selfaug {command}")


def asking_flags(ctx: typer.Context, scorer: str, level: str, max_new_tokens: int) -> dict[str, object]:
    """What is asked, by flag, as far as it is given on the command line: else the settings of `evaluation` count.

    Args:
        ctx: of the command.
        scorer, level, max_new_tokens: values of its options of these names.

    Raises:
        ConfigError: if there is no such level.
    """
    values = {"scorer": scorer, "level": level_name(level), "max_new_tokens": max_new_tokens}
    sources = {name: ctx.get_parameter_source(name) for name in values}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    return {f"--{name.replace('_', '-')}": values[name] for name in given}


def going_on(overwritten: Path | None = None, *, by_flag: bool = True) -> KeyboardInterrupt:
    """What Ctrl-C says of a command that goes on where it was cut off.

    Args:
        overwritten: with --overwrite, the record of what it replaces. Where that isn't there, something was made anew,
            and the same command would delete it.
        by_flag: whether --overwrite itself was given; else the settings say so.
    """
    begun = overwritten is not None and not overwritten.exists()
    instead = "without --overwrite" if by_flag else "with --set run.overwrite=false"
    again = f"the same command again, {instead}" if begun else "the same command again"
    return KeyboardInterrupt(f"stopped; what is done is kept. To go on, give {again}.")


def level_name(name: str) -> LevelName:
    """The level by its name.

    Raises:
        ConfigError: if there is none.
    """
    from selfaug.config import LevelName
    from selfaug.errors import ConfigError

    levels = get_args(LevelName)
    if name not in levels:
        raise ConfigError(
            f"there is no level {name!r}.",
            hint=f"--level takes {', '.join(levels)}; auto is the hardest that the base model can do.",
        )
    return cast("LevelName", name)


_SPINS = "20000"
"""Turns that a thread of libgomp, which torch computes with on Linux, waits for the others before it sleeps.

By default it waits more than ten times as long: with one of two cores kept busy by another process a token then takes
3.5 s, and 0.6 to 0.8 s so (alone: 0.1 s either way), and a training step of 5 s over 33 s, and 15 s so (SmolLM2-135M,
batches of 8 and of 4). With 2,000 it is 0.2 s and 11 s, but a token alone takes a fifth to a half longer. It is read
when torch is loaded.
"""


def _may_ask_for_more(settings: TrainConfig) -> bool:
    """Whether code that isn't ours runs, which may load what the settings don't name: the user's, a tracker's."""
    from selfaug.eval.own_suites import names_function

    evaluation = settings.evaluation
    scorers = [settings.train.best_scorer, evaluation.scorer, *evaluation.also_score]
    own = any(names_function(name) for name in (*evaluation.suites, *scorers))
    return own or settings.model.trust_remote_code or bool(settings.train.report_to)


def quiet_libraries(
    settings: TrainConfig | None = None,
    *,
    debug: bool,
    offline: bool = False,
    rows: Sequence[str] = (),
) -> None:
    """Set the libraries up before they are imported: no telemetry, no network unasked, no chatter.

    Args:
        settings: of a training that will be done.
        debug: leave the libraries' logs as they are.
        offline: refuse the network, where there are no settings to tell.
        rows: sources that are read beside those of the settings.
    """
    environment = os.environ
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if settings is not None:
        # With everything on this machine there is nothing to ask a hub for.
        data = settings.data
        names = [settings.model.name, *data.train, *data.eval, *settings.evaluation.data, *rows]
        names += [source for source in data.replay if source != "embedded"]
        all_here = all(Path(name).exists() for name in names) and not _may_ask_for_more(settings)
        offline = settings.run.offline or all_here
    if offline:
        environment["HF_HUB_OFFLINE"] = environment["HF_DATASETS_OFFLINE"] = "1"
    if debug:
        return
    environment.setdefault("TRANSFORMERS_VERBOSITY", "error")
    environment.setdefault("DATASETS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import logging
    import warnings

    warnings.simplefilter("ignore")
    for name in (
        "torch",
        "trl",
        "peft",
        "accelerate",
        "transformers",
        "datasets",
        "huggingface_hub",
        "bitsandbytes",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):  # `selfaug doctor` works without them
        import datasets
        from transformers.utils import logging as transformers_logging

        datasets.disable_progress_bars()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
