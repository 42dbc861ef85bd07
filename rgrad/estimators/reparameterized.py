"""The reparameterization trick, also known as the pathwise gradient."""

from __future__ import annotations

from jax import Array

from rgrad.distributions.draws import draw_pathwise, evaluate
from rgrad.protocols import Distribution, Objective


def reparameterized(f: Objective, q: Distribution, key: Array, n: int) -> Array:
    """The reparameterization trick: with `x = r(eps; theta)`, `d E_q[f(x)] = E[d f(r(eps; theta))]`.

        terms_i = f(r(eps_i; theta))

    Needs `q.rsample`, and an `f` that is continuous and differentiable almost everywhere. Under these conditions it is
    unbiased. If f contains a step or rounds to an integer, the gradient is silently biased. For a Hessian, the same
    must hold for the gradient of `f`, and so on for higher orders.

    Works for location-scale families, for MultivariateNormal in every parameterization, and by implicit differentiation
    for Gamma, Beta, Dirichlet, InverseGamma, StudentT and VonMises (the last to first order only, and for a periodic
    f). In 32-bit floats, JAX's derivatives of Beta and Dirichlet samples are wrong at concentrations below about 0.03
    (at 0.01 they are a fifth too small). Use 64 bits or `generalized` there. Entries of a `scale_tril` above the diagonal
    must be 0, and their derivative is 0.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        TypeError: `q` has no `rsample` (discrete distributions), `n` is not an int, or f does not return a number.
        ValueError: `n < 1`, `q` has a batch shape, or f returns a vector.

    Example:
        >>> loss = lambda theta: rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, 1000, rgrad.reparameterized)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is 4
        3.9

    Source: Kingma and Welling 2014, Auto-encoding variational Bayes (section 2.4), https://arxiv.org/abs/1312.6114;
    Rezende, Mohamed and Wierstra 2014, Stochastic backpropagation and approximate inference in deep generative models,
    https://arxiv.org/abs/1401.4082.
    """
    x = draw_pathwise(q, key, n, "reparameterized")
    return evaluate(f, x, n, "reparameterized")
