"""The audits behind `lumos audit`: what deltas and models reveal about histories.

A curious server only looks: begin with `leakage`. An active one (``--active``) sends what it likes:
begin with `server_moves`.

=============== ================================================================================
leakage         the attack on one node's delta, and the measures of its success
settings        configurations under which nodes are attacked
audit           the attack over settings and sizes of nodes, and its table
server_moves    what an active server does, and what it sees
crafted_models  the models that it makes up
lone_cohorts    what a node answers to a sum of one
member_audit    what kept and published models tell about who was trained on
active_settings protections, which moves are made against which, owners' floors
active_audit    moves over protections and seeds
active_table    their tables
=============== ================================================================================
"""
