"""A trained model in use: its recommendations, its file, its export.

Begin with `recommender`; `model_files` finds, reads and writes model files, and `export` makes a
folder of a run's best model. May import everything below it: `runs`, `wire`, `learning`, `views`,
`data` and what these import.
"""
