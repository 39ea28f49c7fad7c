"""A report as small as a card's tests need one."""

from verdicts import criterion, judged

REPORT = {
    "schema": 4,
    "definitions": "peft-unlearn",
    "run": {"model": "/home/someone/models/tiny"},
    "never_seen": {"kind": "retrained", "name": "/home/someone/models/twin"},
    "results": {
        "forget": {
            "before": {"extraction_strength": {"mean": 0.98765, "n": 7, "rows": [], "interval": [0.95, 1.0]}},
            "after": {
                "extraction_strength": {"mean": 0.01234, "n": 7, "rows": [], "interval": [0.0, 0.123]},
                "rouge_l": {"mean": None, "n": 7, "rows": [], "interval": None},
            },
        },
        "retain": {"after": {"extraction_strength": {"mean": 0.9, "n": 9, "rows": [], "interval": None}}},
    },
    "differences": {},
    "groups": {},
    "verdict": judged("SUPPRESSED", [criterion("worst_of_k"), criterion("rouge_l", "passed")])["verdict"],
    "curve": [],
}
