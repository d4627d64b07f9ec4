"""The verbs of the command line, each from its options to its exit status."""
