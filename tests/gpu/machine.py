"""Parts a1 and a2: the machine and the first result, and the experiment `variance` in a separate process."""

import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.common.requirements import missing_packages
from tests.gpu.context import Context, SkippedPart, seconds_of
from tests.gpu.report import say

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "numpyro", "optax", "numpy", "scipy", "torch")
IMPORTS = ("numpy", "jax", "jax.numpy", "rgrad", "numpyro.distributions", "optax")
FLAGS = ("jax_threefry_partitionable", "jax_threefry_gpu_kernel_lowering", "jax_enable_x64")
SMI = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
TIMED = """
import importlib, json, sys, time
took = {}
for name in sys.argv[1:]:
    began = time.perf_counter()
    importlib.import_module(name)
    took[name] = time.perf_counter() - began
print(json.dumps(took))
"""
MOST_Z = 5.0


def nvidia_smi(fields: str) -> dict[str, str]:
    """These fields of the first GPU. Empty if there is no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    if done.returncode:
        return {"error": (done.stderr or done.stdout).strip()[:300]}
    first = done.stdout.strip().splitlines()[0]
    return dict(zip(fields.split(","), (x.strip() for x in first.split(",")), strict=False))


def memory() -> dict[str, Any]:
    """The memory of JAX's first device, if known."""
    jax = importlib.import_module("jax")
    found = jax.devices()[0].memory_stats() or {}
    return {k: found[k] for k in ("bytes_in_use", "peak_bytes_in_use", "bytes_limit", "num_allocs") if k in found}


def machine(ctx: Context) -> None:
    imports = import_times()
    jax, rgrad = importlib.import_module("jax"), importlib.import_module("rgrad")
    versions = {"python": platform.python_version()} | {name: version_of(name) for name in PACKAGES}
    ctx.note("versions", versions)
    ctx.note("rgrad", source(Path(rgrad.__file__).parent))
    ctx.note("imports in seconds", imports)
    start, devices = seconds_of(jax.devices)
    device = devices[0]
    ctx.note("device", {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": len(devices),
        "multiprocessors": getattr(device, "core_count", None),
        "compute capability": getattr(device, "compute_capability", None),
        "backend version": str(getattr(device.client, "platform_version", ""))[:200],
        "cores of the host": len(os.sched_getaffinity(0)),
        "memory": memory(),
        "start of the backend in seconds": start,
    })  # fmt: skip
    ctx.note("nvidia-smi", nvidia_smi(SMI))
    flags = {name: getattr(jax.config, name, None) for name in FLAGS}
    ctx.note("flags", flags | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")})
    draw = importlib.import_module("tests.gpu.post").post(100)
    first, moments = seconds_of(lambda: rgrad.measure(draw, jax.random.key(0), 10_000))
    again, _ = seconds_of(lambda: rgrad.measure(draw, jax.random.key(1), 10_000))
    ctx.row("measure", **{"first call in seconds": first, "second call in seconds": again, "mean": moments.mean})
    say(
        f"   jax {versions['jax']}, numpyro {versions['numpyro']}, Python {versions['python']}; {device.device_kind} x "
        f"{len(devices)}; rgrad imported in {imports['rgrad']:.2f} s; first measure {first:.1f} s, second {1000 * again:.1f} ms"
    )


def import_times() -> dict[str, float]:
    """The seconds of each import, one after the other in a fresh process."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", TIMED, *IMPORTS], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def source(package: Path) -> dict[str, Any]:
    """The commit, and a hash of the sources, because a copy may have no commit."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py*")):
        if path.suffix in (".py", ".pyi"):
            digest.update(path.read_bytes())
    command = ["git", "-C", str(package), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return {"commit": commit, "sha256 of the sources": digest.hexdigest()[:16]}


def variance(ctx: Context) -> None:
    """`python -m experiments.variance` on this platform. All means and variances must be within 5 standard errors."""
    if missing := missing_packages():
        raise SkippedPart(f"not installed: {', '.join(missing)}; the command line of the experiment needs them")
    out = ctx.report.path.parent / "variance"
    command = [sys.executable, "-m", "experiments.variance", "--out", str(out), "--platform", ctx.size("gpu", "cpu")]
    command += ctx.size([], ["--num-samples", "10", "--replicates", "2000"])
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    env["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.20"  # this process has most of the memory
    began = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=max(5.0, ctx.left()), check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: it ended with {done.returncode}: {done.stderr[-1500:]}")
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    ctx.row("the command", seconds=took, platform=result["provenance"]["platform"], of=result["provenance"]["device"])
    ctx.check("the platform", result["provenance"]["platform"] == ctx.size("gpu", "cpu"))
    for row in result["rows"]:
        half = (row["variance_high"] - row["variance_low"]) / 2 / 1.96
        z = {
            "z mean": (row["mean"] - row["exact_mean"]) / row["standard_error"],
            "z variance": (row["variance"] - row["exact_variance"]) / half,
        }
        label = f"{row['estimator']}, d/d {row['parameter']}, n = {row['n']}"
        ctx.check(label, max(map(abs, z.values())) < MOST_Z, **z, **row)
