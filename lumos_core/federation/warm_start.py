"""Starting a run from a model that was trained before, in the place of a new one.

The model is read and checked before anything starts, and copied into the run's folder, because its
source may change: a node's newest model does so every round. The run's configuration holds its
digest (``start-model``). So a resumed run finds the model that it began with, another start is
another run, and a run with the same settings as last night's is a different one for the nodes too::

    RUN_DIR/start.safetensors    the model, with its card
    RUN_DIR/start.json           where it is from

The catalog may have grown since the model was trained, by items at its end
(:mod:`lumos_core.recommend.grown_catalog`); the copy has rows for them.

Only parameters are taken over. The server's optimiser begins at rest, and whatever decides how the
run trains is its own configuration.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.errors import ConfigError, LumosError, ModelError
from lumos_core.learning.model import build_model, get_params, set_params
from lumos_core.learning.parameters import ModelShape, Params
from lumos_core.learning.title_start import initial_params
from lumos_core.recommend.grown_catalog import model_for
from lumos_core.recommend.model_files import ModelCard, read_whole, save_model
from lumos_core.runs.history import WARM_START, Event, utc_now
from lumos_core.safe_files import JsonFile

START_MODEL, START_FACTS = "start.safetensors", "start.json"
"""Their names in a run's folder."""


class StartFacts(JsonFile):
    """Where the model is from.

    Attributes:
        source: the place that was named, absolute.
        digest: of its parameters.
        round: rounds of training that led to it, in its own run.
        final: whether it is the best model of a run that completed.
    """

    failure: ClassVar[type[LumosError]] = ModelError
    repair: ClassVar[str] = "restore the file, or begin another run with another --run-dir"

    source: str
    digest: str
    round: int
    final: bool

    @property
    def text(self) -> str:
        kind = "the best model of a finished run" if self.final else "the model of a run"
        return f"{kind} ({self.source}, round {self.round}, {self.digest})"

    def event(self) -> Event:
        """The line of the history."""
        return {
            "event": WARM_START, "round": 0, "time": utc_now(), "from": self.source,
            "model": self.digest, "of_round": self.round,
        }  # fmt: skip


@dataclass(frozen=True)
class Start:
    """A model that a run can start from; it fits the run.

    Attributes:
        params: in the order of the model.
        card: of the model.
        facts: where it is from.
    """

    params: Params
    card: ModelCard
    facts: StartFacts

    @classmethod
    def read(cls, place: Path, config: RunConfig, catalog: Catalog) -> "Start":
        """The model at a place, for a run.

        Args:
            place: a run folder, an exported folder, a node's state folder or a model file.
            config: of the run.
            catalog: of the run.

        Raises:
            ModelError: there is no usable model, or the catalog has not grown from the model's.
            ConfigError: it has another shape than the run's.
        """
        arrays, card = read_whole(place)
        _check_shape(place, card.model_shape, ModelShape.of(config, len(catalog)))
        arrays, card = model_for(place, arrays, card, catalog)
        model = build_model(card.model_shape)
        set_params(model, arrays)
        params = get_params(model)
        found = StartFacts(
            source=str(place.resolve()), digest=digest(params), round=card.round, final=card.final
        )
        known = None
        if place.name == START_MODEL:  # a copy, beside which it says where it is from
            known = StartFacts.read_if_sound(place.with_name(START_FACTS))
        return cls(params, card, known if known and known.digest == found.digest else found)

    def applied(self, config: RunConfig) -> RunConfig:
        """The configuration of a run that starts from this model."""
        return config.replace(start_model=self.facts.digest)

    def keep(self, run_dir: Path) -> None:
        """Copy the model into the folder of the run, unless it is there."""
        facts = StartFacts.read_if_sound(run_dir / START_FACTS)
        if facts is None or facts.digest != self.facts.digest:
            save_model(run_dir / START_MODEL, self.params, self.card)
            self.facts.write(run_dir / START_FACTS)


def digest(params: Mapping[str, np.ndarray]) -> str:
    """16 hex digits that are equal for equal parameters only, in whatever file they are."""
    found = hashlib.sha256()
    for name in sorted(params):
        array = np.ascontiguousarray(params[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def with_start(
    config: RunConfig, catalog: Catalog, run_dir: Path, place: Path | None, saved: RunConfig | None
) -> tuple[RunConfig, Start | None]:
    """The configuration of a run with its start, before anything is written.

    Args:
        config: as the user wants it.
        catalog: of the run.
        run_dir: folder of the run.
        place: the model that the user named; None: none, or that of the run to resume.
        saved: the configuration of the run that is in the folder and resumed, if there is one.

    Returns:
        The configuration, and the model if there is one to copy into the folder.

    Raises:
        ConfigError: ``start-model`` is given by hand; the run in the folder began with another
            model; the model does not fit the configuration.
        ModelError: there is no usable model.
    """
    if config.start_model and (saved is None or config.start_model != saved.start_model):
        raise ConfigError("key 'start-model' is a digest that --from sets; give --from instead")
    if saved is not None:
        if place is not None:
            _check_same_start(run_dir, place, saved, catalog)
        return config.replace(start_model=saved.start_model), None
    if place is None:
        return config, None
    start = Start.read(place, config, catalog)
    return start.applied(config), start


def first_params(
    config: RunConfig, catalog: Catalog, run_dir: Path
) -> tuple[Params, StartFacts | None]:
    """The parameters of round 0, and where they are from if they are not new.

    Args:
        config: of the run.
        catalog: of the run.
        run_dir: its folder, which holds the model to start from.

    Raises:
        ModelError: the model to start from is missing, damaged, or another one.
    """
    if not config.start_model:
        return initial_params(config, catalog), None
    path = run_dir / START_MODEL
    start = Start.read(path, config, catalog)
    if start.facts.digest != config.start_model:
        raise ModelError(
            f"{path}: has digest {start.facts.digest}, but the run began with "
            f"{config.start_model}; {StartFacts.repair}"
        )
    return start.params, start.facts


def _check_shape(place: Path, found: ModelShape, wanted: ModelShape) -> None:
    ours, theirs = wanted.to_dict(), found.to_dict()
    for name in ("encoder", "dim", "layers", "heads", "max_len", "item_bias"):
        if getattr(found, name) != getattr(wanted, name):
            value = theirs.get(name, getattr(found, name))
            mine = ours.get(name, getattr(wanted, name))
            key = name.replace("_", "-")
            raise ConfigError(
                f"--from {place}: its model has {key} = {_shown(value)}, the run has "
                f"{_shown(mine)}; give {_option(key, value)}, or start without --from"
            )


def _option(key: str, value: object) -> str:
    if key == "item-bias":
        return f"-c item-bias={'learned' if value else 'none'}"
    return f"-c {key}={value}"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_same_start(run_dir: Path, place: Path, saved: RunConfig, catalog: Catalog) -> None:
    """Refuse another start for a run that has begun. The source may have changed since then."""
    if not saved.start_model:
        raise ConfigError(
            f"--from {place}: the run in {run_dir} began with a new model; resume it without "
            "--from, or begin another run with another --run-dir"
        )
    facts = StartFacts.read(run_dir / START_FACTS)
    if facts.source == str(place.resolve()):
        return
    if Start.read(place, saved, catalog).facts.digest != saved.start_model:
        raise ConfigError(
            f"--from {place}: the run in {run_dir} began with {facts.text}; resume it without "
            "--from, or begin another run with another --run-dir"
        )
