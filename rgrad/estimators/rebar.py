"""The score function with a relaxation as its control variate: REBAR and RELAX, unbiased."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.autodiff import attach
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.relaxations import relaxation
from rgrad.estimators.relaxed import check_temperature, of_relaxed
from rgrad.protocols import Objective


def rebar(f: Objective, q: Any, key: Array, n: int, *, eta: ArrayLike = 1.0, temperature: ArrayLike = 0.5) -> Array:
    """`relax` with f itself, at the relaxed sample, as the control variate: `c(z) = eta f(sigmoid(z / temperature))`.

    softmax for a OneHotCategorical. Needs an f that is defined between the values of `q` too, as floats, and
    differentiable there. Unbiased for every eta and temperature, so are derivatives of every order; eta = 0 is the score
    function. Three evaluations of f for each sample.

    The mean gradient does not depend on eta and temperature, so their gradient of its variance is that of its square,
    by plain `jax.grad`; the state is the caller's own:

        gradient = lambda theta, eta, key: jax.grad(loss)(theta, eta, key)   # loss: expect(..., partial(rebar, eta=eta))
        eta_gradient = jax.grad(lambda eta: jnp.sum(gradient(theta, eta, key) ** 2))(eta)

    Args:
        eta: a number; traced or not.
        temperature: > 0; traced or not.

    Returns:
        Shape `(n,)`, per sample; the values are those of f at the sample.

    Raises:
        ValueError: `temperature <= 0`, `n < 1`, `q` with a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation: it is no Bernoulli or OneHotCategorical, nor a vector of them.

    Source: Tucker et al. 2017, REBAR (section 3; the conditional noise: appendix).
    """
    check_temperature(temperature, "rebar")
    soft, keyed = relaxation(base_of(q), "rebar").soft, base_of(q) is not q
    f = of_relaxed(f, q, "rebar")
    at = lambda z, k: f((soft(z / temperature), k)) if keyed else f(soft(z / temperature))
    return _controlled(f, lambda pair: eta * at(*pair), q, key, n, "rebar")


def relax(
    f: Objective, q: Any, key: Array, n: int, *, control_variate: Callable[[Array], ArrayLike] | None = None
) -> Array:
    """The score function, less a control variate of the noise whose mean is known through the reparameterization trick.

    With z the noise of which the sample b is the sign (or largest entry), and z' drawn anew given b:

        terms_i = attach(f(b_i) - c(z'_i), log q(b_i)) + c(z_i)

    less `c(z_i) - c(z'_i)` as a number. z and z' have the same law, and both follow the parameters, so c adds no bias.
    Unbiased, and so are derivatives of every order, where c is differentiable as often. Bernoulli, OneHotCategorical, and
    vectors of them. Asks nothing of f where `control_variate` is given: it is evaluated at samples only, once for each.
    A parameter of f alone gets `d f(b_i)`, and with `rebar` the noise of `d (c(z_i) - c(z'_i))` beside it.

    Args:
        control_variate: `z -> scalar` for one z, of shape `event_shape`: any differentiable function, as a network whose
            parameters are trained as in `rebar`. z are logits plus noise; for a OneHotCategorical the logits are
            normalised. None: that of `rebar` with eta 1 and temperature 0.5.

    Returns:
        Shape `(n,)`, per sample; the values are those of f at the sample.

    Raises:
        ValueError: `n < 1`, `q` with a batch shape, or f or the control variate returns a vector.
        NotImplementedError: `q` has no relaxation: it is no Bernoulli or OneHotCategorical, nor a vector of them.

    Source: Grathwohl et al. 2018, Backpropagation through the void (section 3).
    """
    if control_variate is None:
        return rebar(f, q, key, n)
    return _controlled(f, lambda pair: control_variate(pair[0]), q, key, n, "relax")


def _controlled(f: Objective, c: Objective, q: Any, key: Array, n: int, caller: str) -> Array:
    """The equation of `relax`, where c takes a pair: z, and the key of its sample."""
    base = base_of(q)
    check_draw(base, n, caller)
    how = relaxation(base, caller)
    for_z, for_given, for_f = jax.random.split(key, 3)
    keys = jax.random.split(for_f, n)
    z = how.sample(for_z, n)
    b = how.hard(z)
    values = evaluate(f, with_keys(q, b, for_f), n, caller)
    free = evaluate(c, (z, keys), n, caller)
    given = evaluate(c, (how.given(b, for_given), keys), n, caller)
    terms = attach(values - given, jax.vmap(partial(log_prob, base))(b)) + free
    return refuse_never_drawn(terms - lax.stop_gradient(free - given), q, caller)
