"""The part of LUMOS that knows Flower, besides the two apps. Begin with `commands`.

``commands``           Flower's programs as command lines, their environment and files
``records``            Flower records ⇄ plain values: the content of every message
``registered_nodes``   the file that maps the names of nodes to Flower's ids
``cryptography``       Flower's cryptography for secure aggregation
``preload``            ClientApps that start fast, with ``preload_server`` and ``preload_stub``
``app_archive``        the files of an app and their digest, read within limits
``app_gate``           a SuperNode that runs only the app that its owner approved; with
                       ``gated_superexec`` and ``gated_clientapp``, which start and run nothing else
``live_supernode``     the program of every SuperNode, which ends when it cannot work any more
``fast_polling``       shorter waits inside Flower
``steady_connection``  a SuperNode's connection that survives faults which pass
``whole_replies``      replies that travel as a whole or not at all
``failed_tasks``       what becomes of a task whose process has died
``failing_database``   nothing is lost when a SuperLink's database fails
``live_superexec``     the program of every SuperExec
``bounded_link``       limits of what a node can store in a SuperLink
``bounded_pulls``      limits of what the ServerApp fetches of a reply

May import everything below it; outside this package only the two apps may import Flower.
"""
