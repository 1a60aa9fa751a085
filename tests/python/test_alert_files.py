"""docs/operate/alerts is right: real parsers read it, and it asks for known metrics and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
RULES = yaml.safe_load((DOCS / "operate" / "alerts" / "prometheus-rules.yml").read_text())
DASHBOARD = json.loads((DOCS / "operate" / "alerts" / "grafana-dashboard.json").read_text())
# A row of docs/reference/metrics.md: name, type, unit, labels.
ROW = re.compile(r"^\| `(coordination_\w+)` \| (\w+) \| [^|]*\| ([^|]*)\|", re.M)
METRICS = {
    name: (kind, set(re.findall(r"`(\w+)`", labels)))
    for name, kind, labels in ROW.findall((DOCS / "reference" / "metrics.md").read_text())
}
# What Prometheus adds where it scrapes.
SCRAPED = {"job", "instance"}


def _expressions() -> dict[str, str]:
    rules = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}
    shown = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }
    return {**rules, **shown}


def _parsed(expression: str) -> promql.Expr:
    """Parse what Grafana would send: its variables are filled in."""
    return promql.parse(expression.replace("$__rate_interval", "5m"))


def _parts(expression: promql.Expr, context: str = "") -> Iterator[tuple[promql.Expr, str]]:
    """Every part, each with the function that it is handed to."""
    yield expression, context
    if isinstance(expression, promql.BinaryExpr):
        inner = [(expression.lhs, ""), (expression.rhs, "")]
    elif isinstance(expression, promql.Call):
        inner = [(part, expression.func.name) for part in expression.args]
    elif isinstance(expression, promql.MatrixSelector):
        inner = [(expression.vector_selector, context)]
    elif isinstance(expression, (promql.AggregateExpr, promql.ParenExpr)):
        inner = [(expression.expr, "")]
    else:
        inner = []
    for part, function in inner:
        yield from _parts(part, function)


def _metric(name: str) -> tuple[str, str, set[str]]:
    """The metric of a series, what of it the series has, and its labels."""
    for suffix in ("", "_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if name.endswith(suffix) and base in METRICS:
            kind, labels = METRICS[base]
            if (kind == "histogram") == (suffix != ""):
                return base, kind, labels | ({"le"} if suffix == "_bucket" else set())
    raise AssertionError(f"{name} is not in docs/reference/metrics.md")


def _offences(expression: promql.Expr) -> list[str]:
    """What a server would take and never find, or add up wrongly."""
    offences: list[str] = []
    labels: set[str] = set(SCRAPED)
    for part, function in _parts(expression):
        if isinstance(part, promql.VectorSelector):
            name = str(part.name)
            _, kind, own = _metric(name)
            labels |= own
            wanted = {matcher.name for matcher in part.matchers.matchers}
            offences += [f"{name} has no label {one}" for one in wanted - own - SCRAPED]
            counts = kind in ("counter", "histogram")
            if counts != (function in ("rate", "increase", "changes")):
                offences.append(f"{name} is a {kind} and handed to {function or 'nothing'}")
    for part, _ in _parts(expression):
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            offences += [f"nothing has a label {one}" for one in set(part.modifier.labels) - labels]
    return offences


def test_the_page_of_metrics_is_read() -> None:
    assert len(METRICS) > 30
    assert METRICS["coordination_phase_duration_seconds"] == ("histogram", {"phase", "store"})


@pytest.mark.parametrize("name", list(_expressions()))
def test_every_expression_can_be_parsed_and_asks_for_what_there_is(name: str) -> None:
    assert _offences(_parsed(_expressions()[name])) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "rate(coordination_transactions_started_total[5m]",
        "rate(coordination_transactions_running)",
        "coordination_nonsense > 0",
        "coordination_transactions_started_total > 0",
        "rate(coordination_transactions_running[5m])",
        'coordination_transactions_running{store="a"}',
        "sum by (store) (coordination_transactions_running)",
        "rate(coordination_transaction_duration_seconds[5m])",
        "rate(coordination_transactions_started_total_bucket[5m])",
    ],
)
def test_what_is_wrong_would_be_found(wrong: str) -> None:
    try:
        found = _offences(_parsed(wrong))
    except (ValueError, AssertionError):
        return
    assert found != []


def test_every_rule_has_what_prometheus_and_people_need() -> None:
    headings = re.findall(r"^### (.+)$", (DOCS / "operate" / "alerting.md").read_text(), re.M)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    names = []
    for group in RULES["groups"]:
        for rule in group["rules"]:
            names.append(rule["alert"])
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
            assert rule["labels"].keys() == {"severity"}
            assert rule["labels"]["severity"] in ("medium", "high")
            assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
            assert rule["annotations"].keys() == {"summary", "description", "runbook"}
            page, _, anchor = rule["annotations"]["runbook"].partition("#")
            assert page == "docs/operate/alerting.md" and anchor in anchors, rule["alert"]
            _check_template(rule["alert"], rule["expr"], rule["annotations"]["summary"])
    assert len(set(names)) == len(names)
    assert len({group["name"] for group in RULES["groups"]}) == len(RULES["groups"])


def _check_template(name: str, expression: str, text: str) -> None:
    """Its labels are those that the expression keeps."""
    wanted = set(re.findall(r"\$labels\.(\w+)", text))
    parts = [part for part, _ in _parts(_parsed(expression))]
    kept = _kept(parts)
    assert all(wanted <= labels for labels in kept), name
    assert wanted <= SCRAPED or kept, name


def _kept(parts: list[promql.Expr]) -> list[set[str]]:
    """The labels that each aggregation keeps."""
    return [
        set(part.modifier.labels) if part.modifier is not None else set()
        for part in parts
        if isinstance(part, promql.AggregateExpr)
    ]


def test_every_rule_of_the_service_has_one_for_prometheus() -> None:
    from unanimity._alert_rules import RULES as OWN

    runbooks = {
        rule["annotations"]["runbook"].partition("#")[2]
        for group in RULES["groups"]
        for rule in group["rules"]
    }
    assert {rule.name for rule in OWN} <= runbooks


def test_the_dashboard_can_be_imported() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    assert [given["name"] for given in DASHBOARD["__inputs"]] == ["DS_PROMETHEUS"]
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["description"] and panel["datasource"] == source
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == source
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables, panel["title"]
            _check_legend(panel["title"], target)
    _check_no_overlap([panel["gridPos"] for panel in panels])


def _check_legend(title: str, target: dict[str, Any]) -> None:
    wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    kept = _kept([part for part, _ in _parts(_parsed(target["expr"]))])
    assert all(wanted <= labels for labels in kept) and (kept or not wanted), title


def _check_no_overlap(places: list[dict[str, int]]) -> None:
    taken: set[tuple[int, int]] = set()
    for place in places:
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & taken and place["x"] + place["w"] <= 24
        taken |= own


def test_the_dashboards_variables_ask_for_what_there_is() -> None:
    for variable in DASHBOARD["templating"]["list"]:
        (name,) = re.findall(r"label_values\((coordination_\w+)", variable["definition"])
        assert name in METRICS and variable["query"]["query"] == variable["definition"]
