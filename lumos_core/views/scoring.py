"""How likely the language model finds an item after a history, beyond what it is by itself.

log p(title | history) alone prefers short, common titles; the title's likelihood without a history
is taken off (pointwise mutual information). All candidates of a history are scored in one forward
pass over [history | c1 | c2 | …] in which no candidate sees another.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lumos_core.views.llm import LocalLLM

Floats = npt.NDArray[np.float32]

_TOKENS_PER_BATCH = 4096  # padding included; more gains nothing on a CPU and costs memory
_TOKENS_PER_BATCH_CUDA = 16_384  # a GPU wants more at a time: 1 GB of states in an 8 B model
_LOGITS_ROWS = 64  # positions whose vocabulary-wide logits are held at a time: fits the cache
_LOGITS_ROWS_CUDA = 512  # 0.25 GB in float32 for a vocabulary of 128,000


class Request(NamedTuple):
    """One context and what might follow it, all as token ids; no piece is empty."""

    context: list[int]
    candidates: list[list[int]]

    @property
    def length(self) -> int:
        return len(self.context) + sum(map(len, self.candidates))


def log_likelihoods(llm: LocalLLM, requests: Sequence[Request]) -> list[Floats]:
    """log p(candidate | context), summed over the candidate's tokens.

    Returns:
        per request float32 [candidates], natural logarithm; nothing is read for one without any.
    """
    results: list[Floats] = [np.zeros(0, dtype=np.float32)] * len(requests)
    asked = [r for r, request in enumerate(requests) if request.candidates]
    for batch in batches_of(llm, [requests[r] for r in asked]):
        rows = [asked[number] for number in batch]
        for r, scores in zip(rows, score_batch(llm, [requests[r] for r in rows]), strict=True):
            results[r] = scores
    return results


def batches_of(llm: LocalLLM, requests: Sequence[Request]) -> list[list[int]]:
    """Positions of requests, neighbours in length together, as many as fit the token limit."""
    limit = _TOKENS_PER_BATCH_CUDA if llm.on_cuda else _TOKENS_PER_BATCH
    batches: list[list[int]] = []
    for r in sorted(range(len(requests)), key=lambda r: requests[r].length):
        if batches and (len(batches[-1]) + 1) * requests[r].length <= limit:
            batches[-1].append(r)
        else:
            batches.append([r])
    return batches


class _Layout(NamedTuple):
    """Where everything is in the padded batch; torch tensors."""

    ids: Any  # int64 [B, T]
    positions: Any  # int64 [B, T]: candidates all start right behind the context
    segments: Any  # int64 [B, T]: 0 context, 1… candidates, -1 padding
    reads: Any  # int64 [S, 2]: row and column of the state that predicts a scored token
    targets: Any  # int64 [S]: that token
    owners: Any  # int64 [S]: number of its candidate in the batch


def score_batch(llm: LocalLLM, requests: Sequence[Request]) -> list[Floats]:
    """:func:`log_likelihoods` of one batch, in one forward pass."""
    import torch

    layout = _lay_out(requests, llm.pad_id)
    llm.read.add(sum(request.length for request in requests), layout.ids.numel())
    mask = _attention_mask(layout.segments, llm.model.dtype)
    with llm.inference():
        states = llm.model.base_model(
            input_ids=layout.ids.to(llm.device),
            attention_mask=mask.to(llm.device),
            position_ids=layout.positions.to(llm.device),
            use_cache=False,
        ).last_hidden_state
        reads = layout.reads.to(llm.device)
        logs = token_log_likelihoods(
            llm, states[reads[:, 0], reads[:, 1]], layout.targets.to(llm.device)
        )
    counts = [len(request.candidates) for request in requests]
    sums = torch.zeros(sum(counts)).index_add_(0, layout.owners, logs.cpu())
    return [part.numpy() for part in torch.split(sums, counts)]


def token_log_likelihoods(llm: LocalLLM, states: Any, targets: Any) -> Any:
    """float32 [S]: log p(target) by the language-model head, for states [S, hidden]."""
    import torch

    head = llm.model.get_output_embeddings()
    rows = _LOGITS_ROWS_CUDA if llm.on_cuda else _LOGITS_ROWS
    parts = []
    for start in range(0, len(targets), rows):
        logits = head(states[start : start + rows]).float()
        chosen = logits.gather(1, targets[start : start + rows, None])[:, 0]
        highest = logits.amax(dim=1, keepdim=True)
        # in place: twice as fast as logsumexp
        parts.append(chosen - highest[:, 0] - logits.sub_(highest).exp_().sum(dim=1).log())
    return torch.cat(parts)


def _lay_out(requests: Sequence[Request], pad: int) -> _Layout:
    import torch

    longest = max(request.length for request in requests)
    ids = np.full((len(requests), longest), pad)
    positions = np.zeros_like(ids)
    segments = np.full_like(ids, -1)
    reads: list[tuple[int, int]] = []
    targets: list[int] = []
    owners: list[int] = []
    candidate = 0
    for row, (context, candidates) in enumerate(requests):
        column = len(context)
        ids[row, :column], positions[row, :column] = context, np.arange(column)
        segments[row, :column] = 0
        for segment, tokens in enumerate(candidates, start=1):
            span = slice(column, column + len(tokens))
            ids[row, span] = tokens
            positions[row, span] = len(context) + np.arange(len(tokens))
            segments[row, span] = segment
            reads += [(row, len(context) - 1), *((row, column + i) for i in range(len(tokens) - 1))]
            targets += tokens
            owners += [candidate] * len(tokens)
            candidate += 1
            column += len(tokens)
    return _Layout(*map(torch.as_tensor, (ids, positions, segments, reads, targets, owners)))


def _attention_mask(segments: Any, dtype: Any) -> Any:
    """[B, 1, T, T], 0 where a token may look, the smallest number where not.

    A token sees what is before it in its own segment, and the context. Padding sees itself only: a
    row that sees nothing would be NaN.
    """
    import torch

    length = segments.shape[1]
    own = segments[:, :, None] == segments[:, None, :]
    context = segments[:, None, :] == 0
    real = segments[:, :, None] >= 0
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    seen = ((own | context) & causal & real) | torch.eye(length, dtype=torch.bool)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
