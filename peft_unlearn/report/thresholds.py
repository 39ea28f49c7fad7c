"""The lines that an attack must not cross, each with its reason, in one place. docs/audit.md has them in words."""

from typing import NamedTuple


class Line(NamedTuple):
    """`kind` says what is compared with `limit`.

    - recovered: the share of what was forgotten that comes back, at most
    - above never-seen: the number minus never-seen's under the same attack, at most
    - beside never-seen: the same, on either side
    - above after: the number minus what it is without the attack, at most
    - at least: the number itself
    """

    kind: str
    limit: float
    why: str


LINES = {
    "moved": Line("at least", 1.0, "a lora_B that never moved is a layer that did not train, and what is measured is another adapter"),
    "to_forget": Line("at least", 0.1, "as in the verdict: a share of less is noise over noise"),
    "precision": Line("recovered", 0.05, "rounding is nobody's attack: it happens to whoever ships the model"),
    "alpha": Line("at least", 0.9, "below it a tenth of the change is lost to rounding before anyone attacks"),
    "scale": Line(
        "recovered", 0.5, "half of the adapter should do half of the work: what comes back faster hangs by its last bit of strength"
    ),
    "relearning": Line("recovered", 0.2, "a model that never saw the set learns it too; what it learns faster by a fifth was still inside"),
    "prompts": Line("recovered", 0.1, "asking costs nothing; as much as the verdict lets be left"),
    "sampling": Line("above never-seen", 0.02, "as in the verdict: sampling costs nothing, and the interval bears the noise"),
    "membership": Line("beside never-seen", 0.1, "as in the verdict: remembered and pushed away are both visible"),
    "composition": Line("above after", 0.05, "a second request must not undo the first"),
}
