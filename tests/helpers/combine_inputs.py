"""Random gradients, and what combiners make of them, for the tests of the baselines' combiners."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from peft_unlearn.combine import COMBINERS

BASELINES = {name: COMBINERS[name].function for name in ("gru", "blur", "mgda", "pcgrad")}
examples = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**32 - 1)


def gradients(seed, m, n=12, spread=1.0):
    """(m, n) gradients in random directions with norms within `spread` decades of one another, and coefficients between .1 and 3.

    In so few dimensions some are in conflict by far more than a rounding error, and some agree.
    """
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(m, n))
    G *= 10.0 ** rng.uniform(-spread, 0, size=(m, 1)) / np.linalg.norm(G, axis=1, keepdims=True)
    return G, rng.uniform(0.1, 3.0, size=m)


def weights(combiner, G, coefs=None):
    G = torch.as_tensor(G)
    return combiner(G @ G.T, None if coefs is None else torch.as_tensor(coefs)).numpy()


def direction(combiner, G, coefs=None):
    return weights(combiner, G, coefs) @ G


def unit(v):
    return v / np.linalg.norm(v)


def nearest_of_hull(G):
    """The point of the convex hull of G's rows nearest to 0, from min ||G'y||² + (1'y - 1)² over y >= 0: its y is a multiple of the shares."""
    y, _ = nnls(np.vstack([G.T, np.ones(len(G))]), np.append(np.zeros(G.shape[1]), 1.0))
    return y / y.sum() @ G
