"""Reparameterization through the Gamma rejection sampler, for Gamma, InverseGamma, Beta and Dirichlet."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from rgrad.backend.noise import split
from rgrad.distributions.gammas import as_gammas
from rgrad.distributions.keyed import base_of
from rgrad.distributions.standardised import Standardised
from rgrad.estimators.generalized import through_noise
from rgrad.protocols import Distribution, Objective


def rejection(f: Objective, q: Distribution, key: Array, n: int, *, augmentation: int = 1) -> Array:
    """Reparameterization of a rejection sampler: the gradient through the proposal plus the score of the noise.

    The proposal is a function of noise, and the distribution of the accepted noise depends only weakly on the
    parameters. Marsaglia and Tsang's sampler of Gamma(a, 1) is `z = (a - 1/3) (1 + eps / sqrt(9 a - 3))^3`. The
    accepted noise `eps = h^-1(z; a)` has density `pi(eps; a) = q(z; a) |dz/deps|`:

        terms_i = attach(f(z(eps_i; a)) - c, log pi(eps_i; a)) + c,    c = f(z(0; a)), a constant

    No rejected draw is needed: the accepted eps is computed from a sample by the inverse map. Shape augmentation draws
    z from Gamma(a + B) and multiplies it by `u_1^(1/a) ... u_B^(1/(a+B-1))`. The larger the shape, the less `pi`
    depends on it.

    `q` is a Gamma, an InverseGamma (the reciprocal of a Gamma), a Beta or Dirichlet (ratios of Gammas), or a vector of
    them (`to_event`). Needs an `f` that is continuous and differentiable almost everywhere. Then it is unbiased, and so
    are derivatives of every order that `f` has.

    Args:
        augmentation: B >= 0. The sampler needs a shape of at least 1. If a concentration is below 1, use B >= 1:
            otherwise the result is nan.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        NotImplementedError: `q` is not a Gamma, InverseGamma, Beta or Dirichlet, or a vector of them.
        ValueError: `augmentation` is not a whole number >= 0.

    Example:
        >>> loss = lambda a: rgrad.expect(lambda x: x, dist.Gamma(a, 1.0), key, 1000, rgrad.rejection)
        >>> print(f"{jax.jit(jax.grad(loss))(3.0):.1f}")  # the truth is 1, because E[x] = a
        1.0

    Source: Naesseth, Ruiz, Linderman and Blei 2017, Reparameterization gradients through acceptance-rejection sampling
    algorithms (eqs. 7 to 9; augmentation: section 5), https://arxiv.org/abs/1610.05683.
    """
    if not isinstance(augmentation, int | float) or augmentation < 0 or augmentation % 1 != 0:
        raise ValueError(f"rejection: augmentation must be a whole number >= 0, got {augmentation!r}")
    key, for_u = split(key)
    shape, rate, finish = as_gammas(base_of(q))
    source = dist.Gamma(shape + augmentation, rate).to_event(jnp.ndim(shape))
    minus_log_u = jax.random.exponential(for_u, (int(augmentation), n, *jnp.shape(shape)), shape.dtype)
    minus_log_u = jnp.pad(
        minus_log_u, [(0, 0), (0, 1)] + [(0, 0)] * shape.ndim, constant_values=1.0
    )  # its mean, at eps = 0
    log_u = sum((-minus_log_u[i] / (shape + i) for i in range(int(augmentation))), start=jnp.zeros(()))
    raised = shape + augmentation
    raised = jnp.where(raised >= 1, raised, jnp.nan)  # the sampler needs a shape >= 1
    centre, width = raised - 1 / 3, 1 / jnp.sqrt(9 * raised - 3)
    how = Standardised(
        source,
        forward=lambda e: centre * (1 + e * width) ** 3 / rate,
        inverse=lambda z: (jnp.cbrt(z * rate / centre) - 1) / width,
        finish=lambda z: finish(jnp.log(z) + log_u),  # the product itself may round to 0
    )
    return through_noise(f, how, key, n, "rejection", base_of(q) is not q)
