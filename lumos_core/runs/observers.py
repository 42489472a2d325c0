"""Observers of a run: a Prometheus endpoint and experiment trackers.

Each observer gets the events of ``history.jsonl`` as they happen, and nothing else, so none can
show more than the history does. An observer that fails is dropped; the run continues.
"""

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError, reason_of
from lumos_core.runs.certificate_dates import CertificateDates
from lumos_core.runs.history import Event, OnEvent

log = logging.getLogger(__name__)


@contextmanager
def observing(config: RunConfig, run_dir: Path) -> Iterator[OnEvent]:
    """The observers that a configuration asks for, as one callback.

    Raises:
        ConfigError: a library is missing, or the port of the metrics is taken.
    """
    with ExitStack() as stack:
        observers: dict[str, OnEvent] = {"log": _log_event}
        if config.metrics_port:
            observers["metrics"] = stack.enter_context(
                prometheus(
                    config.metrics_host,
                    config.metrics_port,
                    config,
                    CertificateDates.of_run(run_dir),
                )
            )
        if config.tracking != "none":
            observers[config.tracking] = stack.enter_context(
                TRACKERS[config.tracking](config, run_dir)
            )

        def observe(event: Event) -> None:
            for name, observer in list(observers.items()):
                try:
                    observer(event)
                except Exception as error:  # a library may raise anything; the run must continue
                    del observers[name]
                    log.warning("observer %s failed and is dropped", name, exc_info=error)

        yield observe


def _log_event(event: Event) -> None:
    facts = {key: value for key, value in event.items() if isinstance(value, int | float | str)}
    facts.pop("time", None)
    level = logging.ERROR if event["event"] == "failed-round" else logging.INFO
    log.log(level, "%s of round %s", event["event"], event["round"], extra={"facts": facts})


# ---------------------------------------------------------------- Prometheus
@contextmanager
def prometheus(
    host: str, port: int, config: RunConfig, certificates: CertificateDates | None = None
) -> Iterator[OnEvent]:
    """Serve ``http://host:port/metrics``; counters begin at 0 with this process.

    Args:
        host: address to listen on.
        port: the port.
        config: the run's configuration.
        certificates: when the server's certificates expire. New ones mean a new process.

    Raises:
        ConfigError: the address cannot be bound.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    metrics = _Metrics(registry, config.rounds, certificates or CertificateDates())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"key 'metrics-port': cannot listen on {host}:{port} ({reason_of(error)}); choose "
            "another metrics-port, or metrics-port = 0 for none"
        ) from None
    try:
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Metrics:
    """Events as Prometheus metrics."""

    def __init__(self, registry: Any, rounds: int, certificates: CertificateDates) -> None:
        from prometheus_client import Counter, Gauge

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"lumos_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"lumos_{name}", text, labels, registry=registry)

        self._round = gauge("round", "Last finished round.")
        gauge("rounds", "Rounds that the run will have.").set(rounds)
        self._seconds = gauge("round_seconds", "Duration of the last round.")
        self._loss = gauge("train_loss", "Mean training loss of the last round.")
        self._quality = gauge("quality", "Last evaluation: hr@20, ndcg@20, …", ("metric", "split"))
        self._up = counter("bytes_up", "Payload received from nodes.")
        self._down = counter("bytes_down", "Payload sent to nodes.")
        self._views = gauge(
            "views_percent",
            "Per cent of a node's views that are written, before round 1.",
            ("node",),
        )
        self._lacking = gauge("nodes_lacking_views", "Nodes of the last round without all views.")
        self._replies = counter("train_replies", "Train replies.", ("result",))
        self._failed = counter("failed_rounds", "Rounds with too few valid replies.")
        for result in ("valid", "invalid", "late"):
            self._replies.labels(result)
        expiry = gauge(
            "certificate_expiry_seconds",
            "Unix time at which a certificate of the server expires: server, ca.",
            ("certificate",),
        )
        for name, when in certificates.expires.items():
            expiry.labels(name).set(when)

    def __call__(self, event: Event) -> None:
        self._up.inc(event.get("bytes_up", 0))
        self._down.inc(event.get("bytes_down", 0))
        if event["event"] == "evaluation":
            for name, value in quality_of(event).items():
                self._quality.labels(name, event["split"]).set(value)
            return
        if event["event"] == "views" and "percent" in event:
            self._views.labels(event["node"]).set(100 if event["done"] else event["percent"])
        if event["event"] not in ("round", "failed-round"):
            return
        self._seconds.set(event["seconds"])
        self._replies.labels("valid").inc(event["nodes_ok"])
        self._replies.labels("invalid").inc(len(event["failed"]))
        self._replies.labels("late").inc(len(event.get("late", [])))
        if event["event"] == "failed-round":
            self._failed.inc()
            return
        self._round.set(event["round"])
        self._lacking.set(event.get("views_lacking", 0))
        if event.get("loss") is not None:
            self._loss.set(event["loss"])


# ---------------------------------------------------------------- trackers
@contextmanager
def tensorboard(config: RunConfig, run_dir: Path) -> Iterator[OnEvent]:
    """Write ``<run_dir>/tensorboard``. Raises ConfigError if tensorboard is not installed."""
    check_tracker(config)
    from torch.utils.tensorboard import SummaryWriter

    make: Any = SummaryWriter
    writer = make(str(run_dir / "tensorboard"))

    def observe(event: Event) -> None:
        for name, value in scalars_of(event).items():
            writer.add_scalar(name, value, event["round"])
        writer.flush()

    try:
        yield observe
    finally:
        writer.close()


@contextmanager
def mlflow(config: RunConfig, run_dir: Path) -> Iterator[OnEvent]:
    """Log to ``$MLFLOW_TRACKING_URI``, or to ``<run_dir>/mlflow.db``.

    A resumed run continues the MLflow run whose id is in ``<run_dir>/mlflow-run``.

    Raises:
        ConfigError: mlflow is not installed.
    """
    check_tracker(config)
    client_module: Any = importlib.import_module("mlflow.tracking")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run_dir / 'mlflow.db').resolve()}"
    client = client_module.MlflowClient(tracking_uri=uri)
    note = run_dir / "mlflow-run"
    if note.exists():
        run_id = note.read_text(encoding="utf-8").strip()
    else:
        known = client.get_experiment_by_name("lumos")
        experiment = known.experiment_id if known else client.create_experiment("lumos")
        run_id = client.create_run(experiment, run_name=run_dir.name).info.run_id
        note.write_text(run_id, encoding="utf-8")
        for key, value in config.to_flat().items():
            client.log_param(run_id, key, value)

    def observe(event: Event) -> None:
        for name, value in scalars_of(event).items():
            client.log_metric(run_id, name.replace("@", "_at_"), value, step=event["round"])

    yield observe
    client.set_terminated(run_id)


_LIBRARIES = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "mlflow": ("mlflow", "mlflow-skinny"),
}
"""For each tracker: its module, and the package that provides it."""

TRACKERS: dict[str, Callable[[RunConfig, Path], Any]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
}


def quality_of(event: Event) -> dict[str, float]:
    """The ranking metrics of an evaluation."""
    return {name: float(value) for name, value in event.items() if "@" in name or name == "mrr"}


def scalars_of(event: Event) -> dict[str, float]:
    """The numbers of an event that trackers draw as curves."""
    if event["event"] == "evaluation":
        return {f"{event['split']}/{name}": value for name, value in quality_of(event).items()}
    if event["event"] not in ("round", "failed-round"):
        return {}
    names = ("loss", "contrastive", "seconds", "bytes_up", "bytes_down", "nodes_ok", "users")
    found = {f"train/{name}": float(event[name]) for name in names if event.get(name) is not None}
    return {**found, "train/nodes_failed": float(len(event.get("failed", [])))}


def check_tracker(config: RunConfig) -> None:
    """Raises ConfigError if the library of ``tracking`` is not installed."""
    if config.tracking == "none":
        return
    module, package = _LIBRARIES[config.tracking]
    try:
        found = importlib.util.find_spec(module) is not None
    except ValueError:  # the module is blocked or incomplete
        found = False
    if not found:
        raise ConfigError(
            f"key 'tracking': {module} is not installed; pip install {package}, or tracking = none"
        )
