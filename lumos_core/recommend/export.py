"""Export of a run's best model to a self-contained folder: weights, sizes, metrics, fingerprint."""

from pathlib import Path
from typing import Any

from lumos_core.errors import DataError
from lumos_core.recommend.model_files import (
    CONFIG_FILE,
    MODEL_FILE,
    ModelCard,
    model_file_at,
    read_model,
    save_model,
)
from lumos_core.runs.summary import SUMMARY, RunSummary
from lumos_core.safe_files import write_json

ONNX_FILE = "model.onnx"
"""The same model as a graph; :mod:`lumos_core.recommend.onnx_export` writes it."""
_REPAIR = "not a summary as LUMOS writes it; move it away to export without metrics"


def export_model(run_dir: Path, out: Path, *, force: bool = False) -> ModelCard:
    """Write the best model of a run to a self-contained folder.

    Args:
        run_dir: folder of a run or of ``lumos train-central``; while a run is in progress, its best
            model so far is written.
        out: new or empty folder.
        force: replace a model that is in the folder.

    Raises:
        ModelError: there is no usable model in ``run_dir``.
        DataError: ``out`` is not free, or the run's summary is damaged or of a newer LUMOS.
    """
    params, card = read_model(model_file_at(run_dir))
    card = card.model_copy(update=_results(run_dir, card))
    found = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: found a file, expected the name of a folder")
    if found and not (force and MODEL_FILE in found):
        raise DataError(
            f"{out}: the folder is not empty (found {found[0]}); choose a new one"
            + (", or --force to replace the model in it" if MODEL_FILE in found else "")
        )
    (out / ONNX_FILE).unlink(missing_ok=True)  # of the model that is replaced
    save_model(out / MODEL_FILE, params, card)
    write_json(out / CONFIG_FILE, card.model_dump())
    return card


def _results(run_dir: Path, card: ModelCard) -> dict[str, Any]:
    """Fields of the model's card that the summary of an ended run provides."""
    path = run_dir / SUMMARY
    summary = RunSummary.read_if_there(path, _REPAIR)
    if summary is None or summary.best_round != card.round:  # of an earlier part of a resumed run
        return {}
    if missing := summary.missing("validation", "test", "versions"):
        raise DataError(f"{path}: key '{missing}' is missing; {_REPAIR}")
    return {
        "final": summary.outcome == "completed",
        "validation": summary.validation,
        "test": summary.test,
        "versions": {**summary.versions, **card.versions},
    }
