"""Every page: what the records say is there, and nothing that a text in them could do."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx2 as httpx
import pytest
from looking import looking_at
from lxml import html as parser
from starlette.testclient import TestClient

from report_records import EVALUATION, comparison_record, write_balance, write_comparison, write_run
from selfaug.core.printable import printable
from selfaug.dashboard import app
from selfaug.dashboard.explain import distributions
from selfaug.dashboard.library import Library
from selfaug.dashboard.side_by_side import chosen_charts
from selfaug.dashboard.words import WORDS, word_of
from selfaug.records import read_record, write_lines
from selfaug.report.open_report import report_on
from selfaug.report.run_report import logged
from selfaug.rundir import RunDir
from selfaug.wording.numbers import percent


def hostile_path(root: Path) -> str:
    return next(entry.path for entry in Library(root).entries() if "onerror" in entry.path and entry.summary)


def flat(answer: httpx.Response) -> str:
    """The text that is seen, in one line."""
    page = parser.fromstring(answer.text)
    for unseen in page.xpath("//script|//style"):
        unseen.drop_tree()
    return " ".join(page.text_content().split())


def addresses(root: Path) -> Iterator[str]:
    for entry in Library(root).entries():
        for page in ("run", "live", "samples", "monitor"):
            yield f"/{page}/{quote(entry.path)}"
    yield from (
        "/", "/?parts=1", "/entries", "/monitor", "/roi", "/roi/result", "/explain", "/explain/picture", "/words",
    )  # fmt: skip
    hostile = quote(hostile_path(root))
    yield f"/compare?run={hostile}&run=evaluated&run=comparison&run=demo&run=training"
    yield f"/samples/{hostile}?search=%3Cscript%3Ealert(1)%3C%2Fscript%3E"
    yield f"/samples/{hostile}?search={quote(chr(34) + '><script>alert(1)</script>')}&suite=%22%3E&change=%22%3E"
    yield f"/?search={quote(chr(34) + '><img src=x onerror=alert(1)>')}&kind=%22%3E&page=%22%3E"
    yield f"/roi?workers={quote('<script>alert(1)</script>')}&comparison=%22%3E"
    yield f"/explain/picture?moved={quote('<b>')}"
    yield f"/run/{quote('<script>alert(1)</script>')}"
    yield f"/{quote('<script>alert(1)</script>')}"


def test_no_text_of_others_does_anything(client: TestClient, runs_root: Path) -> None:
    statuses = set()
    for address in addresses(runs_root):
        answer = client.get(address)
        statuses.add(answer.status_code)
        assert answer.status_code < 500, address
        page = parser.fromstring(answer.text)
        assert [one.get("src") for one in page.xpath("//script")] in ([], ["/static/htmx-4.0.1.min.js"]), (
            address
        )
        for element in page.iter():
            if not isinstance(element.tag, str):
                continue
            assert element.tag not in ("style", "img", "iframe", "object", "embed", "base", "b"), address
            for name, value in element.attrib.items():
                assert not name.startswith("on"), (address, name)
                # The policy would drop a style of an element's own.
                assert name != "style", (address, value[:60])
                if name in ("href", "src", "action", "hx-get", "formaction", "xlink:href"):
                    assert re.match(r"[/#](?![/\\])", value), (address, name, value)
        # What would not be seen, or would turn the text around; only what was asked for comes back as it is.
        assert printable(answer.text) == answer.text, address
        assert "{{ 49 }}" not in answer.text, address
    assert statuses == {200, 404, 422}


def test_the_hostile_run_is_read_and_cut_where_it_is_too_long(client: TestClient, runs_root: Path) -> None:
    path = quote(hostile_path(runs_root))
    for page in ("run", "samples"):
        answer = client.get(f"/{page}/{path}")
        assert answer.status_code == 200
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
        assert "cut off here:" in answer.text
        assert len(answer.content) < 2_000_000
        assert r"\x1b[2J" in answer.text
        assert r"\u202e" in answer.text
    assert "{{ 7 * 7 }}" in client.get(f"/run/{path}").text


def test_links_of_the_overview_lead_to_pages(client: TestClient) -> None:
    page = parser.fromstring(client.get("/?parts=1").text)
    links = page.xpath("//main//th/a/@href")
    assert len(links) > 10
    assert all(
        client.get(link).status_code == 200
        for link in links
        if "damaged" not in link and "lacking" not in link
    )


@pytest.mark.parametrize(
    "path",
    ["comparison", "balance", "assessment", "demo", "evaluated", "team/trained", "team/realigned"],
)
def test_a_page_says_what_the_record_says(client: TestClient, runs_root: Path, path: str) -> None:
    report = report_on(runs_root / path)
    found = flat(client.get(f"/run/{path}"))
    tiles, titles = [tile.value for tile in report.tiles], [section.title for section in report.sections]
    for text in (report.verdict, *tiles, *titles):
        assert " ".join(text.split()) in found
    assert " ".join(report.verdict.split()) in flat(client.get("/?parts=1")), "and so does the list"


def test_the_numbers_of_a_comparison_are_its_own(client: TestClient, runs_root: Path) -> None:
    record = read_record(runs_root / "comparison" / "record.json", "comparison")
    score = record["methods"]["plain"]["suites"]["task"]["score"]["value"]
    assert " ".join(percent(score).split()) in flat(client.get("/run/comparison"))
    explained = flat(client.get("/explain"))
    assert all(row["label"] in explained for row in record["methods"].values())


def test_a_comparison_links_to_its_parts_answers_and_worth(client: TestClient) -> None:
    text = client.get("/run/comparison").text
    for link in ("/samples/comparison", "/roi?comparison=comparison", "/run/comparison/runs/plain-0-seed0"):
        assert f'href="{link}"' in text
        assert client.get(link).status_code == 200


def test_parts_are_hidden_unless_asked_for(client: TestClient) -> None:
    hidden, shown = flat(client.get("/")), flat(client.get("/?parts=1"))
    assert "comparison/runs/plain-0-seed0" not in hidden
    assert "assessment/probe" not in hidden
    assert "with the 4 runs that are parts of others" in hidden
    assert "comparison/runs/plain-0-seed0part of comparison" in shown
    assert "assessment/probepart of assessment" in shown


def names(client: TestClient, query: str) -> list[str]:
    page = parser.fromstring(client.get(f"/?{query}").text)
    return [link.text_content() for link in page.xpath("//main//th/a")]


def test_kinds_and_search(client: TestClient) -> None:
    assert names(client, "kind=balance") == ["balance"]
    assert set(names(client, "kind=comparison")) == {"comparison", "lacking"}
    assert names(client, "kind=damaged") == ["damaged"]
    assert names(client, "kind=nonsense") == names(client, "")
    assert sorted(names(client, "search=TEAM")) == ["team/realigned", "team/trained"]
    assert names(client, "search=team&kind=demo") == []
    assert "Nothing was found with this filter" in flat(client.get("/?search=team&kind=demo"))
    assert set(names(client, "search=plain-0&parts=1")) == {"comparison/runs/plain-0-seed0"}


def test_damaged_records_are_listed_with_their_problem(client: TestClient) -> None:
    text = flat(client.get("/"))
    assert text.count("can't be read") >= 3
    for path in ("damaged", "damaged-run"):
        answer = client.get(f"/run/{path}")
        assert answer.status_code == 404
        assert "record.json can't be read" in flat(answer)
        assert "Back to the runs" in flat(answer)
    assert "lack what a report needs" in flat(client.get("/run/lacking"))
    assert not {"other", "foreign"} & set(names(client, "parts=1"))


@pytest.mark.parametrize(
    "address",
    [
        "/run/nothing", "/run/", "/run/../evaluated", "/run/%2e%2e/%2e%2e/etc", "/run/evaluated/samples",
        "/run/evaluated%00", "/run/evaluated%0Ax", "/run/%FF", "/samples/nothing", "/monitor/nothing", "/live/nothing",
        "/nothing", "/run", "/samples/demo", "/samples/team/trained", "/x/y/z",
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_page_that_says_so(client: TestClient, address: str) -> None:
    # As it is, without a browser's tidying up.
    answer = client.get(httpx.URL("http://127.0.0.1:8321").copy_with(raw_path=address.encode()))
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "This can't be shown" in flat(answer)


def test_pages_of_many_runs(tmp_path: Path) -> None:
    for number in range(53):
        write_run(tmp_path / f"run-{number:02}", steps=0)
    client = looking_at(tmp_path)
    first, second = (names(client, f"page={page}&search=run") for page in (1, 2))
    assert (len(first), len(second)) == (50, 3)
    assert len({*first, *second}) == 53
    for page in ("3", "99", "1e400", "nan", "-1", "0", "x", ""):
        assert names(client, f"page={page}&search=run") in (first, second)
    assert 'href="/?search=run&amp;page=2"' in client.get("/?search=run").text
    assert 'href="/?search=run&amp;page=1"' in client.get("/?search=run&page=2").text
    assert "page 2 of 2, 53 entries" in flat(client.get("/?page=2"))


def test_one_entry_is_one(tmp_path: Path) -> None:
    write_run(tmp_path / "first", steps=0)
    text = flat(looking_at(tmp_path).get("/"))
    assert "page 1 of 1, 1 entry" in text
    assert "1 entries" not in text


def test_an_empty_directory_says_what_to_do(tmp_path: Path) -> None:
    client = looking_at(tmp_path)
    assert "selfaug demo or selfaug train writes the first run" in flat(client.get("/"))
    assert "There is no comparison here yet" in flat(client.get("/explain"))
    assert "No run here has been served yet" in flat(client.get("/monitor"))
    assert flat(client.get("/")).count("none here yet") == 4


def test_runs_beside_each_other(client: TestClient, runs_root: Path) -> None:
    answer = client.get("/compare?run=evaluated&run=team/trained&run=evaluated&run=damaged&run=nothing")
    assert answer.status_code == 200
    page = parser.fromstring(answer.text)
    assert [one.text_content() for one in page.xpath("//main//thead//th/a")] == ["evaluated", "team/trained"]
    assert "2 of the chosen are not shown" in flat(answer)
    nll = next(one for one in page.xpath("//figure") if "Learning the job" in one.get("aria-label"))
    rows = [[cell.text_content() for cell in row] for row in nll.xpath(".//tbody/tr")]
    assert {row[0] for row in rows} == {"evaluated", "team/trained"}
    by_step = {
        str(one["step"]): f"{one['nll']:.4f}"
        for one in logged(RunDir(runs_root / "evaluated"))
        if "nll" in one
    }
    assert all(by_step[step] == value for name, step, value in rows if name == "evaluated")
    assert [row for row in rows if row[1] == "60"] == [
        [name, "60", "0.0500"] for name in ("evaluated", "team/trained")
    ]
    assert "Choose at least two" in flat(client.get("/compare"))
    assert "Choose at least two" in flat(client.get("/compare?run=evaluated"))
    many = "&".join(f"run={quote(one)}" for one in names(client, "parts=1"))
    assert len(parser.fromstring(client.get(f"/compare?{many}").text).xpath("//main//thead//th/a")) == 8


def test_a_run_whose_metrics_are_damaged_is_named_and_the_others_are_drawn(tmp_path: Path) -> None:
    for name in ("first", "second", "third", "fourth"):
        write_run(tmp_path / name)
    whole = RunDir(tmp_path / "first").metrics.read_text(encoding="utf-8")
    RunDir(tmp_path / "second").metrics.write_text("{\n" + whole, encoding="utf-8")
    RunDir(tmp_path / "third").metrics.write_text('{"step": 1, "nll": "low"}\n', encoding="utf-8")
    answer = looking_at(tmp_path).get("/compare?run=first&run=second&run=third&run=fourth")
    assert answer.status_code == 200
    text = flat(answer)
    assert "Without those of second:" in text
    assert "metrics.jsonl, line 1: not JSON" in text
    assert "Without those of third: the records in" in text
    assert "not shown" not in text, "what is said of it is"
    nll = parser.fromstring(answer.text).xpath("//figure")[0]
    assert {row[0].text_content() for row in nll.xpath(".//tbody/tr")} == {"first", "fourth"}
    alone = flat(looking_at(tmp_path).get("/compare?run=second&run=third"))
    assert "Without those of second:" in alone


def test_lines_of_five_runs_differ_where_one_has_no_such_curve(tmp_path: Path) -> None:
    for name in "abcde":
        write_run(tmp_path / name, steps=3)
    write_lines(RunDir(tmp_path / "b").metrics, [{"step": step, "nll": 1.0} for step in (1, 2)])
    charts, _ = chosen_charts(sorted(Library(tmp_path).entries(), key=lambda entry: entry.path))
    loss = next(one for one in charts if one.name == "Alignment loss")
    # Lines of the picture, not of its legend or axes.
    looks = [
        tuple(re.findall(r'stroke(?:-dasharray)?="[^"]*"', path))
        for path in re.findall(r"<path[^>]*>", loss.svg)
        if 'stroke-width="2"' in path and path.count("L") > 1
    ]
    assert (len(looks), len(set(looks))) == (4, 4), looks


def test_a_record_of_another_shape_takes_no_page_down(tmp_path: Path, runs_root: Path) -> None:
    record = comparison_record()
    del record["not_run"]
    write_comparison(tmp_path / "lacking", record)
    watched = write_run(tmp_path / "watched").monitor
    shutil.copytree(runs_root / "served" / "monitor", watched)
    with closing(sqlite3.connect(watched / "monitor.sqlite")) as connection, connection:
        connection.execute("UPDATE kept SET value = '{}' WHERE name = 'status'")
    client = looking_at(tmp_path)
    explained = client.get("/explain")
    assert explained.status_code == 200
    assert "There is no comparison here yet whose scores can be read" in flat(explained)
    monitor = client.get("/monitor/watched")
    assert monitor.status_code == 422
    assert "lack what a report needs" in flat(monitor)
    # The one before can be read.
    write_comparison(tmp_path / "whole", comparison_record())
    for file in (tmp_path / "whole").rglob("*"):
        os.utime(file, (1.7e9, 1.7e9))
    assert 'href="/run/whole"' in looking_at(tmp_path).get("/explain").text


def test_the_newest_result_is_the_newest_of_any_kind(tmp_path: Path) -> None:
    write_comparison(tmp_path / "comparison", comparison_record())
    write_run(tmp_path / "evaluated", evaluation=EVALUATION)
    write_balance(tmp_path / "balance")
    write_run(tmp_path / "trained")
    write_run(tmp_path / "unfinished", training=None, evaluation=EVALUATION)
    for age, name in enumerate(("trained", "unfinished", "balance", "evaluated", "comparison")):
        for file in (tmp_path / name).rglob("*"):
            os.utime(file, (1.7e9 - age, 1.7e9 - age))
    for newest in ("balance", "evaluated", "comparison"):
        assert f"The newest result: {newest} " in flat(looking_at(tmp_path).get("/"))
        shutil.rmtree(tmp_path / newest)


def test_each_phase_counts_what_its_page_lists(tmp_path: Path) -> None:
    write_balance(tmp_path / "balance")
    best = write_run(tmp_path / "balance" / "best")
    best.monitor.mkdir()
    (best.monitor / "monitor.sqlite").touch()
    write_run(tmp_path / "finished")
    write_run(tmp_path / "unfinished", training=None, steps=3)
    client = looking_at(tmp_path)
    counts = dict(
        zip(*(parser.fromstring(client.get("/").text).xpath(f"//ol[@class='phases']//a/{one}")
              for one in ("@href", "text()")), strict=True)
    )  # fmt: skip
    assert counts["/?kind=train"] == "2 here"
    assert len(names(client, "kind=train")) == 2
    assert counts["/monitor"] == "1 here"
    assert 'href="/monitor/balance/best"' in client.get("/monitor").text


def test_runs_whose_names_differ_at_their_ends_are_two_lines(tmp_path: Path) -> None:
    ends = (
        "a" * 60 + "-one",
        "a" * 60 + "-two",
        "b" * 60 + "-same",
        "c" * 60 + "-same",
        "\N{GRINNING FACE}" * 50,
    )
    for name in ends:
        write_run(tmp_path / name)
    client = looking_at(tmp_path)
    answer = client.get("/compare", params=[("run", name) for name in ends])
    nll = parser.fromstring(answer.text).xpath("//figure")[0]
    told = {row[0].text_content() for row in nll.xpath(".//tbody/tr")}
    assert len(told) == 5
    assert any(name.endswith("-one") for name in told)


def test_a_report_is_made_once_for_as_long_as_its_folder_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(app, "report_on", lambda folder: made.append(folder) or report_on(folder))
    write_run(tmp_path / "run")
    library = Library(tmp_path)
    client = looking_at(library)
    before = client.get("/run/run").text
    assert client.get("/run/run").text == before
    assert len(made) == 1
    # An evaluation that was copied here, with the time of another machine.
    run = write_run(tmp_path / "run", evaluation=EVALUATION)
    os.utime(run.evaluation, (1e9, 1e9))
    library._next_scan = 0
    assert "Task gain" in client.get("/run/run").text
    assert len(made) == 2


def test_many_look_at_once(runs_root: Path) -> None:
    client = looking_at(runs_root)
    paths = [
        "/",
        "/run/evaluated",
        "/samples/evaluated",
        "/run/training",
        "/roi/result",
        "/monitor/served",
        "/explain",
    ]
    found: dict[str, list[str]] = {path: [] for path in paths}

    def look(path: str) -> None:
        answer = client.get(path)
        assert answer.status_code == 200
        found[path].append(re.sub(r"\d+ (seconds|s)\b", "", answer.text))

    threads = [threading.Thread(target=look, args=(path,)) for path in paths * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path, texts in found.items():
        assert len(texts) == 2, path
        if path in ("/run/evaluated", "/samples/evaluated", "/roi/result", "/explain"):
            assert texts[0] == texts[1]


def test_what_goes_wrong_is_told_in_the_terminal_and_as_a_page(
    runs_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Path) -> None:
        raise RuntimeError("\x1b[2J of a model")

    monkeypatch.setattr(app, "report_on", fails)
    client = looking_at(runs_root)
    answer = client.get("/run/evaluated")
    assert answer.status_code == 500
    assert "the terminal of selfaug dashboard shows why" in flat(answer).replace("`", "")
    assert "of a model" not in answer.text
    told = capsys.readouterr().err
    assert r"RuntimeError: \x1b[2J of a model" in told
    assert "\x1b" not in told


def test_distributions_move_and_their_divergence_is_right(client: TestClient) -> None:
    assert "0.000 nats" in flat(client.get("/explain/picture?moved=0"))
    assert "Moved by 100 %" in flat(client.get("/explain/picture?moved=7"))
    assert "upper bars: base model, ■ lower bars: tuned model." in flat(client.get("/explain/picture"))
    assert flat(client.get("/explain/picture?moved=x")) == flat(client.get("/explain/picture?moved=0.35"))
    divergences = [distributions(step / 10)["kl"] for step in range(11)]
    assert divergences == sorted(divergences)
    for moved in (0.0, 0.3, 1.0):
        bars = distributions(moved)["bars"]
        assert sum(base for _, base, _ in bars) == pytest.approx(100)
        assert sum(tuned for _, _, tuned in bars) == pytest.approx(100)


def test_every_word_is_explained(client: TestClient) -> None:
    page = parser.fromstring(client.get("/run/evaluated").text)
    asked = page.xpath("//button[@popovertarget]/@popovertarget")
    assert asked
    assert all(page.xpath(f"//*[@id='{target}' and @popover]") for target in asked)
    shown = flat(client.get("/words"))
    assert all(meaning in shown for meaning in WORDS.values())
    assert word_of("Retention") == "retention"
    assert "as much was gained as was lost" in WORDS["retention"]  # it is net
    assert "95 of 100 ranges that are made like this" in WORDS["interval"]
    assert "given after the test, too" in WORDS["gate"]
    # Each explains the number that it stands beside, with its sign.
    for changes in ("General checks against base", "general − base, points", "General score"):
        assert word_of(changes) == "change of the general score"
    assert "tuned model minus score of the base model" in WORDS["change of the general score"]
    assert word_of("Job: exact answers") is None
    assert word_of("Anything else") is None


def test_what_takes_a_second_is_made_ready_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    monkeypatch.setattr(app._Pages, "warm_up", lambda _: ready.set())
    looking_at(tmp_path)
    assert ready.wait(10)
