"""What the service tells Prometheus: requests, seconds, which model it uses. Nothing of a user."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lumos_core.serving.newest_model import Newest

PATHS = ("/recommend", "/health", "/metrics")
OTHER = "other"
"""Label of all other paths; they may hold anything, and every label costs memory."""
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class RequestMetrics:
    """Counters of this process; they begin at 0 with it.

    Args:
        newest: says which model is in use.
    """

    def __init__(self, newest: Newest) -> None:
        self._newest = newest
        self._registry = CollectorRegistry()

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"lumos_serve_{name}", text, labels, registry=self._registry)

        self._requests = Counter(
            "lumos_serve_requests",
            "Requests by path, method and status of the answer.",
            ("path", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "lumos_serve_request_seconds",
            "Seconds from a request's headers to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.in_progress = gauge("requests_in_progress", "Recommendations being worked on.")
        self._model = gauge("model", "1 for the model in use.", ("digest", "catalog"))
        self._round = gauge("model_round", "Rounds of training that led to the model in use.")
        self._final = gauge("model_final", "1: best model of a run that completed; 0: of a round.")
        self._written = gauge("model_written_seconds", "Unix time at which its file was written.")
        self._age = gauge("model_age_seconds", "Seconds since then.")
        counts = newest.counts
        gauge("models_loaded", "Models put into use.").set_function(lambda: counts.loaded)
        gauge("models_refused", "Models that could not be used; the log says why.").set_function(
            lambda: counts.refused
        )
        gauge(
            "models_withdrawn", "Models taken out of use because their files were removed."
        ).set_function(lambda: counts.withdrawn)

    def count(self, path: str, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        known = path if path in PATHS else OTHER
        verb = method if method in ("GET", "POST", "HEAD") else OTHER
        self._requests.labels(known, verb, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def text(self) -> bytes:
        """All of it, in the format of Prometheus."""
        version = self._newest.served.version
        self._model.clear()
        if version is not None:
            self._model.labels(version.digest, version.card.catalog).set(1)
            self._round.set(version.card.round)
            self._final.set(version.card.final)
            self._written.set(version.written)
            self._age.set(time.time() - version.written)
        return generate_latest(self._registry)
