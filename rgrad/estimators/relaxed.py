"""Relaxations of discrete distributions, which are differentiable and **biased**: Gumbel-softmax, straight-through."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rgrad.autodiff import first_order
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.relaxations import relaxation
from rgrad.distributions.wrappers import name_of
from rgrad.errors import NoDerivative, NotApplicable
from rgrad.protocols import Objective


def gumbel_softmax(f: Objective, q: Any, key: Array, n: int, *, temperature: ArrayLike = 0.5) -> Array:
    """**Biased**, in the value too: another expectation, of a continuous variable near the discrete one.

    With z = logits + noise, whose sign (or largest entry) has the law of `q`:

        terms_i = f(sigmoid(z_i / temperature))     a Bernoulli, with logistic noise: a point in (0, 1)
        terms_i = f(softmax(z_i / temperature))     a OneHotCategorical, with Gumbel noise: a point inside the simplex

    Needs an f that is defined, and differentiable almost everywhere, between the values of `q`, as floats. The bias is
    that of `E[f(relaxed)]` for `E[f(x)]`: it vanishes as the temperature falls to 0, where the variance grows without
    bound; a linear f is biased as well. Derivatives of every order are those of the relaxed expectation.

    Args:
        temperature: > 0; traced or not, and differentiable.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        ValueError: `temperature <= 0`, `n < 1`, `q` with a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation: it is no Bernoulli or OneHotCategorical, nor a vector of them.

    Source: Jang, Gu and Poole 2017 (eq. 2); Maddison, Mnih and Teh 2017.
    """
    base = base_of(q)
    check_draw(base, n, "gumbel_softmax")
    check_temperature(temperature, "gumbel_softmax")
    how = relaxation(base, "gumbel_softmax")
    f = of_relaxed(f, q, "gumbel_softmax")
    for_z, for_f = jax.random.split(key)
    x = how.soft(how.sample(for_z, n) / temperature)
    terms = evaluate(f, with_keys(q, x, for_f), n, "gumbel_softmax")
    return refuse_never_drawn(terms, q, "gumbel_softmax")


def straight_through(f: Objective, q: Any, key: Array, n: int, *, temperature: ArrayLike | None = None) -> Array:
    """**Biased** gradient of an unbiased value: forward the sample, backward as if it were its relaxation.

        terms_i = f(x_i)   with   d x_i = d p                                     temperature=None
                                  d x_i = d softmax(z_i / temperature)            straight-through Gumbel-softmax

    where p are the probabilities, and z the noise that x is the sign (or largest entry) of. Needs an f that is
    differentiable at the values of `q`, which it gets as floats. For one bit the expected gradient with None is
    `(p f'(1) + (1 - p) f'(0)) dp` for `(f(1) - f(0)) dp`: right for linear f, and off by `(2 p - 1) f''/2` for quadratic
    ones, whatever the number of samples. It is the derivative of no expectation, so a second derivative raises.

    Args:
        temperature: > 0, or None.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        ValueError: `temperature <= 0`, `n < 1`, `q` with a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation; or, at trace time, a second derivative.

    Source: Bengio, Leonard and Courville 2013; with a temperature, Jang, Gu and Poole 2017 (section 2.2).
    """
    base = base_of(q)
    check_draw(base, n, "straight_through")
    check_temperature(temperature, "straight_through")
    how = relaxation(base, "straight_through")
    f = of_relaxed(f, q, "straight_through")
    for_z, for_f = jax.random.split(key)
    z = how.sample(for_z, n)
    soft = how.soft(jnp.broadcast_to(how.logits, z.shape) if temperature is None else z / temperature)
    x = first_order(how.hard(z).astype(soft.dtype), [soft], [jnp.ones_like(soft)], "straight_through")
    terms = evaluate(f, with_keys(q, x, for_f), n, "straight_through")
    return refuse_never_drawn(terms, q, "straight_through")


def check_temperature(temperature: ArrayLike | None, caller: str) -> None:
    """Raises where a temperature is known not to be positive."""
    if temperature is None or isinstance(temperature, jax.core.Tracer):
        return
    if jnp.shape(temperature) != () or not 0 < np.asarray(temperature) < np.inf:
        raise ValueError(f"{caller}: temperature = {temperature}; it must be one number > 0, as 0.5")


def of_relaxed(f: Objective, q: Any, caller: str) -> Objective:
    """`f`, which raises `NoDerivative` if it takes the samples of `q`, and not what lies between them.

    An f that uses its sample as an index is one. What f raises for samples themselves is its own error.
    """

    def relaxed(x: Any) -> Any:
        try:
            return f(x)
        except NotApplicable:  # an expectation within f
            raise
        except Exception as error:
            jax.eval_shape(
                f, jax.eval_shape(lambda key: jax.tree.map(lambda a: a[0], q.sample(key, (1,))), jax.random.key(0))
            )
            raise NoDerivative(
                f"{caller}: f takes the samples of {name_of(q)}, and raised {type(error).__name__} for a point between them: {error}"
            ) from error

    return relaxed
