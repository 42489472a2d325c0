"""Experiments: methods, ablations and audits side by side, each run kept in a file.

variants      methods, ablations and controls by name: what each sets in the configuration
compare       runs variants × seeds on one prepared folder
jobs          runs in processes of their own; finished ones are not repeated
leakage       a curious server: guesses the items of a node's users from its delta
exposures     settings that are audited, by name: what each changes
audit         runs the attack under each of them
report        tables and pictures

Attacks by malicious nodes have a package of their own (`lumos_core/attacks/`). Nothing of this
travels to nodes.
"""
