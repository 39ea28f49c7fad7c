"""The report of a run or an audit: numbers, a verdict on them, and both as a table, a page and figures."""

from peft_unlearn.report.build import KINDS, SCHEMA, build, write
from peft_unlearn.report.reading import read
from peft_unlearn.report.tables import attack_table, conclusion, side_by_side, table

__all__ = ["KINDS", "SCHEMA", "attack_table", "build", "conclusion", "read", "side_by_side", "table", "write"]
