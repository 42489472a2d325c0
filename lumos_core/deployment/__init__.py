"""Starting and watching a federation's processes: all of it on one computer, or one machine's part.

Begin with `superlink` and `follow`: a SuperLink, the run that is submitted to it, and its summary.
May import everything below it, but not Flower: it starts Flower's programs with the command lines
of `lumos_core.flower.commands`.

``plan``                the configuration and data of a run, checked before anything starts
``local``               one SuperLink with SuperNodes, or the simulation engine
``ray_cluster``         that engine on several machines; ``ray_facts`` asks what each of them has
``local_supernode``     one of these SuperNodes, started again when it has ended
``server_supervisor``   the server of a deployment; a process that dies is started again
``node_supervisor``     a node of a deployment; a process that dies is started again
``forgetting``          what is removed from a node's disk when a user is forgotten;
                        ``unfinished`` is the note of it while it goes on
``supervision``         what both share; ``registry`` is the server's list of nodes
``connection_log``      a SuperNode's connection, as its log tells it
``folders``             what ``lumos deploy init`` writes; ``credentials`` are its keys
``node_keys``           a node's key, made on its own machine; ``admission`` by its public half
``renewal``             new certificates; ``live_admission`` and ``live_certificates`` are how a
                        running server follows such changes
``checks``              what can be wrong with a machine; ``doctor`` reports all of it
``round_lines``         a run's events as lines on a terminal
``centralised_child``   the centralised baseline, trained during a run
``demo``                a whole deployment on one machine
"""
