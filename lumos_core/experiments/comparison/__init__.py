"""What `lumos compare` measures: variants under equal conditions. Begin with `compare`.

================ ===============================================================================
variants         methods, ablations and controls by name: what each sets in the configuration
compare          runs of variants × seeds on one prepared folder
comparison_table their results: table and curves
================ ===============================================================================
"""
