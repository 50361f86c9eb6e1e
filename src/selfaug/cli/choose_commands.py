"""Commands that choose: compare methods, and balance settings."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, cast

import typer

from selfaug.cli.app import (
    Config,
    Debug,
    Json,
    Level,
    MaxLength,
    MaxNewTokens,
    Model,
    Offline,
    Prepared,
    Rows,
    Scorer,
    Sets,
    Template,
    app,
    asking_flags,
    debugging,
    going_on,
    load_settings,
    quiet_libraries,
)
from selfaug.cli.terminal import RunProgress, print_json

if TYPE_CHECKING:
    from selfaug.config import TrainConfig

__all__ = ["balance", "compare"]

Dev = Annotated[
    list[str] | None,
    typer.Option(
        "--dev",
        metavar="SOURCE",
        help="Rows that are chosen on; may be repeated. Default: validation.jsonl of --prepared.",
    ),
]
Test = Annotated[
    list[str] | None,
    typer.Option(
        "--test",
        metavar="SOURCE",
        help="Rows that are reported; may be repeated. Default: test.jsonl of --prepared.",
    ),
]
Demo = Annotated[
    bool, typer.Option("--demo", help="Model, rows and settings of the demo; flags change them.")
]
SuiteFiles = Annotated[
    list[str] | None,
    typer.Option("--suite", metavar="FILE", help="Questions of your own, as JSONL; may be repeated."),
]
GeneralItems = Annotated[
    int | None, typer.Option("--general-items", metavar="NUMBER", min=1, help="So many general requests.")
]
TaskItems = Annotated[
    int | None,
    typer.Option(
        "--task-items",
        metavar="NUMBER",
        min=1,
        help="So many rows of --dev, and of --test; evenly over their sources.",
    ),
]
StepsOfRuns = Annotated[
    str | None, typer.Option("--steps", metavar="NUMBER", help="Optimizer steps of every run.")
]


@app.command(
    epilog="Example: selfaug compare --model Qwen/Qwen2.5-0.5B-Instruct --train rows.jsonl --dev dev.jsonl "
    "--test test.jsonl"
)
def compare(
    ctx: typer.Context,
    config: Config = None,
    model: Model = None,
    rows: Rows = None,
    prepared: Prepared = None,
    dev: Dev = None,
    test: Test = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME", help="Compare these only; may be repeated. Default: all."),
    ] = None,
    demo: Demo = False,
    output: Annotated[
        str, typer.Option("--output", metavar="FOLDER", help="Where the comparison is written.")
    ] = "runs/comparison",
    steps: StepsOfRuns = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", metavar="NUMBER", help="May be repeated. Default: 0 and 1.")
    ] = None,
    scorer: Scorer = "exact",
    level: Level = "auto",
    suite: SuiteFiles = None,
    general_items: GeneralItems = None,
    task_items: TaskItems = None,
    max_new_tokens: MaxNewTokens = 64,
    leak_pattern: Annotated[
        str | None,
        typer.Option(
            "--leak-pattern", metavar="REGEX", help="The job's answer style, counted in general answers."
        ),
    ] = None,
    max_length: MaxLength = None,
    template: Template = None,
    sets: Sets = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Compare anew.")] = False,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare SelfAug with plain LoRA, replay, constraints, and other ways to forget less."""
    flags: dict[str, object] = {
        "--model": model,
        "--train": rows or None,
        "--prepared": prepared,
        "--output": output,
        "--steps": steps,
        "--max-length": max_length,
        "--template": template,
        "--overwrite": overwrite or None,
        "--offline": offline or None,
        **asking_flags(ctx, scorer, level, max_new_tokens),
    }
    settings, preset = _training(config, flags, sets, demo=demo, debug=debugging(ctx))
    dev = dev or _prepared_rows(settings, "validation") or [*preset.dev]
    test = test or _prepared_rows(settings, "test") or [*preset.test]
    quiet_libraries(settings, debug=debugging(ctx), rows=[*dev, *test])
    from selfaug.cli.comparison_view import show_comparison
    from selfaug.cli.pages import show_page, write_page
    from selfaug.phases.bench import BenchSettings
    from selfaug.phases.compare import CompareSettings
    from selfaug.phases.compare import compare as run_comparison
    from selfaug.phases.methods import METHODS

    asked = BenchSettings(
        dev=dev, test=test, scorer=settings.evaluation.scorer, level=settings.evaluation.level, suites=suite or (),
        general_items=general_items, task_items=task_items,
        max_new_tokens=_max_new_tokens(settings, max_new_tokens),
    )  # fmt: skip
    compared = CompareSettings(
        methods=method or tuple(METHODS),
        seeds=_seeds(seed, settings, preset),
        leak_pattern=leak_pattern or preset.leak_pattern,
    )
    with _going_on_later(settings, by_flag=overwrite), RunProgress() as progress:
        record = run_comparison(
            settings, asked, compared, overwrite=settings.run.overwrite, on_progress=progress.show
        )
    page = write_page(settings.run.output)
    if as_json:
        print_json(record)
    else:
        show_comparison(record, Path(settings.run.output))
        show_page(page)


@app.command(
    epilog="Example: selfaug balance --config train.yaml --dev dev.jsonl --test test.jsonl --max-forgetting 0.02"
)
def balance(
    ctx: typer.Context,
    config: Config = None,
    model: Model = None,
    rows: Rows = None,
    prepared: Prepared = None,
    dev: Dev = None,
    test: Test = None,
    max_forgetting: Annotated[
        float,
        typer.Option(
            "--max-forgetting", metavar="SHARE", help="What the general score may lose, such as 0.02."
        ),
    ] = 0.02,
    trials: Annotated[
        int, typer.Option("--trials", metavar="NUMBER", help="Settings that are tried; a training run each.")
    ] = 12,
    finalists: Annotated[
        int,
        typer.Option(
            "--finalists", metavar="NUMBER", help="Of them, so many are asked all development items."
        ),
    ] = 3,
    scale: Annotated[
        list[float] | None,
        typer.Option(
            "--scale",
            metavar="SHARE",
            help="Turn the finalists' adapters down to this share, between 0 and 1; may be repeated. Default: 0.8, "
            "0.6 and 0.4.",
        ),
    ] = None,
    demo: Demo = False,
    output: Annotated[
        str, typer.Option("--output", metavar="FOLDER", help="Where the balance is written.")
    ] = "runs/balance",
    steps: StepsOfRuns = None,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="Of the search.")] = 0,
    scorer: Scorer = "exact",
    level: Level = "auto",
    suite: SuiteFiles = None,
    general_items: GeneralItems = None,
    task_items: TaskItems = None,
    max_new_tokens: MaxNewTokens = 64,
    max_length: MaxLength = None,
    template: Template = None,
    sets: Sets = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Search anew.")] = False,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the best settings for the job that stay within a bound on forgetting.

    The same command in a second terminal joins the search; with more --trials, --finalists or --scale it goes on.
    """
    flags: dict[str, object] = {
        "--model": model,
        "--train": rows or None,
        "--prepared": prepared,
        "--output": output,
        "--steps": steps,
        "--max-length": max_length,
        "--template": template,
        "--overwrite": overwrite or None,
        "--offline": offline or None,
        **asking_flags(ctx, scorer, level, max_new_tokens),
    }
    settings, preset = _training(config, flags, sets, demo=demo, debug=debugging(ctx))
    dev = dev or _prepared_rows(settings, "validation") or [*preset.dev]
    test = test or _prepared_rows(settings, "test") or [*preset.test]
    quiet_libraries(settings, debug=debugging(ctx), rows=[*dev, *test])
    from selfaug.cli.balance_view import show_balance
    from selfaug.cli.pages import show_page, write_page
    from selfaug.phases.balance import BalanceSettings
    from selfaug.phases.balance import balance as run_balance
    from selfaug.phases.bench import BenchSettings

    asked = BenchSettings(
        dev=dev, test=test, scorer=settings.evaluation.scorer, level=settings.evaluation.level, suites=suite or (),
        general_items=general_items, task_items=task_items,
        max_new_tokens=_max_new_tokens(settings, max_new_tokens),
    )  # fmt: skip
    searched = BalanceSettings(
        max_forgetting=max_forgetting,
        trials=trials,
        finalists=finalists,
        scales=scale or BalanceSettings.scales,
        seed=seed,
    )
    with _going_on_later(settings, by_flag=overwrite), RunProgress() as progress:
        record = run_balance(
            settings, asked, searched, overwrite=settings.run.overwrite, on_progress=progress.show
        )
    page = write_page(settings.run.output)
    if as_json:
        print_json(record)
    else:
        show_balance(record, Path(settings.run.output))
        show_page(page)


def _prepared_rows(settings: TrainConfig, split: str) -> list[str]:
    """A split of the documents that were prepared; empty without any, or where it has none."""
    if settings.data.prepared is None:
        return []
    rows = Path(settings.data.prepared) / f"{split}.jsonl"
    return [str(rows)] if rows.is_file() else []


def _max_new_tokens(settings: TrainConfig, usual: int) -> int:
    """Of the setting, where it isn't its default; these commands have another one.

    The config.yaml of a run has all settings, so that a default in it says nothing.

    Args:
        settings: of the training.
        usual: the flag's value, given or not.
    """
    from selfaug.config import EvaluationSettings

    own = settings.evaluation.max_new_tokens
    return usual if own == EvaluationSettings().max_new_tokens else own


def _seeds(given: list[int] | None, settings: TrainConfig, preset: _Preset) -> tuple[int, ...]:
    """Seeds of the trainings that are asked for now.

    Raises:
        ConfigError: if the settings have one that is none of them, nor of those that the comparison has already: it
            would stand in the record, and none was trained with it.
    """
    from selfaug.phases.compare import seeds_there

    seeds = tuple(given or (0, 1))
    own = settings.train.seed
    there = [] if settings.run.overwrite else seeds_there(settings.run.output)
    if own not in (*seeds, *there, preset.seed):
        from selfaug.errors import ConfigError

        raise ConfigError(
            f"train.seed is {own}, and the methods are compared with the seeds {', '.join(map(str, seeds))}.",
            hint=f"give seeds with --seed, which may be repeated: --seed {own}; or leave train.seed out.",
        )
    return seeds


@dataclass(frozen=True)
class _Preset:
    """What `--demo` brings, beside settings; empty without it. `seed` is that of a training that sets none."""

    dev: Sequence[str] = ()
    test: Sequence[str] = ()
    leak_pattern: str | None = None
    seed: int = 42


def _training(
    config: str | None, flags: dict[str, object], sets: list[str] | None, *, demo: bool, debug: bool
) -> tuple[TrainConfig, _Preset]:
    """Settings of the training that is compared or balanced."""
    if not demo:
        return load_settings(config, flags, sets), _Preset()
    from selfaug.errors import ConfigError

    if config is not None:
        raise ConfigError(
            f"--demo brings its own model, rows and settings, and --config {config} would be left out.",
            hint="give one of them; flags and --set change settings of the demo, too.",
        )
    if flags["--prepared"] is not None:
        raise ConfigError(
            f"--demo brings its own rows, and --prepared {flags['--prepared']} others.",
            hint="give one of them.",
        )
    quiet_libraries(debug=debug)
    from selfaug.phases.demo import comparison_of_demo

    output = Path(str(flags["--output"]))
    if not output.name:  # "." has none
        output = output.absolute()
    preset = comparison_of_demo(output.with_name(f"{output.name}-data"))
    own = {**preset.flags, "--scorer": preset.scorer}
    given = {name: value for name, value in flags.items() if value is not None}
    settings = load_settings(None, {**own, **given}, [*preset.sets, *(sets or [])])
    return settings, _Preset(preset.dev, preset.test, preset.leak_pattern, cast("int", own["--seed"]))


@contextmanager
def _going_on_later(settings: TrainConfig, *, by_flag: bool) -> Iterator[None]:
    """Ctrl-C says how to go on; so does SIGTERM, which would leave the training of the moment without its parent."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        # The training saves its checkpoint then, and only Ctrl-C ends that.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, interrupt) if main else None
    try:
        yield
    except KeyboardInterrupt as interrupted:
        record = Path(settings.run.output) / "record.json"
        raise going_on(record if settings.run.overwrite else None, by_flag=by_flag) from interrupted
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
