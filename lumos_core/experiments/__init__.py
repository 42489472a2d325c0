"""Experiments: methods, attacks and audits side by side, under equal conditions.

============= ==================================================================================
jobs          runs of a suite, in processes of their own; finished ones are not repeated
results_file  what finished runs have measured: ``results.jsonl``, a line a run
comparison/   `lumos compare`: methods, ablations and controls
poisoning/    `lumos attack`: malicious nodes, and what they achieve
inference/    `lumos audit`: what a reply tells about histories
============= ==================================================================================

A suite says what its jobs are: to add one, begin with :class:`~lumos_core.experiments.jobs.Job`.
Nothing of this travels to nodes.
"""
