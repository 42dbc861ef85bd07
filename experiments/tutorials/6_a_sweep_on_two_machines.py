# %% [markdown]
# # A sweep on two machines
#
# One variance is a number. A *map* of variances over many settings tells you more, and takes more time. So it is nice to share the
# work between machines, and to lose nothing if one of them stops.
#
# We start small, in Python. A problem is an object with `params`, `distribution` and `objective`.

# %%
import jax
import numpy as np
import numpyro.distributions as dist

import rgrad

key = jax.random.key(0)


class wave:
    """E[sin(f x)], x ~ N(0, scale^2)."""

    params = {"scale": 1.0, "f": 1.0}  # noqa: RUF012
    wrt = ["scale"]  # noqa: RUF012

    def distribution(params):
        return dist.Normal(0.5, params["scale"])

    def objective(params, x):
        return jax.numpy.sin(params["f"] * x)


print(wave.objective(wave.params, 0.5))

# %% [markdown]
# ## A grid in one call
#
# `rgrad.sweep` measures every cell of a grid. An axis is a parameter or `n`, the number of samples. All cells are compiled into one
# program.

# %%
names = ["reparameterized", "score_function+leave_one_out"]
axes = {"f": np.geomspace(0.3, 10, 16), "scale": [0.3, 1.0]}
swept = rgrad.sweep(wave, axes, names, key=key, replicates=2000)
variance = swept.moments().variance
print({name: variance[name]["scale"].shape for name in names})

# %%
import matplotlib.pyplot as plt

for name in names:
    plt.loglog(axes["f"], variance[name]["scale"][:, 1], label=name)
plt.xlabel("frequency f")
plt.ylabel("variance of d/d scale, scale = 1")
plt.legend()
plt.show()

# %% [markdown]
# The lines cross. If the function oscillates fast, the score function has less noise.
#
# ## The same on two machines
#
# `python -m experiments.sweep` does this from the command line. Start it on each machine, with the same flags and a folder that both
# can see:
#
# ```bash
# python -m experiments.sweep --axes loc=-3:3:31 n=10,100 --out results/swept \
#     --coordinator 10.0.0.1:7777 --processes 2 --process 0   # on the second machine: --process 1
# ```
#
# The machines agree on the work, and then each measures its share. Under Slurm or Kubernetes, `--cluster` is enough.
#
# We have one machine, so we start two processes on it. They find each other at a free port.

# %%
import csv
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(rgrad.__file__).parents[1]  # the checkout, which has the folder `experiments`
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name) / "swept"
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]

flags = ["--axes", "loc=-3:3:31", "n=10,100", "--replicates", "2000", "--out", str(folder)]
command = [sys.executable, "-m", "experiments.sweep", *flags, "--coordinator", f"127.0.0.1:{port}", "--processes", "2"]
quiet = {"cwd": root, "stdout": subprocess.DEVNULL}
started = [subprocess.Popen([*command, "--process", str(i)], **quiet) for i in (0, 1)]
print("exit codes:", [process.wait() for process in started])
print(sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# `table.csv` has one row for each cell, estimator and parameter. Any tool can read it.

# %%
with (folder / "table.csv").open() as file:
    rows = list(csv.DictReader(file))
print(len(rows), "rows with the columns", ", ".join(rows[0]))

# %% [markdown]
# ## Stop and resume
#
# Each share is written in pieces. If you kill the processes, start them again with `--resume FOLDER`: they measure only what is
# missing. The result is the same, byte for byte, because the random numbers of a cell depend only on the seed and the cell.
#
# ## Exercise
#
# The intervals are too wide for you. Add more replicates to the folder, without measuring the first 2,000 again. By what factor do
# the intervals of the variance shrink if you go to 8,000?
#
# ## Answer
#
# `--resume` with a larger `--replicates` adds to a finished sweep. Four times the replicates halve the width of an interval.


# %%
def width(rows):
    return np.median([float(row["variance_high"]) / float(row["variance_low"]) for row in rows]) - 1


more = [sys.executable, "-m", "experiments.sweep", "--resume", str(folder), "--replicates", "8000"]
print("exit code:", subprocess.run(more, **quiet, check=False).returncode)
with (folder / "table.csv").open() as file:
    ratio = width(rows) / width(list(csv.DictReader(file)))
print(f"the intervals are narrower by a factor of {ratio:.1f}")
