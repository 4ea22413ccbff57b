import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

import serving.predictor.metrics  # registers the predictor's
from serving.miner.metrics import Metrics
from tests.charts.render import CHARTS, Rendered, RenderError, render

ROOT = CHARTS.parent
DASHBOARD = CHARTS / "monitoring/files/streetvision.json"
ADDED = {"namespace", "release", "part", "le"}  # by the scrape and by histograms

Expressions = list[tuple[str, str]]


def rules(rendered: Rendered) -> dict[str, dict[str, Any]]:
    (group,) = rendered.one("PrometheusRule")["spec"]["groups"]
    return {rule.get("alert") or rule["record"]: rule for rule in group["rules"]}


def monitors(rendered: Rendered) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one["spec"] for one in rendered.of("ServiceMonitor")}


# Every query names what the programs export


@cache
def exported() -> dict[str, set[str]]:
    """Every sample name that the programs export, with its labels."""
    metrics = Metrics()
    kept: dict[str, set[str]] = {}
    for registry in (metrics._registry, REGISTRY):
        for collector in set(registry._names_to_collectors.values()):
            for family in collector.describe() if hasattr(collector, "describe") else []:
                suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
                for suffix in suffixes:
                    kept[family.name + suffix] = set(getattr(collector, "_labelnames", ()))
    gauges = {name: set[str]() for name in _gauges()}
    assert gauges, "no call of `gauge` found: did its name change?"
    return {**kept, **gauges}


def _gauges() -> Iterator[str]:
    """What the miner's parts add to its metrics."""
    for file in (ROOT / "serving/miner").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called == "gauge":
                    yield f"streetvision_miner_{node.args[0].value}"


def expressions() -> Expressions:
    """Every query of rules and dashboard, with where it stands."""
    found = [(name, rule["expr"]) for name, rule in rules(render("monitoring")).items()]
    board = json.loads(DASHBOARD.read_text())
    found += [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]
    return found + [(one["name"], one["query"]) for one in board["templating"]["list"] if one["type"] == "query"]


def used(expression: str) -> dict[str, set[str]]:
    """The metrics that a query names, each with the labels that it matches."""
    return {
        name: set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels or ""))
        for name, labels in re.findall(r"\b(up|streetvision_\w+(?::\w+)*)(?:\{([^}]*)\})?", expression)
    }


def test_every_metric_of_rules_and_dashboard_is_exported_with_its_labels() -> None:
    recorded = {name for name, rule in rules(render("monitoring")).items() if "record" in rule}
    looked_at = 0
    for where, expression in expressions():
        for name, labels in used(expression).items():
            if name == "up" or name in recorded:
                continue
            assert name in exported(), f"{where}: nobody exports `{name}`"
            assert labels <= exported()[name] | ADDED, (
                f"{where}: `{name}` has no label {labels - exported()[name] - ADDED}"
            )
            looked_at += 1
    assert looked_at > 10


def test_what_queries_group_by_and_show_is_a_label_of_theirs() -> None:
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            known = set().union(*(exported().get(name, set()) for name in used(target["expr"]))) | ADDED
            grouped = {
                one for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for one in by.replace(" ", "").split(",")
            }
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert grouped | shown <= known, panel["title"]


def test_the_check_finds_a_metric_that_nobody_exports() -> None:
    assert used('rate(streetvision_miner_chalenges_total{outcome="x"}[5m])') == {
        "streetvision_miner_chalenges_total": {"outcome"}
    }
    assert "streetvision_miner_chalenges_total" not in exported()
    assert exported()["streetvision_miner_challenges_total"] == {"validator", "outcome"}
    assert "streetvision_miner_spool_oldest_age_seconds" in exported()
    assert "streetvision_predictor_engine_seconds_bucket" in exported()
    assert serving.predictor.metrics.FALLBACK._name in exported()


# Rules


def promtool() -> str:
    found = shutil.which("promtool") or shutil.which(ROOT / ".tools/promtool")
    return found or pytest.skip("needs `promtool` (`make tools`, Debian's package prometheus)")


def groups(rendered: Rendered, folder: Path) -> Path:
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": rendered.one("PrometheusRule")["spec"]["groups"]}))
    return file


@pytest.mark.parametrize("way", sorted((CHARTS / "monitoring/ci").glob("*.yaml")), ids=lambda way: way.stem)
def test_prometheus_takes_the_rules(way: Path, tmp_path: Path) -> None:
    file = groups(render("monitoring", files=(way,)), tmp_path)
    done = subprocess.run([promtool(), "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def ask(tmp_path: Path, series: dict[str, str], expected: list[dict[str, Any]], **more: Any) -> None:
    """Has Prometheus evaluate the rules over these series, and compares what it finds."""
    groups(render("monitoring"), tmp_path)
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": expected,
        **more,
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run([promtool(), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


WATCHED = 'namespace="streetvision",release="sv"'
MINER, PREDICTOR = f'{WATCHED},part="miner"', f'{WATCHED},part="predictor"'
ALERT = {"namespace": "streetvision", "release": "sv", "severity": "critical"}


def challenges(outcome: str, validator: str = "5F", matchers: str = MINER) -> str:
    return f'streetvision_miner_challenges_total{{{matchers},validator="{validator}",outcome="{outcome}"}}'


def fires(name: str, at: str, *labels: dict[str, str], **annotations: str) -> dict[str, Any]:
    alerts = [{"exp_labels": one, "exp_annotations": annotations or _annotations(name)} for one in labels]
    return {"alertname": name, "eval_time": at, "exp_alerts": alerts}


def _annotations(name: str) -> dict[str, str]:
    text = rules(render("monitoring"))[name]["annotations"]
    return {key: value.replace("{{ $value | humanizePercentage }}", "25%") for key, value in text.items()}


def test_an_abstention_in_four_is_an_alarm_once_it_lasts(tmp_path: Path) -> None:
    series = {
        challenges("answered"): "0+30x60",
        challenges("answered", "5G"): "0+30x60",
        challenges("abstained"): "0+20x60",
    }
    share = [{"labels": f"streetvision_miner:abstained:share15m{{{WATCHED}}}", "value": 0.25}]
    ask(
        tmp_path,
        series,
        [fires("StreetvisionMinerAbstains", "5m"), fires("StreetvisionMinerAbstains", "40m", ALERT)],
        promql_expr_test=[{"expr": "streetvision_miner:abstained:share15m", "eval_time": "40m", "exp_samples": share}],
    )


def test_a_few_abstentions_and_those_of_others_are_no_alarm(tmp_path: Path) -> None:
    other = MINER.replace('"sv"', '"other"')
    series = {
        challenges("answered"): "0+98x60",
        challenges("abstained"): "0+2x60",
        challenges("answered", matchers=other): "0+1x60",
        challenges("abstained", matchers=other): "0+9x60",
    }
    ask(tmp_path, series, [fires("StreetvisionMinerAbstains", "40m")])


def test_a_miner_that_nobody_asks_is_no_alarm(tmp_path: Path) -> None:
    series = {challenges("answered"): "5+0x60", challenges("abstained"): "3+0x60"}
    ask(tmp_path, series, [fires("StreetvisionMinerAbstains", "40m")])


@pytest.mark.parametrize(
    ("fallback", "labels"),
    [("0x30", ALERT), ("_x30", ALERT), ("1x30", None)],
    ids=["down too", "not there", "up"],
)
def test_no_predictor_at_all_is_an_alarm_and_a_fallback_that_is_up_is_none(
    fallback: str, labels: dict[str, str] | None, tmp_path: Path
) -> None:
    series = {
        f'up{{{PREDICTOR},pod="primary"}}': "1 1 1 1 1 0x25",
        f'up{{{PREDICTOR},pod="fallback"}}': fallback,
    }
    ask(
        tmp_path,
        series,
        [
            fires("StreetvisionPredictorDown", "6m"),
            fires("StreetvisionPredictorDown", "20m", *([labels] if labels else [])),
        ],
    )


def test_predictors_that_nobody_scrapes_are_an_alarm(tmp_path: Path) -> None:
    labels = {**ALERT, "part": "predictor"}
    ask(tmp_path, {"up{part='miner'}": "1x30"}, [fires("StreetvisionPredictorDown", "10m", labels)])


# What is rendered


def test_each_part_of_the_release_is_scraped_once_and_labelled() -> None:
    found = monitors(render("monitoring"))
    assert found.keys() == {"sv-monitoring-miner", "sv-monitoring-predictor", "sv-monitoring-mlflow"}
    for name, spec in found.items():
        part = name.rpartition("-")[2]
        (endpoint,) = spec["endpoints"]
        assert spec["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "sv"
        assert spec["namespaceSelector"] == {"matchNames": ["streetvision"]}
        assert {one["targetLabel"]: one["replacement"] for one in endpoint["relabelings"]} == {
            "release": "sv",
            "part": part,
        }


def test_another_release_in_another_namespace_can_be_watched() -> None:
    rendered = render("monitoring", {"release": "roadwork", "namespace": "vision"})
    for spec in monitors(rendered).values():
        assert spec["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "roadwork"
        assert spec["namespaceSelector"] == {"matchNames": ["vision"]}
    for name, rule in rules(rendered).items():
        assert 'namespace="vision"' in rule["expr"], name
        assert 'release="roadwork"' in rule["expr"], name


def test_mlflow_is_asked_with_its_password() -> None:
    rendered = render("monitoring", {"serviceMonitors": {"mlflowSecret": "mlflow-auth"}})
    (endpoint,) = monitors(rendered)["sv-monitoring-mlflow"]["endpoints"]
    assert endpoint["basicAuth"]["username"] == {"name": "mlflow-auth", "key": "MLFLOW_TRACKING_USERNAME"}
    assert "basicAuth" not in monitors(render("monitoring"))["sv-monitoring-mlflow"]["endpoints"][0]


def test_the_operators_selectors_find_monitors_and_rules_by_their_labels() -> None:
    rendered = render("monitoring", files=(CHARTS / "monitoring/ci/kube-prometheus-stack-values.yaml",))
    found = [*rendered.of("ServiceMonitor"), *rendered.of("PrometheusRule")]
    assert len(found) == 4
    assert {one["metadata"]["labels"]["release"] for one in found} == {"prometheus"}
    assert {rule["labels"]["team"] for rule in rules(rendered).values() if "alert" in rule} == {"vision"}


def test_what_is_switched_off_is_not_rendered() -> None:
    assert [
        one["kind"] for one in render("monitoring", {"rules": {"enabled": False}, "dashboard": {"enabled": False}})
    ] == ["ServiceMonitor"] * 3
    only = {"enabled": True, "miner": False, "mlflow": False}
    assert list(monitors(render("monitoring", {"serviceMonitors": only}))) == ["sv-monitoring-predictor"]


def test_grafana_gets_the_dashboard_as_it_stands_in_the_file() -> None:
    map_ = render("monitoring").one("ConfigMap")
    assert map_["metadata"]["labels"]["grafana_dashboard"] == "1"
    board = json.loads(map_["data"]["streetvision.json"])
    assert board == json.loads(DASHBOARD.read_text())
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in board["panels"]]
    assert len(set(places)) == len(places)
    assert all(one["description"] for one in board["panels"])
    assert len({one["id"] for one in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize(
    "values",
    [
        {"rules": {"abstainedShare": 5}},
        {"rules": {"abstainedFor": "ten minutes"}},
        {"serviceMonitors": {"interval": 30}},
        {"serviceMonitors": {"minor": True}},
        {"dashboard": {"labels": {"grafana_dashboard": 1}}},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(RenderError, match="values don't meet the specifications"):
        render("monitoring", values)
