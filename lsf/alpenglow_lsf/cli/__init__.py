"""The commands of lsf/bin: LSF's and jsrun for a machine that has none."""
