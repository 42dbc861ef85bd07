# %% [markdown]
# # A discrete latent variable, four ways
#
# A switch is on with probability `p`. You pay `(b - 0.45)**2`, where `b` is 1 if the switch is on, and 0 if it is off. Which `p`
# is cheapest?
#
# On costs 0.3025 and off costs 0.2025. So the best `p` is 0. The parameter is a logit, i.e. `p = sigmoid(logit)`, and the gradient is
# `p * (1 - p) * (0.3025 - 0.2025)`.
#
# That was easy. With a thousand switches and a neural network instead of the square, it is not. Then you need an estimator. We
# try four of them here, because we know the answer.
#
# ## What JAX does
#
# JAX cannot differentiate a discrete sample. It does not complain either: the gradient is 0.

# %%
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import rgrad

key = jax.random.key(0)


def naive(logit, key):
    b = dist.Bernoulli(logits=logit).sample(key).astype(float)
    return (b - 0.45) ** 2


print(jax.grad(naive)(0.0, key))  # 0.0, but the truth is 0.025

# %% [markdown]
# ## Four estimators
#
# | name | idea | unbiased? |
# |---|---|---|
# | `enumerated` | sum over both values | exact |
# | `score_function+leave_one_out` | REINFORCE with a baseline | yes |
# | `disarm` | pairs of opposite samples | yes |
# | `straight_through` | pretend that the sample is $p$ | **no** |
#
# The code is the same for all four.


# %%
def loss(logit, key, estimator):
    q = dist.Bernoulli(logits=logit)
    return rgrad.expect(lambda b: (b - 0.45) ** 2, q, key, 10, estimator)


NAMES = ["enumerated", "score_function+leave_one_out", "disarm", "straight_through"]
print(jax.jit(jax.grad(loss), static_argnums=2)(0.0, key, "enumerated"))

# %% [markdown]
# ## The mean and the variance
#
# We measure at `logit = 1`. The truth is 0.01966.

# %%
means = {}
for name in NAMES:
    moments = rgrad.measure(lambda key, name=name: jax.grad(loss)(1.0, key, name), key, 10_000)
    low, high = moments.interval(0.95)
    means[name] = (float(low), float(high))
    print(f"{name:30} mean {low:.5f} to {high:.5f}, variance {moments.variance:.1e}")

# %% [markdown]
# The first three agree with the truth. `straight_through` does not: its mean is five times too large, and more samples do not
# help. At least it points in the right direction here. That is luck, as we see next.
#
# ## Training
#
# Start at `p = 0.7` and take 500 steps with each estimator. The best `p` is 0.

# %%
import matplotlib.pyplot as plt
import optax

start, optimizer = jnp.log(0.7 / 0.3), optax.adam(0.02)
ends = {}
for name in NAMES:
    fitted = rgrad.fit(lambda logit, key, name=name: loss(logit, key, name), start, optimizer, key, 500)
    ends[name] = float(jax.nn.sigmoid(fitted.params))
    plt.plot(jax.nn.sigmoid(fitted.trace.params), label=name)
plt.axhline(0.45, color="black", linewidth=0.5)
plt.xlabel("step")
plt.ylabel("p")
plt.legend()
plt.show()
print(ends)

# %% [markdown]
# The first three go to 0. `straight_through` stops near 0.45. It follows the slope of the square *between* the two values, and
# the square is smallest at 0.45. But the switch is never half on.
#
# ## Which one should you use?
#
# - A few values: `enumerated`. It is exact, and costs one evaluation for each value.
# - Many bits: `disarm`, or the score function with a leave-one-out baseline.
# - `straight_through` and `gumbel_softmax` may be good enough for your network. Measure the bias before you trust them.
#
# ## Exercise
#
# `gumbel_softmax` has a temperature. A low temperature means less bias. What is the price? Measure the mean and the variance of
# its gradient at `logit = 1`, for the temperatures 1, 0.3 and 0.1.
#
# ## Answer
#
# The price is variance: it grows as the temperature falls. At each temperature, compare the mean with 0.01966.

# %%
from functools import partial

variances = []
for temperature in (1.0, 0.3, 0.1):
    estimator = partial(rgrad.gumbel_softmax, temperature=temperature)
    moments = rgrad.measure(lambda key, estimator=estimator: jax.grad(loss)(1.0, key, estimator), key, 100_000)
    variances.append(float(moments.variance))
    print(f"temperature {temperature}: mean {moments.mean:.4f}, variance {moments.variance:.1e}")
