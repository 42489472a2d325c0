"""Greedy generation in batches: free, or restricted to the titles of a catalog."""

from collections.abc import Sequence
from typing import Any

from lumos_core.views.llm.load import LocalLLM
from lumos_core.views.llm.title_trie import Walk

_ROWS, _ROWS_CUDA = 32, 128  # lists written at a time


class TrieProcessor:
    """A logits processor for transformers that allows only the tokens of each row's walk.

    It relies on rows keeping their order, as in greedy decoding; it does not work with beams.

    Args:
        walks: one per row.
    """

    def __init__(self, walks: Sequence[Walk]) -> None:
        self._walks = walks
        self._started = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """float [B, V] scores, minus infinity where a token is not allowed."""
        import torch

        if self._started:
            for walk, token in zip(self._walks, input_ids[:, -1].tolist(), strict=True):
                walk.advance(token)
        self._started = True
        allowed = [walk.allowed() for walk in self._walks]
        rows = torch.tensor([r for r, tokens in enumerate(allowed) for _ in tokens])
        columns = torch.tensor([token for tokens in allowed for token in tokens])
        open_ = (rows.to(scores.device), columns.to(scores.device))
        kept = torch.full_like(scores, float("-inf"))
        kept[open_] = scores[open_]
        return kept


def write_titles(
    llm: LocalLLM, prompts: Sequence[Sequence[int]], walks: Sequence[Walk], steps: int
) -> None:
    """Let the model write every list; afterwards the walks hold the chosen items.

    Args:
        llm: the model.
        prompts: token ids behind which the first title begins.
        walks: one per prompt, all at their beginning.
        steps: enough tokens for the longest list.
    """
    for batch in _batches(llm, prompts):
        chosen = [walks[b] for b in batch]
        generate(llm, [prompts[b] for b in batch], steps, [TrieProcessor(chosen)])


def write_freely(llm: LocalLLM, prompts: Sequence[Sequence[int]], steps: int) -> list[str]:
    """What the model writes behind each prompt, at most ``steps`` tokens."""
    texts = [""] * len(prompts)
    for batch in _batches(llm, prompts):
        written = generate(llm, [prompts[b] for b in batch], steps, [])
        for b, tokens in zip(batch, written, strict=True):
            texts[b] = str(llm.tokenizer.decode(tokens, skip_special_tokens=True))
    return texts


def generate(
    llm: LocalLLM, prompts: Sequence[Sequence[int]], steps: int, processors: Sequence[Any]
) -> list[list[int]]:
    """The tokens that greedy decoding puts behind each prompt; one batch, padded on the left."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), llm.pad_id)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompts):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, longest - len(tokens) :] = 1
    make_config: Any = GenerationConfig
    config = make_config(
        do_sample=False,
        num_beams=1,
        max_new_tokens=steps,
        repetition_penalty=1.0,  # a model's own defaults may have penalties and temperatures
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        pad_token_id=llm.pad_id,
        eos_token_id=stop_tokens(llm),
    )
    with llm.inference():
        out = llm.model.generate(
            input_ids=ids.to(llm.device),
            attention_mask=mask.to(llm.device),
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
        )
    return [list(row) for row in out[:, longest:].tolist()]


def stop_tokens(llm: LocalLLM) -> list[int]:
    """Token ids that end a text: a chat model has an end of turn besides the end of text."""
    configured = llm.model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    known = [int(token) for token in listed if token is not None]
    return known or [int(llm.tokenizer.eos_token_id)]


def _batches(llm: LocalLLM, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of prompts, in batches of similar length."""
    order = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))
    rows = _ROWS_CUDA if llm.on_cuda else _ROWS
    return [order[start : start + rows] for start in range(0, len(order), rows)]
