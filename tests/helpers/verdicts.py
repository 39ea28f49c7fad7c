"""Reports with a verdict that is made up and judged by nobody, for what is shown of them."""

from itertools import product

FORGETTING = ("COLLAPSED", "NOT FORGOTTEN", "SUPPRESSED", "OVER-FORGOTTEN", "NOT SHOWN", "FORGOTTEN AS TESTED", None)
STATES = ("passed", "failed", "not shown", "not measured")


def criterion(name: str = "extraction_strength", state: str = "failed", **changes) -> dict:
    text = f"{name} is {state} (at most 15%)."
    found = {
        "name": name,
        "word": "NOT FORGOTTEN",
        "question": "Does it write the answers?",
        "state": state,
        "text": text,
    }
    found |= {"value": 0.45, "interval": [0.4, 0.55], "threshold": 0.15, "reference": 0.02, "n": 48, "groups": 48}
    return found | {"power": "48 rows would have shown a difference of 0.02 in 95 of 100 cases", "rows_needed": None} | changes


def every_state() -> list[dict]:
    """Criteria of all names that are written in a way of their own, in every state, each with a text of its own."""
    names = (
        "extraction_strength",
        "kept_probability",
        "loss_beyond",
        "membership_above",
        "known_rows",
        "recited_rows",
        "attack_prompts",
        "x",
    )
    found = [criterion(name, state, text=f"{name}, {state}: told.", question=f"Is {name} right?") for name, state in product(names, STATES)]
    empty = {"value": None, "interval": None, "threshold": None, "question": "Are the numbers finite?"}
    bare = [criterion("finite_forget_loss", state, text=f"bare, {state}.", **empty) for state in STATES]
    return [*found, *bare]


def judged(word: str | None = "NOT FORGOTTEN", criteria: list[dict] | None = None, **changes) -> dict:
    """A report of 3 forget rows under three models, with this verdict; `changes` are of the verdict."""
    criteria = [criterion()] if criteria is None else criteria
    failed = [found["text"] for found in criteria if found["state"] == "failed"]
    open_ = [f"Not shown: {found['text']}" for found in criteria if found["state"] == "not shown"]
    entry = {"mean": 0.5, "n": 3, "interval": [0.4, 0.6], "rows": [0.4, 0.5, 0.6]}
    verdict = {"word": word, "reasons": [*failed, *open_] or ["Nothing else decides."], "next": [], "criteria": criteria, "training": []}
    verdict |= {"reference": {"kind": "paired", "text": "The forget rows are compared with the twin; in detail."}, "three_samples": None}
    verdict |= {"worst_rows": [], "thresholds": {"left": 0.15}} | changes
    return {
        "schema": 4,
        "definitions": "peft-unlearn",
        "run": {"settings": {"method": "npo"}},
        "never_seen": {"kind": "retrained", "name": "twin"},
        "results": {"forget": {view: {"loss": dict(entry)} for view in ("before", "after", "never_seen")}},
        "groups": {},
        "differences": {},
        "curve": [],
        "verdict": verdict,
    }


def last_line(verdict: dict) -> str:
    """What the terminal must end with."""
    return f"VERDICT: {verdict['word']}" if verdict["word"] else "NO VERDICT"
