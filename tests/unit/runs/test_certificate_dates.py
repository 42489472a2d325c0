"""certificates.json: when the server's certificates expire, as status and metrics tell it."""

import json
from pathlib import Path

import pytest

from lumos_core.errors import NewerFileError
from lumos_core.runs.certificate_dates import FILE, NAMES, REPAIRS, CertificateDates, warning

NOW = 1_800_000_000.0  # 2027-01-15
DAY = 86_400.0


def dates(server: float, ca: float) -> CertificateDates:
    return CertificateDates(expires={"server": NOW + server * DAY, "ca": NOW + ca * DAY})


def test_days_are_counted_from_now() -> None:
    assert dates(10, -1.5).days(NOW) == {"ca": -1.5, "server": 10.0}


@pytest.mark.parametrize(
    ("server", "ca", "sentences"),
    [
        (31, 31, []),
        (30, 30.1, []),
        (29.9, 31, ["the server's certificate expires in 30 days, on 2027-02-14: "]),
        (0.4, 400, ["the server's certificate expires in 0 days, on 2027-01-15: "]),
        (
            -2,
            3,
            [
                "the certificate of the server's authority expires in 3 days, on 2027-01-18: ",
                "the server's certificate expired on 2027-01-13: ",
            ],
        ),
    ],
)
def test_what_expires_within_30_days_is_said_with_its_repair(
    server: float, ca: float, sentences: list[str]
) -> None:
    found = dates(server, ca).warnings(NOW)
    assert [text[: len(sentence)] for text, sentence in zip(found, sentences, strict=True)] == (
        sentences
    )
    assert all("lumos deploy renew" in text for text in found)


def test_names_and_repairs_are_for_the_same() -> None:
    assert NAMES.keys() == REPAIRS.keys() == {"server", "ca"}
    assert warning("x", NOW, "", NOW) == "x expires in 0 days, on 2027-01-15"


def test_a_run_without_tls_or_with_a_damaged_file_has_no_dates(tmp_path: Path) -> None:
    assert CertificateDates.of_run(tmp_path).days() == {}
    (tmp_path / FILE).write_text('{"expires": {"server": "soon"}}')
    assert CertificateDates.of_run(tmp_path).days() == {}
    (tmp_path / FILE).write_text(json.dumps({"schema_version": 2}))
    with pytest.raises(NewerFileError):
        CertificateDates.of_run(tmp_path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    dates(1, 2).write(tmp_path / FILE)
    assert CertificateDates.of_run(tmp_path) == dates(1, 2)
