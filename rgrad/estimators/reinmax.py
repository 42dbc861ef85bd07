"""ReinMax: straight-through, corrected to second order. **Biased** gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rgrad.autodiff import first_order
from rgrad.backend.noise import split
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.relaxations import relaxation
from rgrad.estimators.relaxed import check_temperature, of_relaxed
from rgrad.protocols import Distribution, Objective


def reinmax(f: Objective, q: Distribution, key: Array, n: int, *, temperature: ArrayLike = 1.0) -> Array:
    """ReinMax: f of the sample, differentiated through the mean of the sample and its probabilities. **Biased** gradient.

        terms_i = f(x_i)   with   d x_i = 2 J((x_i + p) / 2) dlogits - J(p) dlogits / 2,    J(p) = diag(p) - p p'

    Here p are the probabilities, divided by the temperature in the logits in the first term. For bits, `J(p) = p (1 - p)`.
    `q` is a Bernoulli, a OneHotCategorical or a vector of them. Needs an f that is differentiable at the values of `q`,
    which it receives as floats.

    The value is unbiased. At temperature 1 the gradient is unbiased if f is quadratic in each variable (with
    `straight_through`, only if it is linear). For one bit its mean is `(f'(0) + f'(1)) / 2 dp`, the trapezoidal rule for
    the correct `(f(1) - f(0)) dp`. `straight_through` weights the two slopes by the probabilities instead. So ReinMax
    is **worse than straight-through where the larger slope is at the less likely value**: for x^3 it is 1.5 times and
    straight-through 3 p times the truth, which is nearer for 1/6 < p < 1/2; for x^4, 2 times and 4 p times, which is
    nearer for all p < 1/2. The gradient is not the derivative of any expectation, so a second derivative raises.

    Args:
        temperature: a number > 0. With another one than 1, a quadratic f has a biased gradient too.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        ValueError: `temperature <= 0`, `n < 1`, `q` has a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation; or, at trace time, a second derivative is taken.

    Example:
        >>> f = lambda x: (x - 0.3) ** 2  # quadratic, so there is no bias
        >>> loss = lambda logit: rgrad.expect(f, dist.Bernoulli(logits=logit), key, 10_000, rgrad.reinmax)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.2f}")  # the truth is 0.1
        0.10

    Source: Liu, Dong, Liu, Yu and Gao 2023, Bridging discrete and backpropagation: straight-through and beyond
    (algorithm 2), https://arxiv.org/abs/2304.08612.
    """
    base = base_of(q)
    check_draw(base, n, "reinmax")
    check_temperature(temperature, "reinmax")
    how = relaxation(base, "reinmax")
    f = of_relaxed(f, q, "reinmax")
    for_z, for_f = split(key)
    z = jax.lax.stop_gradient(how.sample(for_z, n))
    x = how.hard(z).astype(z.dtype)
    soft = 2 * how.along((x + how.soft(how.logits / temperature)) / 2) - how.along(how.soft(how.logits)) / 2
    x = first_order(x, [soft], [jnp.ones_like(soft)], "reinmax")
    terms = evaluate(f, with_keys(q, x, for_f), n, "reinmax")
    return refuse_never_drawn(terms, q, "reinmax")
