"""The parts that several commands have: options, the configuration and what it opens, output, paths."""
