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

    Works for location-scale families, for MultivariateNormal in every parameterization, and by implicit differentiation,
    `dx = -dF / p(x)` at a fixed distribution function F, for:

    - Gamma, Beta, Dirichlet, InverseGamma, StudentT. (A Beta and a Dirichlet move as in PyTorch and TFP, with half the
      variance of the ratios of Gammas from which NumPyro draws them. It is right down to concentrations of .01.)
    - Mixtures of components with a `cdf`, or of MultivariateNormals: `MixtureSameFamily` and `MixtureGeneral`, in weights
      and in parameters. A vector moves coordinate by coordinate, given those before it. To first order only. The
      components should overlap: samples move from one to the other through the gap between them, and if none of the n
      samples lies there, the gradient in the weights is too small. Then use `score_function`.
    - VonMises, to first order only, and for a periodic f.
    - Any other `q` of one number with a `cdf` that is differentiable in its parameters, or independent ones. To first
      order only. The gradient is nan if the slope of the cdf is not the density.

    Entries of a `scale_tril` above the diagonal must be 0, and their derivative is 0.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        TypeError: `q` has no `rsample` and no rule (discrete distributions), `n` is not an int, or f does not return a
            number.
        ValueError: `n < 1`, `q` has a batch shape, or f returns a vector.
        NotImplementedError: a second derivative, if only the first is known.

    Example:
        >>> loss = lambda theta: rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, 1000, rgrad.reparameterized)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is 4
        3.9
        >>> def loss(logits):  # E[x^2] = 1 + 4 w
        ...     q = dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(jnp.array([0.0, 2.0]), 1.0))
        ...     return rgrad.expect(lambda x: x**2, q, key, 10_000)
        >>> print([f"{g:.1f}" for g in jax.jit(jax.grad(loss))(jnp.zeros(2))])  # the truth is 4 w (1 - w) = 1
        ['-1.0', '1.0']

    Source: Kingma and Welling 2014, Auto-encoding variational Bayes (section 2.4), https://arxiv.org/abs/1312.6114;
    Rezende, Mohamed and Wierstra 2014, Stochastic backpropagation and approximate inference in deep generative models,
    https://arxiv.org/abs/1401.4082; Figurnov, Mohamed and Mnih 2018, Implicit reparameterization gradients,
    https://arxiv.org/abs/1805.08498; for mixtures: Graves 2016, https://arxiv.org/abs/1607.05690.
    """
    x = draw_pathwise(q, key, n, "reparameterized")
    return evaluate(f, x, n, "reparameterized")
