"""Experiments: methods, ablations and audits side by side, each run kept in a file.

variants      methods, ablations and controls by name: what each sets in the configuration
compare       runs variants × seeds on one prepared folder
jobs          runs in processes of their own; finished ones are not repeated
leakage       a curious server: guesses the items of a node's users from its delta
audit         runs that with and without defences
report        tables and pictures

Attacks by malicious nodes have a package of their own (`lumos_core/attacks/`). Nothing of this
travels to nodes.
"""
