"""How likely each candidate item is after a history, by the language model.

log p(title | history) alone prefers short, common titles, so callers subtract the title's own
likelihood (pointwise mutual information). All candidates of a history are scored in one forward
pass in which no candidate sees another, and no token is read twice:

- candidates that begin alike share the beginning (a tree of tokens behind the history);
- the last token of a candidate is only looked up in the prediction before it, never read;
- the common beginning of all histories of a batch is read once (a key-value cache);
- rows of the batch hold several histories, as many as fit, so that there is little padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lumos_core.views.llm.load import LocalLLM

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_TOKENS_PER_BATCH = 4096  # padding included; more gains nothing on a CPU and costs memory
_TOKENS_PER_BATCH_CUDA = 16_384  # a GPU needs larger batches: 1 GB of states in an 8 B model
_ROW = 256  # most tokens of a row, or twice the longest piece: attention's cost grows with width
_ROW_STEP = 4  # tokens between the row widths that are tried for the least padding
_SHARED = 64  # most tokens that are read once for all: less than any model's sliding window
_LOGITS_ROWS = 64  # positions whose vocabulary-wide logits are held at a time: fits the cache
_LOGITS_ROWS_CUDA = 512  # 0.25 GB in float32 for a vocabulary of 128,000


class Request(NamedTuple):
    """One context and the candidates that might follow it, as token ids; none of them is empty."""

    context: list[int]
    candidates: list[list[int]]

    @property
    def length(self) -> int:
        """Tokens that are read if nothing is shared with other requests."""
        return len(_Tree.of(self, 0).tokens)


def log_likelihoods(llm: LocalLLM, requests: Sequence[Request]) -> list[Floats]:
    """log p(candidate | context), summed over the candidate's tokens.

    Returns:
        per request float32 [candidates], natural logarithm; the model does not read a request
        without candidates.
    """
    results: list[Floats] = [np.zeros(0, dtype=np.float32)] * len(requests)
    asked = [r for r, request in enumerate(requests) if request.candidates]
    for batch in batches_of(llm, [requests[r] for r in asked]):
        rows = [asked[number] for number in batch]
        for r, scores in zip(rows, score_batch(llm, [requests[r] for r in rows]), strict=True):
            results[r] = scores
    return results


def batches_of(llm: LocalLLM, requests: Sequence[Request]) -> list[list[int]]:
    """Positions of requests, in batches of similar length, as many as fit the token limit."""
    limit = _TOKENS_PER_BATCH_CUDA if llm.on_cuda else _TOKENS_PER_BATCH
    lengths = [request.length for request in requests]
    batches: list[list[int]] = []
    tokens = 0
    for r in sorted(range(len(requests)), key=lengths.__getitem__):
        tokens += lengths[r]
        if batches and tokens <= limit:
            batches[-1].append(r)
        else:
            batches.append([r])
            tokens = lengths[r]
    return batches


def score_batch(llm: LocalLLM, requests: Sequence[Request]) -> list[Floats]:
    """:func:`log_likelihoods` of one batch, in one forward pass."""
    import torch

    shared = _shared_beginning([request.context for request in requests])
    trees = [_Tree.of(request, len(shared)) for request in requests]
    layout = _lay_out(trees, len(shared), llm.pad_id)
    read = sum(len(tree.tokens) for tree in trees)
    llm.read.add(len(shared) + read, len(shared) + layout.ids.numel())
    mask = torch.zeros(layout.seen.shape, dtype=llm.model.dtype)
    mask = mask.masked_fill_(~layout.seen, torch.finfo(llm.model.dtype).min)[:, None]
    with llm.inference():
        states = llm.model.base_model(
            input_ids=layout.ids.to(llm.device),
            attention_mask=mask.to(llm.device),
            position_ids=layout.positions.to(llm.device),
            past_key_values=llm.read_once(shared, len(layout.ids)),
            use_cache=bool(shared),
        ).last_hidden_state
        states = states.flatten(0, 1)[layout.reads.to(llm.device)]
        logs = token_log_likelihoods(llm, states, layout.targets.to(llm.device))
    counts = [len(request.candidates) for request in requests]
    sums = torch.zeros(sum(counts)).index_add_(0, layout.owners, logs.cpu()[layout.edges])
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
    return torch.cat(parts) if parts else torch.zeros(0)


def _shared_beginning(contexts: Sequence[list[int]]) -> list[int]:
    """The common beginning of all contexts; never a whole context, since the state after its last
    token predicts the candidates."""
    first, last = min(contexts), max(contexts)
    length = 0
    longest = min(_SHARED, *(len(context) - 1 for context in contexts))
    while length < longest and first[length] == last[length]:
        length += 1
    return first[:length]


@dataclass
class _Tree:
    """The tokens of one request that have to be read: its context, then the candidates' tree."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # index of the token before; -1: none here
    depths: list[int] = field(default_factory=list)  # the token's position in its text
    edges: dict[tuple[int, int], int] = field(default_factory=dict)
    """(token read, token behind it) -> number: what has to be predicted, each once."""
    paths: list[list[int]] = field(default_factory=list)
    """Per candidate the numbers of the edges along it."""

    @classmethod
    def of(cls, request: Request, skip: int) -> "_Tree":
        """The tree behind the first ``skip`` tokens of the context, which are read elsewhere."""
        tree = cls()
        end = -1
        for token in request.context[skip:]:
            end = tree._add(token, end, skip)
        children: dict[tuple[int, int], int] = {}
        for candidate in request.candidates:
            node, path = end, []
            for place, token in enumerate(candidate):
                step = (node, token)
                path.append(tree.edges.setdefault(step, len(tree.edges)))
                if place < len(candidate) - 1:
                    if step not in children:
                        children[step] = tree._add(token, node, skip)
                    node = children[step]
            tree.paths.append(path)
        return tree

    def _add(self, token: int, parent: int, skip: int) -> int:
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(skip if parent < 0 else self.depths[parent] + 1)
        return len(self.tokens) - 1

    def seen(self) -> npt.NDArray[np.bool_]:
        """[T, T]: which tokens of the tree each one sees, itself and all on the way to it."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for token, parent in enumerate(self.parents):
            if parent >= 0:
                seen[token] |= seen[parent]
        return seen


class _Layout(NamedTuple):
    """Where everything is in the padded batch; torch tensors."""

    ids: Any  # int64 [B, T]
    positions: Any  # int64 [B, T]
    seen: Any  # bool [B, T, P + T]: what each token sees, the P shared tokens first
    reads: Any  # int64 [S]: of B x T, the state that predicts a token
    targets: Any  # int64 [S]: that token
    edges: Any  # int64 [L]: numbers in reads, along all candidates
    owners: Any  # int64 [L]: number of the candidate in the batch


def _lay_out(trees: Sequence[_Tree], shared: int, pad: int) -> _Layout:
    import torch

    places, rows, width = _fit([len(tree.tokens) for tree in trees])
    ids = np.full((rows, width), pad)
    positions = np.zeros_like(ids)
    seen = np.zeros((rows, width, shared + width), dtype=bool)
    seen[:, :, :shared] = True
    # padding sees itself: attention to nothing would be NaN
    seen[:, np.arange(width), shared + np.arange(width)] = True
    reads: list[int] = []
    targets: list[int] = []
    edges: list[int] = []
    owners: list[int] = []
    candidate = 0
    for tree, (row, column) in zip(trees, places, strict=True):
        span = slice(column, column + len(tree.tokens))
        ids[row, span], positions[row, span] = tree.tokens, tree.depths
        seen[row, span, shared + span.start : shared + span.stop] = tree.seen()
        for path in tree.paths:
            edges += [len(reads) + edge for edge in path]
            owners += [candidate] * len(path)
            candidate += 1
        reads += [row * width + column + node for node, _ in tree.edges]
        targets += [token for _, token in tree.edges]
    arrays = (ids, positions, seen, *(_ints(x) for x in (reads, targets, edges, owners)))
    return _Layout(*map(torch.as_tensor, arrays))


def _fit(lengths: Sequence[int]) -> tuple[list[tuple[int, int]], int, int]:
    """Place pieces beside each other in rows, of the width that leaves the least padding.

    Returns:
        per piece its row and first column; the number of rows, and how wide they are.
    """
    longest = max(lengths)
    widths = range(longest, max(_ROW, 2 * longest) + 1, _ROW_STEP)
    return min((_fill(lengths, width) for width in widths), key=lambda fit: fit[1] * fit[2])


def _fill(lengths: Sequence[int], limit: int) -> tuple[list[tuple[int, int]], int, int]:
    """Place pieces in rows of at most ``limit`` tokens: the longest piece first, each into the
    fullest row that still has room."""
    used: list[int] = []
    places = [(0, 0)] * len(lengths)
    for piece in sorted(range(len(lengths)), key=lambda piece: -lengths[piece]):
        open_ = [row for row, width in enumerate(used) if width + lengths[piece] <= limit]
        if not open_:
            used.append(0)
        row = max(open_, key=lambda row: used[row], default=len(used) - 1)
        places[piece] = (row, used[row])
        used[row] += lengths[piece]
    return places, len(used), max(used)


def _ints(values: list[int]) -> Ints:
    return np.asarray(values, dtype=np.int64)
