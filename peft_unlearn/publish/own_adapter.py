"""What a model card says of the user's own adapter: where it is now, and what the model was before."""

from dataclasses import dataclass

ROWS = {"stack": "trained on top of", "continue": "holds", "merge": "trained on top of, merged into the base"}
BEFORE = {"stack": "with {} alone", "continue": "with {} as it was", "merge": "with {} merged into it"}


@dataclass(frozen=True)
class Own:
    """Its name as Markdown (empty: there is none), the `adapter_mode` of the forgetting, and what it was called before any, if it has had some."""

    name: str
    mode: str = "stack"
    first: str = ""

    @property
    def row(self) -> str:
        """A row of a table."""
        return f"\n| {ROWS[self.mode]} | {self.name} |" if self.name else ""

    @property
    def whole(self) -> str:
        """A paragraph, where the adapter takes the place of the user's own."""
        held = f"It is {self.name} with the forgetting in it, and is used in its place.\n\n"
        return held if self.name and self.mode == "continue" else ""

    @property
    def before(self) -> str:
        return f"the same base {BEFORE[self.mode].format(self.first or self.name)}" if self.name else "the same base with the adapter off"

    @property
    def both(self) -> str:
        """What one must have to see the model before and after."""
        return f"the base, {self.name} as it was, and this adapter" if self.name else "the base and this adapter"


ALONE = Own("")
