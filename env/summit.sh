# Summit's environment: sourced on the login node and by every batch script (batch shells read no .bashrc).
#
#   source env/summit.sh
#
# Say once where your Python environment lies (conda or venv, with torch, DeepSpeed, mpi4py built on
# Spectrum MPI, h5py): export ALPENGLOW_PYTHON_ENV=/ccs/proj/PROJECT/alpenglow-env
# Modules are the site's own affair; load what that environment was built with in
# ALPENGLOW_PYTHON_ENV/alpenglow.sh, which is sourced if it is there.
#
# Summit is retired: this file follows its user guide and has not been run there.

ALPENGLOW_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export ALPENGLOW_ROOT
export ALPENGLOW_MACHINE=summit
export ALPENGLOW_ENVIRONMENT=$ALPENGLOW_ROOT/env/summit.sh

if [ -z "${ALPENGLOW_PYTHON_ENV:-}" ] || [ ! -x "${ALPENGLOW_PYTHON_ENV}/bin/python" ]; then
    echo "env/summit.sh: set ALPENGLOW_PYTHON_ENV to a Python environment (bin/python inside); it is '${ALPENGLOW_PYTHON_ENV:-}' now" >&2
    return 1
fi
if [ -r "$ALPENGLOW_PYTHON_ENV/alpenglow.sh" ]; then
    # shellcheck source=/dev/null
    source "$ALPENGLOW_PYTHON_ENV/alpenglow.sh" || return
fi
export PATH=$ALPENGLOW_PYTHON_ENV/bin:$PATH
export PYTHONPATH=$ALPENGLOW_ROOT/src:$ALPENGLOW_ROOT/lsf:$ALPENGLOW_ROOT/profiling:$ALPENGLOW_ROOT/analysis${PYTHONPATH:+:$PYTHONPATH}

# Both network rails, each adapter near its socket first (Summit user guide, "maximum bandwidth").
export PAMI_ENABLE_STRIPING=1 PAMI_IBV_ADAPTER_AFFINITY=1
export PAMI_IBV_DEVICE_NAME="mlx5_0:1,mlx5_3:1" PAMI_IBV_DEVICE_NAME_1="mlx5_3:1,mlx5_0:1"
export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
# $HOME is read-only on compute nodes, and TMPDIR must stay unset (jsrun fails with it).
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$ALPENGLOW_ROOT/.cache} HDF5_USE_FILE_LOCKING=FALSE
unset TMPDIR
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
