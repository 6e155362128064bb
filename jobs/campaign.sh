#!/usr/bin/env bash
# The whole campaign: prepare_data -> pretrain -> report and convert, through bsub.
#
#   ./env/laptop jobs/campaign.sh 7b                          on a laptop, small
#   source env/summit.sh && jobs/campaign.sh 7b -P PROJECT    on an LSF machine, at full size
#
# Whatever follows the size goes to every bsub. The segment that completes the run submits report
# and convert; this script submits the first two jobs and then only watches: leaving it (Ctrl-C)
# stops nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

size=${1:-}
case $size in
3b | 7b) shift ;;
*)
    echo "usage: jobs/campaign.sh 3b|7b [bsub options]" >&2
    exit 2
    ;;
esac
run=runs/pretrain_$size

# submit [bsub options] SCRIPT: prints what bsub says and leaves the job's id in $job.
submit() {
    local said
    said=$(bsub "$@") || exit
    echo "$said"
    job=$(sed -n 's/^Job <\([0-9]*\)>.*/\1/p' <<<"$said")
}

submit "$@" jobs/prepare_data.lsf
prepare=$job
submit "$@" -w "done($prepare)" "jobs/pretrain_$size.lsf"

exec python -m alpenglow_lsf.follow --watch "$prepare=runs/prepare_data" --watch "$job=$run" \
    --finally "Open $run/report/index.html (where the time went) and $run/release/huggingface/README.md (the released model)."
