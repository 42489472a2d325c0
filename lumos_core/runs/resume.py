"""Resuming a stopped run as if it had never stopped: its parameters are the same to the last bit.

A run continues from its last complete checkpoint. History lines of later work are dropped, and that
work is done again. Lines of failed rounds stay: a run in which rounds failed is not a success, even
if it was stopped and resumed.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from lumos_core.config import RunConfig, Scalar, first_difference, fixed, free_keys
from lumos_core.data.catalog import differing_versions, short_fingerprint
from lumos_core.errors import ConfigError, DataError, ModelError
from lumos_core.learning.parameters import Params
from lumos_core.runs import history
from lumos_core.runs.checkpoint import BEST, LATEST, Checkpoint, RunProgress, load_checkpoint
from lumos_core.runs.history import HISTORY, Event, read_history

KnownAs = Callable[[str], bool]
"""Whether a fingerprint is another valid one of the run's catalog."""


def never(fingerprint: str) -> bool:
    """No fingerprint counts but the catalog's own."""
    return False


def run_key(config: RunConfig, catalog: str) -> str:
    """A name for a run that restarts of server or nodes do not change: a resumed run keeps it.

    Args:
        catalog: fingerprint of its catalog.
    """
    text = json.dumps([fixed(config.to_flat()), catalog], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StartingPoint:
    """The state in which a run begins or is resumed."""

    checkpoint: Checkpoint
    best: Params
    events: list[Event] = field(default_factory=list)


def starting_point(
    run_dir: Path | None, fresh: Checkpoint, resume: bool, known_as: KnownAs = never
) -> StartingPoint:
    """Where to begin: at the checkpoint in ``run_dir`` if there is one, otherwise at ``fresh``.

    Args:
        run_dir: folder of the run, or None.
        fresh: the state of a new run; names, order and shapes of the parameters are taken from it.
        resume: whether to resume a run that is in the folder.
        known_as: whether a fingerprint that an older version wrote is of the run's catalog, too.

    Raises:
        ConfigError: the run there has another configuration, or there is one and ``resume`` is
            false, or its checkpoint is missing.
        ModelError: its files are damaged or belong to another catalog or model.
        DataError: a line of its history is damaged.
    """
    if run_dir is None:
        return StartingPoint(fresh, fresh.params)
    latest, lines = run_dir / LATEST, run_dir / HISTORY
    if not resume or not latest.exists():
        for path in (latest, lines):
            if path.exists():
                raise ConfigError(
                    f"run-dir = {str(run_dir)!r} already holds a run (found {path.name}); "
                    + ("its checkpoint is missing; " if resume else "resume it, or ")
                    + "choose another folder"
                )
        return StartingPoint(fresh, fresh.params)
    found = load_checkpoint(latest)
    _check_same_run(latest, found.progress, fresh.progress, known_as)
    params = _fitting(latest, found.params, fresh.params)
    _check_optimizer(latest, found)
    try:
        events = _until(found.progress.round, read_history(lines))
        progress = _replayed(fresh.progress, found.progress, events, lines)
    except (KeyError, TypeError) as error:
        raise DataError(f"{lines}: an event is not as LUMOS writes it ({error})") from None
    checkpoint = Checkpoint(params, found.optimizer, progress)
    return StartingPoint(checkpoint, _best(run_dir, checkpoint), events)


def _check_same_run(path: Path, found: RunProgress, fresh: RunProgress, known_as: KnownAs) -> None:
    saved = _flat(path, found)
    if (key := first_difference(saved, fresh.config)) is not None:
        free = ", ".join(sorted(free_keys(saved)))
        raise ConfigError(
            f"{path}: was made with {key} = {saved[key]!r}, found {fresh.config[key]!r}; a run is "
            f"resumed with the configuration it began with (except {free})"
        )
    for name in ("catalog", "shape"):
        ours, theirs = getattr(fresh, name), getattr(found, name)
        if ours != theirs and not (name == "catalog" and known_as(theirs)):
            raise ModelError(
                f"{path}: was made with another {name} (fingerprint {short_fingerprint(theirs)}…, "
                f"expected {short_fingerprint(ours)}…); resume it with the catalog.tsv it began "
                f"with{differing_versions(theirs, ours)}"
            )


def _flat(path: Path, found: RunProgress) -> dict[str, Scalar]:
    """The saved configuration; see :meth:`RunConfig.from_saved`."""
    try:
        return RunConfig.from_saved(found.config).to_flat()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; it was made by another version of LUMOS") from None


def _fitting(path: Path, params: Params, like: Params) -> Params:
    """The parameters in the model's order. Files store another order, and sums depend on it."""
    wanted = {name: (array.shape, array.dtype) for name, array in like.items()}
    found = {name: (array.shape, array.dtype) for name, array in params.items()}
    if wanted != found:
        names = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        raise ModelError(
            f"{path}: array '{names[0]}' is {found.get(names[0])}, expected "
            f"{wanted.get(names[0])} ({len(names)} differ); the file is damaged"
        )
    return {name: params[name] for name in like}


def _check_optimizer(path: Path, found: Checkpoint) -> None:
    """Check that every array of the state belongs to a parameter and has its shape."""
    for name, array in found.optimizer.items():
        of = found.params.get(name.rpartition(":")[2])
        if of is None or of.shape != array.shape:
            raise ModelError(f"{path}: optimiser state '{name}' fits no parameter; damaged file")


def _until(done: int, events: list[Event]) -> list[Event]:
    """The events of a history that stay valid if ``done`` rounds are in the checkpoint."""
    return [
        event
        for event in events
        if not (event["event"] == "round" and event["round"] > done)
        and not (event["event"] == "evaluation" and event["split"] == "test")  # is done again
    ]


def _replayed(
    fresh: RunProgress, found: RunProgress, events: list[Event], lines: Path
) -> RunProgress:
    """Progress at the checkpoint's round, with all evaluations up to now.

    The last round's model may have been evaluated after its checkpoint was written.
    """
    progress = replace(fresh, round=found.round)
    rounds = set()
    for event in events:
        if event["event"] == "evaluation":
            weight = float(event.get("title_weight", 0.0))
            progress = progress.after_evaluation(event["round"], history.value_of(event), weight)
            rounds.add(event["round"])
    if found.best_round >= 0 and found.best_round not in rounds:
        raise ModelError(
            f"{lines}: lacks the evaluation of round {found.best_round}, which the checkpoint "
            "names as the best; the two do not belong together"
        )
    return progress


def _best(run_dir: Path, checkpoint: Checkpoint) -> Params:
    progress = checkpoint.progress
    if progress.best_round in (-1, progress.round):
        return checkpoint.params
    path = run_dir / BEST
    best = load_checkpoint(path)
    if best.progress.best_round != progress.best_round:
        raise ModelError(
            f"{path}: holds round {best.progress.best_round}, expected the best round, "
            f"{progress.best_round}; it does not belong to {LATEST} and {HISTORY}"
        )
    return _fitting(path, best.params, checkpoint.params)
