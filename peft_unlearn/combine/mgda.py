"""Multiple-gradient descent (MGDA): the shortest convex combination of the gradients."""

from itertools import chain, combinations

import torch
from torch import Tensor

from peft_unlearn.combine._active import on_active
from peft_unlearn.util.registry import combiner


@combiner(paper="1810.04650")
@on_active
def mgda(gramian: Tensor, coefs: Tensor) -> Tensor:
    """Multiple-gradient descent: the shortest vector between the gradients, which lowers all losses.

    d = sum_i a_i c_i g_i with a >= 0, sum a = 1 and ||d|| least: the point of the gradients' convex hull that is nearest to 0.

    Then c_i g_i·d >= ||d||² for every objective, with equality wherever a_i > 0: to first order, the losses that count fall at the same rate
    and the others faster. d = 0 means that no direction lowers all of them. d is left at its own length, at most that of the shortest
    gradient, so that a run comes to rest there; a preconditioned optimizer such as Adam keeps neither that nor the common descent.

    As the point nearest to 0 lies close to the shortest gradient, a larger coefficient makes an objective count *less*: for orthogonal
    gradients its weight a_i c_i goes as 1 / c_i.

    Args:
        gramian: (m, m) inner products of the objectives' gradients, fp64; the work grows as 2^m.
        coefs: (m,) coefficients of the objectives; ones if None.

    Returns:
        (m,) weights a_i c_i, fp64. An objective whose gradient is at most 1e-4 of the largest is left out (weight 0), or d would be 0; all NaN
        where the Gram matrix holds a non-finite entry.

    >>> mgda(torch.tensor([[1.0, -4.0], [-4.0, 64.0]]))
    tensor([0.9315, 0.0685], dtype=torch.float64)

    Source: Désidéri, 2012, doi 10.1016/j.crma.2012.03.014; for multi-task learning Sener and Koltun, 2018, arXiv 1810.04650.
    """
    hull = gramian * coefs.outer(coefs)
    hull = hull / hull.trace()  # of size 1, like the ones beside it in the system below
    # The nearest point lies inside some face of the hull, where it is also the nearest of the face's whole plane: of the planes' nearest
    # points that are in their face, the shortest is exact. Corners are always in theirs.
    corners = range(len(hull))
    faces = chain.from_iterable(combinations(corners, size) for size in range(1, len(hull) + 1))
    points = (_nearest_of_plane(hull, list(face)) for face in faces)
    inside = (point for point in points if (point >= 0).all())
    shares = min(inside, key=lambda point: float(point @ hull @ point), default=coefs)  # none, if no objective has a gradient
    return shares * coefs


def _nearest_of_plane(hull: Tensor, face: list[int]) -> Tensor:
    """The (m,) shares, of sum 1 and 0 outside `face`, of the point nearest to 0 in the plane through the face's gradients.

    With K their Gram matrix, K a = t 1 and 1'a = 1. Where the gradients lie in a plane of lower dimension the system has many solutions or,
    within rounding, none; any valid shares do no harm there, since a smaller face has the same point.
    """
    size = len(face)
    system = torch.ones(size + 1, size + 1, dtype=hull.dtype, device=hull.device)
    system[:size, :size], system[size, size] = hull[face][:, face], 0.0
    shares = torch.zeros(len(hull), dtype=hull.dtype, device=hull.device)
    shares[face] = torch.linalg.pinv(system, hermitian=True)[:size, size]
    return shares / shares.sum()
