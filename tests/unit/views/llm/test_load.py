"""Finding, fingerprinting and refusing models; tables computed once by several processes."""

import contextlib
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from tiny_llm import save_tiny_llm

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.errors import ModelError
from lumos_core.views.llm import load
from lumos_core.views.llm.find import LLMConfig, find_model, llm_config, model_fingerprint
from lumos_core.views.llm.load import idle_threads, load_llm, preferred_dtype
from lumos_core.views.titles.cache import cached_arrays
from lumos_core.views.titles.resumable import Pieces


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("model"))


def test_fingerprint_follows_content_not_place(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    known = model_fingerprint(LLMConfig(str(folder)))
    assert model_fingerprint(LLMConfig(str(copy))) == known
    assert model_fingerprint(LLMConfig(str(copy), quantization="8bit")) != known
    other = save_tiny_llm(tmp_path / "other", seed=1)
    assert model_fingerprint(LLMConfig(str(other))) != known
    assert load_llm(LLMConfig(str(copy), device="cpu")).fingerprint == known


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "./nothing", "nothing.gguf"):
        with pytest.raises(ModelError, match="no such file or folder"):
            find_model(name)


def test_a_folder_without_a_model_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"expected a folder with config\.json.*readme\.txt"):
        find_model(str(tmp_path))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ModelError, match="expected a GGUF file"):
        find_model(str(path))


def test_a_gguf_is_parsed_once_while_it_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    monkeypatch.setattr(gguf, "GGUFReader", parsed.append)
    with load._read_once():
        gguf.GGUFReader("model.gguf")
        gguf.GGUFReader("model.gguf")
    assert parsed == ["model.gguf"]
    gguf.GGUFReader("model.gguf")
    assert parsed == ["model.gguf"] * 2


def test_a_gguf_package_without_what_is_remembered_still_converts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(gguf, "get_tensor_name_map")
    with load._read_once():
        assert not hasattr(gguf, "get_tensor_name_map")


def test_a_damaged_gguf_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 200)
    cache = tmp_path / "cache"
    with pytest.raises(ModelError, match=r"cannot read GGUF file .*model\.gguf"):
        load_llm(LLMConfig(str(path), cache_dir=cache))
    assert [p for p in (cache / "models").iterdir() if p.is_dir()] == []


def test_damaged_weights_are_named(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load a causal language model from"):
        load_llm(LLMConfig(str(copy), device="cpu"))


def test_an_unknown_hub_model_offline_says_how_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"nobody/nothing.*local folder"):
        find_model("nobody/nothing")


def test_node_settings_win() -> None:
    run = RunConfig(llm="a", llm_quantization="8bit")
    assert llm_config(run) == LLMConfig("a", "8bit")
    assert llm_config(run, NodeConfig(data="x", threads=3)) == LLMConfig("a", "8bit", threads=3)
    node = NodeConfig(data="x", llm="b", llm_quantization="none", device="cuda:1")
    assert llm_config(run, node) == LLMConfig("b", "none", "cuda:1", 1)


def test_a_gpu_that_only_emulates_bfloat16_works_in_float16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    asked: list[str] = []

    def device(name: str) -> contextlib.nullcontext[None]:
        asked.append(name)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert preferred_dtype("cuda:1") is torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert preferred_dtype("cuda:1") is torch.bfloat16
    assert asked == ["cuda:1", "cuda:1"]


def as_pickle(model: Path) -> None:
    """Weights as a pickle that no check of file names can see."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").rename(model / "other.safetensors")


def as_adapter(model: Path) -> None:
    """Weights under the one name of a pickle that transformers takes from config.json."""
    as_pickle(model)
    (model / "pytorch_model.bin").rename(model / "adapter_model.bin")
    settings = json.loads((model / "config.json").read_text())
    named = {**settings, "transformers_weights": "adapter_model.bin"}
    (model / "config.json").write_text(json.dumps(named))


@pytest.mark.parametrize("pickled", [as_pickle, as_adapter])
def test_a_pickle_is_never_loaded(folder: Path, tmp_path: Path, pickled) -> None:
    model = shutil.copytree(folder, tmp_path / "model")
    load_llm(LLMConfig(str(model), device="cpu"))
    pickled(model)
    with pytest.raises(ModelError, match="safetensors"):
        load_llm(LLMConfig(str(model), device="cpu"))


def test_threads_are_borrowed_not_kept(folder: Path) -> None:
    import torch

    llm = load_llm(LLMConfig(str(folder), device="cpu", threads=2))
    before = torch.get_num_threads()
    with llm.inference():
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
    assert 1 <= idle_threads() <= before


def test_finding_and_fingerprinting_import_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys\n"
        "from lumos_core.config import NodeConfig, RunConfig\n"
        "from lumos_core.data.catalog import Catalog\n"
        "from lumos_core.views.writers.choose import view_factory\n"
        f"config = RunConfig(llm={str(folder)!r})\n"
        "view_factory(config, NodeConfig(data='x'), Catalog(('a',), ('b',)))\n"
        "print([m for m in ('transformers', 'torch', 'sklearn', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def _compute_slowly(path: Path, log: Path) -> None:
    def compute(pieces: Pieces) -> dict[str, np.ndarray]:
        with log.open("a") as file:
            file.write("computed\n")
        time.sleep(0.5)
        return {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}

    np.testing.assert_array_equal(cached_arrays(path, compute)["x"][1], [3, 4, 5])


def test_several_processes_compute_a_table_once(tmp_path: Path) -> None:
    path, log = tmp_path / "tables" / "t.safetensors", tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_compute_slowly, args=(path, log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert log.read_text() == "computed\n"


def test_a_damaged_table_is_computed_again(tmp_path: Path) -> None:
    path, log = tmp_path / "t.safetensors", tmp_path / "log"
    _compute_slowly(path, log)
    path.write_bytes(path.read_bytes()[:10])
    _compute_slowly(path, log)
    assert log.read_text() == "computed\n" * 2
