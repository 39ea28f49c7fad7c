"""Inputs that cannot be right, by kind, and what a command answers to each."""
