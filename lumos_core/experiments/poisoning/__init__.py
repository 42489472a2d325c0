"""Malicious nodes, and the bench that measures what they achieve (docs/attacks.md).

Begin with `scenarios` for what is run, or with `bench` for how.

================ ===============================================================================
knowledge        what the attacker knows: a share of the honest interactions, every global model
poisoned_users   what malicious nodes train on: known users, noise, fake users
updates          what they send: sign flipped, noise, boosted, the target's row aligned
adapted_updates  updates that are as large as the server's bounds allow
malicious_node   a node that trains on such users, sends such updates and speaks the protocol
defences         the server's defences, by name
scenarios        attacks and their sizes; suites of them
bench            runs a scenario: clean rounds, the attackers join, metrics of the honest users
suite            many runs: methods × scenarios × seeds
attack_table     results as a table and a heat map
================ ===============================================================================
"""
