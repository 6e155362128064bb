"""The commands of lsf/bin: bsub, bjobs, bkill and jsrun for a machine that has no LSF."""
