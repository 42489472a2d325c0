"""Differential privacy: the noise, where it comes from, and the (ε, δ) that it guarantees.

=============  =============================================================================
central        nodes clip their delta to ``dp-clip`` = C; the server clips again (it trusts no
               node), takes the plain mean of n and adds N(0, (z·C / n)²) to every value
distributed    nodes clip and each adds N(0, (z·C)² / m), m = ``min-replies``: any sum that the
               server forms has at least the noise of the central one
user           nodes train with DP-SGD, see :mod:`lumos_core.privacy.dp_sgd`
=============  =============================================================================

ε comes from Opacus' RDP accountant (an upper bound). It holds for adding or removing a whole node,
or with ``user`` a whole user. Nodes are sampled by a public seed, so this sampling hides no node,
and no privacy amplification is counted for it. Instead all rounds that a node took part in are
composed, and the node with the largest ε counts. Sampling of users inside a node is secret and
Poisson, so there amplification is counted.

**Where noise comes from.** Noise from a seed that others know hides nothing, so the run's seed is
not used. The server takes its randomness from the operating system. A node derives it from a key
that never leaves the node and from the values that the noise protects (as RFC 6979 does for
signatures). A round that is repeated, after a crash or a failed round, then gives the same reply
and reveals nothing new, while any change of model, data or round gives independent noise.
``dp-noise-seed`` ≥ 0 replaces both sources by a public seed, for tests and experiments, and gives
up the guarantee.

Begin with `mechanisms`. `noise` holds the sources of randomness, `budget` counts ε of a run,
`node_budget` that of all runs of a node, `ledger_file` has what left it and `ledger_report` puts
the two together, `dp_sgd` trains with ``dp = user``, `secure_aggregation/` hides single deltas in
their sum. May import `wire`, `runs`, `learning`, `config` and what lies below them, but not
`federation` and not Flower.
"""
