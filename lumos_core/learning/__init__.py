"""SASRec and its training: model, objectives, batches, training, evaluation. Begin with `model`.

May import `views`, `data`, `config` and what lies below them; nothing here knows of a federation.
`parameters` and `metrics` do not import torch, so that a server or a status line can use them
without it.
"""
