"""What the command line, a notebook or a benchmark calls: one function for each thing that the tool does."""
