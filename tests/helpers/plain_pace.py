"""The pace of a run with targets once more, from everything that its checks have found so far."""

from peft_unlearn.training import pace


def side(miss: float) -> int:
    """1 where a target is missed from above, -1 from below, 0 within tolerance."""
    return (miss > 1) - (miss < -1)


def rate(history: list[tuple[float, float, float, bool]]) -> float:
    """Share of the learning rate after checks, of which each found (mean, membership, retain, whether it is near), in tolerances."""
    found, share = [(side(mean), side(membership)) for mean, membership, _, _ in history], 1.0
    for n, (_, _, retain, near) in enumerate(history):
        now, before = found[n], found[n - 1] if n else (0, 0)
        last = found[max(0, n - pace.SAME_SIDE + 1) : n + 1]
        stuck = len(last) == pace.SAME_SIDE and any(set(sides) in ({1}, {-1}) for sides in zip(*last, strict=True))
        if not near:
            continue
        if -1 in (a * b for a, b in zip(now, before, strict=True)):
            share = max(pace.LOWEST, share * pace.FALL)
        elif stuck or (now == (0, 0) and retain > 1):
            share = min(1.0, share * pace.RISE)
    return share


def weight(history: list[tuple[float, float, float, bool]]) -> float:
    """How many times the objectives on the retain set weigh what they are told to."""
    return min(pace.HEAVIEST, max(1.0, history[-1][2])) if history else 1.0


def since(history: list[tuple[float, float, float, bool]]) -> int:
    """Checks after the last one that was nearer than any before."""
    best, count = float("inf"), 0
    for mean, membership, retain, _ in history:
        missed = sum(max(0.0, miss - 1) for miss in (abs(mean), abs(membership), retain))
        count += 1
        if missed < best * (1 - pace.GAINED):
            best, count = missed, 0
    return count
