"""Starting and watching Flower's processes on this machine. No Flower import: only subprocesses.

``processes``    children that end with their parent
``flower``       Flower's environment, command lines and app folder
``local``        one SuperLink with SuperNodes, or the simulation engine; submit a run and follow it
``progress``     a run's events as lines on a terminal
"""
