"""Multi-sample bounds on a log evidence: importance-weighted ELBOs, and the gradient rules that are theirs alone.

A bound from K samples is an expectation over *K samples at once*, so that any estimator differentiates it. Three know
more than that, because a `Bound` tells them the weight of each sample: `vimco`, `sticking_the_landing`,
`doubly_reparameterized`.
"""

from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.nn import logsumexp

from rgrad.autodiff import attach, first_order
from rgrad.distributions.base_noise import RULES, base_noise, score_density
from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.detach import detach
from rgrad.distributions.draws import check_draw, draw_pathwise, evaluate
from rgrad.distributions.implicit import has_rsample, rsample, sample
from rgrad.distributions.log_density import Wrapper, log_prob
from rgrad.distributions.noise_families import BaseNoise
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.support import forbid_moving_support
from rgrad.distributions.wrappers import JaxRandom
from rgrad.errors import Unsuitable
from rgrad.estimators.reparameterized import reparameterized
from rgrad.expectations.expectation import expect
from rgrad.protocols import Estimator, Objective, Sample


def iwae(log_p: Objective, q: Any, key: Array, k: int, n: int = 1, gradient: Estimator = reparameterized) -> Array:
    """The importance-weighted bound from K samples, a lower bound on `log integral exp(log_p(x)) dx`:

        L_K = E[log 1/K sum_k w_k],   log w_k = log p(x_k) - log q(x_k),   x_k ~ q

    L_1 is the ELBO, and L_K rises to the log evidence with K. To be maximised: its negative is the loss.

        def loss(params, key):
            q = dist.Normal(params["loc"], params["scale"])
            return -rgrad.iwae(log_p, q, key, k=10, gradient=rgrad.doubly_reparameterized)

    The rules for its gradient (with `u_k = w_k / sum_j w_j`), all of them right for the parameters of `log_p`:

    - `reparameterized` (IWAE): unbiased, every order. For the parameters of q its signal-to-noise ratio falls as
      `1/sqrt(K)`: the larger K, the tighter the bound and the noisier what is learnt of q.
    - `doubly_reparameterized` (DReG): unbiased, first order. That ratio rises as `sqrt(K)` near the optimum. Far from
      it DReG may be the noisier one: for q = N(-3, 1), p = N(2, 3^2) and K = 10 over six times so, in d/d loc.
    - `sticking_the_landing`: biased for K > 1, first order.
    - `score_function`: unbiased, every order, discrete samples too; takes a baseline, of whole bounds.
    - `vimco`: the same with a baseline for each sample, made of the K - 1 others.

    Args:
        log_p: one sample to its log density, which need not be normalised: a scalar. With an observation and parameters
            of the model in the closure, which may share parameters with q.
        q: a `Distribution` of one sample, built from the parameters inside the function that is differentiated.
        key: one PRNG key.
        k: K, how many samples a bound is made of, a Python int.
        n: how many independent bounds are averaged, a Python int. They cost n K evaluations of `log_p`.
        gradient: one of the rules above, or any estimator `(f, q, key, n) -> terms`: its f is a `Bound`, a function of
            K samples, of shape `(K, *event_shape)`, and its q `Copies`, K independent ones.

    Returns:
        A scalar, the mean of n bounds: per call.

    Raises:
        TypeError: `k` is not an int, `gradient` is no function, or has need of a `q.rsample` that is not there.
        ValueError: `k < 1` (`vimco`: 2), `log_p` returns a vector, or the draws of `q` depend on one another.

    Source: Burda, Grosse and Salakhutdinov 2016, Importance weighted autoencoders; the signal-to-noise ratios:
    Rainforth et al. 2018, Tighter variational bounds are not necessarily better.
    """
    check_draw(q, n, "iwae")
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"iwae: k = {k!r} is not an int; it is a shape, so it must be a Python int, not traced")
    if k < 1:
        raise ValueError(f"iwae: k = {k} samples in a bound; ask for at least 1")
    if not callable(gradient):
        raise TypeError(
            f"iwae: gradient = {gradient!r} is no function; give one of rgrad.reparameterized, "
            "rgrad.doubly_reparameterized, rgrad.sticking_the_landing, rgrad.score_function, rgrad.vimco, or an "
            "estimator of your own"
        )
    if (together := dependent_draws(q)) is not None:
        raise ValueError(
            "iwae: the K samples of a bound must be independent, or it is another bound; give q itself, not "
            f"{together.prefix}(q)"
        )
    return expect(Bound(log_p, q), Copies(q, k), key, n, gradient)


@dataclass(frozen=True)
class Bound:
    """`log 1/K sum_k p(x_k)/q(x_k)`, an objective of K samples at once."""

    log_p: Objective
    q: Any

    def log_weight(self, x: Sample) -> Array:
        """Of one sample."""
        return jnp.asarray(self.log_p(x)) - log_prob(self.q, x)

    def log_weights(self, x: Sample) -> Array:
        """Of K samples, shape `(K,)`."""
        return evaluate(self.log_weight, x, len(jax.tree.leaves(x)[0]), "iwae, with f = log_p - log q")

    def __call__(self, x: Sample) -> Array:
        return bound_of(self.log_weights(x))


def bound_of(log_weights: Array) -> Array:
    """The bound from log-weights along the last axis, `log 1/K sum_k w_k`."""
    return logsumexp(log_weights, -1) - log(log_weights.shape[-1])


class _BaseAndNumber(NamedTuple):
    base: Any
    k: int


class Copies(_BaseAndNumber, Wrapper):
    """k independent samples of `base` as one sample, with an axis of k in front."""

    @property
    def has_rsample(self) -> bool:
        return has_rsample(self.base)

    def sample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        return sample(self.base, key, (*shape, self.k))

    def rsample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        return rsample(self.base, key, (*shape, self.k))

    def log_probs(self, value: Sample) -> Array:
        """Of each, shape `(k,)`."""
        return jax.vmap(partial(log_prob, self.base))(value)

    def log_prob(self, value: Sample) -> Array:
        return self.log_probs(value).sum()


def _noise_of_copies(q: Copies) -> BaseNoise:
    inner = base_noise(q.base)
    source = JaxRandom(inner.source) if inner.own else inner.source
    return BaseNoise(
        Copies(source, q.k), inner.push, lambda eps, moved: jax.vmap(lambda e: inner.log_prob(e, None))(eps).sum()
    )


RULES[Copies] = _noise_of_copies


def vimco(f: Objective, q: Any, key: Array, n: int) -> Array:
    """The score function for `iwae`, with a baseline for each of its samples: the bound that the others would give.

        terms = attach(L, sum_k log q(x_k)) - sum_k (attach(L_-k, log q(x_k)) - L_-k)

    L_-k is L with log w_k replaced by the mean of the other log-weights (the geometric mean of the weights). It does
    not depend on x_k, so that nothing is added to the mean; and a sample is paid for what *it* brought to the bound.

    Needs `q.log_prob`, a support that does not move with the parameters, finite weights, and K >= 2. Unbiased, and so
    are derivatives of every order. K^2 numbers for each bound.

    Returns:
        Shape `(n,)`, per bound; they are independent.

    Raises:
        TypeError: `f` is not the bound of `iwae`.
        ValueError: K = 1.
        NotImplementedError: the derivative is taken of a parameter on which the support of `q` depends.

    Source: Mnih and Rezende 2016, Variational inference for Monte Carlo objectives (VIMCO).
    """
    bound = _bound(f, "vimco")
    if q.k < 2:
        raise Unsuitable(
            "vimco: k = 1 leaves no other sample to make a baseline of; ask for k >= 2, or use score_function"
        )
    check_draw(q, n, "vimco")
    how, one = base_noise(q), base_noise(q.base)
    eps = how.sample(key, (n,))
    x = jax.tree.map(lax.stop_gradient, how.push(eps))
    log_w = jax.vmap(bound.log_weights)(x)
    log_q = score_density(one, jax.tree.map(lambda e: e.reshape(-1, *e.shape[2:]), eps)).reshape(log_w.shape)
    value = bound_of(log_w)
    others = lax.stop_gradient((log_w.sum(-1, keepdims=True) - log_w) / (q.k - 1))
    replaced = jnp.where(jnp.eye(q.k, dtype=bool), others[:, :, None], lax.stop_gradient(log_w)[:, None, :])
    baseline = bound_of(replaced)
    terms = attach(value, log_q.sum(-1)) - (attach(baseline, log_q) - baseline).sum(-1)
    return forbid_moving_support(refuse_never_drawn(terms, q, "vimco"), q, "vimco")


def sticking_the_landing(f: Objective, q: Any, key: Array, n: int) -> Array:
    """The reparameterization trick for `iwae`, without the score of q: through the samples alone, as for the ELBO.

        terms = L,   d terms = sum_k u_k (d log p(x_k) + d/dx (log p(x_k) - log q(x_k)) dx_k)

    with the first d that of log_p's own parameters. Needs `q.rsample`, and a `log_p` that is differentiable.

    Unbiased for K = 1. **For K > 1 biased**: what is left out, `-sum_k u_k d log q(x_k)`, has a mean then, because the
    weights depend on the samples. For q = N(1/2, 1) and p = N(0, 1) d/d loc is -1/2 for every K and all samples, where
    that of the bound is -0.275 at K = 2 and -0.076 at K = 8.
    Where q = p it is exactly 0, as it should be. Right for the parameters of `log_p`, whatever K.
    To first order: a second derivative raises.

    Returns:
        Shape `(n,)`, per bound; they are independent.

    Raises:
        TypeError: `f` is not the bound of `iwae`, or `q` has no `rsample`.
        NotImplementedError: at trace time, a second derivative.

    Source: Roeder, Wu and Duvenaud 2017, Sticking the landing; the bias: Tucker et al. 2018.
    """
    return _through_samples(f, q, key, n, "sticking_the_landing", power=1)


def doubly_reparameterized(f: Objective, q: Any, key: Array, n: int) -> Array:
    """The reparameterization trick for `iwae`, and once more for the score that it leaves (DReG).

        terms = L,   d terms = sum_k u_k d log p(x_k) + sum_k u_k^2 d/dx (log p(x_k) - log q(x_k)) dx_k

    with the first d that of log_p's own parameters, which have the gradient that they have in `reparameterized`; those
    of q come through the samples alone, by the squares of the weights. A parameter that both share gets both parts.

    Needs `q.rsample`, and a `log_p` that is differentiable. Unbiased, whatever K. Exactly 0 for q where q = p. For
    K = 1 this is `sticking_the_landing`. To first order: a second derivative raises.

    Returns:
        Shape `(n,)`, per bound; they are independent.

    Raises:
        TypeError: `f` is not the bound of `iwae`, or `q` has no `rsample`.
        NotImplementedError: at trace time, a second derivative.

    Source: Tucker, Lawson, Gu and Maddison 2018, Doubly reparameterized gradient estimators for Monte Carlo
    objectives.
    """
    return _through_samples(f, q, key, n, "doubly_reparameterized", power=2)


def _through_samples(f: Objective, q: Any, key: Array, n: int, caller: str, power: int) -> Array:
    """L, with its own derivative for log_p's parameters; and with `u_k^power d/dx log w_k` for the samples, by hand.

    By hand, because the same log_p is differentiated in both, and only its samples can be told from its parameters.
    """
    bound = _bound(f, caller)
    x = draw_pathwise(q, key, n, caller)
    leaves, structure = jax.tree.flatten(x)
    constant = jax.tree.unflatten(structure, [lax.stop_gradient(leaf) for leaf in leaves])
    fixed = Bound(bound.log_p, detach(bound.q))
    log_w = jax.vmap(fixed.log_weights)(constant)
    weights = jax.nn.softmax(log_w) ** power
    slopes = jax.tree.leaves(jax.vmap(jax.vmap(jax.grad(fixed.log_weight)))(constant))
    gradients = [weights.reshape(weights.shape + (1,) * (s.ndim - 2)) * s for s in slopes]
    return first_order(bound_of(log_w), leaves, gradients, caller)


def _bound(f: Objective, caller: str) -> Bound:
    if not isinstance(f, Bound):
        raise TypeError(
            f"{caller} needs the weight of each sample, and f = {f!r} gives none; it is a gradient of bounds: "
            f"rgrad.iwae(log_p, q, key, k, gradient={caller})"
        )
    return f
