"""The unlearning step, and what it is made of."""
