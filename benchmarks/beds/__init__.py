"""Test beds: kinds of rows, invented or read from a folder, and tiny models that memorized them."""
