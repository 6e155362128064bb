# Perlmutter's environment (GPU nodes): sourced on the login node and by every batch script.
#
#   source env/perlmutter.sh
#
# Say once where your Python environment lies (conda or venv, with torch built for CUDA, DeepSpeed,
# mpi4py built on Cray MPICH, h5py): export ALPENGLOW_PYTHON_ENV=/global/common/software/PROJECT/alpenglow-env
#
# Not tested on Perlmutter, and no page of the site was at hand for its modules: load what that
# environment was built with in ALPENGLOW_PYTHON_ENV/alpenglow.sh, which is sourced if it is there,
# NCCL's plugin for Slingshot among it (without one NCCL talks TCP between nodes).

ALPENGLOW_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export ALPENGLOW_ROOT
export ALPENGLOW_MACHINE=perlmutter
export ALPENGLOW_ENVIRONMENT=$ALPENGLOW_ROOT/env/perlmutter.sh

if [ -z "${ALPENGLOW_PYTHON_ENV:-}" ] || [ ! -x "${ALPENGLOW_PYTHON_ENV}/bin/python" ]; then
    echo "env/perlmutter.sh: set ALPENGLOW_PYTHON_ENV to a Python environment (bin/python inside); it is '${ALPENGLOW_PYTHON_ENV:-}' now" >&2
    return 1
fi
if [ -r "$ALPENGLOW_PYTHON_ENV/alpenglow.sh" ]; then
    # shellcheck source=/dev/null
    source "$ALPENGLOW_PYTHON_ENV/alpenglow.sh" || return
fi
export PATH=$ALPENGLOW_PYTHON_ENV/bin:$PATH
export PYTHONPATH=$ALPENGLOW_ROOT/src:$ALPENGLOW_ROOT/lsf:$ALPENGLOW_ROOT/profiling:$ALPENGLOW_ROOT/analysis${PYTHONPATH:+:$PYTHONPATH}

# Slingshot's interfaces, as on Frontier, whose guide names them (olcf-user-docs, pytorch_frontier.rst);
# the sockets of the first one serve gloo.
export NCCL_SOCKET_IFNAME=hsn GLOO_SOCKET_IFNAME=hsn0
# No locks on the parallel file system, and nothing is fetched from compute nodes (ours).
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$ALPENGLOW_ROOT/.cache} HDF5_USE_FILE_LOCKING=FALSE
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
