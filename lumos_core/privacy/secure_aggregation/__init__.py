"""Secure aggregation: the server learns the sum of a round's uploads and no single one.

The protocol is that of Bonawitz et al. (CCS 2017) with every node every other's neighbour, in four
steps: advertise keys, share keys, masked upload, unmask. It survives nodes that drop out after any
step as long as a threshold of them is left.

========================  =====================================================================
``encoding``              deltas and counts ⇄ vectors of integers that add up modulo 2^32
``masks``                 keys → masks, and which sign they have
``primitives``            the cryptography that is needed; Flower's is bound in ``client_app``
``packets``               what the two sides say to each other, and how it is checked
``session``, ``store``    what a node has to remember between two steps, and where
``participant``           the node's side
``coordinator``           the server's side
========================  =====================================================================

``docs/secure-aggregation.md`` says what this protects from, and what not.
"""
