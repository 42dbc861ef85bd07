"""Differentiable relaxations of discrete distributions: Gumbel-softmax and straight-through. Both are **biased**."""

from __future__ import annotations

from typing import Any

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
from rgrad.distributions.wrappers import name_of
from rgrad.errors import NoDerivative, NotApplicable
from rgrad.protocols import Distribution, Objective


def gumbel_softmax(f: Objective, q: Distribution, key: Array, n: int, *, temperature: ArrayLike = 0.5) -> Array:
    """Gumbel-softmax (Concrete): the expectation over a continuous relaxation of `q`. **Biased**, in the value too.

    With z = logits + noise, whose sign (or largest entry) is distributed as `q`:

        terms_i = f(sigmoid(z_i / temperature))     Bernoulli, logistic noise: a point in (0, 1)
        terms_i = f(softmax(z_i / temperature))     OneHotCategorical, Gumbel noise: a point inside the simplex

    Needs an f that is also defined between the values of `q`, as floats, and differentiable there almost everywhere.
    The bias is the difference between `E[f(relaxed)]` and `E[f(x)]`. It vanishes as the temperature goes to 0, but then
    the variance grows without bound. A linear f is biased as well. Derivatives of every order are those of the relaxed
    expectation.

    Args:
        temperature: a number > 0, which may be traced and differentiated.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        ValueError: `temperature <= 0`, `n < 1`, `q` has a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation: it is not a Bernoulli, a OneHotCategorical or a vector of them.

    Example:
        >>> f = lambda x: x**4
        >>> loss = lambda logit: rgrad.expect(f, dist.Bernoulli(logits=logit), key, 1000, rgrad.gumbel_softmax)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.2f}")  # biased: the truth is 0.25
        0.19

    Source: Jang, Gu and Poole 2017, Categorical reparameterization with Gumbel-softmax (eq. 2),
    https://arxiv.org/abs/1611.01144; Maddison, Mnih and Teh 2017, The Concrete distribution,
    https://arxiv.org/abs/1611.00712.
    """
    base = base_of(q)
    check_draw(base, n, "gumbel_softmax")
    check_temperature(temperature, "gumbel_softmax")
    how = relaxation(base, "gumbel_softmax")
    f = of_relaxed(f, q, "gumbel_softmax")
    for_z, for_f = split(key)
    x = how.soft(how.sample(for_z, n) / temperature)
    terms = evaluate(f, with_keys(q, x, for_f), n, "gumbel_softmax")
    return refuse_never_drawn(terms, q, "gumbel_softmax")


def straight_through(
    f: Objective, q: Distribution, key: Array, n: int, *, temperature: ArrayLike | None = None
) -> Array:
    """Straight-through: f of the sample, differentiated as if the sample were its relaxation. **Biased** gradient.

        terms_i = f(x_i)   with   d x_i = d p                                     temperature=None
                                  d x_i = d softmax(z_i / temperature)            straight-through Gumbel-softmax

    Here p are the probabilities, and x is the sign (or largest entry) of the noise z. Needs an f that is differentiable
    at the values of `q`, which it receives as floats.

    The value is unbiased. For one bit and temperature=None, the expected gradient is `(p f'(1) + (1 - p) f'(0)) dp`,
    while the correct one is `(f(1) - f(0)) dp`. The two agree for linear f and differ by `(2 p - 1) f''/2` for
    quadratic f, whatever the number of samples. The gradient is not the derivative of any expectation, so a second
    derivative raises.

    Args:
        temperature: a number > 0, or None.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        ValueError: `temperature <= 0`, `n < 1`, `q` has a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation; or, at trace time, a second derivative is taken.

    Example:
        >>> f = lambda x: x**4
        >>> loss = lambda logit: rgrad.expect(f, dist.Bernoulli(logits=logit), key, 1000, rgrad.straight_through)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.2f}")  # biased: the truth is 0.25
        0.49

    Source: Bengio, Leonard and Courville 2013, Estimating or propagating gradients through stochastic neurons for
    conditional computation, https://arxiv.org/abs/1308.3432; with a temperature: Jang, Gu and Poole 2017 (section 2.2),
    https://arxiv.org/abs/1611.01144.
    """
    base = base_of(q)
    check_draw(base, n, "straight_through")
    check_temperature(temperature, "straight_through")
    how = relaxation(base, "straight_through")
    f = of_relaxed(f, q, "straight_through")
    for_z, for_f = split(key)
    z = how.sample(for_z, n)
    soft = how.soft(jnp.broadcast_to(how.logits, z.shape) if temperature is None else z / temperature)
    x = first_order(how.hard(z).astype(soft.dtype), [soft], [jnp.ones_like(soft)], "straight_through")
    terms = evaluate(f, with_keys(q, x, for_f), n, "straight_through")
    return refuse_never_drawn(terms, q, "straight_through")


def check_temperature(temperature: ArrayLike | None, caller: str) -> None:
    """Raises ValueError if the temperature is known (not traced) and is not one positive, finite number."""
    if temperature is None or isinstance(temperature, jax.core.Tracer):
        return
    if jnp.shape(temperature) != () or not 0 < np.asarray(temperature) < np.inf:
        raise ValueError(f"{caller}: temperature must be one number > 0 (e.g. 0.5), got {temperature}")


def of_relaxed(f: Objective, q: Any, caller: str) -> Objective:
    """`f`, which raises `NoDerivative` if it accepts the samples of `q` but not the points between them.

    For example, f may use its sample as an index. An error that f also raises for samples is not changed.
    """

    def relaxed(x: Any) -> Any:
        try:
            return f(x)
        except NotApplicable:  # from an expectation inside f
            raise
        except Exception as error:
            jax.eval_shape(
                f, jax.eval_shape(lambda key: jax.tree.map(lambda a: a[0], q.sample(key, (1,))), jax.random.key(0))
            )
            raise NoDerivative(
                f"{caller}: f must accept points between the samples of {name_of(q)}, and it raised "
                f"{type(error).__name__} for one: {error}",
                "use score_function, which evaluates f only at samples",
            ) from error

    return relaxed
