"""What a distribution, an estimator and a problem must promise. Said once, here; NumPyro's distributions keep it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jax import Array
from jax.typing import ArrayLike

Sample = Any  # an array, or a pytree of arrays
Objective = Callable[..., ArrayLike]  # one sample -> a scalar


class Distribution(Protocol):
    """The law of **one** sample: its `batch_shape` is `()`, and its sample has shape `event_shape`.

    Any NumPyro distribution is one, and so is any object with these members. Build it inside the function that is
    traced: a NumPyro *instance* that goes through `vmap` keeps the batch shape it was built with.

    Two optional members are used where they are there: `batch_shape`, which must be `()`, and `support`, a pytree whose
    leaves are the numbers that bound the support (NumPyro's constraints are that). Without `support` it is taken not to
    depend on the parameters.
    """

    has_rsample: bool
    """Whether `rsample` is differentiable with respect to the parameters, without bias for differentiable `f`."""

    def sample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        """Independent samples, of shape `shape + event_shape`."""

    def rsample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        """The same law as `sample`, through a differentiable path from the parameters."""

    def log_prob(self, value: Sample) -> Array:
        """The normalised log density of one sample: shape `()`, differentiable in the parameters."""


class Estimator(Protocol):
    """`(f, q, key, n) -> terms`: how `E_q[f(x)]` is estimated, and how that estimate is differentiated.

    `terms` has shape `(n,)`. Its mean estimates `E_q[f(x)]`, and the gradient of its mean is the gradient estimate.
    `f` takes one sample and returns a scalar. Options are keyword arguments, set by `functools.partial`.
    Any function of this signature is an estimator, a user's own included.
    """

    def __call__(self, f: Objective, q: Any, key: Array, n: int, /) -> Array: ...


class Problem(Protocol):
    """min over params of `E[objective(params, x)]`, `x ~ distribution(params)`: what the experiments work on.

    A module with three such names is one too. A fourth, `wrt`, may list the parameters to differentiate by default
    (absent: every one); a fifth, `of_dimension(d)`, may return the problem in d dimensions, for sweeps over that.
    """

    @property
    def params(self) -> Mapping[str, Any]:
        """The default parameters: names to numbers or arrays."""

    def distribution(self, params: Mapping[str, Array], /) -> Any:
        """The `Distribution` that these parameters give."""

    def objective(self, params: Mapping[str, Array], x: Sample, /) -> ArrayLike:
        """A scalar, for one sample."""
