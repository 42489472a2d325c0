"""The Flower ClientApp: the code that runs on a node's machine, where its private histories are.

`client` answers messages, `duties` says what a node does for each kind of message. May import
everything in `lumos_core` but `cli`, `deployment` and `experiments`. Begin with `duties`.
"""
