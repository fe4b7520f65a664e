"""The verbs of the command line: they parse, call and print."""
