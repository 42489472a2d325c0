"""The devices that torch can compute on, looked at before anything is loaded onto one."""

from lumos_core.errors import ConfigError


def check_device(name: str) -> None:
    """Check that torch knows a device and that this machine has it; nothing is put onto it.

    Raises:
        ConfigError: it does not, or has not.
    """
    if name == "cpu":  # always there: no need to import torch
        return
    import torch

    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"device = {name!r}: torch knows no such device; expected one such as cpu, cuda or "
            "cuda:1"
        ) from None
    count = _count(wanted.type)
    # torch keeps the number in eight bits: of cuda:999 a negative one is left
    if wanted.type != "cpu" and not 0 <= (wanted.index or 0) < count:
        raise ConfigError(
            f"device = {name!r}: torch {torch.__version__} can use {count} devices of type "
            f"{wanted.type} on this machine; expected one of them, or cpu"
        )


def _count(kind: str) -> int:
    """Devices of a type that are here."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.accelerator.device_count() if found is not None and found.type == kind else 0
