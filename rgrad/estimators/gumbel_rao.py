"""Gumbel-Rao: straight-through Gumbel-softmax, averaged over the noise that is consistent with the sample. **Biased**."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rgrad.autodiff import first_order
from rgrad.backend.noise import split
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.relaxations import relaxation
from rgrad.errors import Unsuitable
from rgrad.estimators.relaxed import check_temperature, of_relaxed
from rgrad.protocols import Distribution, Objective


def gumbel_rao(
    f: Objective, q: Distribution, key: Array, n: int, *, temperature: ArrayLike = 0.5, samples: int = 10
) -> Array:
    """Gumbel-Rao: `straight_through` with a temperature, with less noise and the same mean. **Biased** gradient.

        terms_i = f(x_i)   with   d x_i = mean_j d softmax(z_ij / temperature),   z_ij ~ noise given the sample x_i

    The sample x is the largest entry (or, for bits, the sign) of logits plus noise. Straight-through differentiates at
    the noise that x came from. Here the noise is drawn anew, given x, and its gradients are averaged
    (Rao-Blackwellization). So the variance is never larger, whatever f is, and the mean is the same. f is evaluated
    once for each sample, however many noises are drawn.

    `q` is a Bernoulli, a OneHotCategorical or a vector of them. Needs an f that is differentiable at the values of `q`,
    which it receives as floats. The value is unbiased. The bias of the gradient is that of `straight_through` at the
    same temperature. As the temperature goes to 0, it becomes that of `reinmax`, i.e. 0 for a quadratic f, and the
    variance grows. The gradient is not the derivative of any expectation, so a second derivative raises.

    Args:
        temperature: a number > 0.
        samples: how many noises are drawn for each sample, a Python int. Memory grows with it.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        ValueError: `samples < 1`, `temperature <= 0`, `n < 1`, `q` has a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation; or, at trace time, a second derivative is taken.

    Example:
        >>> f = lambda x: x**4
        >>> loss = lambda logit: rgrad.expect(f, dist.Bernoulli(logits=logit), key, 1000, rgrad.gumbel_rao)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.2f}")  # biased: the truth is 0.25
        0.42

    Source: Paulus, Maddison and Krause 2021, Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator,
    https://arxiv.org/abs/2010.04838.
    """
    base = base_of(q)
    check_draw(base, n, "gumbel_rao")
    check_temperature(temperature, "gumbel_rao")
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer) or samples < 1:
        raise Unsuitable(f"gumbel_rao: samples must be a Python int of at least 1, got {samples!r}")
    how = relaxation(base, "gumbel_rao")
    f = of_relaxed(f, q, "gumbel_rao")
    for_z, for_given, for_f = split(key, 3)
    hard = how.hard(how.sample(for_z, n))
    noises = jax.vmap(lambda k: how.given(hard, k))(split(for_given, samples))
    soft = (how.along(how.soft(noises / temperature)) / temperature).mean(0)
    x = first_order(hard.astype(soft.dtype), [soft], [jnp.ones_like(soft)], "gumbel_rao")
    terms = evaluate(f, with_keys(q, x, for_f), n, "gumbel_rao")
    return refuse_never_drawn(terms, q, "gumbel_rao")
