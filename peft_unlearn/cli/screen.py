"""The terminal that a command writes to."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(**how: Any) -> "Console":
    """A console that shows names and texts as they stand: brackets and colons of a folder or a model are no markup and no emoji."""
    from rich.console import Console

    return Console(markup=False, emoji=False, **how)
