"""Why an onion service could not be reached: tor's events, what they prove, and the code for it.

It must not know the stream that failed, and gives no reason that events do not prove. Begin
reading in ``observer``; ``events``, ``tracker`` and ``diagnosis`` are pure.
"""
