"""docs/protocol.md is what the tables in the code say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def protocol_page() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "protocol_page", ROOT / "scripts" / "protocol_page.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_up_to_date(protocol_page: ModuleType) -> None:
    found = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert found == protocol_page.page(), "run 'make docs'"


def test_every_row_is_explained(protocol_page: ModuleType) -> None:
    page = protocol_page.page()
    assert ":class:" not in page, "essays are read as Markdown, too"
    tables = [line for line in page.splitlines() if line.startswith("|")]
    from client_app.duties import DUTIES
    from lumos_core.federation.closing import Standing
    from lumos_core.federation.outcomes import Ending, Outcome
    from lumos_core.privacy.secure_aggregation.participant import STEPS

    rows = [*DUTIES, *Outcome, *Ending, *STEPS, *Standing]
    assert len(tables) == 2 * 5 + len(rows)
    for duty in DUTIES.values():
        assert duty.work.__doc__
    for step in STEPS.values():
        assert step.take.__doc__
