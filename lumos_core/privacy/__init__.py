"""Differential privacy: noise, its sources, and the (ε, δ) that it buys.

=============  =============================================================================
central        nodes clip their delta to ``dp-clip`` = C; the server clips again (it trusts
               nobody), takes the plain mean of n and adds N(0, (z·C / n)²) to every value
distributed    nodes clip and add N(0, (z·C)² / m) each, m = ``min-replies``: any sum the
               server forms has at least the noise of the central one
user           nodes train with DP-SGD, see :mod:`lumos_core.privacy.dp_sgd`
=============  =============================================================================

ε comes from Opacus' RDP accountant (an upper bound), for adding or removing a whole node, or with
``user`` a whole user. Nodes are sampled by a public seed, so sampling hides nobody and amplifies
nothing; instead, every node's own participations are composed, and the worst node counts. Sampling
of users inside a node is secret and Poisson, so there amplification is real.

**Where noise comes from.** A generator whose seed others know hides nothing, so the run's seed is
no source. The server draws from the operating system. A node draws from a key that never leaves it
and the very values that the noise protects (as RFC 6979 does for signatures): a round that is
repeated, after a crash or a failed round, then gives the same reply and reveals nothing new, while
any change of model, data or round gives independent noise. ``dp-noise-seed`` ≥ 0 replaces both by
a public seed, for tests and experiments, and gives up the guarantee.

Begin with `mechanisms`; `noise` is where randomness comes from, `budget` counts ε, `dp_sgd` trains
with ``dp = user``, `secure_aggregation/` hides single deltas in their sum.
"""
