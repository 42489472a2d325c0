"""The messages between server and nodes, and the checks that they must pass. Begin with `messages`.

Nothing here knows of a network: `flower/` and the two apps carry messages between machines,
`federation.in_process` within one process. May import `learning`, `config`, `plugins` and what lies
below them.
"""
