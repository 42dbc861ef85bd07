# %% [markdown]
# # Measure the noise of your own loss
#
# Stochastic training follows a noisy gradient. If it is too noisy, training is slow. If it has hardly any noise, you pay for
# samples that you do not need. So it is worth knowing the number.
#
# rgrad measures the noise of *any* function of a key. The loss does not have to use rgrad. Here it is a small network with two
# sources of noise: a random batch of the data, and dropout.

# %%
import jax
import jax.numpy as jnp

import rgrad

data_key, weight_key, key = jax.random.split(jax.random.key(0), 3)
inputs = jax.random.normal(data_key, (1000, 8))
targets = jnp.sin(inputs[:, 0]) * inputs[:, 1]
params = {
    "in": jax.random.normal(weight_key, (8, 32)) / 8**0.5,
    "out": jnp.ones(32) / 32,
}


def loss(params, key, batch=100, keep=0.8):
    batch_key, dropout_key = jax.random.split(key)
    rows = jax.random.choice(batch_key, 1000, (batch,))
    hidden = jnp.tanh(inputs[rows] @ params["in"])
    kept = jax.random.bernoulli(dropout_key, keep, hidden.shape)
    output = jnp.where(kept, hidden / keep, 0.0) @ params["out"]
    return jnp.mean((output - targets[rows]) ** 2)


print(f"{jax.jit(loss)(params, key):.3f}")

# %% [markdown]
# ## One number
#
# Start with the loss itself. `rgrad.measure` calls it with many different keys. It keeps only sums, so memory does not grow with
# the number of calls. `print` shows the mean and the variance with 95 % intervals.

# %%
moments = rgrad.measure(lambda key: loss(params, key), key, 2000)
print(moments)

# %% [markdown]
# ## The whole gradient
#
# The gradient has 288 numbers. `rgrad.measure` can return the variance of each. Often one number for each array is more useful:
#
# - The **total variance** is the sum of the variances of all elements.
# - The **signal-to-noise ratio** is the squared norm of the mean gradient, divided by the total variance. Above 1, a gradient
#   points mostly in the right direction.
# - The **noise scale** is its inverse. Multiply it by the batch size: a batch of that size has as much signal as noise.

# %%
noise = rgrad.measure_total(lambda key: jax.grad(loss)(params, key), key, 2000)
print(noise)

# %% [markdown]
# ## Where does the noise come from?
#
# Turn off one source and measure again. Without dropout, the noise comes from the batch only.

# %%
without_dropout = rgrad.measure_total(lambda key: jax.grad(loss)(params, key, keep=1.0), key, 2000)
print(f"with dropout    {noise.whole.variance.value:.4f}")
print(f"without dropout {without_dropout.whole.variance.value:.4f}")

# %% [markdown]
# ## A larger batch
#
# The noise of independent samples falls like 1/batch. Is that so here? The dashed line has the slope of 1/batch.

# %%
import matplotlib.pyplot as plt

batches = [10, 30, 100, 300]
variances = []
for batch in batches:
    draw = lambda key, batch=batch: jax.grad(loss)(params, key, batch=batch)
    variances.append(float(rgrad.measure_total(draw, key, 1000).whole.variance.value))

plt.loglog(batches, variances, "o-", label="measured")
plt.loglog(batches, [variances[0] * batches[0] / b for b in batches], "--", label="1/batch")
plt.xlabel("batch size")
plt.ylabel("total variance of the gradient")
plt.legend()
plt.show()

# %% [markdown]
# Yes. So ten times the batch gives a tenth of the variance, for about ten times the time.
#
# ## How many calls are enough?
#
# Look at the interval. It narrows like one over the square root of the number of calls. Four times the calls halve its width.

# %%
for calls in (250, 1000, 4000):
    whole = rgrad.measure_total(lambda key: jax.grad(loss)(params, key), key, calls).whole
    print(f"{calls} calls: {whole.variance.low:.4f} to {whole.variance.high:.4f}")

# %% [markdown]
# ## Exercise
#
# Which of the two arrays, `in` or `out`, is noisier in relation to its gradient? And how large a batch gives `in` as much
# signal as noise?
#
# ## Answer
#
# Compare the noise scales of the arrays, `noise.leaves`. The noise scale is the total variance over the squared norm of the mean
# gradient, for a batch of 100. Multiply it by 100.

# %%
for name, leaf in noise.leaves.items():
    print(f"{name}: noise scale {leaf.noise_scale.value:.2f}, so a batch of about {100 * leaf.noise_scale.value:.0f}")
