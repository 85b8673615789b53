"""``twistd torsocks``: options, listeners, the running service and its workers."""
