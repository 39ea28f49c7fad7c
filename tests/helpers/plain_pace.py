"""The pace of a run with targets once more, from everything that its checks have found so far."""

from peft_unlearn.training import pace


def side(miss: float) -> int:
    """1 where a target is missed from above, -1 from below, 0 within tolerance."""
    return (miss > 1) - (miss < -1)


def swings(found: list[tuple[int, int]]) -> list[bool]:
    """Whether each check found a target missed on the other side than where it was missed last."""
    return [
        any(found[n][k] == -next((sides[k] for sides in reversed(found[:n]) if sides[k]), 0) != 0 for k in (0, 1))
        for n in range(len(found))
    ]


def in_a_row(flags: list[bool]) -> int:
    """How many at the end are true."""
    return next((count for count, flag in enumerate(reversed(flags)) if not flag), len(flags))


def rate(history: list[tuple[float, float, float, bool, float]]) -> float:
    """Share of the learning rate after checks, of which each found (mean, membership, retain, whether it is near, answers), in tolerances."""
    found, share, top = [(side(mean), side(membership)) for mean, membership, *_ in history], 1.0, 1.0
    swung = swings(found)
    opposed = [near and 1 in sides and retain > 1 for sides, (_, _, retain, near, _) in zip(found, history, strict=True)]
    for n, (_, _, retain, near, answers) in enumerate(history):
        first = max(0, n - pace.SAME_SIDE + 1)
        last = found[first : n + 1]
        stuck = len(last) == pace.SAME_SIDE and any(set(sides) in ({1}, {-1}) for sides in zip(*last, strict=True))
        alone, torn = found[n] == (0, 0), opposed[n] and in_a_row(opposed[: n + 1]) % pace.SAME_SIDE == 0
        if near and (swung[n] or torn or (alone and retain <= 1 and 1 < answers <= 2)):
            share = max(pace.LOWEST, share * pace.FALL)
        elif near and not opposed[n] and (stuck or (alone and max(retain, answers) > 1 and not any(swung[first : n + 1]))):
            share = min(top, share * pace.RISE)
        stale = since(history[: n + 1])
        if stale and stale % pace.STALE == 0:
            top = max(pace.LOWEST, top * pace.FALL)
        share = min(share, top)
    return share


def weight(miss: float) -> float:
    """How many times objectives weigh what they are told to, by how many tolerances are missed of what they are for."""
    return min(pace.HEAVIEST, max(1.0, miss))


def since(history: list[tuple[float, float, float, bool, float]]) -> int:
    """Checks after the last one that was nearer than any before."""
    best, count = float("inf"), 0
    for mean, membership, retain, _, answers in history:
        missed = sum(max(0.0, miss - 1) for miss in (abs(mean), abs(membership), retain, answers))
        count += 1
        if missed < best * (1 - pace.GAINED):
            best, count = missed, 0
    return count
