"""Would another runtime read faster? Packed scoring by ONNX Runtime, OpenVINO, and CTranslate2.

    pip install onnx onnxruntime onnxscript openvino ctranslate2
    python benchmarks/llm_runtimes.py --out benchmarks/results/llm_runtimes.json

Every runtime gets the same requests of users of the bundled sample, laid out as
``views/llm/likelihood.py`` does: rows that hold several histories, a tree of candidates behind
each, told apart by a mask [rows, 1, tokens, tokens] and positions of tokens. Nothing is shared
between requests, so that no runtime needs a cache. All of the model runs in it, the head over the
vocabulary included; one thread. The fastest of a few repetitions counts, since other work on the
machine only makes one slower.

- *tokens a CPU-s*: read and scored, padding not counted;
- *times PyTorch, float32*, *times what LUMOS uses here*: the ratio in this run;
- *same items*: share of the items of the views of the future that are chosen by this runtime's
  likelihoods and also by PyTorch's in float32;
- *largest difference*: of a candidate's log-likelihood to PyTorch's in float32.

CTranslate2 takes neither masks nor positions: it reads every candidate behind its whole history,
and is told twice, per token that it reads, and per token that packed scoring would have read.
"""

import argparse
import importlib.metadata
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from view_cost import users_of_nodes

from lumos_core.config import RunConfig
from lumos_core.safe_files import write_json
from lumos_core.views.llm import likelihood, prompts
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.likelihood import Request
from lumos_core.views.llm.load import LocalLLM, load_llm, preferred_dtype
from lumos_core.views.titles.judgements import PRIOR_WEIGHT, ListPrompt, catalog_tables
from lumos_core.views.titles.shipped import seed_cache
from lumos_core.views.titles.space import best_new
from lumos_core.views.writers.by_likelihood import HALF_LIFE, choose_future
from lumos_core.views.writers.view_settings import ViewSettings

USERS, BATCH, ROUNDS = 32, 16, 2
Scores = list[Any]
Run = Callable[[], Scores]


class Task:
    """Requests of some users, in batches, and what their likelihoods lead to."""

    def __init__(self, llm: LocalLLM, cache: Path) -> None:
        catalog, nodes = users_of_nodes()
        settings = ViewSettings()
        histories = [history for history in nodes[-1] if len(history) > settings.prompt_items]
        self.histories = histories[:USERS]
        tables = catalog_tables(llm, catalog, RunConfig().llm_noun, cache)
        prompt = ListPrompt(llm, prompts.list_head(settings.noun), tables.titles)
        read = [history[-settings.prompt_items :] for history in self.histories]
        self.near = tables.space.near(read, HALF_LIFE)
        self.pools = best_new(self.near, self.histories, settings.candidates)
        self.prior, self.count = tables.prior, settings.future_items
        self.requests = [prompt.request(*pair) for pair in zip(read, self.pools, strict=True)]
        starts = range(0, USERS, BATCH)
        self.batches = [self.requests[start : start + BATCH] for start in starts]
        self.tokens = sum(request.length for request in self.requests)

    def futures(self, scores: Scores) -> list[set[int]]:
        """The items that each user's scores choose."""
        chosen = []
        for pool, near, score in zip(self.pools, self.near, scores, strict=True):
            pmi = score - PRIOR_WEIGHT * self.prior[np.asarray(pool) - 1]
            chosen.append(set(choose_future(pool, near, pmi, self.count)))
        return chosen


class Packed(torch.nn.Module):
    """The model as a function of arrays alone: what runtimes can be given."""

    def __init__(self, llm: LocalLLM) -> None:
        super().__init__()
        self.base, self.head = llm.model.base_model, llm.model.get_output_embeddings()

    def forward(self, ids: Any, mask: Any, positions: Any, reads: Any, targets: Any) -> Any:
        """float32 [S]: log p of targets [S] by the states ``reads`` [S] of B x T."""
        states = self.base(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        logits = self.head(states.flatten(0, 1)[reads]).float()
        chosen: torch.Tensor = logits.gather(1, targets[:, None])[:, 0]
        return chosen - logits.logsumexp(dim=1)


def arrays_of(batch: list[Request], dtype: Any) -> tuple[tuple[Any, ...], Any, Any, list[int]]:
    """The arguments of :class:`Packed`, and what turns its result into scores of candidates."""
    trees = [likelihood._Tree.of(request, 0) for request in batch]
    layout = likelihood._lay_out(trees, 0, 0)
    mask = torch.zeros(layout.seen.shape, dtype=dtype)
    mask = mask.masked_fill_(~layout.seen, torch.finfo(dtype).min)[:, None]
    counts = [len(request.candidates) for request in batch]
    arguments = (layout.ids, mask, layout.positions, layout.reads, layout.targets)
    return arguments, layout.edges, layout.owners, counts


def packed(task: Task, forward: Callable[..., Any], dtype: Any = torch.float32) -> Run:
    """Scores of all requests by a function with the arguments of :class:`Packed`."""
    prepared = [arrays_of(batch, dtype) for batch in task.batches]

    def run() -> Scores:
        scores: Scores = []
        for arguments, edges, owners, counts in prepared:
            logs = torch.as_tensor(forward(*arguments)).float()
            sums = torch.zeros(sum(counts)).index_add_(0, owners, logs[edges])
            scores += [part.numpy() for part in torch.split(sums, counts)]
        return scores

    return run


# ---------------------------------------------------------------- runtimes
def by_torch(task: Task, llm: LocalLLM, _: Path) -> Run:
    module = Packed(llm).eval()

    def forward(*arguments: Any) -> Any:
        with torch.inference_mode():
            return module(*arguments)

    return packed(task, forward, llm.model.dtype)


def by_torch_compile(task: Task, llm: LocalLLM, _: Path) -> Run:
    module = torch.compile(Packed(llm).eval(), dynamic=True)

    def forward(*arguments: Any) -> Any:
        with torch.inference_mode():
            return module(*arguments)

    return packed(task, forward)


def by_torch_int8(task: Task, llm: LocalLLM, _: Path) -> Run:
    module = torch.ao.quantization.quantize_dynamic(
        Packed(llm).eval(), {torch.nn.Linear}, dtype=torch.qint8
    )

    def forward(*arguments: Any) -> Any:
        with torch.inference_mode():
            return module(*arguments)

    return packed(task, forward)


def onnx_file(task: Task, llm: LocalLLM, folder: Path) -> Path:
    """The model as ONNX, in float32."""
    path = folder / "model.onnx"
    arguments = arrays_of(task.batches[0], torch.float32)[0]
    dims = [torch.export.Dim(name, min=2, max=4096) for name in ("rows", "width", "reads")]
    rows, width, reads = dims
    shapes = ({0: rows, 1: width}, {0: rows, 2: width, 3: width}, {0: rows, 1: width},
              {0: reads}, {0: reads})  # fmt: skip
    torch.onnx.export(
        Packed(llm).eval(), arguments, path, dynamo=True, dynamic_shapes=shapes, external_data=True,
        input_names=["ids", "mask", "positions", "reads", "targets"],
    )  # fmt: skip
    return path


def by_onnx(task: Task, llm: LocalLLM, folder: Path, int8: bool = False) -> Run:
    import onnxruntime

    path = onnx_file(task, llm, folder)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        small = folder / "int8.onnx"
        quantize_dynamic(path, small, weight_type=QuantType.QInt8, use_external_data_format=True)
        path = small
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def forward(*arguments: Any) -> Any:
        given = dict(zip(names, (a.numpy() for a in arguments), strict=True))
        return session.run(None, given)[0]

    return packed(task, forward)


def by_onnx_int8(task: Task, llm: LocalLLM, folder: Path) -> Run:
    return by_onnx(task, llm, folder, int8=True)


def by_openvino(task: Task, llm: LocalLLM, _: Path, precision: str = "f32") -> Run:
    import openvino

    arguments = arrays_of(task.batches[0], torch.float32)[0]
    model = openvino.convert_model(Packed(llm).eval(), example_input=arguments)
    asked = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(model, "CPU", asked)

    def forward(*arguments: Any) -> Any:
        return compiled([a.numpy() for a in arguments])[0]

    return packed(task, forward)


def by_openvino_bf16(task: Task, llm: LocalLLM, folder: Path) -> Run:
    return by_openvino(task, llm, folder, "bf16")


def by_ctranslate2(task: Task, llm: LocalLLM, folder: Path, kind: str = "float32") -> Run:
    import ctranslate2

    saved, made = folder / "plain", folder / "made"
    llm.model.save_pretrained(saved)
    llm.tokenizer.save_pretrained(saved)
    ctranslate2.converters.TransformersConverter(str(saved)).convert(str(made), force=True)
    generator = ctranslate2.Generator(str(made), compute_type=kind, intra_threads=1)
    names = llm.tokenizer.convert_ids_to_tokens
    texts, starts = [], []
    for request in task.requests:
        texts += [names(request.context + candidate) for candidate in request.candidates]
        starts += [len(request.context)] * len(request.candidates)
    counts = [len(request.candidates) for request in task.requests]

    def run() -> Scores:
        found = generator.score_batch(texts, max_batch_size=4096, batch_type="tokens")
        sums = [sum(one.log_probs[start - 1 :]) for one, start in zip(found, starts, strict=True)]
        return [np.asarray(part) for part in np.split(sums, np.cumsum(counts)[:-1])]

    return run


def by_ctranslate2_int8(task: Task, llm: LocalLLM, folder: Path) -> Run:
    return by_ctranslate2(task, llm, folder, "int8")


FLOAT = "PyTorch, float32"
RUNTIMES: dict[str, tuple[str, Callable[[Task, LocalLLM, Path], Run]]] = {
    FLOAT: ("torch", by_torch),
    "PyTorch, bfloat16": ("torch", by_torch),
    "PyTorch, float32, compiled": ("torch", by_torch_compile),
    "PyTorch, int8 weights (dynamic)": ("torch", by_torch_int8),
    "ONNX Runtime, float32": ("onnxruntime", by_onnx),
    "ONNX Runtime, int8 (dynamic)": ("onnxruntime", by_onnx_int8),
    "OpenVINO, float32": ("openvino", by_openvino),
    "OpenVINO, bfloat16": ("openvino", by_openvino_bf16),
    "CTranslate2, float32, not packed": ("ctranslate2", by_ctranslate2),
    "CTranslate2, int8, not packed": ("ctranslate2", by_ctranslate2_int8),
}


def measured(name: str, cache: Path) -> dict[str, Any]:
    """One runtime, in this process: its CPU-seconds, and its scores."""
    torch.set_num_threads(1)
    llm = load_llm(LLMConfig(threads=1, cache_dir=cache))
    task = Task(llm, cache)
    if name != "PyTorch, bfloat16":
        llm.model.float()
    with tempfile.TemporaryDirectory() as folder:
        run = RUNTIMES[name][1](task, llm, Path(folder))
        scores = run()  # also the first, slower one: kernels, compilation
        seconds = []
        for _ in range(ROUNDS):
            started = time.process_time()
            run()
            seconds.append(time.process_time() - started)
    plain = sum(len(r.context) + len(c) for r in task.requests for c in r.candidates)
    return {
        "seconds": min(seconds),
        "read": plain if "not packed" in name else task.tokens,
        "packed": task.tokens,
        "scores": [list(map(float, row)) for row in scores],
        "futures": [sorted(chosen) for chosen in task.futures(scores)],
    }


def used_here() -> str:
    """What LUMOS would read with on this machine."""
    return "PyTorch, bfloat16" if preferred_dtype("cpu") == torch.bfloat16 else FLOAT


def compared(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the measurements say, relative to PyTorch."""
    base, uses = found[FLOAT], used_here()
    rates = {
        name: one["packed"] / one["seconds"] for name, one in found.items() if "seconds" in one
    }
    table: dict[str, Any] = {}
    for name, one in found.items():
        if "seconds" not in one:
            table[name] = one
            continue
        pairs = list(zip(one["futures"], base["futures"], strict=True))
        scores = zip(one["scores"], base["scores"], strict=True)
        table[name] = {
            "version": importlib.metadata.version(RUNTIMES[name][0]),
            "tokens read": one["read"],
            "tokens read a CPU-s": round(one["read"] / one["seconds"]),
            "tokens of packed scoring a CPU-s": round(rates[name]),
            "times PyTorch, float32": round(rates[name] / rates[FLOAT], 2),
            "times what LUMOS uses here": round(rates[name] / rates[uses], 2),
            "same items": round(
                sum(len(set(a) & set(b)) for a, b in pairs) / sum(len(b) for _, b in pairs), 4
            ),
            "largest difference": round(
                max(float(np.abs(np.subtract(a, b)).max()) for a, b in scores), 3
            ),
        }
    return {"users": USERS, "threads": 1, "LUMOS uses here": uses, "runtimes": table}


def in_process(name: str, cache: Path) -> dict[str, Any]:
    """:func:`measured` in a process of its own."""
    argv = [sys.executable, __file__, "--runtime", name, "--cache", str(cache)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        if done.returncode < 0:  # then the last line on stderr has nothing to do with it
            return {"failed": signal.Signals(-done.returncode).name}
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
        return {"failed": reason[:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runtime", choices=RUNTIMES, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help="where the converted model is, if anywhere")
    parser.add_argument("--only", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    args = parser.parse_args()
    if args.runtime:
        print("\n" + json.dumps(measured(args.runtime, args.cache)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        cache = args.cache or Path(scratch)
        seed_cache(cache)
        found = {}
        for name in dict.fromkeys((FLOAT, used_here(), *args.only)):
            found[name] = in_process(name, cache)
            told = {k: v for k, v in found[name].items() if k in ("seconds", "read", "failed")}
            print(name, told, flush=True)
    result = {"processor": platform.processor() or platform.machine(), **compared(found)}
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
