"""Malicious nodes, and the bench that measures what they achieve (docs/attacks.md).

================ ===============================================================================
knowledge        what the attacker knows: a share of the honest interactions, every global model
poisoned_users   what malicious nodes train on: known users, noise, fake users
updates          what they send: sign flipped, noise, boosted, the target's row aligned
adapted_updates  updates that use up what the server's bounds leave free
malicious_node   a node that puts both together and speaks the protocol
defences         names of what the server does about it
scenarios        who attacks whom, with what; suites of that
bench            runs a scenario: clean rounds, the attackers join, metrics of the honest users
suite            many runs: methods × scenarios × seeds
attack_table     their results: table and heat map
================ ===============================================================================
"""
