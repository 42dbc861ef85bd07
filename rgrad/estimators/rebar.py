"""The score function with a relaxation as its control variate: REBAR and RELAX. Both are unbiased."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.autodiff import attach
from rgrad.backend.noise import split
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.relaxations import relaxation
from rgrad.estimators.relaxed import check_temperature, of_relaxed
from rgrad.protocols import Distribution, Objective


def rebar(
    f: Objective, q: Distribution, key: Array, n: int, *, eta: ArrayLike = 1.0, temperature: ArrayLike = 0.5
) -> Array:
    """REBAR, i.e. `relax` with f at the relaxed sample as its control variate: `c(z) = eta f(sigmoid(z / temperature))`.

    For a OneHotCategorical, softmax replaces sigmoid. Needs an f that is also defined and differentiable between the
    values of `q`, as floats. Unbiased for every eta and temperature, and so are derivatives of every order. eta = 0
    gives the score function. Costs three evaluations of f for each sample.

    eta and temperature can be trained. The mean gradient does not depend on them, so the derivative of the gradient's
    variance equals the derivative of its mean square, which plain `jax.grad` computes. The caller keeps the state:

        gradient = lambda theta, eta, key: jax.grad(loss)(theta, eta, key)  # loss: expect(..., partial(rebar, eta=eta))
        eta_gradient = jax.grad(lambda eta: jnp.sum(gradient(theta, eta, key) ** 2))(eta)

    Args:
        eta: a number, which may be traced.
        temperature: a number > 0, which may be traced.

    Returns:
        Shape `(n,)`, per sample. The values are those of f at the sample.

    Raises:
        ValueError: `temperature <= 0`, `n < 1`, `q` has a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation: it is not a Bernoulli, a OneHotCategorical or a vector of them.

    Example:
        >>> f = lambda x: (x - 0.3) ** 2
        >>> loss = lambda logit: rgrad.expect(f, dist.Bernoulli(logits=logit), key, 1000, rgrad.rebar)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.2f}")  # the truth is 0.1
        0.10

    Source: Tucker et al. 2017, REBAR: low-variance, unbiased gradient estimates for discrete latent variable models
    (section 3; the conditional noise: appendix), https://arxiv.org/abs/1703.07370.
    """
    check_temperature(temperature, "rebar")
    soft, keyed = relaxation(base_of(q), "rebar").soft, base_of(q) is not q
    f = of_relaxed(f, q, "rebar")
    at = lambda z, k: f((soft(z / temperature), k)) if keyed else f(soft(z / temperature))
    return _controlled(f, lambda pair: eta * at(*pair), q, key, n, "rebar")


def relax(
    f: Objective, q: Distribution, key: Array, n: int, *, control_variate: Callable[[Array], ArrayLike] | None = None
) -> Array:
    """RELAX: the score function minus a control variate whose mean is differentiated by reparameterization.

    With z the noise whose sign (or largest entry) is the sample b, and z' drawn anew given b:

        terms_i = attach(f(b_i) - c(z'_i), log q(b_i)) + c(z_i)

    minus the value of `c(z_i) - c(z'_i)`, as a constant. z and z' have the same distribution, and both are
    differentiable in the parameters, so c adds no bias.

    `q` is a Bernoulli, a OneHotCategorical or a vector of them. If `control_variate` is given, f may be any function:
    it is evaluated only at samples, once for each. Unbiased, and so are derivatives of every order that c has. The
    gradient for a parameter that only f uses is `d f(b_i)`. With `rebar`, the noise of `d (c(z_i) - c(z'_i))` is added
    to it.

    Args:
        control_variate: `z -> scalar` for one z, of shape `event_shape`. It may be any differentiable function, e.g. a
            network whose parameters are trained as in `rebar`. z is logits plus noise. For a OneHotCategorical the
            logits are normalised. None: that of `rebar` with eta = 1 and temperature = 0.5.

    Returns:
        Shape `(n,)`, per sample. The values are those of f at the sample.

    Raises:
        ValueError: `n < 1`, `q` has a batch shape, or f or the control variate returns a vector.
        NotImplementedError: `q` has no relaxation: it is not a Bernoulli, a OneHotCategorical or a vector of them.

    Example:
        >>> estimator = partial(rgrad.relax, control_variate=lambda z: 0.4 * jax.nn.sigmoid(z))
        >>> f = lambda x: (x - 0.3) ** 2
        >>> loss = lambda logit: rgrad.expect(f, dist.Bernoulli(logits=logit), key, 1000, estimator)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.2f}")  # the truth is 0.1
        0.10

    Source: Grathwohl et al. 2018, Backpropagation through the void (section 3), https://arxiv.org/abs/1711.00123.
    """
    if control_variate is None:
        return rebar(f, q, key, n)
    return _controlled(f, lambda pair: control_variate(pair[0]), q, key, n, "relax")


def _controlled(f: Objective, c: Objective, q: Any, key: Array, n: int, caller: str) -> Array:
    """The equation of `relax`. Here c takes a pair: z, and the key of its sample."""
    base = base_of(q)
    check_draw(base, n, caller)
    how = relaxation(base, caller)
    for_z, for_given, for_f = split(key, 3)
    keys = split(for_f, n)
    z = how.sample(for_z, n)
    b = how.hard(z)
    values = evaluate(f, with_keys(q, b, for_f), n, caller)
    free = evaluate(c, (z, keys), n, caller)
    given = evaluate(c, (how.given(b, for_given), keys), n, caller)
    terms = attach(values - given, jax.vmap(partial(log_prob, base))(b)) + free
    return refuse_never_drawn(terms - lax.stop_gradient(free - given), q, caller)
