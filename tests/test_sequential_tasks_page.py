"""The page of the three tasks in a row: it says what the record says, and its links, commands and styles are right."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from scripts import script
from selfaug.phases.realign import REHEARSAL
from selfaug.records import read_record

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "sequential-tasks.md"


update = script("docs/update_sequential_tasks.py")
office_tasks = script("examples/sequential_tasks/office_tasks.py")
published = script("docs/published.py")


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_page_says_what_the_record_says(text: str) -> None:
    """Its result is made by docs/update_sequential_tasks.py; nobody has touched a number since."""
    record = read_record(update.RECORD, update.RECORD_KIND) if update.RECORD.exists() else None
    assert published.block(update.NAME, update.text(record)) in text
    if record is not None:
        assert not record["settings"]["quick"]
        assert record["settings"]["half"] == "test"
        assert record["settings"]["rehearsal"] == REHEARSAL
        assert published.without_machine_paths(record) == record


def test_tasks_are_those_of_the_example(text: str) -> None:
    for number, task in enumerate(office_tasks.TASKS, 1):
        (row,) = re.findall(rf"^\| {number}\. {task.label} \| .* \| `(.*)` \|$", text, re.MULTILINE)
        answer = row.replace("\\|", "|")
        assert task.score(answer, answer) == 1
    assert REHEARSAL == 0.1
    assert "a tenth of the rows" in text


def test_the_example_of_a_matrix_says_what_is_said_of_it(text: str) -> None:
    section = text.partition("## How to read the matrix")[2].partition("\n## ")[0]
    rows = [line.split("|")[2:5] for line in section.splitlines() if re.match(r"\| \d\. ", line)]
    scores = [[int(cell.strip(" *%")) for cell in row] for row in rows]
    first, second = ([row[task] for row in scores[task:]] for task in (0, 1))
    assert f"go from {first[0]} to {first[1]} to {first[2]}" in section
    lost = [scores[2][task] - scores[task][task] for task in (0, 1)]
    assert (
        f"−{first[0] - first[1]} points after the second step, −{first[0] - first[2]} after the third"
        in section
    )
    assert lost == [first[-1] - first[0], second[-1] - second[0]]
    told = f"{lost[0]} and {lost[1]}, so {sum(lost) // 2} points".replace("-", "−")
    assert told in section


def test_commands_of_the_page_are_taken(text: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        command, target, *variables = shlex.split(block)
        assert command == "make"
        assert f"\n{target}:" in makefile
        for variable in variables:
            assert f"\n{variable.partition('=')[0]} ?=" in makefile
    source = (ROOT / "examples" / "sequential_tasks" / "run.py").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z]+", text))
    assert named == {"--quick", "--seed", "--rehearsal", "--set", "--half"}
    assert not [option for option in named if f'"{option}"' not in source]


def test_links_lead_somewhere(text: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", "".join(published.outside(text, update.NAME)))
    assert len(targets) > 3
    for target in targets:
        assert (PAGE.parent / target).exists(), target
    for page in ("README.md", "docs/tutorial.md", "docs/how-to/realign.md"):
        assert "sequential-tasks.md)" in (ROOT / page).read_text(encoding="utf-8"), page


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("/home/anna/models/SmolLM2", "SmolLM2"),
        ("data.train=/srv/rows/a.jsonl", "data.train=a.jsonl"),
        ('["/mnt/x/one.jsonl", "/mnt/x/two.jsonl"]', '["one.jsonl", "two.jsonl"]'),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("runs/sequential-tasks/runs/plain-1", "runs/sequential-tasks/runs/plain-1"),
        (
            "https://example.org/a/b, 3/4/2024 and/or 24 / 7",
            "https://example.org/a/b, 3/4/2024 and/or 24 / 7",
        ),
    ],
)
def test_paths_of_a_machine_are_their_last_part(written: str, kept: str) -> None:
    assert published.without_machine_paths({"a": [written, 1, None, True]}) == {"a": [kept, 1, None, True]}


def test_bad_arguments_give_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["update_sequential_tasks.py"])
    with pytest.raises(SystemExit, match="Put a finished run of three tasks"):
        update.main()
    monkeypatch.setattr(sys, "argv", ["update_sequential_tasks.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"record\.json does not exist"):
        update.main()
