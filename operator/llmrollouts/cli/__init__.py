"""kubectl llm: the command line for people."""
