"""`expect`: an expectation that `jax.grad` can differentiate."""

from __future__ import annotations

from jax import Array

from rgrad.backend.keys import check_key
from rgrad.backend.xla_flags import warn_if_wrong
from rgrad.distributions.draws import check_draw
from rgrad.distributions.keyed import WithKey
from rgrad.distributions.others import as_distribution
from rgrad.estimators.opened import opened
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import estimator_of, naming_others
from rgrad.protocols import Distribution, Estimator, Objective


def expect(
    f: Objective,
    q: Distribution,
    key: Array,
    n: int = 1,
    estimator: Estimator | str = reparameterized,
    *,
    keyed: bool = False,
) -> Array:
    """An estimate of `E_q[f(x)]` from `n` samples, whose `jax.grad` is an estimate of the gradient of the expectation.

        def loss(theta, key):
            return rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, n=100, estimator=rgrad.score_function)

        jax.grad(loss)(2.0, key)

    The parameters enter through the closure. `f` may use them too: its own derivative is part of the estimate.
    Expectations can be added, nested (`keyed=True`) and vmapped.

    Args:
        f: maps one sample, of shape `q.event_shape`, to a scalar. `expect` does the batching.
        q: a `Distribution` of one sample, built from the parameters inside the function that is differentiated. A
            distribution of TFP, distrax, distreqx or FlowJAX is accepted too, and what `rgrad.distribution` returns.
        key: one PRNG key.
        n: the number of samples, a Python int.
        estimator: `rgrad.reparameterized`, `rgrad.score_function`, ..., or any function `(f, q, key, n) -> terms`; or a
            name of `rgrad.ESTIMATORS`, e.g. "score_function+leave_one_out".
        keyed: True if `f` needs randomness of its own. Then f is called as `f(x, key_i)`, with a different key for each
            sample. (If all samples shared one key, the variance would not fall with n. If a key were used twice, the
            estimate would be biased.)

    Returns:
        A scalar, per call: the mean of the estimator's terms.

    Raises:
        TypeError: `q` is not a distribution, `f` or `estimator` is not callable, `key` is not a key, or what the
            estimator raises.
        ValueError: the terms do not have shape `(n,)`, or what the estimator raises.
    """
    warn_if_wrong()
    q = as_distribution(q, "expect")
    check_draw(q, n, "expect")
    if not callable(f):
        raise TypeError(f"expect: f must be callable, got {type(f).__name__} {f!r}")
    estimator = estimator_of(estimator, "expect")
    check_key(key, "expect")
    f, q = opened(f, q, estimator)
    with naming_others(q):
        terms = estimator(_on_pairs(f), WithKey(q), key, n) if keyed else estimator(f, q, key, n)
    if getattr(terms, "shape", None) != (n,):
        raise ValueError(
            f"expect: the estimator returned {getattr(terms, 'shape', type(terms).__name__)}; it must return terms of "
            f"shape ({n},), one for each sample"
        )
    return terms.mean()


def _on_pairs(f: Objective) -> Objective:
    return lambda pair: f(*pair)
