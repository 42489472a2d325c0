"""What is refused for clients with one user, and how they are called."""

import subprocess
import sys

import pytest

from lumos_core.config import METHODS, RunConfig
from lumos_core.errors import ConfigError
from lumos_core.federation.one_user_clients import check_one_user_clients, client_names


def test_methods_whose_loss_is_of_one_user_are_taken() -> None:
    for name, method in METHODS.items():
        if method.per_user:
            check_one_user_clients(RunConfig(method=name))
        else:
            with pytest.raises(ConfigError, match=rf"method = {name} .* its loss is 0; choose one"):
                check_one_user_clients(RunConfig(method=name))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RunConfig(dp="user"), r"dp = user .* choose dp = distributed or central"),
        (RunConfig(secure_aggregation=True, min_nodes=3, min_replies=3), "secure-aggregation"),
    ],
)
def test_what_cannot_be_is_refused_by_name(config: RunConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_one_user_clients(config)


def test_the_checks_need_no_torch() -> None:
    code = "import sys, lumos_core.federation.one_user_clients;sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_are_sorted_and_hold_no_ids() -> None:
    assert client_names(3) == ["client-0", "client-1", "client-2"]
    many = client_names(1001)
    assert many == sorted(many)
    assert client_names(0) == []
