"""What holds for clients with one user each before any of them trains: names and configurations
that can be. Needs no torch, so that commands can check it at once."""

from lumos_core.config import METHODS, RunConfig
from lumos_core.config.run_keys import ENCODERS
from lumos_core.errors import ConfigError


def check_one_user_clients(config: RunConfig) -> None:
    """Check that clients with one user each can train together as a configuration says.

    Raises:
        ConfigError: names the key, and what to choose instead.
    """
    per_user = ", ".join(name for name, method in METHODS.items() if method.per_user)
    if not METHODS[config.method].per_user:
        raise ConfigError(
            f"method = {config.method} contrasts a user with the other users of its client; with "
            f"one user a client there are none, and its loss is 0; choose one of {per_user}"
        )
    if config.dp == "user":
        raise ConfigError(
            "dp = user hides one user of a client among its others; with one user a client choose "
            "dp = distributed or central, which hide the client"
        )
    if config.secure_aggregation:
        raise ConfigError(
            "secure-aggregation = true is not simulated for clients with one user each: its result "
            "is the plain sum; set it to false, or put the users on fewer nodes"
        )
    if config.close_at != 1 or config.over_select:
        raise ConfigError(
            f"close-at = {config.close_at:g}, over-select = {config.over_select:g}: clients with "
            "one user each train together, so none is late; set the two to 1 and 0"
        )
    if config.evaluation != "leave-one-out":
        raise ConfigError(
            f"evaluation = {config.evaluation} is for nodes that serve their users; clients with "
            "one user each are simulated to be measured: choose evaluation = leave-one-out"
        )
    if config.mode == "async":
        raise ConfigError(
            "mode = async: clients with one user each train together, so none is late; choose "
            "mode = sync"
        )
    if config.encoder not in ENCODERS:
        raise ConfigError(
            f"encoder = {config.encoder}: clients with one user each train together only with "
            f"{', '.join(ENCODERS)}"
        )


def client_names(users: int) -> list[str]:
    """Names of clients in the order of their users; sorted, and without the users' ids.

    >>> client_names(11)[9:]
    ['client-09', 'client-10']
    """
    digits = len(str(max(users - 1, 0)))
    return [f"client-{user:0{digits}d}" for user in range(users)]
