import re

import pytest

from client_app import error_codes
from lumos_core.runs.advice import advice_for


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("error 'catalog-mismatch'", "catalog.tsv"),
        ("it answers with error 'foreign-app'; if it has", "approved-apps"),
        ("error 'below-floor-min-users'", "min-users in node.toml"),
        ("error 'secagg-refused'", "secure-aggregation"),
        ("error 'flower-1'", "comes back by itself"),
        ("no reply before the deadline", "round-timeout"),
        ("1 valid replies of 2 usable nodes, min-replies = 2", "max-failed-rounds"),
        ("nodes = 'tag:us' does not choose it; it has no tags", "add a tag"),
        ("its catalog is 'aaaa'…, the run's is 'bbbb'…", "lumos prepare"),
        ("a reason that nobody has heard of", "node.log"),
    ],
)
def test_every_reason_has_its_advice(reason: str, what: str) -> None:
    assert what in advice_for(reason)


def test_a_reason_that_says_what_to_install_needs_no_advice() -> None:
    assert advice_for("it has LUMOS 9, which speaks protocol 9: install lumos==9") == ""


def test_every_code_that_a_node_can_send_has_advice_of_its_own() -> None:
    codes = {code for _, code in error_codes._CODES} | {
        error_codes.CATALOG_MISMATCH, error_codes.FOREIGN_APP, error_codes.LEDGER_FAILED,
        error_codes.OTHER_PROTOCOL, error_codes.SECAGG_REFUSED, "internal-error",
    }  # fmt: skip
    nothing = advice_for("a reason that nobody has heard of")
    for code in codes:
        assert advice_for(f"error {code!r}") not in ("", nothing), code


def test_commands_in_advice_exist() -> None:
    import typer

    from lumos_core.cli.app import app
    from lumos_core.runs import advice

    root = typer.main.get_command(app)
    texts = [*advice._BY_CODE.values(), *(text for _, text in advice._BY_TEXT)]
    for name in re.findall(r"'?lumos ([a-z]+)", " ".join(texts)):
        assert name in root.list_commands(None)  # type: ignore[attr-defined, arg-type]
