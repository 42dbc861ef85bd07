"""The generalised reparameterization: noise whose law depends on the parameters, if only weakly."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.autodiff import attach
from rgrad.distributions.draws import as_it_is, draw, draw_pathwise, evaluate
from rgrad.distributions.keyed import base_of
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.standardised import Standardised, by_moments
from rgrad.distributions.support import forbid_moving_support
from rgrad.distributions.wrappers import elementary
from rgrad.protocols import Objective
from rgrad.tracing.jacobian import of_any_map

Transform = tuple[Callable[[Array], Array], Callable[[Array], Array]]


def generalized(f: Objective, q: Any, key: Array, n: int, *, transform: Transform | None = None) -> Array:
    """Both ways at once: through the sample, at constant noise, and through the density of that noise.

    With `eps = h(z; theta)`, `z = h^-1(eps; theta)` and `pi(eps; theta) = q(z; theta) |dz/deps|`:

        terms_i = attach(f(h^-1(eps_i; theta)) - c, log pi(eps_i; theta)) + c

    with c = f(h^-1(0; theta)), a constant, one evaluation for each call (c = 0 if `transform` is given).
    `h = identity` is the score function; `pi` free of theta, the reparameterization trick; and between them the less `pi`
    depends on theta, the less noise its score adds. Ready maps for Gamma, InverseGamma, Beta, Dirichlet, LogNormal and
    Normal, and vectors of them, which standardise the noise to mean 0 and variance 1. Any event shape.

    Needs an `f` that is continuous, and differentiable almost everywhere, and a support that does not move with the
    parameters. Unbiased then; so are derivatives of every order, where `f` has them. Small concentrations are drawn as
    logarithms, and are right in 32 bits too.

    Args:
        transform: `(forward, inverse)` with the parameters in the closure: `z = forward(eps)`, `eps = inverse(z)`, both of
            shape `(n, *event_shape)`. Best elementwise; another invertible map of each sample costs its full Jacobian, and is nan
            for more than 64 coordinates, or if it mixes samples. None: that of `q`.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        NotImplementedError: `q` has no map and `transform` is not given, or its support moves with the parameters.

    Source: Ruiz, Titsias and Blei 2016, The generalized reparameterization gradient (eqs. 5 to 8).
    """
    base, keyed = base_of(q), base_of(q) is not q
    how = Standardised(base, *transform) if transform is not None else by_moments(base)
    if transform is None and isinstance(elementary(getattr(base, "base", base)), dist.Normal | dist.LogNormal):
        # pi is free of theta. As the noise that is drawn: inverted from a sample it would be rounded.
        return evaluate(f, draw_pathwise(q, key, n, "generalized"), n, "generalized")
    if transform is not None:
        how = how._replace(forward=_checked(*transform), linearised=of_any_map)
    terms = through_noise(f, how, key, n, "generalized", keyed, centred=transform is None)
    return forbid_moving_support(terms, how.source, "generalized")


def _checked(forward: Callable[[Array], Array], inverse: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`forward`, but nan where `inverse` does not undo it: a sample would be another one, and the gradient silently wrong."""

    def checked(eps: Array) -> Array:
        z = forward(eps)
        off = jnp.abs(lax.stop_gradient(inverse(z) - eps))
        return jnp.where(off <= 0.01 * (1 + jnp.abs(eps)), z, jnp.nan)

    return checked


def through_noise(
    f: Objective, how: Standardised, key: Array, n: int, caller: str, keyed: bool, centred: bool = True
) -> Array:
    """`attach(f(z(eps)) - c, log pi(eps)) + c` for samples of `how.source`, with c = f(z(0)); eps and c are constants.

    Without c the rounding of the score, whose mean is then not quite 0, would be multiplied by all of f: at Gamma(1e4, 1)
    d/da E[x] would be 1.008 for 1. c does not depend on the samples, so that it adds no bias.

    Args:
        centred: the noise is about 0 by the map's design; else c = 0.
    """
    if keyed:
        key, for_f = jax.random.split(key)
    z = as_it_is(draw(how.source, key, n, caller))
    eps = lax.stop_gradient(how.inverse(z))
    live, log_det = how.linearised(how.forward, eps)
    log_pi = jax.vmap(partial(log_prob, how.source))(live) + log_det
    with_key = lambda x: (as_it_is(x), jax.random.split(for_f, len(x))) if keyed else as_it_is(x)
    if not centred:
        return attach(evaluate(f, with_key(how.finish(live)), n, caller), log_pi)
    x = how.finish(jnp.concatenate([live, lax.stop_gradient(how.forward(jnp.zeros_like(eps[:1])))]))
    values = evaluate(f, with_key(x), n + 1, caller)
    values, centre = values[:n], lax.stop_gradient(values[n])
    centre = jnp.where(jnp.isfinite(centre), centre, 0.0)
    return attach(values, log_pi) - (attach(centre, log_pi) - centre)
