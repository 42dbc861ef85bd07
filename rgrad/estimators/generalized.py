"""The generalised reparameterization gradient: noise whose distribution depends on the parameters, but only weakly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.autodiff import attach
from rgrad.backend.noise import split
from rgrad.distributions.draws import as_it_is, draw, draw_pathwise, evaluate
from rgrad.distributions.keyed import base_of
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.standardised import Standardised, by_moments
from rgrad.distributions.support import forbid_moving_support
from rgrad.distributions.wrappers import elementary
from rgrad.protocols import Distribution, Objective
from rgrad.tracing.jacobian import of_any_map

Transform = tuple[Callable[[Array], Array], Callable[[Array], Array]]


def generalized(f: Objective, q: Distribution, key: Array, n: int, *, transform: Transform | None = None) -> Array:
    """Generalised reparameterization: the gradient through the sample at fixed noise, plus the score of that noise.

    With `eps = h(z; theta)`, `z = h^-1(eps; theta)` and `pi(eps; theta) = q(z; theta) |dz/deps|`:

        terms_i = attach(f(h^-1(eps_i; theta)) - c, log pi(eps_i; theta)) + c

    where c = f(h^-1(0; theta)) is a constant that costs one evaluation per call (c = 0 if `transform` is given).

    There are two limits. If `h` is the identity, this is the score function. If `pi` does not depend on theta, it is
    the reparameterization trick. In between, the less `pi` depends on theta, the less noise its score adds.

    Gamma, InverseGamma, Beta, Dirichlet, LogNormal, Normal and vectors of them have a built-in map, which standardises
    the noise to mean 0 and variance 1. Any event shape is allowed.

    Needs an `f` that is continuous and differentiable almost everywhere, and a support that does not depend on the
    parameters. Under these conditions it is unbiased, and derivatives of every order that `f` has are unbiased too. The
    logarithm of a Gamma sample is drawn, so the gradient is also correct at small concentrations in 32 bits.

    Args:
        transform: `(forward, inverse)`, with the parameters in the closure: `z = forward(eps)` and `eps = inverse(z)`,
            both of shape `(n, *event_shape)`. Elementwise maps are cheapest. Any other invertible map of each sample
            costs its full Jacobian, and gives nan for more than 64 coordinates or if it mixes samples. None: the
            built-in map of `q`.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        NotImplementedError: `q` has no built-in map and `transform` is not given, or the derivative is taken with
            respect to a parameter on which the support depends.

    Example:
        >>> loss = lambda a: rgrad.expect(lambda x: x, dist.Gamma(a, 1.0), key, 1000, rgrad.generalized)
        >>> print(f"{jax.jit(jax.grad(loss))(3.0):.1f}")  # the truth is 1, because E[x] = a
        1.0

    Source: Ruiz, Titsias and Blei 2016, The generalized reparameterization gradient (eqs. 5 to 8),
    https://arxiv.org/abs/1610.02287.
    """
    base, keyed = base_of(q), base_of(q) is not q
    how = Standardised(base, *transform) if transform is not None else by_moments(base)
    if transform is None and isinstance(elementary(getattr(base, "base", base)), dist.Normal | dist.LogNormal):
        # pi does not depend on theta. Use the noise that is drawn: noise recovered from a sample would be rounded.
        return evaluate(f, draw_pathwise(q, key, n, "generalized"), n, "generalized")
    if transform is not None:
        how = how._replace(forward=_checked(*transform), linearised=of_any_map)
    terms = through_noise(f, how, key, n, "generalized", keyed, centred=transform is None)
    return forbid_moving_support(terms, how.source, "generalized")


def _checked(forward: Callable[[Array], Array], inverse: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`forward`, or nan if `inverse` does not undo it. The gradient would then be that of another sample."""

    def checked(eps: Array) -> Array:
        z = forward(eps)
        off = jnp.abs(lax.stop_gradient(inverse(z) - eps))
        return jnp.where(off <= 0.01 * (1 + jnp.abs(eps)), z, jnp.nan)

    return checked


def through_noise(
    f: Objective, how: Standardised, key: Array, n: int, caller: str, keyed: bool, centred: bool = True
) -> Array:
    """`attach(f(z(eps)) - c, log pi(eps)) + c` for samples of `how.source`, with c = f(z(0)); eps and c are constants.

    Because of rounding, the mean of the score is not exactly 0. Without c this error would be multiplied by f: at
    Gamma(1e4, 1), the estimate of d/da E[x] would be 1.008 instead of 1. c does not depend on the samples, so it adds
    no bias.

    Args:
        centred: whether the map centres the noise at 0. If not, c = 0.
    """
    if keyed:
        key, for_f = split(key)
    z = as_it_is(draw(how.source, key, n, caller))
    eps = lax.stop_gradient(how.inverse(z))
    live, log_det = how.linearised(how.forward, eps)
    log_pi = jax.vmap(partial(log_prob, how.source))(live) + log_det
    with_key = lambda x: (as_it_is(x), split(for_f, len(x))) if keyed else as_it_is(x)
    if not centred:
        return attach(evaluate(f, with_key(how.finish(live)), n, caller), log_pi)
    x = how.finish(jnp.concatenate([live, lax.stop_gradient(how.forward(jnp.zeros_like(eps[:1])))]))
    values = evaluate(f, with_key(x), n + 1, caller)
    values, centre = values[:n], lax.stop_gradient(values[n])
    centre = jnp.where(jnp.isfinite(centre), centre, 0.0)
    return attach(values, log_pi) - (attach(centre, log_pi) - centre)
