"""Chooses the demo's alpha and boundary: trains the demo's run for each setting and seed, and evaluates it.

    python -m benchmarks.demo_settings --alphas 2 4 8 --boundary on --output benchmarks/results/demo_alpha.md

Only development items are looked at (questions and general prompts): the demo reports the test items, on which
nothing may be chosen. A finished run is one line of `runs.jsonl` in the work folder and is not done again; what was
cut off goes on from its last checkpoint. Rows, prompts and training settings are the demo's own (phases/demo.py).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.processes import in_own_process, prepare
from benchmarks.report import machine, publish, table
from selfaug.eval.general_suite import general_suite
from selfaug.model.loading import DEMO_MODEL, load_model, load_tokenizer
from selfaug.phases.demo import DemoSettings, train_config, write_data
from selfaug.phases.demo_evaluation import DriftMeter, ask, model_result, questions, tuned_model
from selfaug.phases.train import train
from selfaug.records import append_line, read_lines, read_record
from selfaug.rundir import RunDir


def write_base_answers(folder: Path, settings: DemoSettings, threads: int | None) -> None:
    """The base model's answers: every run is compared with them."""
    prepare(threads)
    tokenizer = load_tokenizer(DEMO_MODEL)
    asked = questions(tokenizer, settings.half, settings.task_items, settings.general_items)
    ask(load_model(DEMO_MODEL), tokenizer, asked, folder, "base")


def one_run(
    folder: Path,
    settings: DemoSettings,
    boundary: bool,
    row_fraction: float,
    base_folder: Path,
    threads: int | None,
) -> dict[str, Any]:
    """Train and evaluate one setting in this process."""
    prepare(threads)
    run = RunDir(folder / "selfaug")
    if not run.is_complete():
        write_data(folder, settings)
        config = train_config(folder, "selfaug", settings)
        changed = {"align_boundary": boundary, "row_fraction": row_fraction}
        alignment = config.selfaug.model_copy(update=changed)
        train(config.model_copy(update={"selfaug": alignment}), resume=run.is_run())

    tokenizer = load_tokenizer(DEMO_MODEL)
    asked = questions(tokenizer, settings.half, settings.task_items, settings.general_items)
    base, model = load_model(DEMO_MODEL), tuned_model(run.adapter)
    base_answers = ask(base, tokenizer, asked, base_folder, "base")  # all there: nothing is asked again
    drift = DriftMeter(base, tokenizer, asked, base_answers["general"]).drift(model)
    result = model_result(asked, ask(model, tokenizer, asked, folder, "selfaug"), base_answers, drift)
    aligned = [row["alignment_loss"] for row in read_lines(run.metrics) if "alignment_loss" in row]
    return {
        **{name: result[name].value for name in ("exact", "leaks", "drift")},
        "difference": result["difference"].difference.value,
        "top1": drift.top1_agreement,
        # Over the last quarter of the steps, where it has settled.
        "alignment_loss": statistics.fmean(aligned[-max(1, len(aligned) // 4) :]) if aligned else None,
        "seconds": read_record(run.record, "train")["seconds"],
    }


def _spread(rows: Sequence[dict[str, Any]], name: str, show: Callable[[float], str]) -> str:
    """`mean (lowest–highest)` over seeds."""
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return "–"
    return f"{show(statistics.fmean(values))} ({show(min(values))}–{show(max(values))})"


def _table(finished: Sequence[dict[str, Any]]) -> str:
    groups: dict[tuple[float, bool, float], list[dict[str, Any]]] = {}
    for row in finished:
        groups.setdefault((row["settings"]["alpha"], row["boundary"], row["row_fraction"]), []).append(row)
    return table(
        [
            {
                "alpha": f"{alpha:g}",
                "boundary": "–" if alpha == 0 else "aligned" if boundary else "left out",
                "rows aligned": "–" if alpha == 0 else f"{share:.0%}",
                "seeds": len(rows),
                "exact answers, %": _spread(rows, "exact", lambda value: f"{100 * value:.0f}"),
                "leaks, %": _spread(rows, "leaks", lambda value: f"{100 * value:.0f}"),
                "general score − base, points": _spread(
                    rows, "difference", lambda value: f"{100 * value:+.1f}"
                ),
                "drift, nats": _spread(rows, "drift", lambda value: f"{value:.3f}"),
                "top-1 agreement, %": _spread(rows, "top1", lambda value: f"{100 * value:.1f}"),
                "alignment loss, nats": _spread(rows, "alignment_loss", lambda value: f"{value:.4f}"),
                "training, s": _spread(rows, "seconds", lambda value: f"{value:.0f}"),
            }
            for (alpha, boundary, share), rows in sorted(groups.items())
        ]
    )


def main() -> None:
    default = DemoSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alphas", nargs="+", type=float, default=[0.0, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--boundary", nargs="+", choices=["on", "off"], default=["on", "off"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--rank", type=int, default=default.rank)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--position-fraction", type=float, default=default.position_fraction)
    parser.add_argument(
        "--row-fractions", nargs="+", type=float, default=[1.0], help="shares of the rows aligned"
    )
    parser.add_argument("--anchors", type=int, default=default.anchors, help="self-anchors; 0 for none")
    parser.add_argument("--anchor-share", type=float, default=default.anchor_share)
    parser.add_argument("--task-items", type=int, default=default.task_items)
    parser.add_argument("--general-items", type=int, help="general prompts; all of the half if left out")
    parser.add_argument("--threads", type=int, help="of torch in each run; its own default if left out")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (then set --threads)")
    parser.add_argument("--work", type=Path, default=Path("runs/demo_settings"), help="folder of the runs")
    parser.add_argument("--output", type=Path, help="Markdown file to write; JSON goes beside it")
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    shared = replace(
        default,
        half="dev",
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        rank=arguments.rank,
        learning_rate=arguments.learning_rate,
        position_fraction=arguments.position_fraction,
        anchors=arguments.anchors,
        anchor_share=arguments.anchor_share,
        task_items=arguments.task_items,
        general_items=arguments.general_items,
    )
    arguments.work.mkdir(parents=True, exist_ok=True)
    base_folder = arguments.work / f"base-{arguments.task_items}-{arguments.general_items or 'all'}"
    base_folder.mkdir(exist_ok=True)

    wanted = [
        # Without alignment there is no boundary to align.
        {
            "settings": asdict(replace(shared, alpha=alpha, seed=seed)),
            "boundary": switch == "on",
            "row_fraction": share,
        }
        for seed, alpha, switch, share in itertools.product(
            arguments.seeds, arguments.alphas, arguments.boundary, arguments.row_fractions
        )
        if alpha > 0 or (switch, share) == (arguments.boundary[0], arguments.row_fractions[0])
    ]
    done_file = arguments.work / "runs.jsonl"

    def finished() -> list[dict[str, Any]]:
        done = read_lines(done_file) if done_file.exists() else []
        return [row for row in done if {key: row[key] for key in wanted[0]} in wanted]

    def go(what: dict[str, Any]) -> None:
        settings = DemoSettings(**what["settings"])
        name = "-".join(f"{key}_{value}" for key, value in what["settings"].items() if key != "half")
        boundary = "on" if what["boundary"] else "off"
        folder = arguments.work / f"{name}-boundary_{boundary}-rows_{what['row_fraction']:g}"
        result = in_own_process(
            one_run,
            folder,
            settings,
            what["boundary"],
            what["row_fraction"],
            base_folder,
            arguments.threads,
        )
        append_line(done_file, {**what, **result})
        short = {key: value if value is None else round(value, 4) for key, value in result.items()}
        print(
            f"alpha {settings.alpha:g}, boundary {boundary}, {what['row_fraction']:.0%} of the rows, "
            f"seed {settings.seed}: {short}",
            file=sys.stderr,
            flush=True,
        )

    already = [{key: row[key] for key in wanted[0]} for row in finished()]
    missing = [what for what in wanted if what not in already]
    if missing:
        in_own_process(write_base_answers, base_folder, shared, arguments.threads)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(go, missing))
    runs = finished()
    text = (
        f"Development items: {arguments.task_items} questions, "
        f"{arguments.general_items or len(general_suite('dev', 1))} general prompts. "
        f"{shared.steps} steps of {shared.batch_size} rows, rank {shared.rank}, learning rate "
        f"{shared.learning_rate:g}, {shared.position_fraction:.0%} of the positions, {shared.anchors} anchors "
        f"({shared.anchor_share:g} a row). Mean (lowest–highest) over "
        f"seeds.\n\n{_table(runs)}"
    )
    publish("demo_settings", "Alpha and boundary of the demo", text, {"runs": runs}, arguments.output, where)


if __name__ == "__main__":
    main()
