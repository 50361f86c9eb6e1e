"""Pages in a real browser: widths, light and dark, keyboard, accessibility, console, and no network but their own."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from report_records import comparison_record, write_comparison
from selfaug.dashboard.app import dashboard_app
from selfaug.dashboard.library import Library
from selfaug.report.open_report import page_of
from selfaug.serving.http_server import listening_socket

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: `apt-get install chromium`"),
    # Playwright's own loop leaves its sockets to the collector when it stops.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

WIDTHS = (320, 768, 1440)
TOKEN = "only-for-tests"

# Half a million values of what is right would be more work than to look at the pages.
WHAT_IS_WRONG = {"resultTypes": ["violations"]}

# WCAG 2.2 AA and what axe calls good practice.
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    **WHAT_IS_WRONG,
}
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}, **WHAT_IS_WRONG}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(runs_root: Path) -> Iterator[str]:
    with served(runs_root) as found:
        yield found


@contextmanager
def served(root: Path) -> Iterator[str]:
    """Address of a dashboard of a directory."""
    listening = listening_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    app = dashboard_app(Library(root), token=TOKEN, port=port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


class Watched:
    """A page that complains of everything in its console, and of every address that is not the dashboard's."""

    def __init__(self, context: BrowserContext, own: str) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

        def handle(route: Any) -> None:
            if route.request.url.startswith((own, "file:")):
                route.continue_()
            else:
                self.complaints.append(f"asks for {route.request.url}")
                route.abort()

        self.page.route("**/*", handle)


@pytest.fixture
def watched(browser: Browser, address: str) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    found = Watched(context, address)
    found.page.goto(f"{address}/?token={TOKEN}")
    yield found
    context.close()
    assert found.complaints == []


def paths_of(root: Path) -> dict[str, str]:
    """A page of each sort, by name."""
    library = Library(root)
    by_kind = {
        entry.kind: entry for entry in reversed(library.entries()) if entry.inside is None and entry.summary
    }
    evaluated = next(one for one in library.entries() if one.is_evaluated and one.inside is None)
    seen = next(one for one in library.entries() if one.is_watched)
    training = next(one for one in library.entries() if one.path == "training")
    hostile = next(one for one in library.entries() if one.summary and "<" in one.path)
    from urllib.parse import quote

    return {
        "runs": "/",
        "runs-and-parts": "/?parts=1",
        "nothing-found": "/?search=nothing-has-this-name",
        "run": f"/run/{quote(evaluated.path)}",
        "training": f"/run/{quote(training.path)}",
        "comparison": f"/run/{quote(by_kind['comparison'].path)}",
        "balance": f"/run/{quote(by_kind['balance'].path)}",
        "assessment": f"/run/{quote(by_kind['assessment'].path)}",
        "demo": f"/run/{quote(by_kind['demo'].path)}",
        "hostile": f"/run/{quote(hostile.path)}",
        "answers": f"/samples/{quote(evaluated.path)}",
        "hostile-answers": f"/samples/{quote(hostile.path)}",
        "beside": f"/compare?run={quote(evaluated.path)}&run={quote(training.path)}",
        "monitors": "/monitor",
        "monitor": f"/monitor/{quote(seen.path)}",
        "roi": "/roi",
        "explain": "/explain",
        "words": "/words",
        "problem": "/run/there-is-no-such-run",
    }


# What only screen readers get is clipped to a point.
CLIPPED = """const clipped = element => {
  for (let one = element; one; one = one.parentElement)
    if (getComputedStyle(one).clipPath !== "none") return true;
  return false;
};"""

# What reaches out of the page, or out of its own box without a way to scroll it.
OVERFLOWING = (
    f"() => {{{CLIPPED}"
    + """
  const wide = [];
  const page = document.documentElement.clientWidth;
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest(".scrolled, svg, [popover], .skip") || clipped(element)) continue;
    const box = element.getBoundingClientRect();
    if (box.width && box.height && (box.right > page + 1 || box.left < -1))
      wide.push(element.tagName + "." + element.className + " " + Math.round(box.right));
  }
  return wide;
}"""
)

# Texts that lie on each other: the boxes of the smallest elements that hold text.
OVERLAPPING = (
    f"() => {{{CLIPPED}"
    + """
  const boxes = [];
  for (const element of document.querySelectorAll("main *, header *")) {
    if (element.closest("svg, [popover], .skip, .tokens") || clipped(element)) continue;
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const block = getComputedStyle(element).display;
    if (block === "inline" || block === "contents") continue;
    const box = element.getBoundingClientRect();
    if (box.width > 2 && box.height > 2) boxes.push([element, box]);
  }
  const found = [];
  for (let i = 0; i < boxes.length && boxes.length < 1500; i++)
    for (let j = i + 1; j < boxes.length; j++) {
      const [a, p] = boxes[i], [b, q] = boxes[j];
      if (a.contains(b) || b.contains(a)) continue;
      const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (across > 2 && down > 2) found.push(a.textContent.slice(0, 40) + " / " + b.textContent.slice(0, 40));
    }
  return found;
}"""
)


def look(page: Page, name: str, width: int, scheme: str) -> None:
    """Keep a picture for people, where they asked for it."""
    if folder := os.environ.get("SELFAUG_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}-{width}-{scheme}.png", full_page=True)


# What their parts look like is seen on other pages.
SEEN_IN_THE_LIGHT_ONLY = {"runs-and-parts", "nothing-found", "hostile", "hostile-answers"}


def violations(page: Page, rules: dict[str, Any]) -> list[Any]:
    """What axe finds, and where."""
    found = Axe().run(page, options=rules).response["violations"]
    return [(one["id"], one["help"], [node["html"][:160] for node in one["nodes"][:2]]) for one in found]


def test_every_page_fits_and_is_accessible(browser: Browser, address: str, runs_root: Path) -> None:
    problems: dict[str, Any] = {}
    context = browser.new_context(color_scheme="light")
    found = Watched(context, address)
    page = found.page
    page.goto(f"{address}/?token={TOKEN}")
    for name, path in paths_of(runs_root).items():
        found.complaints.clear()
        page.goto(f"{address}{path}")
        # Everything that can be opened is looked at, too.
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        seen: list[Any] = []
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            if page.evaluate("document.documentElement.scrollWidth") > width:
                seen.append((width, "scrolls sideways", page.evaluate(OVERFLOWING)[:4]))
            if overflowing := page.evaluate(OVERFLOWING):
                seen.append((width, "overflows", overflowing[:4]))
            if overlapping := page.evaluate(OVERLAPPING):
                seen.append((width, "overlaps", overlapping[:4]))
            look(page, name, width, "light")
        seen += violations(page, RULES)
        if name not in SEEN_IN_THE_LIGHT_ONLY:  # in the dark only the colours are others
            page.emulate_media(color_scheme="dark")
            look(page, name, WIDTHS[-1], "dark")
            seen += [("dark", *one) for one in violations(page, CONTRAST)]
            page.emulate_media(color_scheme="light")
        # A page that there is not says so in the console: the browser does.
        seen += [one for one in found.complaints if not (name == "problem" and "404" in one)]
        if seen:
            problems[name] = seen
    context.close()
    assert problems == {}


# They look like others: as evaluated or re-aligned, and as one that is being trained.
LIKE_OTHERS = {"team/trained", "served", "gone"}


def test_reports_as_files_need_no_network_and_no_script(
    browser: Browser, runs_root: Path, tmp_path: Path
) -> None:
    problems: dict[str, Any] = {}
    files: list[tuple[str, Path]] = []
    for entry in Library(runs_root).entries():
        if entry.inside is None and entry.summary is not None and entry.path not in LIKE_OTHERS:
            name = re.sub(r"\W", "-", entry.path)[:40]
            file = tmp_path / f"{name}.html"
            file.write_text(page_of(entry.folder), encoding="utf-8")
            assert file.stat().st_size < 2_000_000
            files.append((entry.path, file))
    assert len({file for _, file in files}) == len(files)
    for script in (True, False):
        context = browser.new_context(java_script_enabled=script, offline=True)
        found = Watched(context, "file:")
        page = found.page
        for path, file in files:
            found.complaints.clear()
            page.goto(file.as_uri())
            seen: list[Any] = []
            if script:
                for width in WIDTHS:
                    page.set_viewport_size({"width": width, "height": 900})
                    if overflowing := page.evaluate(OVERFLOWING):
                        seen.append((width, overflowing[:4]))
                    look(page, f"report-{file.stem}", width, "light")
                seen += violations(page, RULES)
                if path == "comparison" or "<" in path:
                    assert page.pdf(format="A4").startswith(b"%PDF")
            else:
                assert page.locator("h1").inner_text().strip()
            seen += found.complaints
            if seen:
                problems[f"{file.stem}, script {script}"] = seen
        context.close()
    assert problems == {}


def test_by_keyboard_alone(watched: Watched) -> None:
    page = watched.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    # Everything that can be used is reached, in the order of the page, and shows that it is.
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        where = page.evaluate(
            "() => { const one = document.activeElement; const style = getComputedStyle(one);"
            " return [one.tagName, one.name || one.textContent.trim().slice(0, 30), style.outlineStyle]; }"
        )
        if where[0] == "BODY":
            break
        reached.append(where)
    assert {"A", "INPUT", "SELECT", "BUTTON"} <= {tag for tag, _, _ in reached}
    assert all(outline != "none" for _, _, outline in reached), reached


def test_what_is_this_opens_by_keyboard(watched: Watched, address: str, runs_root: Path) -> None:
    page = watched.page
    page.goto(f"{address}{paths_of(runs_root)['run']}")
    asked = page.get_by_role("button", name="What is drift?").first
    asked.focus()
    page.keyboard.press("Enter")
    assert page.locator("#what-drift").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#what-drift").is_visible()


def test_a_slider_is_moved_by_keyboard_and_the_server_computes(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/roi")
    before = page.locator("#result [role=status]").inner_text()
    page.locator("#minutes_saved").focus()
    with page.expect_response(
        lambda response: "/roi/result" in response.url and "minutes_saved=9" in response.url
    ):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('#result [role=status]').innerText !== before", arg=before
    )
    assert page.evaluate("document.activeElement.id") == "minutes_saved"


def test_what_another_comparison_measured_comes_into_the_form(browser: Browser, tmp_path: Path) -> None:
    write_comparison(tmp_path / "gpu", {**comparison_record(), "device": "cuda"})
    with served(tmp_path) as own:
        context = browser.new_context()
        found = Watched(context, own)
        page = found.page
        page.goto(f"{own}/?token={TOKEN}")
        page.goto(f"{own}/roi")
        page.locator("#assumptions summary").click()
        before = page.locator("#gpu_hours").input_value()
        page.locator("#comparison").select_option("gpu")
        page.wait_for_function("() => document.querySelector('#filled').value === 'gpu'")
        measured = page.locator("#gpu_hours").input_value()
        assert measured != before
        # What is typed then is what the user gives, also what was there at first.
        with page.expect_response(lambda response: f"gpu_hours={before}" in response.url):
            page.locator("#gpu_hours").fill(before)
        page.wait_for_function("() => /gpu hours.*user/.test(document.querySelector('#result').textContent)")
        assert page.locator("#gpu_hours").input_value() == before
        page.locator("#comparison").select_option("")
        page.wait_for_function("() => document.querySelector('#filled').value === ''")
        context.close()
        assert found.complaints == []


def test_the_picture_of_two_distributions_moves(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/explain")
    page.locator("#moved").fill("0")
    page.wait_for_function("() => document.querySelector('#picture').innerText.includes('0.000 nats')")
    page.locator("#moved").fill("1")
    page.wait_for_function("() => document.querySelector('#picture').innerText.includes('Moved by 100 %')")


def test_a_training_is_watched_live(watched: Watched, address: str, runs_root: Path) -> None:
    page = watched.page
    page.goto(f"{address}/run/training")
    metrics = runs_root / "training" / "metrics.jsonl"
    before = metrics.read_text(encoding="utf-8")
    step = int(page.locator("#live progress").get_attribute("value") or 0)
    try:
        with metrics.open("a", encoding="utf-8") as file:
            file.write(f'{{"step": {step + 1}, "nll": 0.5, "alignment_loss": 0.02, "alpha": 0.5}}\n')
        page.wait_for_function(
            "step => document.querySelector('#live progress').value === step", arg=step + 1, timeout=15_000
        )
    finally:
        metrics.write_text(before, encoding="utf-8")


def test_without_scripts_everything_still_works(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/?token={TOKEN}")
    assert "token" not in page.url
    page.goto(f"{address}/roi")
    page.locator("#minutes_saved").fill("20")
    page.get_by_role("button", name="Compute").click()
    assert "minutes_saved=20" in page.url
    assert "net present value" in page.locator("#result").inner_text()
    context.close()
