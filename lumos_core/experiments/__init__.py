"""Experiments: methods, attacks and audits, compared under equal conditions.

============= ==================================================================================
jobs          runs of a suite, each in its own process; finished runs are not repeated
results_file  measurements of finished runs: ``results.jsonl``, one line per run
comparison/   `lumos compare`: methods, ablations and controls
poisoning/    `lumos attack`: malicious nodes, and what they achieve
inference/    `lumos audit`: what a reply reveals about histories
============= ==================================================================================

To add a suite, begin with :class:`~lumos_core.experiments.jobs.Job`: a suite defines its jobs. May
import everything below it, but not Flower. Flower does not send this package to nodes.
"""
