"""The GPU memory of a run, before it: the step is taken on tensors without data, and what it allocates is counted.

`meta.py` has the base and the adapters without weights, `stand_ins.py` what operations give whose result depends on values, `ledger.py` counts,
`step.py` takes the step, `memory.py` adds it all up and says what other settings would need. `host.py` refuses what a CPU's machine cannot hold.
"""

from peft_unlearn.planning.memory import CARDS, CONTEXT, FRAGMENTATION, GB, Base, Change, Memory, changes, measure, read_base

__all__ = ["CARDS", "CONTEXT", "FRAGMENTATION", "GB", "Base", "Change", "Memory", "changes", "measure", "read_base"]
