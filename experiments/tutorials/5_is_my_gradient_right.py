# %% [markdown]
# # Is my gradient right?
#
# A wrong gradient is hard to notice. The loss still falls, only to the wrong place or too slowly. JAX does not warn: if a path
# from the parameter to the loss is cut, that part of the derivative is simply 0.
#
# `rgrad.audit` finds such mistakes. It takes any function `loss(params, key)`. It compares the mean of `jax.grad(loss)` with the
# slope of the mean loss. The slope is computed from differences of values, so it needs no derivative.
#
# ## A loss with a mistake
#
# A part of a machine has a random lifetime. Better quality means a longer lifetime, but costs `quality**2`. If the part fails before
# time 1, that costs 5. The first version of the loss draws 100 lifetimes and compares each with 1.

# %%
import jax
import jax.numpy as jnp

import rgrad

key = jax.random.key(0)


def cost(quality, key):
    life = quality * jax.random.exponential(key, (100,))
    failed = jnp.where(life < 1.0, 1.0, 0.0)
    return 5.0 * failed.mean() + quality**2


print(jax.grad(cost)(1.0, key))

# %% [markdown]
# The gradient is 2, which is the derivative of `quality**2` only. Better parts fail less often, but the gradient does not include
# that.
#
# ## Ask the audit

# %%
found = rgrad.audit(cost, 1.0, key)
print(found)

# %% [markdown]
# The verdict is BIASED. The table has the mean gradient and the truth, and below it is the line at which the derivative is lost: the
# comparison `life < 1.0`.
#
# ## Repair it
#
# A comparison has no useful derivative, so the reparameterization trick is no help. The score function is: it differentiates the
# probability of a lifetime, not the lifetime itself.

# %%
import numpyro.distributions as dist


def repaired(quality, key):
    q = dist.Exponential(1 / quality)
    failed = lambda life: jnp.where(life < 1.0, 1.0, 0.0)
    reinforce = "score_function+leave_one_out"
    return 5.0 * rgrad.expect(failed, q, key, 100, reinforce) + quality**2


again = rgrad.audit(repaired, 1.0, key)
print(again)

# %% [markdown]
# The verdict is "ok": the bias is certainly below 10 %, which is the default `tolerance`.
#
# ## REINFORCE written by hand
#
# Many people write a surrogate loss: its *gradient* is meant to be right, and its *value* means nothing. Then the audit cannot
# use the value. Give it the true objective as `value`.
#
# This loss subtracts the mean of four costs as a baseline.

# %%
from jax.lax import stop_gradient


def objective(theta, key):  # E[x^2], x ~ N(theta, 1)
    return jnp.mean((theta + jax.random.normal(key, (4,))) ** 2)


def surrogate(theta, key):
    x = stop_gradient(theta + jax.random.normal(key, (4,)))
    advantage = x**2 - jnp.mean(x**2)
    log_density = -((x - theta) ** 2) / 2
    return jnp.mean(advantage * log_density)


by_hand = rgrad.audit(surrogate, 1.0, key, value=objective)
print(by_hand)

# %% [markdown]
# It is too small by a quarter. Each sample is part of its own baseline, so 1/4 of the gradient is subtracted with it. The cure is the
# mean of the *other* samples: `baseline=rgrad.leave_one_out`.
#
# ## In a test
#
# `found.ok` is True or False, so an audit fits into a test of your project:
#
# ```python
# def test_gradient():
#     found = rgrad.audit(loss, params, jax.random.key(0))
#     assert found.ok, found
# ```
#
# ## Exercise
#
# Orders above 1 get a discount: they cost half. The loss is the mean price of orders of a random size. Is its gradient right? Guess
# first, then ask the audit.


# %%
def price(size, key):
    size = size + 0.1 * jax.random.normal(key, (100,))
    return jnp.mean(jnp.where(size > 1.0, 0.5, 1.0) * size)


print(jax.grad(price)(1.0, key))

# %% [markdown]
# ## Answer
#
# No. The price falls by half at 1, and this jump has no derivative. The mean price *falls* if orders get larger, but the gradient is
# positive. The audit says BIASED, and names the comparison `size > 1.0`.

# %%
answer = rgrad.audit(price, 1.0, key)
print(answer)
