"""deploy/grafana/lumos.json: it is a dashboard as Grafana's own types have it, and asks for nothing
that the server does not export."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
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

PATH = Path(__file__).parents[2] / "deploy" / "grafana" / "lumos.json"
FOUND: dict[str, Any] = json.loads(PATH.read_text("utf-8"))
OF_THE_SERVICE = {"job", "instance"}  # labels that Prometheus itself adds


@pytest.fixture(scope="module")
def dashboard() -> Dashboard:
    plugins.register_default_plugins()
    return Dashboard.from_json(FOUND)


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """By name of a metric: its labels."""
    registry = CollectorRegistry()
    metrics = observers._Metrics(registry, 3, CertificateDates(expires={"server": 1.0}))
    metrics({"event": "views", "round": 0, "node": "node-0", "percent": 5, "done": False})
    metrics({"event": "evaluation", "round": 0, "split": "validation", "hr@20": 0.1})
    metrics(
        {"event": "round", "round": 1, "seconds": 1.0, "nodes_ok": 2, "failed": [], "loss": 1.0}
    )
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


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


def test_grafanas_types_know_every_key(dashboard: Dashboard) -> None:
    kept = json.loads(JSONEncoder().encode(dashboard))
    assert list(missing(FOUND, kept)) == []
    assert list(missing({**FOUND, "titel": "x"}, kept)) == [".titel"]  # the check sees something


def test_every_query_is_of_a_metric_that_is_exported(
    dashboard: Dashboard, exported: dict[str, set[str]]
) -> None:
    asked = set()
    for expression, legend in queries(dashboard):
        [(name, selector)] = re.findall(r"\b(lumos_\w+)\{(.*?)\}", expression)
        asked.add(name)
        labels = exported[name] | OF_THE_SERVICE
        assert set(re.findall(r"(\w+)=", selector)) <= labels, expression
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels, legend
        assert set(re.findall(r"(\w+)=", selector)) >= OF_THE_SERVICE, expression
    assert asked == {n for n in exported if not n.endswith("_created")}  # and each is shown


def test_values_of_labels_are_those_of_the_server(dashboard: Dashboard) -> None:
    texts = " ".join(expression for expression, _ in queries(dashboard))
    assert set(re.findall(r'metric="([^"]+)"', texts)) == {"hr@20"}
    assert set(re.findall(r'split="([^"]+)"', texts)) <= {"validation", "test"}


def test_panels_do_not_lie_over_each_other(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in FOUND["panels"]:
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
    assert len(ids) == len(FOUND["panels"])


def test_nothing_names_a_data_source_of_one_machine() -> None:
    for panel in FOUND["panels"]:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}
