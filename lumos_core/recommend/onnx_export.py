"""A model as an ONNX graph, for programs without PyTorch; checked against the model it was made of.

The graph ranks as :class:`~lumos_core.recommend.recommender.Recommender` does: encoder, item bias,
and the nearness of titles with the weight of the model's card, whose vectors are part of the file::

    items   int64 [B, T]    the last T items of B histories, oldest first, filled up with 0 at the
                            end; 1 <= T <= max_len, and each history has at least one item
    scores  float32 [B, N]  column j is item j + 1, in the order of the catalog

Leaving out what a history holds, and taking the best, is left to the caller. The nearness of titles
sees the T items only, whereas a Recommender sees all of a longer history. Items so far back have a
weight below 2 ** -(max_len / 2).
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumos_core.data.catalog import Catalog
from lumos_core.errors import ModelError, require_extra
from lumos_core.learning.model import SASRec
from lumos_core.learning.title_nearness import HALF_LIFE, TitleNearness, fused
from lumos_core.recommend.model_files import ModelCard
from lumos_core.safe_files import write_atomically

INPUT, OUTPUT = "items", "scores"
CHECKED = 64
"""Random histories by which a graph is compared with its model."""
TOLERANCE = 1e-3
"""Largest difference of scores; they are in the units of an encoder's inner products."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Scores(nn.Module):
    """What the graph computes.

    Args:
        model: in evaluation mode, on the CPU.
        titles: nearness of titles; None if its weight is 0.
        weight: of that nearness.
    """

    vectors: Tensor

    def __init__(self, model: SASRec, titles: TitleNearness | None, weight: float) -> None:
        super().__init__()
        self.model, self.weight = model, weight if titles is not None else 0.0
        if titles is not None:
            self.register_buffer("vectors", F.pad(titles.vectors, (0, 0, 1, 0)))  # row 0: padding

    def forward(self, items: Tensor) -> Tensor:
        """int64 [B, T] → float32 [B, N]."""
        lengths = (items != 0).sum(1)
        scores = self.model.scores(self.model.encode_last(items, lengths))
        if not self.weight:
            return scores
        return fused(scores, self._near(items, lengths), self.weight)

    def _near(self, items: Tensor, lengths: Tensor) -> Tensor:
        """As :meth:`TitleNearness.near`, for padded histories: float32 [B, N]."""
        back = lengths[:, None] - 1 - torch.arange(items.shape[1])  # 0 at the last item
        weights = torch.exp2(-back / HALF_LIFE) * (items != 0)
        weights = weights / weights.sum(1, keepdim=True)
        profiles = (weights[..., None] * self.vectors[items]).sum(1)  # [B, H]
        return profiles @ self.vectors[1:].T


def check_packages() -> None:
    """Raises ConfigError if a package is not installed that an export needs."""
    for package in _PACKAGES:
        require_extra(package, "onnx", "an export to ONNX")


def write_onnx(path: Path, model: SASRec, card: ModelCard, catalog: Catalog) -> float:
    """Write a model's graph, after it was compared with the model.

    Args:
        path: file to write.
        model: the model.
        card: the model's card; it goes into the file's metadata, as "lumos".
        catalog: the catalog that the model was loaded for.

    Returns:
        The largest difference of scores between graph and model.

    Raises:
        ConfigError: a package is not installed.
        ModelError: the encoder cannot be exported, or the graph ranks in another way.
    """
    check_packages()
    weight = float(getattr(model, "title_weight", 0.0))
    titles = TitleNearness.of(catalog) if weight else None
    scores = Scores(model.eval(), titles, weight).eval()
    graph = _graph(path, scores, model.shape.max_len, card)
    difference = _difference(graph, scores, model.shape.max_len, len(catalog))
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{path}: not written: its scores would differ from the model's by {difference:.2g}, "
            f"expected at most {TOLERANCE:g}; the exporter of this PyTorch changes the encoder"
        )
    write_atomically(path, graph)
    return difference


def _graph(path: Path, scores: Scores, max_len: int, card: ModelCard) -> bytes:
    example = torch.ones((3, min(5, max_len)), dtype=torch.int64)
    length = torch.export.Dim("length", min=1, max=max_len) if max_len > 1 else None
    shapes = {"items": {0: torch.export.Dim("batch", min=1), 1: length}}
    try:
        with _quiet(), torch.inference_mode():
            program: Any = torch.onnx.export(
                scores, (example,), input_names=[INPUT], output_names=[OUTPUT],
                dynamic_shapes=shapes, dynamo=True, verbose=False,
            )  # fmt: skip
    except Exception as error:  # an encoder of a plug-in may have what ONNX has not
        raise ModelError(
            f"{path}: not written: PyTorch cannot export this encoder to ONNX "
            f"({type(error).__name__})"
        ) from error
    program.model.metadata_props["lumos"] = card.model_dump_json()
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()


def _difference(graph: bytes, scores: Scores, max_len: int, items: int) -> float:
    """The largest difference of scores over random histories of all lengths."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    largest = 0.0
    for rows in np.array_split(rng.integers(1, max_len + 1, CHECKED), CHECKED // 8):
        padded = np.zeros((len(rows), rows.max()), dtype=np.int64)
        for row, length in enumerate(rows):
            padded[row, :length] = rng.integers(1, items + 1, length)
        [found] = session.run([OUTPUT], {INPUT: padded})
        with torch.inference_mode():
            expected = scores(torch.from_numpy(padded)).numpy()
        if found.shape != expected.shape:
            return float("inf")
        largest = max(largest, float(np.abs(found - expected).max()))
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings and notes about itself from the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
