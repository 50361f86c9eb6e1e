"""Benchmarks through lm-eval, with tasks and data in local files."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from cutting import CutError
from selfaug.cli.assessment_view import show_assessment
from selfaug.cli.main import app
from selfaug.errors import ConfigError, DataError
from selfaug.model.loading import load_model, load_tokenizer
from selfaug.phases import lm_eval_suites
from selfaug.phases.assess import assess
from selfaug.phases.lm_eval_suites import benchmark_answers, hash_of_tasks, require_benchmarks
from selfaug.phases.suites import AskSettings
from selfaug.records import read_lines, read_record, write_lines

pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and what it imports

ROWS = [
    {"question": f"Which one is number {number}?", "choices": ["yes", "no", "perhaps"], "label": number % 3}
    for number in range(6)
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "rows.jsonl"
    write_lines(data, ROWS)
    common = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
    (folder / "choose.yaml").write_text(
        f"task: tiny_choose\n{common}output_type: multiple_choice\ndoc_to_text: '{{{{question}}}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: label\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n"
        "  - metric: mcc\nmetadata:\n  version: 2.5\n",
        encoding="utf-8",
    )
    (folder / "write.yaml").write_text(
        f"task: tiny_write\n{common}output_type: generate_until\ndoc_to_text: '{{{{question}}}}'\n"
        "doc_to_target: '{{choices[label]}}'\ngeneration_kwargs:\n  until: []\n  max_gen_toks: 4\n"
        "metric_list:\n  - metric: exact_match\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(autouse=True)
def nothing_is_asked_about_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval runs pip and ten other commands for it after each task, and nothing here is about it."""
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", str)


def test_both_models_answer_and_are_compared(
    copied_run: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_eval_suites, "_RESAMPLES", 20)  # of mcc: each takes milliseconds
    folder = Path(shutil.copytree(tasks, tmp_path / "tasks"))
    arguments = [
        "evaluate", str(copied_run), "--benchmark", "tiny_choose", "--benchmark", "tiny_write", "--benchmark-tasks",
        str(folder), "--general-items", "2", "--task-items", "2", "--max-new-tokens", "2", "--level", "1",
        "--device", "cpu", "--benchmark-items", "5",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    record = read_record(copied_run / "evaluation.json", "evaluation")
    assert record["suites"]["tiny_choose"]["items"] == record["suites"]["tiny_write"]["items"] == 5
    assert "tiny_choose" in result.stdout
    page = (copied_run / "report.html").read_text(encoding="utf-8")
    assert "Which one is number" in page

    # All that lm-eval says is kept and shown, and agrees with the items.
    for which in ("base", "tuned"):
        rows = {row["metric"]: row for row in record["benchmarks"]["tiny_choose"][which]["rows"]}
        assert list(rows) == ["acc", "acc_norm", "mcc"]
        scores = [item[which] for item in record["suites"]["tiny_choose"]["scores"].values()]
        assert rows["acc"]["value"] == pytest.approx(sum(scores) / 5)
        assert rows["acc"]["stderr"] == pytest.approx(statistics.stdev(scores) / 5**0.5)
        assert (rows["acc"]["version"], rows["acc"]["n_shot"], rows["acc"]["filter"]) == (2.5, 0, "none")
        assert all(row["higher_is_better"] is True for row in rows.values())
        assert rows["mcc"]["stderr"] is not None  # no mean: resampled
        assert f"{rows['acc_norm']['value']:.4f}" in page
        assert f"± {rows['acc']['stderr']:.4f}" in page
    assert record["benchmarks"]["tiny_write"]["base"]["lm_eval"] == importlib.metadata.version("lm_eval")
    assert "bootstrapping" not in result.stdout
    assert "Standard benchmarks" in page

    # lm-eval's choice is the likeliest one of the model, with the chat template.
    base = load_model(read_record(copied_run / "record.json", "train")["model"]["name"])
    tokenizer = load_tokenizer(base.config._name_or_path)
    kept = read_lines(copied_run / "samples" / "evaluation" / "tiny_choose-base.jsonl")
    for row, item in zip(kept, ROWS, strict=False):
        assert row["prompt"].endswith("<|im_start|>assistant\n")
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        likelihoods = []
        for choice in item["choices"]:
            ids = prompt + tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = (
                    base(input_ids=torch.tensor([ids], device=base.device))
                    .logits[0, len(prompt) - 1 : -1]
                    .double()
                )
            likelihoods.append(
                float(logits.log_softmax(-1)[range(len(ids) - len(prompt)), ids[len(prompt) :]].sum())
            )
        assert row["score"] == float(likelihoods.index(max(likelihoods)) == item["label"])

    # These numbers are of the task files as they were.
    with (folder / "write.yaml").open("a", encoding="utf-8") as file:
        file.write("# another way to ask\n")
    again = [*arguments, "--max-forgetting", "1"]
    refused = CliRunner().invoke(app, again)
    assert refused.exit_code != 0
    assert "benchmark_files" in refused.stderr


def test_what_is_there_is_not_asked_again(tiny_model_dir: Path, tasks: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_model_dir), load_tokenizer(tiny_model_dir)
    options = {"folder": str(tasks), "items": 2, "batch_size": 2}
    first = benchmark_answers(model, tokenizer, "tiny_write", tmp_path / "a.jsonl", **options)
    assert [row["id"] for row in first.items] == ["tiny_write 0", "tiny_write 1"]
    assert benchmark_answers(None, tokenizer, "tiny_write", tmp_path / "a.jsonl", **options) == first


def test_what_lm_eval_has_is_listed_once(
    tiny_model_dir: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks import TaskManager

    folder = Path(shutil.copytree(tasks, tmp_path / "tasks"))
    tokenizer, options = load_tokenizer(tiny_model_dir), {"folder": str(folder), "items": 2, "batch_size": 2}
    begin, listed = TaskManager.__init__, []

    def counted(manager: TaskManager, **arguments: Any) -> None:
        if arguments.get("include_defaults", True):
            listed.append(arguments)
            if len(listed) > 1:  # seconds of reading what has been read before
                arguments["include_defaults"] = False
        begin(manager, **arguments)

    monkeypatch.setattr(TaskManager, "__init__", counted)
    lm_eval_suites._whole_index.cache_clear()
    for _ in range(2):
        with pytest.raises(ConfigError, match="no task 'magic'"):
            benchmark_answers(None, tokenizer, "magic", tmp_path / "b.jsonl", **options)
    assert len(listed) == 1
    with pytest.raises(ConfigError, match="no task 'magic', 'more'"):  # all at once, before anything is asked
        require_benchmarks(["gsm8k", "magic", "tiny_write", "more"], str(folder))
    assert {"gsm8k", "mmlu", "tiny_write"} <= set(lm_eval_suites._manager_of("gsm8k", str(folder)).all_tasks)
    # A folder's own tasks are found without it, and its groups, which may be of lm-eval's tasks, by the whole.
    assert lm_eval_suites._manager_of("tiny_write", str(folder)).all_tasks == ["tiny_choose", "tiny_write"]
    assert len(listed) == 1
    (folder / "both.yaml").write_text("group: both\ntask: [tiny_choose, gsm8k]\n", encoding="utf-8")
    assert "both" in lm_eval_suites._manager_of("both", str(folder)).all_groups
    assert len(listed) == 2
    lm_eval_suites._whole_index.cache_clear()  # the last one is not whole


def test_a_task_that_was_cut_off_goes_on(
    tiny_model_dir: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_model(tiny_model_dir), load_tokenizer(tiny_model_dir)
    generate, asked = model.generate, []

    def counted(*arguments, **options):
        asked.append(1)
        if len(asked) == 3:
            raise CutError
        return generate(*arguments, **options)

    monkeypatch.setattr(model, "generate", counted)
    options = {"folder": str(tasks), "items": 4, "batch_size": 1}
    with pytest.raises(CutError):
        benchmark_answers(model, tokenizer, "tiny_write", tmp_path / "a.jsonl", **options)
    assert not (tmp_path / "a.jsonl").exists()
    found = benchmark_answers(model, tokenizer, "tiny_write", tmp_path / "a.jsonl", **options)
    assert len(asked) == 3 + 2  # two were kept
    assert found == benchmark_answers(model, tokenizer, "tiny_write", tmp_path / "b.jsonl", **options)
    assert {file.name for file in tmp_path.iterdir()} == {
        "a.jsonl", "a-results.json", "b.jsonl", "b-results.json"
    }  # fmt: skip


def test_without_lm_eval_it_says_how_to_get_it(copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_suites.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["evaluate", str(copied_run), "--benchmark", "gsm8k"])
    assert result.exit_code == 2
    assert "selfaug[lm-eval]" in result.stderr


def test_the_chat_template_has_the_arguments_of_the_training(
    tiny_model_dir: Path, tasks: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(tiny_model_dir), load_tokenizer(tiny_model_dir)
    tokenizer.chat_template += (
        "{% if enable_thinking is defined and not enable_thinking %}<no thoughts>{% endif %}"
    )
    options = {"folder": str(tasks), "items": 1, "batch_size": 1}
    for arguments, end in (({}, "assistant\n"), ({"enable_thinking": False}, "<no thoughts>")):
        file = tmp_path / f"{len(arguments)}.jsonl"
        found = benchmark_answers(
            model, tokenizer, "tiny_write", file, **options, template_arguments=arguments
        )
        assert found.items[0]["prompt"].endswith(end)


def test_a_metric_of_unknown_direction_is_a_score(tiny_model_dir: Path, tasks: Path, tmp_path: Path) -> None:
    """One of a user's own has none unless the task says it, and was refused as one of which less is better."""
    folder = Path(shutil.copytree(tasks, tmp_path / "tasks"))
    (folder / "own.py").write_text(
        "def process_results(doc, results):\n    return {'mine': float(len(results) > 0)}\n", encoding="utf-8"
    )
    own = (folder / "write.yaml").read_text(encoding="utf-8").replace("tiny_write", "tiny_own")
    own = own.replace("metric: exact_match", "metric: mine\n    aggregation: mean")
    (folder / "own.yaml").write_text(
        f"{own}process_results: !function own.process_results\n", encoding="utf-8"
    )
    found = benchmark_answers(
        load_model(tiny_model_dir),
        load_tokenizer(tiny_model_dir),
        "tiny_own",
        tmp_path / "a.jsonl",
        folder=str(folder),
        items=2,
        batch_size=2,
    )
    assert [row["score"] for row in found.items] == [1.0, 1.0]
    assert found.table is not None
    assert [row["higher_is_better"] for row in found.table["rows"]] == [None]


def test_a_metric_of_which_less_is_better_is_no_score(
    tiny_model_dir: Path, tasks: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tasks, tmp_path / "tasks"))
    own = (folder / "choose.yaml").read_text(encoding="utf-8").replace("tiny_choose", "tiny_wrong")
    own = own.replace(
        "- metric: acc\n", "- metric: acc\n    aggregation: mean\n    higher_is_better: false\n", 1
    )
    (folder / "wrong.yaml").write_text(own, encoding="utf-8")
    with pytest.raises(DataError, match="of lm-eval's acc, less is better"):
        benchmark_answers(
            load_model(tiny_model_dir),
            load_tokenizer(tiny_model_dir),
            "tiny_wrong",
            tmp_path / "a.jsonl",
            folder=str(folder),
            items=2,
            batch_size=2,
        )


def test_files_that_tasks_include_are_of_the_tasks(tasks: Path, tmp_path: Path) -> None:
    """lm-eval includes "_template_yaml" and "belebele", and what they say could change unseen."""
    folder = Path(shutil.copytree(tasks, tmp_path / "tasks"))
    (folder / ".git").mkdir()
    hashes = [hash_of_tasks(str(folder))]
    for name in ("_template_yaml", "belebele", "v1.0_yaml", "own.yml", "own.py"):
        (folder / name).write_text("num_fewshot: 0\n", encoding="utf-8")
        hashes.append(hash_of_tasks(str(folder)))
    assert len(set(hashes)) == 6
    for name in (".git/HEAD", ".DS_Store", "data.jsonl", "README.md"):
        (folder / name).write_text("{}\n", encoding="utf-8")
        assert hash_of_tasks(str(folder)) == hashes[-1]


def test_an_assessment_asks_them_too(settings, tasks: Path, tmp_path: Path) -> None:
    asked = {"benchmarks": ["tiny_choose"], "benchmark_tasks": str(tasks), "benchmark_items": 2}
    config, few = settings(tmp_path / "a"), AskSettings(level="1", general_items=2)
    with pytest.raises(ConfigError, match="no task 'tiny_none'"):
        assess(config, few, probe_steps=1, **{**asked, "benchmarks": ["tiny_none"]})
    record = assess(config, few, probe_steps=1, **asked)
    assert record["suites"]["tiny_choose"]["items"] == 2
    assert list(record["benchmarks"]) == ["tiny_choose"]
    assert {name: record["settings"][name] for name in asked} == asked
    assert record["made_of"]["sources"][f"--benchmark-tasks {tasks}"] == [hash_of_tasks(str(tasks))]
    shown = Console(width=200, file=io.StringIO())
    show_assessment({**record, "budget": 0.05}, tmp_path / "a", shown)
    again = f"--benchmark tiny_choose --benchmark-tasks {tasks} --benchmark-items 2 --max-forgetting 0.05"
    assert again in shown.file.getvalue()
