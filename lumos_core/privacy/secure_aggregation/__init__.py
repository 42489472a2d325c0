"""Secure aggregation: the server learns the sum of a round's uploads, but no single upload.

The protocol is that of Bonawitz et al. (CCS 2017), where every node shares masks with every other,
in four steps: advertise keys, share keys, masked upload, unmask. Nodes may drop out after any step,
as long as a threshold of them is left.

==============================  ===============================================================
``participant``                 the node's side: a table of its steps
``coordinator``                 the server's side
``packets``                     the messages between the two sides, and how they are checked
``session``, ``session_store``  what a node remembers between two steps, and where it is stored
``encoding``                    deltas and counts ⇄ vectors of integers that add up modulo 2^32
``masks``                       keys → masks, and the sign of each mask
``primitives``                  the cryptographic functions that the protocol needs, as a type;
                                ``lumos_core.flower.cryptography`` implements them with Flower's
==============================  ===============================================================

Begin with `participant`. May import what `privacy` may import. ``docs/secure-aggregation.md`` says
what this protects against, and what it does not.
"""
