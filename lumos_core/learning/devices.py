"""Checks that torch can compute on a device, before anything is loaded onto it."""

from lumos_core.errors import ConfigError


def check_device(name: str) -> None:
    """Check that torch knows a device and that this machine has it; nothing is put onto it.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
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
    # torch stores the number in eight bits: that of cuda:999 becomes negative
    if wanted.type != "cpu" and not 0 <= (wanted.index or 0) < count:
        raise ConfigError(
            f"device = {name!r}: torch {torch.__version__} can use {count} devices of type "
            f"{wanted.type} on this machine; expected one of them, or cpu"
        )


def _count(kind: str) -> int:
    """How many devices of a type this machine has."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.accelerator.device_count() if found is not None and found.type == kind else 0
