#!/usr/bin/env bash
# Training on several nodes of 8 GPUs; Slurm begins it again when its time is over or a node fails.
#SBATCH --job-name=bytequilt
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

RECIPE=${RECIPE:-blt-8b}
OUT=${OUT:-/shared/runs/$RECIPE}
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# SIGTERM comes ten minutes before the end: all processes save and exit with 130, and the job goes back to the queue.
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 3 --shutdown-timeout 500 \
  --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id "$SLURM_JOB_ID" \
  -m bytequilt train "$RECIPE" --data.train /shared/corpus --out "$OUT" "$@" || code=$?
if [[ ! -f $OUT/report.json && ${code:-0} -ne 2 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
