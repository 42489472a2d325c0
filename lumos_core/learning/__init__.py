"""SASRec and what trains it: model, objectives, batches, training, evaluation. Begin with `model`.

`parameters` and `metrics` need no torch: a server and a status line go without it.
"""
