"""``twistd torsocks`` and ``torsocks-tx``: options, listeners, the running service and its workers.

Nothing else may import from here: applications that embed a server use the factories. Begin reading
in ``tap``, where options become a service.
"""
