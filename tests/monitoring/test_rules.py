"""Dashboard and alert rules are valid, and name only metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfaug.core import metric_names
from selfaug.core.alert_state import STATES
from selfaug.core.metric_names import HISTOGRAMS, METRICS, Sample
from selfaug.phases.serve import ServeSettings
from selfaug.serving.metrics import Metrics

_WORDS = {"by", "and", "or", "instance", "signal", "outcome", "status", "le", "state"}
_WORDS |= {"gen_ai_token_type", "gen_ai_request_model", "path", "job"}
_FUNCTIONS = {"max", "min", "sum", "avg", "rate", "histogram_quantile", "label_values"}
_ENDINGS = ("_bucket", "_sum", "_count")


def read(name: str) -> str:
    return (files("selfaug.monitoring") / name).read_text(encoding="utf-8")


def alert_rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(read("prometheus_rules.yaml"))["groups"] for rule in group["rules"]
    ]


def dashboard_queries() -> list[str]:
    board = json.loads(read("grafana_dashboard.json"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return queries + [variable["query"] for variable in board["templating"]["list"][1:]]


def metrics_of(query: str) -> set[str]:
    """Names in a query that are neither functions nor labels."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]|\{[^}]*\}', " ", query)
    return set(re.findall(r"[a-z_]\w*", bare)) - _WORDS - _FUNCTIONS


def is_metric(name: str) -> bool:
    if name == "up":  # Prometheus' own: whether a server told its metrics
        return True
    stem = next((name.removesuffix(end) for end in _ENDINGS if name.removesuffix(end) in HISTOGRAMS), None)
    return (name in METRICS and name not in HISTOGRAMS) or (stem is not None and name != stem)


def test_every_metric_that_is_named_exists() -> None:
    named = set()
    for query in [rule["expr"] for rule in alert_rules()] + dashboard_queries():
        assert query.count("(") == query.count(")"), query
        found = metrics_of(query)
        assert found, query
        unknown = {name for name in found if not is_metric(name)}
        assert not unknown, (unknown, query)
        named |= {name.removesuffix(end) for name in found for end in (*_ENDINGS, "") if name.endswith(end)}
    assert named >= set(METRICS), set(METRICS) - named  # and each has its place


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    assert metrics_of('sum by (le) (rate(selfaug_alerts{state="drift"}[5m]))') == {"selfaug_alerts"}
    assert not is_metric("selfaug_alerts")
    assert not is_metric("selfaug_prompt_drift_nats")  # a histogram has no series without an ending


def test_rules_have_the_monitors_meaning() -> None:
    rules = {rule["alert"]: rule for rule in alert_rules()}
    assert 'state=~"drift|realign"' in rules["SelfAugDrift"]["expr"]
    assert "for" not in rules["SelfAugDrift"]  # the monitor has its own hysteresis
    # One signal's alert, however long it lasts, does not hide another one's.
    assert rules["SelfAugSignalDrift"]["expr"] == (
        'max by (instance, signal) (selfaug_signal_state{state=~"drift|realign"}) == 1'
    )
    assert "for" not in rules["SelfAugSignalDrift"]
    for rule in rules.values():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert re.fullmatch(r"[1-9]\d*[smhd]", rule.get("for", "1m"))
        for opening, closing in ("()", "[]", "{}"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing)
        assert rule["expr"].count('"') % 2 == 0
        assert re.search(r"(==|>|<) [\d(]", rule["expr"])  # a rule without a bound would always fire
        assert rule["annotations"]["summary"].endswith(".")
        for state in re.findall(r'state=~?"([^"]*)"', rule["expr"]):
            assert set(state.split("|")) <= set(STATES)


def test_a_server_that_nobody_watches_is_an_alert() -> None:
    """The one rule that sees it: without a monitor the series of the others aren't there, and they are silent."""
    (rule,) = (rule for rule in alert_rules() if metrics_of(rule["expr"]) == {metric_names.WATCHING})
    assert rule["expr"] == "max by (instance) (selfaug_monitor_watching) == 0"
    assert rule["for"] == "30m"  # a restart, and a small reference window, take less


def test_a_champion_that_is_not_served_is_an_alert() -> None:
    (rule,) = (rule for rule in alert_rules() if metrics_of(rule["expr"]) == {metric_names.FOLLOWS})
    assert rule["expr"] == "min by (instance) (selfaug_follows_champion) == 0"
    assert rule["for"] == "30m"  # it is tried again after one, two, four minutes and so on


def test_the_dashboard_finds_servers_that_nobody_watches_too() -> None:
    assert f"label_values({metric_names.READY}, instance)" in dashboard_queries()


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    board = json.loads(read("grafana_dashboard.json"))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_server_has_its_own_metrics_and_those_of_who_watches_it() -> None:
    drift = metric_names.PROMPT_DRIFT
    watched = [Sample(f"{drift}_sum", {}, 0.5), Sample(f"{drift}_count", {}, 2)]
    watched += [Sample(name, {}, 3) for name in (metric_names.WATCHING, metric_names.SCORING_SECONDS)]
    metrics = Metrics(lambda: 1, lambda: 2, lambda: True, lambda: True, lambda: watched)
    text = metrics.text().decode()
    found = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
    assert {name for name, kind in found.items() if kind == "histogram"} == set(HISTOGRAMS)
    assert found[metric_names.REQUESTS] == found[metric_names.SCORING_SECONDS] == "counter"
    for name in ("WAITING", "RUNNING", "READY", "FOLLOWS", "WATCHING"):
        assert found[getattr(metric_names, name)] == "gauge"
    for line in (f"{drift}_sum 0.5", f"{drift}_count 2.0", f"{metric_names.SCORING_SECONDS} 3.0"):
        assert line in text.splitlines()
    bounds = metrics.first_token.labels(*"abc")._upper_bounds
    assert 5.12 in bounds  # what the alert on slow first tokens asks for
    assert ServeSettings().request_seconds < bounds[-2]  # the last one is no bound


def test_errors_are_counted_of_what_clients_ask_for() -> None:
    """Probes of a server that isn't ready, and Prometheus' own requests, are no requests that fail or succeed."""
    counted = [query for rule in alert_rules() if "requests_total" in (query := rule["expr"])]
    assert counted
    for query in counted:
        assert query.count("selfaug_requests_total{path=~") == query.count("selfaug_requests_total")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should() -> None:
    file = Path(__file__).with_name("prometheus_rules_test.yaml")
    done = subprocess.run(
        ["promtool", "test", "rules", file.name], cwd=file.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
