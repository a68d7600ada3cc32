#!/usr/bin/env bash
# Scores the shards of a corpus on 64 GPUs. Run `bytequilt prepare` on one GPU first, until it scores: the corpus, the
# entropy model and the threshold are then there. Any task may be run again: finished shards are left as they are.
#SBATCH --job-name=bytequilt-prepare
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

RECIPE=${RECIPE:-blt-8b}
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 3 \
  --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id "$SLURM_JOB_ID" \
  -m bytequilt prepare "$RECIPE" --data.train /shared/corpus --out "/shared/runs/$RECIPE" "$@"
