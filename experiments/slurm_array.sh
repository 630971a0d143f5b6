#!/bin/bash
# A run for each seed, as a SLURM array: sbatch experiments/slurm_array.sh --algorithm promp
#SBATCH --job-name=metarl
#SBATCH --array=1-5
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%A-%a.txt

# Two minutes before its time is up, the run gets a signal and ends with a checkpoint. The same
# command then continues it: --resume begins a new run only where there is none.
set -euo pipefail
seed=$SLURM_ARRAY_TASK_ID
exec .venv/bin/metarl train --family envs:HalfCheetahDir-v0 --seed "$seed" --resume \
  --run-dir "runs/slurm/seed-$seed" --threads "$SLURM_CPUS_PER_TASK" --stop-timeout 100 "$@"
