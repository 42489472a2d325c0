"""Malicious nodes, and the bench that measures what they achieve (docs/attacks.md).

Begin with `scenarios` for what is run, or with `bench` for how.

================= ==============================================================================
knowledge         what the attacker knows: a share of the honest interactions, every global model
poisoned_users    what malicious nodes train on: known users, noise, fake users
updates           what they send: sign flipped, noise, boosted, the target's row aligned
adapted_updates   updates that are as large as the server's bounds allow
spattack          attacks that use that few nodes know an item
cluster_attack    items drawn together into clusters
hid_attack        a bandit over attacks, with deltas as long as honest ones
malicious_node    a node that trains on such users, sends such updates and speaks the protocol
defences          defences by name: configurations of a run
guards            defences that are more than a configuration
guarded_training  further losses of honest nodes: PIECK's regularisers, UNION's contrast
uniformity_filter UNION's filter on the server
scenarios         attacks and their sizes; suites of them
bench             runs a scenario: clean rounds, the attackers join, metrics of the honest users
suite             many runs: methods × scenarios × seeds
attack_table      results as a table and a heat map
================= ==============================================================================
"""
