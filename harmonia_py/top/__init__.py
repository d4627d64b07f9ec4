"""`harmonia-py top`: the figures of a running server, in a terminal. What is shown is worked out from two readings."""
