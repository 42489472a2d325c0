"""The comparison behind `lumos compare`: variants under equal conditions. Begin with `compare`.

================ ===============================================================================
variants         methods, ablations and controls by name: what each sets in the configuration
compare          runs of variants × seeds on one prepared folder
comparison_table results as a table and as curves
================ ===============================================================================
"""
