"""Fictional people, a small model that memorised them, and three methods that make it forget some."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)


def main(options: argparse.Namespace) -> None:
    pass
