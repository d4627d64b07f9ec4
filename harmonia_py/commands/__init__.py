"""The verbs of the command line, a module each: `add_arguments` for its options, `run` from them to the exit status."""
