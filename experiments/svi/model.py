"""The mixture as a NumPyro model, its guides, and every loss that fits it."""

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from jax import Array
from numpyro.distributions import constraints
from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO

import rgrad
from experiments.common.errors import UsageError, nearest
from experiments.common.loading import ESTIMATORS, load_estimator

# The prior of the log odds of component 1, of the means and of the log standard deviation, as (location, scale). The two
# means have different priors, so that the components cannot change their names.
ODDS = (0.0, 1.0)
MEANS = ((-1.0, 1.0), 0.5)
LOG_SD = (-0.7, 0.5)
START = {"odds": ODDS[0], "mean": MEANS[0], "sd": LOG_SD[0]}
START_SCALE = 0.2


def _globals() -> tuple[Array, Array, Array]:
    odds = numpyro.sample("odds", dist.Normal(*ODDS))
    with numpyro.plate("components", 2):
        mean = numpyro.sample("mean", dist.Normal(jnp.array(MEANS[0]), MEANS[1]))
    sd = numpyro.sample("sd", dist.LogNormal(*LOG_SD))
    return odds, mean, sd


def model(x: Array) -> None:
    """`z_i ~ Bernoulli(sigmoid(odds))` and `x_i ~ N(mean[z_i], sd^2)`."""
    odds, mean, sd = _globals()
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(logits=odds), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal(mean[z], sd), obs=x)


def marginal_model(x: Array) -> None:
    """The same, with z summed out."""
    odds, mean, sd = _globals()
    weights = dist.Categorical(logits=jnp.stack([jnp.zeros_like(odds), odds]))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.MixtureSameFamily(weights, dist.Normal(mean, sd)), obs=x)


def marginal_guide(x: Array) -> None:
    """Independent normals for the log odds, the means and the log standard deviation."""

    def of(name: str, family: Any) -> None:
        loc = numpyro.param(f"{name}_loc", jnp.asarray(START[name], float))
        scale = numpyro.param(f"{name}_scale", jnp.full(jnp.shape(loc), START_SCALE), constraint=constraints.positive)
        numpyro.sample(name, family(loc, scale))

    of("odds", dist.Normal)
    with numpyro.plate("components", 2):
        of("mean", dist.Normal)
    of("sd", dist.LogNormal)


def guide(x: Array, enumerate_z: bool = False) -> None:
    """The same, and an independent Bernoulli for each z_i.

    Args:
        enumerate_z: tells `TraceEnum_ELBO` to sum over z. The other losses ignore it.
    """
    marginal_guide(x)
    # At a logit of exactly 0, NumPyro's density of a Bernoulli has the wrong derivative, so start elsewhere.
    logits = numpyro.param("logits", jnp.where(x == 0, 0.01, x / 2))
    with numpyro.plate("data", len(x)):
        q = dist.Bernoulli(logits=logits)
        numpyro.sample("z", q, infer={"enumerate": "parallel"} if enumerate_z else {})


class SviWay(NamedTuple):
    """A model, a guide and a loss. They determine which ELBO is maximised, and how its gradient is estimated."""

    model: Callable[[Array], None]
    guide: Callable[[Array], None]
    loss: Callable[[int], Any]
    """Maps a number of particles to the loss."""
    marginal: bool = False
    """Whether z is summed out of the model. The bound is then tighter, and the guide has no z."""
    biased: bool = False

    def svi(self, particles: int, rate: Any = 0.0) -> SVI:
        return SVI(self.model, self.guide, optax.adam(rate), self.loss(particles))


# NumPyro warns that Trace_ELBO does not support discrete latents, and continues. It treats z as reparameterized.
LOSSES: Mapping[str, SviWay] = {
    "Trace_ELBO": SviWay(model, guide, Trace_ELBO, biased=True),
    "TraceGraph_ELBO": SviWay(model, guide, TraceGraph_ELBO),
    "TraceEnum_ELBO": SviWay(model, partial(guide, enumerate_z=True), TraceEnum_ELBO),
    "Trace_ELBO+marginal": SviWay(marginal_model, marginal_guide, Trace_ELBO, marginal=True),
    "TraceEnum_ELBO+marginal": SviWay(model, marginal_guide, TraceEnum_ELBO, marginal=True),
}


def load_way(name: str) -> SviWay:
    """The loss of NumPyro with this name, or `SVILoss` with this estimator at z.

    Raises:
        UsageError: there is none.
    """
    if name in LOSSES:
        return LOSSES[name]
    if ":" not in name and name not in ESTIMATORS:
        known = [*LOSSES, *ESTIMATORS]
        raise UsageError(f"--estimators {name}: unknown name{nearest(name, known)}, or your own as module:function")
    row = rgrad.ESTIMATORS.get(name)
    at_z = {"z": load_estimator(name)}
    return SviWay(model, guide, partial(rgrad.SVILoss, estimators=at_z), biased=row is not None and row.biased)


def missing(name: str) -> str | None:
    """Why a loss cannot run here: an optional library is not installed."""
    if name.startswith("TraceEnum_ELBO") and importlib.util.find_spec("funsor") is None:
        return "funsor is not installed; pip install funsor"
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Without NumPyro's warning that `Trace_ELBO` does not support discrete latents. The report says more."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Currently, SVI with")
        yield


def warning_of(way: SviWay, x: Array) -> str | None:
    """What NumPyro says when an SVI with this loss starts."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        way.svi(1).init(jax.random.key(0), x)
    return str(said[0].message) if said else None
