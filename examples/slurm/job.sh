#!/bin/sh
# A batch job whose ranks run in an image:
#
#     sbatch examples/slurm/job.sh
#
# The ranks of one node share one container (--join), whose size and name Slurm tells ch-run. Where
# thousands of nodes start at once, unpack the image first where each node reads it fast.
#SBATCH --job-name=mpihello
#SBATCH --ntasks=2
#SBATCH --time=00:05:00
image=${IMAGE:-mpihello}
srun ch-run --join "$image" -- ${PROGRAM:-hello}
