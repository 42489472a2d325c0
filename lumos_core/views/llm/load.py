"""Loads the local language model: its tokens, its hidden states, its threads.

GGUF is converted once to bf16 safetensors in the cache folder: reading GGUF takes many seconds,
reading safetensors less than one. transformers is imported only when a model is loaded.
"""

import functools
import io
import logging
import os
import re
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lumos_core.errors import ModelError
from lumos_core.safe_files import exclusive, lock_beside
from lumos_core.views.llm.find import (
    LLMConfig,
    ModelSource,
    converted_folder,
    find_model,
    fingerprint_of,
    first_line,
)

DTYPE = "LUMOS_LLM_DTYPE"


@dataclass
class TokensRead:
    """How many tokens a model has read so far: a measure of cost that holds for any processor."""

    tokens: int = 0
    padding: int = 0

    def add(self, tokens: int, computed: int) -> None:
        """Count a batch: its real tokens, and all tokens that were computed for it."""
        self.tokens += tokens
        self.padding += computed - tokens


@dataclass(frozen=True)
class LocalLLM:
    """A loaded causal language model in evaluation mode."""

    model: Any
    tokenizer: Any
    fingerprint: str
    threads: int
    read: "TokensRead" = field(default_factory=lambda: TokensRead())

    @property
    def device(self) -> Any:
        return self.model.device

    @property
    def on_cuda(self) -> bool:
        return str(self.model.device).startswith("cuda")

    @property
    def layers(self) -> int:
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, all of which is taken as plain text.

        Titles come from untrusted sources. A title that contains ``<|im_end|>`` or ``<think>`` must
        not end or open a turn: such control tokens are spelled out like any other word.
        """
        pieces = self._controls.split(text) if self._controls is not None else [text]
        return [
            token
            for piece in pieces
            if piece
            for token in self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
        ]

    def encode_chat(self, question: str) -> list[int]:
        """Token ids of a question in the model's chat template, up to where the answer begins.

        Control tokens of the template keep their effect; those in the question are plain text.
        """
        mark = uuid.uuid4().hex
        asked = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
        )
        before, _, after = asked.partition(mark)
        head, tail = (
            list(self.tokenizer(part, add_special_tokens=False)["input_ids"])
            for part in (before, after)
        )
        return head + self.encode(question) + tail

    @cached_property
    def _controls(self) -> "re.Pattern[str] | None":
        """Where texts must be cut so that the tokenizer finds no added token in them: behind the
        first character of each token that ``split_special_tokens`` does not split."""
        whole = [t.content for t in self.tokenizer.added_tokens_decoder.values() if not t.special]
        cuts = [rf"(?<={re.escape(c[0])})(?={re.escape(c[1:])})" for c in whole if len(c) > 1]
        return re.compile("|".join(cuts)) if cuts else None

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Without gradients and with this model's number of threads; restores both afterwards."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    def read_once(self, beginning: Sequence[int], rows: int) -> Any:
        """The key-value cache behind a beginning that all rows of a batch share; None if there is
        no beginning. To be called, and used, within :meth:`inference`."""
        import torch

        if not beginning:
            return None
        begin = torch.tensor([list(beginning)], device=self.device)
        cache = self.model.base_model(input_ids=begin, use_cache=True).past_key_values
        cache.batch_repeat_interleave(rows)
        return cache

    def hidden_states(
        self, ids: Any, layers: tuple[int, ...], beginning: Sequence[int] = ()
    ) -> list[Any]:
        """The states after some layers (0 = input embeddings): float32 CPU tensors [B, T, hidden].

        Args:
            ids: int64 [B, T], padded on the right.
            layers: in the order of the result.
            beginning: token ids before every row, which are read once; few, as a model's sliding
                window must not end in them. Their states are not in the result.
        """
        with self.inference():
            out = self.model.base_model(
                input_ids=ids.to(self.device),
                past_key_values=self.read_once(beginning, len(ids)),
                use_cache=bool(beginning),
                output_hidden_states=True,
            )
        return [out.hidden_states[layer].float().cpu() for layer in layers]

    @property
    def parameters(self) -> int:
        """Number of weights (packed ones of a quantised model count as they are stored)."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def bytes(self) -> int:
        """Memory of the weights in bytes."""
        return int(self.model.get_memory_footprint())


def load_llm(config: LLMConfig) -> LocalLLM:
    """Load the model and its tokenizer (left padding, pad token set).

    Raises:
        ModelError: the model is missing, damaged, no causal language model, does not fit the
            memory, or cannot be quantised here.
    """
    source = find_model(config.llm)
    folder, revision = _loadable(source, config)
    try:
        with _quiet():
            model, tokenizer = _load(folder, revision, config)
    except Exception as error:  # transformers, safetensors, torch … each raise their own kinds
        raise ModelError(
            f"llm = {config.llm!r}: cannot load a causal language model from {folder}: "
            f"{first_line(error)}"
        ) from error
    fingerprint = fingerprint_of(source, config.quantization)
    return LocalLLM(model, tokenizer, fingerprint, config.threads or idle_threads())


def idle_threads() -> int:
    """torch's number of threads, but no more than idle cores and at least 1.

    Threads that wait for each other on busy cores are many times slower than a single one.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(torch.get_num_threads(), round((cores or 1) - busy)))


def _load(folder: str, revision: str | None, config: LLMConfig) -> tuple[Any, Any]:
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = preferred_dtype(device)
    options: dict[str, Any] = {"local_files_only": revision is None, "revision": revision}
    quantization = None
    make_quantization: Any = transformers.BitsAndBytesConfig
    if config.quantization == "8bit":
        quantization = make_quantization(load_in_8bit=True)
    elif config.quantization == "4bit":
        quantization = make_quantization(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    named = getattr(AutoConfig.from_pretrained(folder, **options), "transformers_weights", None)
    if named and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise ModelError(f"config.json names weights in {named}, expected safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map=device,
        attn_implementation="sdpa",
        quantization_config=quantization,
        use_safetensors=True,  # never a pickle, which could run any code
        **options,
    )
    model.eval()
    return model.requires_grad_(False), tokenizer


def preferred_dtype(device: str) -> Any:
    """bfloat16 where the hardware multiplies it, else float16 (CUDA) or float32 (CPU).

    On CPUs ``$LUMOS_LLM_DTYPE`` overrides this, to try on one machine what another one does.
    """
    import torch

    if device.startswith("cuda"):
        # emulated bfloat16, as on a T4, is many times slower than its float16
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if (chosen := os.environ.get(DTYPE)) in ("bfloat16", "float32"):
        return getattr(torch, chosen)
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capable else torch.float32


def _loadable(source: ModelSource, config: LLMConfig) -> tuple[str, str | None]:
    """Folder or hub id that from_pretrained reads, and the revision if it is a hub id."""
    if source.kind == "hub":
        return source.location, source.revision
    if source.kind == "folder":
        return source.location, None
    return str(_converted(Path(source.location), source.revision, config.cache)), None


def _converted(gguf: Path, revision: str, cache: Path) -> Path:
    """The safetensors folder of a GGUF file, converted now if nobody has done so before."""
    target = converted_folder(gguf, revision, cache)
    if target.is_dir():
        return target
    with exclusive(lock_beside(target)):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch:
                folder = Path(scratch) / "model"
                try:
                    # no setting turns the converter's progress bar off
                    with _quiet(), redirect_stderr(io.StringIO()), _read_once():
                        _convert(gguf, folder)
                except Exception as error:
                    raise ModelError(
                        f"llm: cannot read GGUF file {gguf}: {first_line(error)}; "
                        "it may be damaged, or of an architecture transformers cannot convert"
                    ) from error
                folder.rename(target)  # atomic: a folder that exists is complete
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        **where,
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(gguf.parent), **where).save_pretrained(folder)


@contextmanager
def _read_once() -> Iterator[None]:
    """Lets transformers reuse what it asks of the package ``gguf``: it parses the whole file for
    the configuration, the tokenizer and the weights, and makes the table of names anew for every
    layer. A ``gguf`` that lacks these names is left as it is: then a conversion takes longer."""
    import gguf

    slow = ("GGUFReader", "get_tensor_name_map")
    found = {name: getattr(gguf, name) for name in slow if hasattr(gguf, name)}
    try:
        for name, function in found.items():
            setattr(gguf, name, functools.cache(function))
        yield
    finally:
        for name, function in found.items():
            setattr(gguf, name, function)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' progress bars, load reports and per-call warnings."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("bitsandbytes", "accelerate", "gguf", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
