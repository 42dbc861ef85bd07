#!/usr/bin/env bash
# sbatch configs/slurm_sweep.sh: a sweep on four machines, one process on each, all GPUs of each.
# Killed or out of time? RESUME=results/sweep/JOB sbatch configs/slurm_sweep.sh
#SBATCH --job-name=rgrad-sweep
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail

# All machines must be able to access the folder.
if [ -n "${RESUME:-}" ]; then
    where=(--resume "$RESUME")
else
    where=(--out "results/sweep/$SLURM_JOB_ID")
fi

# --cluster: jax asks Slurm for the other processes.
srun .venv/bin/python -m experiments.sweep --config configs/sweep.toml --platform gpu --cluster "${where[@]}"
