"""The verdict on what the attacks of an audit found."""

from made_reports import BEFORE, built


def attack(passed: bool | None, **changes) -> dict:
    """An attack with one number that has a threshold, as an audit writes it."""
    finding = {
        "threshold": "prompts",
        "limit": 0.1,
        "mean": 0.3,
        "recovered": 0.2,
        "passed": passed,
        "text": "examples of the same kind: extraction strength 0.300, 0.050 without it.",
    }
    return {
        "title": "",
        "quick": True,
        "passed": passed,
        "reason": None if passed is not None else "its rows are too few to tell",
        "findings": [finding],
    } | changes


def test_forgotten_as_tested_only_where_the_attacks_are_passed():
    def judged(**attacks) -> dict:
        return built({}, attacks=attacks)["verdict"]

    assert any(reason.startswith("Not attacked") for reason in built({})["verdict"]["reasons"])
    passed = judged(sanity=attack(True), prompts=attack(True))
    assert passed["word"] == "FORGOTTEN AS TESTED"
    assert any(reason.startswith("prompts, examples of the same kind") for reason in passed["reasons"])
    assert not any("Not attacked" in reason or "Not told" in reason for reason in passed["reasons"])
    failed = judged(sanity=attack(True), prompts=attack(False))
    assert failed["word"] == "SUPPRESSED"
    assert failed["reasons"][0].startswith("prompts, examples of the same kind")
    unsure = judged(sanity=attack(True), prompts=attack(None))
    assert unsure["word"] == "NOT SHOWN"
    assert unsure["reasons"][0].startswith("Not shown: prompts")
    unmade = judged(sanity=attack(True), prompts=attack(None, findings=[], reason="it was not made"))
    assert "Not told, the attack prompts: it was not made." in unmade["reasons"]
    reported = judged(
        sanity=attack(True), lens=attack(None, findings=[{"threshold": None, "limit": None, "mean": 0.1, "passed": None, "text": ""}])
    )
    assert not any("lens: " in reason and "Not told" in reason for reason in reported["reasons"])


def test_what_could_not_be_measured_is_not_told():
    lost = {"threshold": "moved", "limit": None, "mean": None, "passed": None, "text": "modules that moved: share could not be measured."}
    found = built({}, attacks={"sanity": attack(True, findings=[lost])})["verdict"]
    assert found["word"] == "FORGOTTEN AS TESTED"
    assert "Not told, sanity, modules that moved: share could not be measured." in found["reasons"]


def test_an_adapter_without_sanity_is_no_verdict_and_what_is_left_counts_before_any_attack():
    assert built({}, attacks={"sanity": attack(False)})["verdict"]["word"] is None
    assert built(BEFORE, attacks={"sanity": attack(False)})["verdict"]["word"] == "NOT FORGOTTEN"
    assert built({"loss": 3.0, "probability": 0.05}, attacks={"scale": attack(False)})["verdict"]["word"] == "SUPPRESSED"
