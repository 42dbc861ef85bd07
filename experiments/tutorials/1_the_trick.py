# %% [markdown]
# # The trick in ten minutes
#
# You want to minimise an average, and the average depends on your parameter in an awkward way. The parameter does not only
# change *what* is averaged. It changes *how often* each value occurs.
#
# The smallest example is the mean of `x**2`, where `x` is normal with mean `theta` and standard deviation 1. In short:
# `E[x^2]`, `x ~ N(theta, 1)`.
#
# We can solve it with a pencil. The mean is `theta**2 + 1`, so the gradient is `2 * theta`. At `theta = 2` it is 4. That is useful,
# because we can check every estimate below.

# %%
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import rgrad

theta = 2.0
key = jax.random.key(0)
eps = jax.random.normal(key, (100_000,))  # standard normal noise
x = theta + eps  # samples of N(theta, 1)

# %% [markdown]
# ## Two formulas for one gradient
#
# **The score function**, also called REINFORCE. Multiply each value by the derivative of the log density with respect to
# `theta`. For `N(theta, 1)` this derivative is `x - theta`. So one sample gives `x**2 * (x - theta)`.
#
# **The reparameterization trick.** Write the sample as `x = theta + eps`. The noise `eps` does not depend on `theta`. Now the
# parameter is inside the function, and we can differentiate as usual. The derivative of `(theta + eps)**2` is `2 * x`.
#
# Both are right on average. Let us look at their spread.

# %%
score = x**2 * (x - theta)
path = 2 * x
for name, values in (("score function", score), ("reparameterization", path)):
    print(f"{name}: mean {values.mean():.2f}, variance {values.var():.1f}")

# %% [markdown]
# The two means agree with 4, up to noise. The variances do not agree at all: about 87 against 4. From `n` samples they are `87/n`
# and `4/n`. So REINFORCE needs 22 times as many samples for the same precision.
#
# ![The variance of both estimates against the number of samples](../variance/figure.png)
#
# A histogram shows why. The score function multiplies by `x - theta`, which has both signs. Large positive and large negative
# numbers must cancel to leave a 4.

# %%
import matplotlib.pyplot as plt

bins = jnp.linspace(-40, 60, 101)
plt.hist(score, bins, alpha=0.6, density=True, label="score function")
plt.hist(path, bins, alpha=0.6, density=True, label="reparameterization")
plt.axvline(4, color="black", linewidth=1, label="the gradient")
plt.xlabel("gradient estimate from one sample")
plt.legend()
plt.show()

# %% [markdown]
# ## The same with rgrad
#
# You do not have to derive these formulas. `rgrad.expect` estimates the expectation, and `jax.grad` differentiates it. The
# estimator is an argument. Build the distribution inside the function, so that JAX sees how it depends on `theta`.


# %%
def loss(theta, key, estimator, n=100):
    q = dist.Normal(theta, 1.0)
    return rgrad.expect(lambda x: x**2, q, key, n, estimator)


for estimator in (rgrad.score_function, rgrad.reparameterized):
    print(estimator.__name__, jax.grad(loss)(theta, key, estimator))

# %% [markdown]
# ## How noisy is it?
#
# One estimate tells you little about its own noise. `rgrad.measure` repeats the call and returns the mean, the variance, and an
# interval for each.

# %%
found = {}
for estimator in (rgrad.score_function, rgrad.reparameterized):
    draw = lambda key, estimator=estimator: jax.grad(loss)(theta, key, estimator)
    moments = rgrad.measure(draw, key, 10_000)
    low, high = moments.variance_interval(0.95)
    found[estimator.__name__] = float(moments.variance)
    print(f"{estimator.__name__}: mean {moments.mean:.3f}, variance {moments.variance:.4f} ({low:.4f} to {high:.4f})")

# %% [markdown]
# The exact values are 0.87 and 0.04, i.e. 87/100 and 4/100.
#
# ## Two things to remember
#
# **The score function can be improved.** Subtract from each value the mean of the *other* values. This baseline does not change
# the mean of the gradient, and removes about half of the variance here.
#
# **The trick can fail.** It differentiates the function at the sample. If the function is a step, that derivative is 0
# everywhere, and so is the gradient estimate. The score function needs no derivative of the function.

# %%
better = rgrad.ESTIMATORS["score_function+leave_one_out"].estimator
print(f"leave-one-out: {rgrad.measure(lambda key: jax.grad(loss)(theta, key, better), key, 10_000).variance:.2f}")


def chance(theta, key, estimator):  # P(x > 2), whose derivative at theta = 2 is 0.399
    step = lambda x: jnp.where(x > 2, 1.0, 0.0)
    return rgrad.expect(step, dist.Normal(theta, 1.0), key, 10_000, estimator)


for estimator in (rgrad.score_function, rgrad.reparameterized):
    print(f"{estimator.__name__}: {jax.grad(chance)(theta, key, estimator):.2f}")

# %% [markdown]
# ## Exercise
#
# Is the trick always less noisy if the function is smooth? Measure both estimators for `sin(10 x)` at `theta = 0`. Guess first:
# how large is the derivative of `sin(10 x)`?
#
# ## Answer
#
# The derivative is `10 cos(10 x)`. It is large, and its sign changes many times under the bell curve. So here the trick is about a
# hundred times *noisier*.


# %%
def wave(theta, key, estimator):
    return rgrad.expect(lambda x: jnp.sin(10 * x), dist.Normal(theta, 1.0), key, 1, estimator)


answer = {}
for estimator in (rgrad.score_function, rgrad.reparameterized):
    draw = lambda key, estimator=estimator: jax.grad(wave)(0.0, key, estimator)
    answer[estimator.__name__] = float(rgrad.measure(draw, key, 100_000).variance)
print(answer)  # about 0.5 and 50
