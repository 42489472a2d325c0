"""The audit behind `lumos audit`: what a reply reveals about histories. Begin with `leakage`.

======== ================================================================================
leakage  the attack on one node's delta, and the measures of its success
settings configurations under which nodes are attacked
audit    the attack over settings and sizes of nodes, and its table
======== ================================================================================
"""
