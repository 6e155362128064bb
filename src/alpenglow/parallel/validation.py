"""The cost of a step beside published measurements: `python -m alpenglow.parallel.validation`.

`--markdown` prints a page, `--csv` a line a row. Torch-free. One set of constants a machine
(env/machines), one set of choices a framework (alpenglow.parallel.framework). What was set by what:

- V100: fitted to DeepBench's products (`products`), nothing else.
- A100: data sheets, the V100's ratios, and `sustained` by the best measured products. Between 0.90,
  their mean, and 0.875, where the best shapes give the best product, Table 5 of Korthikanti et al.
  spoke for the latter (mean error 3.0 or 1.8 %).
- `efficiency` of Megatron-LM of 2021 by the mean over Narayanan's Table 1, of DeepSpeed's engine by
  the mean over Smith et al. and BLOOM. No constant by a single row.

All other tables set nothing: "held out".
"""

from __future__ import annotations

import sys

from alpenglow.parallel.comparison import Row, Table, percentile
from alpenglow.parallel.published_parts import layers, megatron_2019, products
from alpenglow.parallel.published_runs import SOURCES, bloom, records, steps

__all__ = ["SOURCES", "Row", "Table", "bloom", "layers", "main", "megatron_2019", "percentile",
           "products", "records", "steps", "tables"]


def tables() -> list[Table]:
    """Every table."""
    found = [steps(name) for name in SOURCES]
    return [*found, bloom(), layers(), *megatron_2019(), *products()]


def main() -> None:
    all_of_them = tables()
    text = [str(table) for table in all_of_them if not table.title.startswith("DeepBench")]
    print("\n\n".join(text))
    for t in all_of_them:
        print(t.title, t.role, t.summary())


if __name__ == "__main__":
    main()
