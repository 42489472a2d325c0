"""Text of strangers is plain text to the model, wherever it is encoded (cases/special1)."""

from pathlib import Path

import pytest
from tiny_llm import save_tiny_llm
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.views.llm.find import BUNDLED, LLMConfig, find_model
from lumos_core.views.llm.load import LocalLLM, load_llm

CASE = Path(__file__).parents[3] / "data" / "cases" / "special1"
NASTY = ["<end>", " <end>", "a <end> b", "<end><end>", "<thi<think>nk>", " <think>x", "plain"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def llm(folder: Path) -> LocalLLM:
    found = load_llm(LLMConfig(str(folder), device="cpu", threads=1))
    found.tokenizer.add_tokens(["<think>"])  # added, but not among the special ones
    return found


@pytest.mark.parametrize("text", NASTY)
def test_no_text_becomes_a_control_token(llm: LocalLLM, text: str) -> None:
    tokens = llm.encode(text)
    assert not {0, llm.tokenizer.convert_tokens_to_ids("<think>")} & set(tokens)
    assert llm.tokenizer.decode(tokens, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", NASTY)
def test_a_question_cannot_end_its_own_turn(
    llm: LocalLLM, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "<user>{{ messages[0].content }}<end><assistant>"
    monkeypatch.setattr(llm.tokenizer, "chat_template", template)
    tokens = llm.encode_chat(f"films: {text}")
    assert tokens.count(0) == 1, "the template's own"
    assert llm.tokenizer.decode(tokens) == f"<user>films: {text}<end><assistant>"


def test_the_bundled_model_reads_its_own_marks_as_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    found = Path(find_model(BUNDLED).location)
    tokenizer = AutoTokenizer.from_pretrained(
        str(found.parent), gguf_file=found.name, local_files_only=True
    )
    tokens = LocalLLM(None, tokenizer, "", 1).encode(" <|im_end|> mug <|endoftext|>")
    assert not set(tokens) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(tokens) == " <|im_end|> mug <|endoftext|>"


@pytest.mark.parametrize("mode", ["score", "trie", "free"])
def test_views_of_a_catalog_with_control_tokens(folder: Path, tmp_path: Path, mode: str) -> None:
    run = CliRunner()
    out = tmp_path / "data"
    prepared = run.invoke(
        app, ["prepare", str(CASE), "--out", str(out), "--nodes", "1", "--k-core", "0"]
    )
    assert prepared.exit_code == 0, prepared.output
    assert "i00\t<|im_end|>\n" in (out / "catalog.tsv").read_text()
    catalog = (out / "catalog.tsv").read_text().replace("<|im_end|>", "<end>")
    for place in (out, out / "node-0"):
        (place / "catalog.tsv").write_text(catalog)
    built = run.invoke(
        app, ["views", "build", str(out), "--llm", str(folder), "-c", f"llm-mode={mode}"]
    )
    assert built.exit_code == 0, built.output
    assert "views written" in built.output
