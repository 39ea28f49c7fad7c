"""Gradients combined once more, one by one and in double precision: what the combiners make of a Gram matrix, of the gradients themselves."""

import torch


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def project(a, b):
    """The part of a along b."""
    return (a @ b) / (b @ b) * b


def combine(name, grads, coefs):
    grads = [g.double() for g in grads]
    if name == "weighted_sum":
        return sum(c * g for c, g in zip(coefs, grads, strict=True))
    longest = max(g.norm() for g in grads)
    kept = [(c, g) for c, g in zip(coefs, grads, strict=True) if g.norm() > 1e-4 * longest]
    if name == "ngdiff":
        return sum(c * g / g.norm() for c, g in kept)
    if name == "mollm":
        return dual_basis(kept)
    f, *others = (c * g for c, g in kept)
    assert others
    r = sum(others)  # retain, and whatever else is held
    if name == "gru":
        return (f - project(f, r) if f @ r < 0 else f) + r
    if name == "blur":
        return f + r - project(r, f)
    if name == "pcgrad":
        assert len(others) == 1
        return f - project(f, r) + r - project(r, f) if f @ r < 0 else f + r
    share = ((r - f) @ r / (r - f).square().sum()).clamp(0, 1)  # mgda: the point of the segment from r to f that is nearest to 0
    return share * f + (1 - share) * r


def dual_basis(kept):
    total = sum(c for c, _ in kept)
    units = torch.stack([g / g.norm() for _, g in kept])
    for cutoff in (1e-2, 1e-12):
        duals = torch.linalg.pinv(units, rtol=cutoff**0.5).T  # rows: each gradient less its projection on the others, up to length
        d = sum(c / total * dual / dual.norm() for (c, _), dual in zip(kept, duals, strict=True))
        if all(g @ d > 0 for _, g in kept):
            break
    return d * sum(c / total * g for c, g in kept).norm() / d.norm()
