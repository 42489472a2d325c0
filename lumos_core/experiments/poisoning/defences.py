"""Defences by name: what each sets in the configuration of a run. What a defence changes besides is
in :mod:`lumos_core.experiments.poisoning.guards`."""

from lumos_core.config import METHODS, RunConfig, Scalar
from lumos_core.errors import ConfigError

UNDEFENDED = "none"

_OFF: dict[str, Scalar] = {
    "aggregation": "mean", "clip": "none", "max-weight-ratio": 10.0,
    "clip-norm-factor": 1.5, "clip-row-factor": 2.0,
}  # fmt: skip
_TIGHT: dict[str, Scalar] = {
    **_OFF, "clip": "norm+rows", "clip-norm-factor": 1.0, "clip-row-factor": 1.25,
}  # fmt: skip
DEFENCES: dict[str, dict[str, Scalar]] = {
    UNDEFENDED: _OFF,
    "weights": {**_OFF, "max-weight-ratio": 2.0},
    "norm": {**_OFF, "clip": "norm"},
    "rows": {**_OFF, "clip": "rows"},
    "norm+rows": {**_OFF, "clip": "norm+rows"},
    "loose-bounds": {**_OFF, "clip": "norm+rows", "max-weight-ratio": 2.0},
    "tight-clips": {**_TIGHT, "max-weight-ratio": 2.0},
    "tight-bounds": {**_TIGHT, "max-weight-ratio": 1.0},
    "median-encoder": {  # the values that are the defaults of a run
        **_TIGHT, "max-weight-ratio": 1.0, "aggregation": "median-encoder"
    },
    "median": {**_OFF, "aggregation": "median"},
    "trimmed-mean": {**_OFF, "aggregation": "trimmed-mean"},
    "multi-krum": {**_OFF, "aggregation": "multi-krum"},
    "sparse-median": {**_OFF, "aggregation": "sparse-median", "clip": "rows"},
    "sparse-trimmed-mean": {**_OFF, "aggregation": "sparse-trimmed-mean", "clip": "rows"},
    "bounds-sparse-trimmed": {
        **_OFF, "aggregation": "sparse-trimmed-mean", "clip": "norm+rows"
    },
    "pieck": _OFF,  # and a part that is no configuration, see guards.py
    "union": _OFF,
    "default": {},  # the base configuration as it is
}  # fmt: skip
"""What each name after the colon of ``--methods lumos:NAME`` sets in the configuration."""


def method_config(name: str, base: RunConfig) -> RunConfig:
    """A common configuration with the changes of "method" (undefended) or "method:defence".

    Raises:
        ConfigError: there is no such method or defence.
    """
    method, _, defence = name.partition(":")
    if (defence or UNDEFENDED) not in DEFENCES:
        known = ", ".join(DEFENCES)
        raise ConfigError(f"--methods {name!r}: unknown defence '{defence}'; known are: {known}")
    trained = METHODS.get(method)
    own_start = trained is None or trained.start
    start: dict[str, Scalar] = {} if own_start else {"semantic-start": "none"}
    settings = {**base.to_flat(), "method": method, **start, **DEFENCES[defence or UNDEFENDED]}
    return RunConfig.from_flat(settings)
