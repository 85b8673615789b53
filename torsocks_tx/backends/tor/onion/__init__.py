"""Why an onion service could not be reached: tor's events, what they prove, and the code for it."""
