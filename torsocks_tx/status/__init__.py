"""What a server counts, and how people and programs see it: status page, JSON, metrics, health.

Nothing here names a destination, a client or a user. Begin reading in ``registry``, where
everything is counted.
"""
