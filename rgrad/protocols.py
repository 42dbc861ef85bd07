"""What a distribution, an estimator and a problem must provide. NumPyro's distributions satisfy `Distribution`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jax import Array
from jax.typing import ArrayLike

Sample = Any  # an array, or a pytree of arrays
Objective = Callable[..., ArrayLike]  # one sample -> a scalar


class Distribution(Protocol):
    """The distribution of **one** sample: its `batch_shape` is `()`, and its sample has shape `event_shape`.

    Any NumPyro distribution satisfies this protocol, and so does any object with these members. Build it inside the
    function that is traced: a NumPyro *instance* that passes through `vmap` keeps the batch shape with which it was
    built.

    Two further members are optional:

    - `batch_shape` must be `()`.
    - `support` is a pytree whose leaves are the numbers that bound the support, e.g. one of NumPyro's constraints.
      Without it, the support is assumed not to depend on the parameters.
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
    """

    def __call__(self, f: Objective, q: Any, key: Array, n: int, /) -> Array: ...


class Problem(Protocol):
    """The problem of minimising `E[objective(params, x)]` over params, where `x ~ distribution(params)`.

    A module that defines these three names is a problem too. Two further names are optional:

    - `wrt` lists the parameters to differentiate by default. Without it, all of them are.
    - `of_dimension(d)` returns the problem in d dimensions, for sweeps over the dimension.
    """

    @property
    def params(self) -> Mapping[str, Any]:
        """The default parameters: a mapping from names to numbers or arrays."""

    def distribution(self, params: Mapping[str, Array], /) -> Any:
        """The `Distribution` with these parameters."""

    def objective(self, params: Mapping[str, Array], x: Sample, /) -> ArrayLike:
        """The objective at one sample: a scalar."""
