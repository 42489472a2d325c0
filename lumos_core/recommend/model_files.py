"""Files of trained models: the weights, and a card that says which catalog and sizes they fit.

A model file is a safetensors file with the names of ``SASRec.state_dict()``. Its card (JSON) is in
the file's own metadata, so that weights and card cannot be separated. ``lumos export`` also writes
the card as ``config.json``, for people and for programs that do not know LUMOS::

    OUT/model.safetensors    float32 arrays + card
    OUT/config.json          the same card

A node keeps the models it receives in the same form, see :mod:`client_app.received_model`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
)
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lumos_core import __version__
from lumos_core.config import LIGR, SASREC, RunConfig, Scalar
from lumos_core.data.catalog import FINGERPRINT_PATTERN, Catalog
from lumos_core.errors import ConfigError, ModelError
from lumos_core.learning.model import SASRec, build_model, set_params
from lumos_core.learning.parameters import ITEM_TABLE, ModelShape, Params
from lumos_core.runs.checkpoint import BEST, Checkpoint, load_checkpoint
from lumos_core.safe_files import write_atomically

if TYPE_CHECKING:
    import torch

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
KEPT_FINAL, KEPT_LATEST = "model/final.safetensors", "model/latest.safetensors"
"""Where a node keeps received models, below its state folder: the result of the last run that came
to its end, and the model of the last finished round of a run."""

_CARD = "lumos"  # key of the card in the file's metadata

Size = Annotated[int, Field(ge=1, strict=True)]


class Shape(BaseModel):
    """Sizes of a model; the fields of :class:`~lumos_core.learning.model.ModelShape`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_items: Size
    dim: Size
    layers: Size
    heads: Size
    max_len: Size
    encoder: str = SASREC
    item_bias: bool = False

    @model_serializer
    def _as_written(self) -> dict[str, int | str]:
        """Leave out the default encoder, so that versions that know only this one can read the
        card."""
        return ModelShape(**dict(self)).to_dict()


class ModelCard(BaseModel):
    """What a program has to know to use a model.

    Attributes:
        format: changes when a reader of the present version could misread the file. With a
            ``title_weight`` it is "lumos-sasrec-2": LUMOS 0.1 would rank without it.
        shape: sizes of the model; they are enough to build an empty one.
        catalog: fingerprint of the catalog; each row of ``items.weight`` is one of its items.
        round: rounds of training that led to the parameters.
        final: whether it is the best model of a run that completed.
        title_weight: of the titles' nearness in rankings
            (:mod:`lumos_core.learning.title_nearness`).
        validation, test: metrics, if known (means over users; exported models only).
        config: the run's configuration, without paths.
        versions: versions of LUMOS and of the packages that it was trained with, if known.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal["lumos-sasrec-1", "lumos-sasrec-2"] = "lumos-sasrec-1"
    shape: Shape
    catalog: Annotated[str, Field(pattern=FINGERPRINT_PATTERN)]
    round: Annotated[int, Field(ge=0)]
    final: bool
    title_weight: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    validation: dict[str, float] = {}
    test: dict[str, float] = {}
    config: dict[str, Scalar] = {}
    versions: dict[str, str] = {}

    @property
    def model_shape(self) -> ModelShape:
        return ModelShape(**dict(self.shape))

    @classmethod
    def of(
        cls,
        config: RunConfig,
        num_items: int,
        catalog: str,
        of_round: int,
        final: bool,
        title_weight: float = 0.0,
    ) -> "ModelCard":
        """The card of a model of a run.

        Args:
            config: the run's configuration.
            num_items: number of items in its catalog.
            catalog: the catalog's fingerprint.
            of_round: rounds of training that led to the model.
            final: whether it is the best model of a run that completed.
            title_weight: of the titles' nearness in rankings.
        """
        return cls(
            format="lumos-sasrec-2" if title_weight else "lumos-sasrec-1",
            title_weight=title_weight,
            shape=Shape.model_validate(ModelShape.of(config, num_items).to_dict()),
            catalog=catalog,
            round=of_round,
            final=final,
            config=config.without_paths(),
            versions={"lumos": __version__},
        )


# ---------------------------------------------------------------- write
def save_model(path: Path, params: Params, card: ModelCard) -> None:
    """Write a model file atomically. Raises OSError if it cannot be written."""
    arrays = {name: np.ascontiguousarray(array) for name, array in params.items()}
    write_atomically(path, save(arrays, {_CARD: card.model_dump_json()}))


# ---------------------------------------------------------------- find and read
def model_file_at(place: Path) -> Path:
    """The model file at a place: the file itself, or the one in an exported or a run folder.

    Raises:
        ModelError: the folder holds none.
    """
    if not place.is_dir():
        return place
    for name in (MODEL_FILE, BEST, KEPT_FINAL, KEPT_LATEST):
        if (place / name).is_file():
            return place / name
    raise ModelError(
        f"{place}: no model here (neither {MODEL_FILE} nor {BEST}); expected a folder of "
        "'lumos export', of a run, or a node's state"
    )


def model_files_at(place: Path) -> tuple[Path, ...]:
    """Every file that decides what :func:`model_file_at` finds and :func:`load_model` checks, in
    place or not: a model has changed if one of them has."""
    names = (MODEL_FILE, BEST, KEPT_FINAL, KEPT_LATEST, CONFIG_FILE)
    return (place,) if place.is_file() else tuple(place / name for name in names)


def kept_model(state: Path, catalog: Catalog) -> Path:
    """The model that a node with this state folder should use: the last final model, or the last
    received one if only that is for its catalog. If neither is, :func:`load_model` refuses it.

    Raises:
        ModelError: the node has no model, or one that cannot be read.
    """
    found = [state / name for name in (KEPT_FINAL, KEPT_LATEST) if (state / name).is_file()]
    if not found:
        raise ModelError(
            f"{state}: this node has not kept a model yet (no {KEPT_FINAL} or {KEPT_LATEST}); it "
            "keeps those it receives in training, unless keep-model = false; or name one with "
            "--model"
        )
    fitting = (p for p in found if catalog.is_known_as(read_card(p).catalog))
    return next(fitting, found[0])


def read_card(path: Path) -> ModelCard:
    """Read the card without loading arrays. Raises ModelError as :func:`read_model`."""
    try:
        with safe_open(path, framework="numpy") as file:
            return ModelCard.model_validate_json((file.metadata() or {})[_CARD])
    except (SafetensorError, OSError, KeyError, ValidationError) as error:
        raise _unreadable(path, error) from None


def read_model(path: Path) -> tuple[Params, ModelCard]:
    """Arrays and card of a model file or of a checkpoint of a run.

    Raises:
        ModelError: it is missing, damaged, of a later format, or a checkpoint from before the
            first evaluation.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            if "progress" in (file.metadata() or {}):
                return _of_checkpoint(path, load_checkpoint(path))
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None
    return params, read_card(path)


def load_model(place: Path | str, catalog: Catalog, device: "torch.device | str" = "cpu") -> SASRec:
    """A trained model, ready to use.

    Args:
        place: an exported folder, a run folder or a model file.
        catalog: the catalog whose items the model will rank: that of the model, or one that has
            grown from it (:mod:`lumos_core.recommend.grown_catalog`).
        device: torch device.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelError: there is no such model, it was made for another catalog, or its arrays are not
            those of its shape.

    >>> import tempfile
    >>> from lumos_core import Catalog, RunConfig, load_model, simulate
    >>> from lumos_core.data import Sequences
    >>> catalog = Catalog(("A1", "B7", "C3", "D5"), ("lamp", "paper chain", "tea pot", "cake tin"))
    >>> shop = Sequences.from_lists([[1, 2, 3, 4], [2, 3, 4, 1]])
    >>> config = RunConfig(method="fedavg", rounds=1, dim=8, semantic_start="none")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = simulate(config, catalog, [shop], run_dir=Path(folder))
    ...     model = load_model(folder, catalog)
    >>> model.shape.num_items, model.training
    (4, False)
    """
    return load_with_card(Path(place), catalog, device)[0]


def load_with_card(
    place: Path, catalog: Catalog, device: "torch.device | str" = "cpu"
) -> tuple[SASRec, ModelCard]:
    """:func:`load_model`, and the model's card."""
    path = model_file_at(place)
    params, card = read_model(path)
    its_own = catalog.is_known_as(card.catalog)
    if its_own:
        _check_size(path, card, catalog)
    _check_whole(path, params, card)
    if not its_own:
        from lumos_core.recommend.grown_catalog import model_for  # imports what compares titles

        params, card = model_for(path, params, card, catalog)
    model = build_model(card.model_shape)
    set_params(model, params)
    model.title_weight = card.title_weight
    return model.to(device).eval(), card


def read_whole(place: Path | str) -> tuple[Params, ModelCard]:
    """Arrays and card of the model at a place, checked as by :func:`load_model` but for the
    catalog, which may have grown since.

    Raises:
        ModelError: there is no such model, or its arrays are not those of its shape.
    """
    path = model_file_at(Path(place))
    params, card = read_model(path)
    _check_whole(path, params, card)
    return params, card


# ---------------------------------------------------------------- checks
def _check_whole(path: Path, params: Params, card: ModelCard) -> None:
    _check_copy(path, card)
    _check_arrays(path, params, card)


def _of_checkpoint(path: Path, checkpoint: Checkpoint) -> tuple[Params, ModelCard]:
    progress = checkpoint.progress
    # In the file with the best model, `round` is the round in which it was found to be the best.
    of_round = progress.best_round if path.name == Path(BEST).name else progress.round
    if of_round < 0:
        raise ModelError(
            f"{path}: no round has been evaluated yet, so this is the model that training began "
            "with; wait for the first evaluation or, with evaluation = none, for the first round"
        )
    try:
        config = RunConfig.from_saved(progress.config)
        num_items = len(checkpoint.params[ITEM_TABLE]) - 1
        card = ModelCard.of(
            config, num_items, progress.catalog, of_round, False, progress.title_weight
        )
    except (ConfigError, KeyError, ValidationError) as error:
        raise _unreadable(path, error) from None
    if card.model_shape.fingerprint != progress.shape:
        raise ModelError(
            f"{path}: its arrays are not those of its shape (fingerprint {progress.shape[:12]}…, "
            f"expected {card.model_shape.fingerprint[:12]}…); the file is damaged"
        )
    return checkpoint.params, card


def _check_size(path: Path, card: ModelCard, catalog: Catalog) -> None:
    if card.shape.num_items != len(catalog):
        raise ModelError(
            f"{path}: says {card.shape.num_items} items, but its catalog has {len(catalog)}; "
            "the file is damaged"
        )


def _check_copy(path: Path, card: ModelCard) -> None:
    """Check that ``config.json`` beside an exported model belongs to that model."""
    copy = path.with_name(CONFIG_FILE)
    if path.name != MODEL_FILE or not copy.is_file():
        return
    try:
        beside = ModelCard.model_validate_json(copy.read_bytes())
    except (OSError, ValidationError):
        beside = None
    if beside != card:
        raise ModelError(
            f"{copy}: is not the configuration of {MODEL_FILE} beside it; export the model again"
        )


def _check_arrays(path: Path, params: Params, card: ModelCard) -> None:
    """Refuse arrays whose sizes differ from the card's, before a model of those sizes is built; and
    arrays with NaN or infinity."""
    shape = card.shape
    sizes = {ITEM_TABLE: (shape.num_items + 1, shape.dim)}
    if shape.encoder in (SASREC, LIGR):
        sizes["positions.weight"] = (shape.max_len, shape.dim)
    for name, expected in sizes.items():
        found = params[name].shape if name in params else None
        if found != expected:
            raise ModelError(
                f"{path}: array '{name}' has shape {found}, expected {expected} as its card says; "
                "the file is damaged"
            )
    if shape.encoder in (SASREC, LIGR) and shape.dim % shape.heads:
        raise ModelError(f"{path}: dim {shape.dim} is not a multiple of heads {shape.heads}")
    bad = next(_not_finite(params), None)
    if bad is not None:
        raise ModelError(f"{path}: array '{bad}' holds NaN or infinity; the training diverged")


def _not_finite(params: Params) -> Iterator[str]:
    return (name for name, array in params.items() if not np.isfinite(array).all())


def _unreadable(path: Path, error: Exception) -> ModelError:
    if isinstance(error, FileNotFoundError) or not path.exists():
        return ModelError(f"{path}: no such file or folder; expected a model")
    reason = "made by another version of LUMOS" if _other_format(error) else type(error).__name__
    return ModelError(f"{path}: not a readable LUMOS model ({reason})")


def _other_format(error: Exception) -> bool:
    return isinstance(error, ConfigError) or (
        isinstance(error, ValidationError) and any(e["loc"] == ("format",) for e in error.errors())
    )
