"""The comparison behind `lumos compare`: variants under equal conditions. Begin with `compare`.

================ ===============================================================================
variants         methods, ablations and controls by name: what each sets in the configuration
parts            which variant lacks which part of a method
compare          runs of variants × seeds on one prepared folder
tuning           the grid on the first seed, and the point chosen for a family of variants
variant_runs     one run: trains or counts, then ranks all users in one place
packed_ranks     a number of each user in a few kilobytes of text
intervals        the paired bootstrap over users and seeds
rarity           HR@20 by uses of the target in training
fairness         HR@20 by length of history, of nodes and of users
comparison_table results as tables: ``table.md``
curves_picture   validation by round: ``curves.png``
comparison_page  the same as a page: ``comparison.html``
================ ===============================================================================
"""
