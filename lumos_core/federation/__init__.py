"""The federation: the round loop of the server, the nodes that it asks, the aggregation of deltas.

`round_loop` is the server's side (`gathering` waits for the replies of a round, `run_models` keeps
its models), `node` the other one, `owner_floor` what a node's owner allows a run to ask,
`aggregation/` makes one delta of many, and `simulate` runs all of it in one process,
with nodes (`in_process`) or with one user a client (`population`).
May import everything below it (`privacy`, `wire`, `runs`, `learning`, `views`, `data`, `config`),
but not Flower. Begin with `round_loop`, then `node`.
"""
