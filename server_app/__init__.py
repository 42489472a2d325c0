"""The Flower ServerApp: it runs the round loop on the operator's machine.

`server` is the app, `grid_transport` the connection to the nodes. May import everything in
`lumos_core` but `cli`, `deployment` and `experiments`. Begin with `server`.
"""
