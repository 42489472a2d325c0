"""Our Adam is torch's, to the last bit, and does not import what makes torch's slow to start."""

import subprocess
import sys

import torch

from lumos_core.learning.adam import Adam


def trained(make):
    torch.manual_seed(0)
    parameters = [torch.randn(30, 8, requires_grad=True), torch.randn(5, requires_grad=True)]
    optimizer = make(parameters)
    for step in range(7):
        optimizer.zero_grad()
        for parameter in parameters[: 1 if step == 0 else 2]:  # one has no gradient at first
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return parameters


def test_every_bit_is_torchs():
    ours = trained(lambda p: Adam(p, lr=2e-3, weight_decay=1e-2))
    torchs = trained(lambda p: torch.optim.Adam(p, lr=2e-3, weight_decay=1e-2, fused=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))


def test_a_step_does_not_import_the_compiler():
    code = (
        "import sys, torch\nfrom lumos_core.learning.adam import Adam\n"
        "p = torch.ones(3, requires_grad=True); p.grad = torch.ones(3)\n"
        "Adam([p], 0.1, 0.0).step(); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
