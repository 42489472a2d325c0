"""Examples in docstrings do what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import lumos_core

PACKAGE = Path(lumos_core.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    found = doctest.testmod(import_module(module), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("name", lumos_core.__all__)
def test_what_lumos_core_offers_has_an_example(name: str) -> None:
    assert ">>> " in (getattr(lumos_core, name).__doc__ or "")


def test_the_face_is_complete_and_says_so() -> None:
    assert set(lumos_core.__all__) <= set(dir(lumos_core))
    with pytest.raises(AttributeError, match="has no attribute 'Katalog'"):
        lumos_core.Katalog  # noqa: B018
