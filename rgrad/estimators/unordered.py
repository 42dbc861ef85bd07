"""Sampling without replacement: the unordered-set estimator, whose samples are all different."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rgrad.backend.kinds import gumbel
from rgrad.backend.noise import split
from rgrad.distributions.counts import of_counts
from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.probabilities import probability, refuse_never_drawn
from rgrad.distributions.wrappers import name_of
from rgrad.errors import NoRule, Unsuitable
from rgrad.estimators.enumerated import enumerated, support_of
from rgrad.protocols import Distribution, Objective

MOST = 10  # values in a group: the weights are sums over all 2^k subsets
GROUP = 4  # values in a group by default


def unordered(f: Objective, q: Distribution, key: Array, n: int, *, k: int = GROUP, limit: int = 2**16) -> Array:
    """The unordered-set estimator: k different values of q, drawn without replacement, and a baseline from all of them.

        terms_i = sum_s q(s) R(S_i, s) (f(s) - b_s) + a constant,    s in S_i,  R(S, s) = P(S without s | s is first) / P(S)
        b_s     = sum_t q(t) R'(S_i, t) f(t),                        t in S_i

    S_i is a set of k values, in the order of the Gumbel top-k trick, which is then forgotten. P(S) is the probability
    that the first k draws are S. R' is the same ratio after s has been removed, with R'(S, s) = 1. The constant makes
    the value of a term `sum_s q(s) R(S_i, s) f(s)`.

    No evaluation of f is spent on a value that is already known. If k is the number K of values, there is no noise: then
    this is `enumerated`. **A few large groups are better than many small ones**, and the more so the less even q is. For
    20 categories with normal logits and 12 evaluations, the variance is 0.6 times that of the score function with
    `leave_one_out` with two groups of 6, 0.9 times with three groups of 4, and 1.8 times with six groups of 2.

    Needs a finite support that can be listed, as `enumerated` does: Categorical, OneHotCategorical, a few Bernoullis,
    ... f may be any function. Unbiased, and so are derivatives of every order. **One call costs n k evaluations of f.**

    Args:
        k: the number of values in a group, a Python int from 2 to 10, or at least K. The weights are sums over the 2^k
            subsets of a group, whatever f costs.
        limit: the largest support to list.

    Returns:
        Shape `(n,)`, per group. The groups are independent.

    Raises:
        ValueError: `k < 2`, because the baseline needs another value (`score_function` does not); k is larger than 10
            but smaller than K; the support has more than `limit` values; `n < 1`, `q` has a batch shape, or f returns a
            vector.
        NotImplementedError: the support is not finite, or cannot be listed.

    Example:
        >>> estimator = partial(rgrad.unordered, k=3)
        >>> loss = lambda a: rgrad.expect(lambda i: i**2, dist.Categorical(logits=a), key, 1000, estimator)
        >>> print(f"{jax.jit(jax.grad(loss))(jnp.zeros(4))[3]:.1f}")  # the truth is (9 - 3.5) / 4
        1.4

    Source: Kool, van Hoof and Welling 2020, Estimating gradients for discrete random variables by sampling without
    replacement, https://arxiv.org/abs/2002.06043.
    """
    base = base_of(q)
    check_draw(base, n, "unordered")
    if (together := dependent_draws(q)) is not None:
        raise NoRule(f"unordered has no rule for {name_of(q)}: it draws its own samples", f"pass q itself, not {together.prefix}(q)")  # fmt: skip
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"unordered: k must be a Python int (it is a shape and cannot be traced), got {k!r}")
    if k < 2:
        raise Unsuitable(
            f"unordered: k = {k}, but its baseline needs at least 2 different values; use k >= 2, or score_function"
        )
    points = support_of(base, limit, "unordered")
    if k >= len(points):
        return enumerated(f, q, key, n, limit=limit)
    if k > MOST:
        raise Unsuitable(
            f"unordered: k = {k}, but at most {MOST} values can be in a group, because the weights are sums over its 2^k "
            f"subsets; use k <= {MOST} and more groups, or all {len(points)} values"
        )
    largest = np.abs(points).max() if np.issubdtype(points.dtype, np.integer) else 0.0
    x, f = jnp.asarray(points), of_counts(f, q, "unordered", largest)
    of_all = jax.vmap(partial(probability, base))(x)
    p = lax.stop_gradient(of_all)
    for_draw, for_f = split(key)
    _, chosen = lax.top_k(jnp.log(p) + gumbel(for_draw, (n, len(p)), p.dtype), k)
    outside = jnp.where(jnp.zeros((n, len(p)), bool).at[jnp.arange(n)[:, None], chosen].set(True), 0.0, p).sum(-1)
    values = evaluate(f, with_keys(q, x[chosen.reshape(-1)], for_f), n * k, "unordered").reshape(n, k)
    # At a value of probability 0, f may be infinite, e.g. in 0 log 0.
    values = jnp.where((p[chosen] > 0) | jnp.isfinite(values), values, 0.0)
    every, without_one, without_two = _left_out(p[chosen], outside)
    weight = without_one / every[:, None] * of_all[chosen]
    others = without_two / without_one[..., None] * p[chosen][:, None, :]
    baseline = (others * lax.stop_gradient(values)[:, None, :]).sum(-1)
    centred = weight * (values - baseline)
    terms = centred.sum(-1) + lax.stop_gradient((weight * baseline).sum(-1))
    return refuse_never_drawn(terms, q, "unordered")


def _left_out(p: Array, outside: Array) -> tuple[Array, Array, Array]:
    """The probability that the first draws without replacement are all of a group, or all but the values removed from q.

    With B(T) the probability that the next draws, after those in T, are the others of the group,

        B(T) = sum_t p_t / (1 - p(T)) B(T and t),   t not in T,    B(all) = 1

    All summands are positive, so nothing cancels.

    Args:
        p: the probabilities of the values in each group, shape `(n, k)`.
        outside: the probability of all other values, shape `(n,)`.

    Returns:
        B without any value, shape `(n,)`; after each value, `(n, k)`; and after each pair, `(n, k, k)`. The diagonal is
        B after one value.
    """
    k = p.shape[-1]
    members = (np.arange(2**k)[:, None] >> np.arange(k) & 1).astype(bool)  # the values in each subset
    place = np.zeros(2**k, int)  # of a subset among those of its size
    found = [jnp.ones((len(p), 1), p.dtype)]
    for size in reversed(range(k)):
        place[members.sum(1) == size + 1] = np.arange(found[-1].shape[1])
        subsets = np.flatnonzero(members.sum(1) == size)
        free = np.stack([np.flatnonzero(~members[t]) for t in subsets])
        after = place[subsets[:, None] | 1 << free]
        rest = outside[:, None] + p[:, free].sum(-1)  # 1 - p(T), without cancellation
        total = (p[:, free] * found[-1][:, after]).sum(-1)
        found.append(jnp.where(rest > 0, total / jnp.where(rest > 0, rest, 1.0), 1.0))
    pair = 1 << np.arange(k)[:, None] | 1 << np.arange(k)
    place[members.sum(1) == 2] = np.arange(k * (k - 1) // 2)
    single = np.eye(k, dtype=bool)
    after_pair = jnp.where(single, found[-2][:, :, None], found[-3][:, np.where(single, 0, place[pair])])
    return found[-1][:, 0], found[-2], after_pair
