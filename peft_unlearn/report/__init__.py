"""The report of a run or an audit: numbers, a verdict on them, and both as a table, a page and figures."""

from peft_unlearn.report.build import KINDS, build, entries, side_by_side, table, union, write

__all__ = ["KINDS", "build", "entries", "side_by_side", "table", "union", "write"]
