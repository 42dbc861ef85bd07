"""The evidence lower bound (ELBO), with a sampled or an exact entropy, differentiated by any estimator."""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.transforms import LowerCholeskyAffine

from rgrad.autodiff import first_order
from rgrad.distributions.detach import detach, parameters_of
from rgrad.distributions.draws import check_draw
from rgrad.distributions.entropy import entropy as exact_entropy
from rgrad.distributions.location_scale import check_cholesky
from rgrad.distributions.others import as_distribution
from rgrad.distributions.relaxations import log_prob_between
from rgrad.distributions.wrappers import unwrapped
from rgrad.estimators.opened import opened
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import estimator_of
from rgrad.expectations.expectation import expect
from rgrad.protocols import Distribution, Estimator, Objective

Entropy = Literal["sampled", "exact", "detached"]


def elbo(
    log_g: Objective,
    q: Distribution,
    key: Array,
    n: int = 1,
    estimator: Estimator | str = reparameterized,
    entropy: Entropy = "sampled",
) -> Array:
    """The ELBO, a lower bound on `log integral g(z) dz`, with equality if q is the normalised g:

        E_q[log g(z) - log q(z)]                                  entropy="sampled"
        E_q[log g(z)] + H[q]                                      entropy="exact"

    Maximise it: the loss is its negative.

    For a location-scale family, `z = mu + C eps` with `eps ~ phi`, the exact form with the reparameterization trick is
    `E_phi[log g(mu + C eps)] + log |det C| + H[phi]`. Its gradients are `E_phi[s]` for mu and `E_phi[s eps'] + C^-T`
    for C, where s is the derivative of log g at z. The sampled form has the same gradient, sample by sample, because
    `log q(z) = log phi(eps) - log |det C|`: the exact entropy only makes the value less noisy. With other estimators,
    and for other families (Gamma, by implicit differentiation), the gradients differ too.

    `entropy="detached"` is the sampled form with the parameters of `log q` held constant. It drops `-d log q(z)` from
    the gradient. That term has mean 0, so the gradient stays unbiased. With the reparameterization trick this is
    sticking the landing, whose gradient is exactly 0 if q is the normalised g. With the score function it is REINFORCE
    for the ELBO as in textbooks, `(log g - log q) d log q`. It is correct to first order only: a second derivative
    raises.

    Args:
        log_g: maps one sample to its log density, a scalar, which need not be normalised. It may use the parameters
            that are differentiated, e.g. those of a model.
        q: a `Distribution` of one sample, built from the parameters inside the function that is differentiated:
            `rgrad.location_scale(mu, C, phi)`, or any other.
        key: one PRNG key.
        n: the number of samples, a Python int.
        estimator: any estimator that applies to `q`, or its name.
        entropy: "sampled", "exact" or "detached".

    Returns:
        A scalar, per call: the mean over n samples. It is nan if log_g is nan. In that case `rgrad.fit` takes no step
        and reports where it stopped.

    Raises:
        ValueError: an unknown `entropy`, a Cholesky factor with a diagonal that is not positive (if it is not traced),
            or any ValueError of `rgrad.expect`.
        TypeError: `estimator` is not callable, or any TypeError of `rgrad.expect`.
        NotImplementedError: "exact", if no formula is known for the entropy of `q`; "detached", if a second derivative
            is taken.

    Example:
        >>> log_g = lambda z: -(z**2) / 2  # a standard normal, not normalised
        >>> bound = lambda loc: rgrad.elbo(log_g, dist.Normal(loc, 1.0), key, n=10, entropy="detached")
        >>> print(f"{jax.jit(jax.grad(bound))(0.5):.2f}")  # -loc; for this q every sample gives it
        -0.50

    Source: Aziz 2017, Notes on generalised reparameterisation gradient (equations 6a, 6h and 7c); Kingma and Welling
    2014, https://arxiv.org/abs/1312.6114; "detached": Roeder, Wu and Duvenaud 2017, Sticking the landing,
    https://arxiv.org/abs/1703.09194.
    """
    if entropy not in get_args(Entropy):
        raise ValueError(f"elbo: entropy must be one of {', '.join(map(repr, get_args(Entropy)))}, got {entropy!r}")
    estimator = estimator_of(estimator, "elbo")
    q = as_distribution(q, "elbo")
    check_draw(q, n, "elbo")
    log_g, q = opened(log_g, q, estimator)
    _check_factor(q)
    if entropy == "exact":
        known = exact_entropy(q)  # first, because no other estimator would help
        return expect(log_g, q, key, n, estimator) + known
    if entropy == "sampled":
        return expect(lambda z: jnp.asarray(log_g(z)) - log_prob_between(q, z), q, key, n, estimator)
    constant = detach(q)
    value = expect(lambda z: jnp.asarray(log_g(z)) - log_prob_between(constant, z), q, key, n, estimator)
    # The dropped term has mean 0, but its derivative does not: a second derivative would be biased.
    leaves = parameters_of(q)
    return first_order(value, leaves, [jnp.zeros_like(x) for x in leaves], 'elbo(entropy="detached")')


def _check_factor(q: Any) -> None:
    q = unwrapped(q)
    if isinstance(q, dist.MultivariateNormal):
        check_cholesky(q.scale_tril, "elbo: MultivariateNormal")
    for transform in getattr(q, "transforms", ()):
        if isinstance(transform, LowerCholeskyAffine):
            check_cholesky(transform.scale_tril, "elbo: LowerCholeskyAffine")
