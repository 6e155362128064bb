"""Alpenglow: raw text to a released open language model, as batch jobs.

The library behind `jobs/`: data preparation, pretraining, release. The launch layer is
`alpenglow_lsf`, measurement is `alpenglow_profiling`, reading it is `alpenglow_analysis`.
"""

__version__ = "0.1.0.dev0"
