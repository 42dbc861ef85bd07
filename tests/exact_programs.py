"""The expected cost of a stochastic program, by quadrature and enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(24)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class Next(Exception):
    """The first draw that has no value, in `exactly`."""


def exactly(program, given=()):
    """The expected cost by quadrature over the Normals and sums over the discrete draws, differentiable.

    A scan is a Python loop.
    """
    after, position, costs = None, 0, 0.0

    def draw(q, estimator=None, name=None):
        nonlocal after, position
        position += 1
        if position <= len(given):
            return given[position - 1]
        after = q
        raise Next

    def cost(value):
        nonlocal costs
        costs = costs + (value if position == len(given) else 0.0)

    def scan(body, init, xs=None, length=None, name=None):
        carry, ys = init, []
        for t in range(len(jax.tree.leaves(xs)[0]) if length is None else length):
            carry, y = body(draw, carry, jax.tree.map(lambda x, t=t: x[t], xs))
            ys.append(y)
        return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)

    draw.cost, draw.scan = cost, scan
    try:
        last = program(draw)
        return costs + last
    except Next:
        pass
    rest = jax.vmap(lambda x: exactly(program, (*given, x)))
    if isinstance(after, dist.Normal):
        return costs + jnp.dot(WEIGHTS, rest(after.loc + after.scale * NODES))
    values = after.enumerate_support()
    return costs + jnp.dot(jnp.exp(after.log_prob(values)), rest(values))
