#!/usr/bin/env bash
# Prepares the data of a recipe as a job array: its tasks need not run at the same time, and wait for nobody.
# Each writes its share of the shards of a stage, and ends where the next stage needs what others have not written yet.
# So the same array runs once for the corpus, once for the entropy model (which task 0 trains), and once to score:
#
#   first=$(sbatch --parsable examples/slurm/prepare_array.sh)
#   second=$(sbatch --parsable --dependency="afterany:$first" examples/slurm/prepare_array.sh)
#   sbatch --dependency="afterany:$second" examples/slurm/prepare_array.sh
#
# Any of it may be run again: what is finished is left as it is.
#SBATCH --job-name=bytequilt-prepare
#SBATCH --array=0-63
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

RECIPE=${RECIPE:-blt-8b}
export RANK=$SLURM_ARRAY_TASK_ID WORLD_SIZE=$SLURM_ARRAY_TASK_COUNT
unset MASTER_ADDR  # without it, processes of one number do not look for the others

bytequilt prepare "$RECIPE" --data.train /shared/corpus --out "/shared/runs/$RECIPE" "$@"
