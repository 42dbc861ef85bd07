# %% [markdown]
# # From NumPyro's SVI to ours
#
# NumPyro fits a guide to a model by stochastic variational inference (SVI). Its loss is minus the ELBO. You choose it when you
# make the `SVI` object. rgrad has one more loss to choose from: `rgrad.SVILoss`. The model and the guide stay as they are.
#
# Our model has a discrete latent variable. A coin `z` decides the mean of `mu`, and three observations are drawn around `mu`.

# %%
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, TraceGraph_ELBO

import rgrad

x = jnp.array([1.2, -0.3, 2.0])
key = jax.random.key(0)


def model():
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    mu = numpyro.sample("mu", dist.Normal(2.0 * z, 1.0))
    with numpyro.plate("data", 3):
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def guide():
    z = numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("logits", 0.4)))
    loc = numpyro.param("loc", jnp.array([0.1, 0.9]))
    numpyro.sample("mu", dist.Normal(loc[z], 0.5))


# %% [markdown]
# ## Change one argument
#
# `TraceGraph_ELBO` is NumPyro's loss for models with discrete latents. We swap it for ours.

# %%
losses = {
    "TraceGraph_ELBO": TraceGraph_ELBO(num_particles=8),
    "SVILoss": rgrad.SVILoss(num_particles=8),
}
svis = {name: SVI(model, guide, optax.adam(0.02), loss) for name, loss in losses.items()}
print(list(svis))

# %% [markdown]
# What does `SVILoss` do at each site? `mu` is normal, so it is reparameterized. `z` is discrete, so it uses the score function,
# with the mean of the other particles as its baseline.
#
# ## Is it better?
#
# Do not guess. `rgrad.measure_svi` measures the gradient of any SVI loss, site by site.

# %%
variance = {}
for name, svi in svis.items():
    moments = rgrad.measure_svi(svi, svi.init(key), key, 2000)
    variance[name] = float(moments.variance["logits"])
    print(f"{name}: d/d logits has mean {moments.mean['logits']:.2f} and variance {variance[name]:.3f}")

# %% [markdown]
# The means agree, and the variance of ours is several times smaller.
#
# ## Name an estimator
#
# `z` has only two values. So we can sum over both, and no noise from `z` is left. Say so by the name of the site.

# %%
summed = rgrad.SVILoss(num_particles=8, estimators={"z": "enumerated"})
svis["SVILoss, z summed"] = svi = SVI(model, guide, optax.adam(0.02), summed)
variance["SVILoss, z summed"] = float(rgrad.measure_svi(svi, svi.init(key), key, 2000).variance["logits"])
print(variance)

# %% [markdown]
# ## Fit
#
# `svi.run` works as before. We plot the probability of `z = 1` at the end of ten short runs with each loss. The exact posterior
# probability is the dashed line. (The guide has a fixed scale of 0.5, which is that of the posterior of `mu` given `z`. So the guide
# can match the posterior exactly.)

# %%
import matplotlib.pyplot as plt

# Given z, the mean of the three observations is N(2 z, 1 + 1/3).
log_odds = jnp.log(0.3 / 0.7) + sum(
    sign * dist.Normal(2.0 * z, (4 / 3) ** 0.5).log_prob(x.mean()) for z, sign in ((1, 1), (0, -1))
)
exact = float(jax.nn.sigmoid(log_odds))
ends = {}
for name, svi in svis.items():
    run = jax.jit(jax.vmap(lambda key, svi=svi: svi.run(key, 1000, progress_bar=False).params["logits"]))
    ends[name] = jax.nn.sigmoid(run(jax.random.split(key, 10)))
    plt.plot(ends[name], [name] * 10, "o", alpha=0.5)
plt.axvline(exact, color="black", linestyle="--")
plt.xlabel("probability of z = 1")
plt.tight_layout()
plt.show()

# %% [markdown]
# All losses lead to the right place. With less noise in the gradient, the runs end closer together.
#
# ## Exercise
#
# `rgrad.SVILoss(k=10)` is minus the importance-weighted bound from 10 samples. It is a tighter bound on the log evidence than the
# ELBO. Evaluate both at the start, `logits = 0.4`, and compare them.
#
# ## Answer
#
# A loss has a method `loss(key, params, model, guide)`, as NumPyro's do. A lower loss means a higher bound.

# %%
params = {"logits": 0.4, "loc": jnp.array([0.1, 0.9])}
bounds = {}
for name, loss in (("ELBO", rgrad.SVILoss(1000)), ("10 samples", rgrad.SVILoss(1000, k=10))):
    bounds[name] = -float(jax.jit(lambda key, loss=loss: loss.loss(key, params, model, guide))(key))
print(bounds)
