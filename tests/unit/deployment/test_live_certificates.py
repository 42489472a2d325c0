"""A server's certificates while it runs: dates, warnings, and renewal in any order of its files."""

import json
import shutil
import time
from pathlib import Path

import pytest
from cryptography import x509

from lumos_core.deployment import credentials, folders, renewal
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.live_certificates import (
    LOOK_SECONDS,
    Daily,
    LiveCertificates,
    RenewedError,
    authority_warnings,
    server_dates,
)
from lumos_core.runs.certificate_dates import FILE, CertificateDates

DAY = 86_400.0


@pytest.fixture
def kit(tmp_path: Path) -> ServerKit:
    folders.create(tmp_path / "deployment", ["10.0.0.1"], [], 9092, 100)
    (tmp_path / "run").mkdir()
    return ServerKit.read(tmp_path / "deployment" / "server")


class Watched:
    """A server's certificates, looked at every now and then."""

    def __init__(self, kit: ServerKit, run_dir: Path) -> None:
        self.told: list[str] = []
        self.now = 0.0
        self.live = LiveCertificates(kit, run_dir, self.told.append, lambda: self.now)

    def look(self) -> None:
        self.live.look()
        self.now += LOOK_SECONDS


def test_dates_are_noted_for_status_and_metrics(kit: ServerKit, tmp_path: Path) -> None:
    Watched(kit, tmp_path / "run")
    found = CertificateDates.of_run(tmp_path / "run").days()
    assert found.keys() == {"ca", "server"}
    assert 99 < found["server"] <= 100
    assert 3649 < found["ca"] <= 3650
    assert "expires" in json.loads((tmp_path / "run" / FILE).read_text())


def test_the_authority_that_counts_is_the_one_that_has_signed(kit: ServerKit) -> None:
    deployment = kit.folder.parent
    before = server_dates(kit)
    authority = renewal.Authority(deployment / "ca")
    renewal.replace_authority(deployment, authority, days=5)
    assert server_dates(kit) == before
    renewal.renew(deployment, authority)
    assert CertificateDates(**server_dates(kit).content()).days()["ca"] <= 5


def test_it_is_warned_30_days_before_and_once_a_day(kit: ServerKit, tmp_path: Path) -> None:
    deployment = kit.folder.parent
    renewal.renew(deployment, renewal.Authority(deployment / "ca"), days=29)
    watched = Watched(kit, tmp_path / "run")
    for _ in range(5):
        watched.look()
    [text] = watched.told
    assert "the server's certificate expires in 29 days, on 20" in text
    assert "lumos deploy renew" in text
    watched.now += DAY
    watched.look()
    assert len(watched.told) == 2


def test_nothing_is_said_while_nothing_expires(kit: ServerKit, tmp_path: Path) -> None:
    watched = Watched(kit, tmp_path / "run")
    for _ in range(5):
        watched.look()
    assert watched.told == []


def test_a_renewed_certificate_is_noticed(kit: ServerKit, tmp_path: Path) -> None:
    watched = Watched(kit, tmp_path / "run")
    watched.look()
    deployment = kit.folder.parent
    renewal.renew(deployment, renewal.Authority(deployment / "ca"))
    with pytest.raises(RenewedError, match="has a new certificate, valid for 825 days"):
        watched.look()
    Watched(kit, tmp_path / "run").look()  # the next start has it


@pytest.mark.parametrize("order", [("server.crt", "server.key"), ("server.key", "server.crt")])
def test_files_may_be_copied_one_after_the_other(
    order: tuple[str, str], kit: ServerKit, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(kit.folder.parent, elsewhere)
    renewal.renew(elsewhere, renewal.Authority(elsewhere / "ca"))
    watched = Watched(kit, tmp_path / "run")
    first, second = order
    shutil.copy2(elsewhere / "server" / first, kit.folder / first)
    watched.look()
    watched.look()
    if first == "server.crt":
        [text] = watched.told
        assert "server.key: is not the key of" in text
        assert "keeps its present certificate" in text
    shutil.copy2(elsewhere / "server" / second, kit.folder / second)
    with pytest.raises(RenewedError):
        watched.look()


@pytest.mark.parametrize("damage", ["gone", "half", "foreign", "expired"])
def test_a_certificate_that_cannot_be_used_is_not_taken(
    damage: str, kit: ServerKit, tmp_path: Path
) -> None:
    watched = Watched(kit, tmp_path / "run")
    if damage == "gone":
        kit.certificate.unlink()
    elif damage == "half":
        kit.certificate.write_bytes(kit.certificate.read_bytes()[:100])
    elif damage == "foreign":
        folders.create(tmp_path / "other", ["h.test"], [], 9092, 30)
        shutil.copy(tmp_path / "other" / "server" / "server.crt", kit.certificate)
    else:
        authority = kit.folder.parent / "ca"
        built, key = credentials.server_certificate(
            authority / "ca.crt", authority / "ca.key", ["10.0.0.1"], days=0
        )
        kit.certificate.write_bytes(built)
        kit.key.write_bytes(key)
        time.sleep(1.1)  # certificates have seconds
    for _ in range(3):
        watched.look()
    assert len(watched.told) == 1
    assert "until then the server keeps its present certificate" in watched.told[0]


def test_an_extended_authority_alone_is_no_reason_to_start_again(
    kit: ServerKit, tmp_path: Path
) -> None:
    watched = Watched(kit, tmp_path / "run")
    deployment = kit.folder.parent
    renewal.replace_authority(deployment, renewal.Authority(deployment / "ca"))
    watched.look()
    assert watched.told == []


# ---------------------------------------------------------------- at a node
def test_a_node_is_warned_of_its_ca_file(kit: ServerKit, tmp_path: Path) -> None:
    ca = Path(shutil.copy(kit.ca, tmp_path / "ca.crt"))
    assert authority_warnings(ca) == []
    key = kit.folder.parent / "ca" / "ca.key"
    ca.write_bytes(credentials.authority_certificate(key, days=10))
    [text] = authority_warnings(ca)
    assert text.startswith(f"{ca} expires in 10 days, on 20")
    assert "ask the server's operator for the new ca.crt" in text
    new = credentials.pem_of(x509.load_pem_x509_certificate(kit.ca.read_bytes()))
    ca.write_bytes(ca.read_bytes() + new)  # one that lasts is enough
    assert authority_warnings(ca) == []
    ca.unlink()
    assert authority_warnings(ca) == []


def test_daily_warnings_follow_what_there_is_to_say() -> None:
    told: list[str] = []
    warnings, now = ["[first]"], [0.0]
    daily = Daily(lambda: warnings, told.append, lambda: now[0])
    daily.look()
    warnings.clear()
    now[0] += DAY
    daily.look()
    assert told == ["[yellow]\\[first][/]"]


def test_dates_that_cannot_be_noted_end_nothing(kit: ServerKit, tmp_path: Path) -> None:
    (tmp_path / "run" / FILE).mkdir()
    watched = Watched(kit, tmp_path / "run")
    watched.look()
    [text] = watched.told
    assert "lumos status does not show when certificates expire" in text
