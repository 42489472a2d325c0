"""Export of a run's best model to a self-contained folder: weights, sizes, metrics, fingerprint."""

import json
from pathlib import Path
from typing import Any

from lumos_core.errors import DataError, ModelError
from lumos_core.recommend.model_files import (
    CONFIG_FILE,
    MODEL_FILE,
    ModelCard,
    find_model,
    read_model,
    save_model,
)
from lumos_core.runs.history import SUMMARY
from lumos_core.safe_files import write_json


def export_model(run_dir: Path, out: Path, *, force: bool = False) -> ModelCard:
    """Write the best model of a run to a self-contained folder.

    Args:
        run_dir: folder of a run or of ``lumos train-central``; while a run is in progress, its best
            model so far is written.
        out: new or empty folder.
        force: replace a model that is in the folder.

    Raises:
        ModelError: there is no usable model in ``run_dir``.
        DataError: ``out`` is a file, or a folder that is not empty.
    """
    params, card = read_model(find_model(run_dir))
    card = card.model_copy(update=_results(run_dir, card))
    found = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: found a file, expected the name of a folder")
    if found and not (force and MODEL_FILE in found):
        raise DataError(
            f"{out}: the folder is not empty (found {found[0]}); choose a new one"
            + (", or --force to replace the model in it" if MODEL_FILE in found else "")
        )
    save_model(out / MODEL_FILE, params, card)
    write_json(out / CONFIG_FILE, card.model_dump())
    return card


def _results(run_dir: Path, card: ModelCard) -> dict[str, Any]:
    """Fields of the model's card that the summary of an ended run provides."""
    path = run_dir / SUMMARY
    if not path.is_file():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary.get("best_round") != card.round:  # written before the run was resumed
            return {}
        new = {
            "final": summary["outcome"] == "completed",
            "validation": summary["validation"],
            "test": summary["test"],
            "versions": {**summary["versions"], **card.versions},
        }
        ModelCard.model_validate({**card.model_dump(), **new})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: not a summary as LUMOS writes it ({type(error).__name__}); "
            "move it away to export without metrics"
        ) from None
    return new
