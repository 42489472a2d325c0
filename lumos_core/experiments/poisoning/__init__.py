"""Malicious nodes, and the bench that measures what they achieve (docs/attacks.md).

============= ==================================================================================
knowledge     what the attacker knows: a share of the honest interactions, and every global model
data          what malicious nodes train on: known users, noise, fake users
updates       what they send: sign flipped, noise, boosted, the target's row aligned
adapted       updates that use up what the server's bounds leave free
malicious     a node that puts both together and speaks the protocol
defences      names of what the server does about it
scenario      one scenario: who attacks whom, with what
bench         runs it: clean rounds, the attackers join, metrics of the honest users
suite, report many of them, resumable; table and heat map
============= ==================================================================================
"""
