"""What travels between server and nodes, and the checks it must pass. Begin with `messages`.

No network in here: `flower/` carries it between machines, `federation.in_process` within one.
"""
