# Frontier's environment: sourced on the login node and by every batch script.
#
#   source env/frontier.sh
#
# Say once where your Python environment lies (built with the modules below):
#   export ALPENGLOW_PYTHON_ENV=/lustre/orion/PROJECT/proj-shared/alpenglow-env
#
# Not tested on Frontier. Sources by short name:
#   PT   olcf/olcf-user-docs, software/analytics/pytorch_frontier.rst (its commit 02a2c25)
# Other modules go into ALPENGLOW_PYTHON_ENV/alpenglow.sh, which is sourced if it is there.

ALPENGLOW_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export ALPENGLOW_ROOT
export ALPENGLOW_MACHINE=frontier
export ALPENGLOW_ENVIRONMENT=$ALPENGLOW_ROOT/env/frontier.sh

if [ -z "${ALPENGLOW_PYTHON_ENV:-}" ] || [ ! -x "${ALPENGLOW_PYTHON_ENV}/bin/python" ]; then
    echo "env/frontier.sh: set ALPENGLOW_PYTHON_ENV to a Python environment (bin/python inside); it is '${ALPENGLOW_PYTHON_ENV:-}' now" >&2
    return 1
fi

# The set with which PT installs torch; versions of one release, so change them together.
module load PrgEnv-gnu/8.7.0 cpe/26.03 rocm/7.1.1 craype-accel-amd-gfx90a || return
# PT: a programming environment that is not the default is found through this variable.
export LD_LIBRARY_PATH=${CRAY_LD_LIBRARY_PATH:-}:${LD_LIBRARY_PATH:-}
# PT: without the plugin RCCL talks TCP between nodes; the module sets HPE's variables for it too.
module load rccl-net-plugin || return
# PT: the high-speed network's interfaces; hsn0 alone where ranks hang.
export NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3 GLOO_SOCKET_IFNAME=hsn0

if [ -r "$ALPENGLOW_PYTHON_ENV/alpenglow.sh" ]; then
    # shellcheck source=/dev/null
    source "$ALPENGLOW_PYTHON_ENV/alpenglow.sh" || return
fi
export PATH=$ALPENGLOW_PYTHON_ENV/bin:$PATH
export PYTHONPATH=$ALPENGLOW_ROOT/src:$ALPENGLOW_ROOT/lsf:$ALPENGLOW_ROOT/profiling:$ALPENGLOW_ROOT/analysis${PYTHONPATH:+:$PYTHONPATH}

# MIOpen keeps a database of kernels in $HOME by default, which thousands of ranks would lock at once (ours).
export MIOPEN_USER_DB_PATH=/tmp/alpenglow-miopen-${SLURM_JOB_ID:-login} MIOPEN_CUSTOM_CACHE_DIR=/tmp/alpenglow-miopen-${SLURM_JOB_ID:-login}
# As on Summit: no locks on the parallel file system, and nothing is fetched from compute nodes (ours).
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$ALPENGLOW_ROOT/.cache} HDF5_USE_FILE_LOCKING=FALSE
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
