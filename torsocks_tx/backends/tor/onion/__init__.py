"""Why an onion service could not be reached: tor's events, what they prove, and the code for it.

It must not know the stream that failed, and says nothing that no event proves. Begin reading in
``observer``; ``events``, ``history``, ``diagnosis`` and ``tracker`` are pure.
"""
