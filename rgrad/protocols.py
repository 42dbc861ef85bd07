"""What a distribution, an estimator and a problem must provide. NumPyro's distributions satisfy `Distribution`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from jax import Array
from jax.typing import ArrayLike

Params = Any  # a pytree of numbers and arrays, e.g. a dict of them by name
Sample = Any  # an array, or a pytree of arrays
Objective = Callable[..., ArrayLike]  # one sample -> a scalar


class Distribution(Protocol):
    """The distribution of **one** sample: its `batch_shape` is `()`, and its sample has shape `event_shape`.

    Any NumPyro distribution satisfies this protocol, and so does any object with these members. Distributions of other
    libraries are turned into one by `rgrad.expect` and the other functions that take a `q`. Build it inside the
    function that is traced: a NumPyro *instance* that passes through `vmap` keeps the batch shape with which it was
    built.

    Two further members are optional:

    - `batch_shape` must be `()`.
    - `support` is a pytree whose leaves are the numbers that bound the support, e.g. one of NumPyro's constraints.
      Without it, the support is assumed not to depend on the parameters.

    Example:
        >>> class Exponential:
        ...     has_rsample = True
        ...     def __init__(self, scale):
        ...         self.scale = scale
        ...     def rsample(self, key, shape):
        ...         return self.scale * jax.random.exponential(key, shape)
        ...     sample = rsample
        ...     def log_prob(self, x):
        ...         return -x / self.scale - jnp.log(self.scale)
        >>> loss = lambda scale: rgrad.expect(lambda x: x, Exponential(scale), key, 10_000)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is 1
        1.0
    """

    has_rsample: bool
    """Whether `rsample` is differentiable in the parameters, with unbiased gradients for every differentiable `f`."""

    def sample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        """Independent samples, of shape `shape + event_shape`."""

    def rsample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        """Samples with the same distribution as those of `sample`, differentiable in the parameters."""

    def log_prob(self, value: Sample) -> Array:
        """The normalised log density of one sample: shape `()`, differentiable in the parameters."""


class Estimator(Protocol):
    """`(f, q, key, n) -> terms`: how `E_q[f(x)]` is estimated, and how the estimate is differentiated.

    `terms` has shape `(n,)`. Its mean estimates `E_q[f(x)]`, and the gradient of its mean is the gradient estimate.
    `f` takes one sample and returns a scalar. Options are keyword arguments, set by `functools.partial`.
    Any function with this signature is an estimator, including your own.

    Example:
        >>> def half(f, q, key, n):  # the mean of two estimators
        ...     return (rgrad.score_function(f, q, key, n) + rgrad.reparameterized(f, q, key, n)) / 2
        >>> loss = lambda theta: rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, 1000, half)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is 4
        4.0
    """

    def __call__(self, f: Objective, q: Any, key: Array, n: int, /) -> Array: ...


class Problem(Protocol):
    """The problem of minimising `E[objective(params, x)]` over params, where `x ~ distribution(params)`.

    A module that defines these three names is a problem too. Two further names are optional:

    - `wrt` lists the parameters to differentiate by default. Without it, all of them are.
    - `of_dimension(d)` returns the problem in d dimensions, for sweeps over the dimension.

    Example:
        >>> class problem:  # E[x^2], x ~ N(loc, 1)
        ...     params = {"loc": 2.0}
        ...     distribution = lambda params: dist.Normal(params["loc"], 1.0)
        ...     objective = lambda params, x: x**2
        >>> variance = rgrad.exact_moments(problem, "score_function").variance(n=100)
        >>> print(f"{variance['loc']:.4f}")
        0.8700
    """

    @property
    def params(self) -> Params:
        """The default parameters: a dict of numbers or arrays by name, or any other pytree of them.

        The two functions receive the same structure. Elsewhere, each parameter has a name: its path in the pytree,
        joined by dots. `{"q": {"loc": 0.0}, "net": [w, b]}` has the parameters `q.loc`, `net.0` and `net.1`, and `q`
        stands for all in it. A number or an array that is not in a container is called `params`. In a dict, a list of
        numbers is an array.
        """

    def distribution(self, params: Params, /) -> Any:
        """The `Distribution` with these parameters."""

    def objective(self, params: Params, x: Sample, /) -> ArrayLike:
        """The objective at one sample: a scalar."""
