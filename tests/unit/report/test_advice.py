"""What a report says to do next."""

import pytest

from peft_unlearn.report import advice
from peft_unlearn.report import criteria as c


@pytest.mark.parametrize(("stop_at", "told"), [("none", True), ("auto", False), ("never_seen", False)])
def test_who_stops_early_already_is_not_told_to(stop_at, told):
    said = list(advice._mend(c.COLLAPSED, {"degenerate"}, {"settings": {"stop_at": stop_at}}))
    assert any(text.startswith("Push less:") for text in said)
    assert any("stop_at" in text for text in said) is told
