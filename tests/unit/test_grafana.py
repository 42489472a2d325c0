"""The dashboards in deploy/grafana are such as Grafana's own types have them, and ask for nothing
that the server of a run, or `lumos serve`, does not export."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.prometheus import Dataquery
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lumos_core.runs import observers
from lumos_core.runs.certificate_dates import CertificateDates
from lumos_core.serving.request_metrics import RequestMetrics

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
NAMES = ("lumos.json", "lumos-serve.json")
OF_THE_SERVICE = {"job", "instance"}  # labels that Prometheus itself adds


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def found(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text("utf-8"))
    return content


@pytest.fixture
def dashboard(found: dict[str, Any]) -> Dashboard:
    plugins.register_default_plugins()
    return Dashboard.from_json(found)


@pytest.fixture
def exported(name: str) -> dict[str, set[str]]:
    """By name of a metric: its labels."""
    text = of_serving() if name == "lumos-serve.json" else of_a_run()
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def of_a_run() -> str:
    """What the server of a run exports, after each kind of event."""
    registry = CollectorRegistry()
    metrics = observers._Metrics(registry, 3, CertificateDates(expires={"server": 1.0}))
    metrics({"event": "views", "round": 0, "node": "node-0", "percent": 5, "done": False})
    metrics({"event": "evaluation", "round": 0, "split": "validation", "hr@20": 0.1})
    metrics(
        {"event": "round", "round": 1, "seconds": 1.0, "nodes_ok": 2, "failed": [], "loss": 1.0}
    )
    return generate_latest(registry).decode()


def of_serving() -> str:
    """What `lumos serve` exports, with a model in use and a request answered."""
    card = SimpleNamespace(catalog="c", round=3, final=1)
    version = SimpleNamespace(digest="d", card=card, written=1.0)
    newest: Any = SimpleNamespace(
        counts=SimpleNamespace(loaded=1, refused=0, withdrawn=0),
        served=SimpleNamespace(version=version),
    )
    metrics = RequestMetrics(newest)
    metrics.count("/recommend", "POST", 200, 0.01)
    return metrics.text().decode()


def queries(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    """Expression and legend of every query."""
    for panel in dashboard.panels or []:
        for target in getattr(panel, "targets", None) or []:
            assert isinstance(target, Dataquery)
            yield target.expr, target.legend_format or ""


def missing(given: Any, kept: Any, where: str = "") -> Iterator[str]:
    """What Grafana's types do not know of what was given."""
    if isinstance(given, dict):
        for key, value in given.items():
            if isinstance(kept, dict) and key in kept:
                yield from missing(value, kept[key], f"{where}.{key}")
            elif value is not None:
                yield f"{where}.{key}"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from missing(one, other, f"{where}[{number}]")
    elif given != kept:
        yield where


def test_grafanas_types_know_every_key(found: dict[str, Any], dashboard: Dashboard) -> None:
    kept = json.loads(JSONEncoder().encode(dashboard))
    assert list(missing(found, kept)) == []
    assert list(missing({**found, "titel": "x"}, kept)) == [".titel"]  # the check sees something


def test_every_query_is_of_a_metric_that_is_exported(
    name: str, dashboard: Dashboard, exported: dict[str, set[str]]
) -> None:
    asked = set()
    for expression, legend in queries(dashboard):
        [(metric, selector)] = re.findall(r"\b(lumos_\w+)\{(.*?)\}", expression)
        asked.add(metric)
        labels = exported[metric] | OF_THE_SERVICE
        assert set(re.findall(r"(\w+)=", selector)) <= labels, expression
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels, legend
        assert set(re.findall(r"(\w+)=", selector)) >= OF_THE_SERVICE, expression
    if name == "lumos.json":  # of a run everything is shown
        assert asked == {n for n in exported if not n.endswith("_created")}


def checked(expressions: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """What promtool says of expressions, with values in the place of Grafana's variables."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing (Debian: apt-get install prometheus)")
    rules = [
        {"record": f"query:{number}", "expr": re.sub(r"\$(job|instance)\b", ".+", text)}
        for number, text in enumerate(
            text.replace("$__rate_interval", "5m") for text in expressions
        )
    ]
    path = folder / "rules.yml"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    return subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )


def test_prometheus_can_read_every_query(dashboard: Dashboard, tmp_path: Path) -> None:
    expressions = [expression for expression, _ in queries(dashboard)]
    assert expressions
    assert not [
        text
        for text in expressions
        if "$" in re.sub(r"\$(job|instance|__rate_interval)\b", "", text)
    ]
    found = checked(expressions, tmp_path)
    assert found.returncode == 0, found.stderr
    assert f"{len(expressions)} rules found" in found.stdout
    assert checked([*expressions, "sum by (("], tmp_path).returncode != 0, "it sees something"


def test_values_of_labels_are_those_of_the_server(dashboard: Dashboard) -> None:
    texts = " ".join(expression for expression, _ in queries(dashboard))
    assert set(re.findall(r'metric="([^"]+)"', texts)) <= {"hr@20"}
    assert set(re.findall(r'split="([^"]+)"', texts)) <= {"validation", "test"}


def test_variables_are_filled_from_metrics_that_are_exported(
    found: dict[str, Any], exported: dict[str, set[str]]
) -> None:
    asked = [v["query"] for v in found["templating"]["list"] if v["type"] == "query"]
    assert [re.match(r"label_values\((\w+)", query)[1] in exported for query in asked] == [True] * 2


def test_panels_do_not_lie_over_each_other(found: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in found["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y) for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }  # fmt: skip
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        ids.add(panel["id"])
        assert panel["description"]
    assert len(ids) == len(found["panels"])


def test_nothing_names_a_data_source_of_one_machine(found: dict[str, Any]) -> None:
    for panel in found["panels"]:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}
