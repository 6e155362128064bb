"""Job arrays: `-J "name[1-10:2,20]%3"`, and ids that name an element, `101[3]`.

array = parse_array("scan[1-10]%2")   # None where the name has no brackets
chosen = parse_id("101[1-3]")         # (101, (1, 2, 3))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from alpenglow_lsf.options import OptionError

MOST_ELEMENTS = 64
"""Elements of an array that a stand-in takes, one waiting process each (LSF's default: 1000)."""

_ARRAY = re.compile(r"(?P<name>[^\[\]%]*)\[(?P<list>[^\[\]]*)\](?:%(?P<limit>.*))?")
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
_ID = re.compile(r"(\d+)(?:\[([^\[\]]*)\])?")


@dataclass(frozen=True)
class Array:
    """An array's name, the indices of its elements, and how many of them may run at once."""

    name: str
    indices: tuple[int, ...]
    limit: int | None = None

    @property
    def text(self) -> str:
        """The limit as `bsub -J` writes it; empty without one."""
        return "" if self.limit is None else f"%{self.limit}"


def parse_array(text: str | None) -> Array | None:
    """Read a job name; None for a plain one.

    Raises:
        OptionError: brackets that LSF would not take, or more elements than a stand-in starts.
    """
    if text is None or not set(text) & set("[]"):
        return None
    match = _ARRAY.fullmatch(text)
    if match is None or not match["name"]:
        raise OptionError(f'bsub: -J {text!r} should be "name[1-10]" or "name[1-10]%limit"')
    indices = parse_indices(match["list"], f"bsub: -J {text!r}")
    if len(indices) > MOST_ELEMENTS:
        raise OptionError(
            f"bsub: -J {text!r} has {len(indices)} elements; this computer takes {MOST_ELEMENTS}"
        )
    limit = match["limit"]
    if limit is not None and not (limit.isascii() and limit.isdigit() and int(limit) > 0):
        raise OptionError(f"bsub: -J {text!r}: %{limit} should be a whole number, 1 or more")
    return Array(match["name"], indices, None if limit is None else int(limit))


def parse_indices(text: str, where: str) -> tuple[int, ...]:
    """Read `1-10:2,20`.

    Args:
        text: what stands between the brackets.
        where: begins the message of an error.

    Raises:
        OptionError: anything else, an index 0, or an index given twice.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise OptionError(f"{where}: {part.strip()!r} should be an index, 1-10 or 1-10:2")
        first = int(match[1])
        last = int(match[2] or first)
        step = int(match[3] or 1)
        if first < 1 or last < first or step < 1:
            raise OptionError(f"{where}: {part.strip()!r} names no index; they begin with 1")
        if (last - first) // step >= 100_000:
            raise OptionError(f"{where}: {part.strip()!r} names more than 100000 indices")
        found += range(first, last + 1, step)
    if len(set(found)) != len(found):
        raise OptionError(f"{where}: an index is named twice")
    return tuple(sorted(found))


def parse_id(text: str) -> tuple[int, tuple[int, ...] | None] | None:
    """Read a job id as bkill and bjobs take it; None for what is none.

    Returns:
        The id, and the elements it names (None: the whole job).
    """
    match = _ID.fullmatch(text)
    if match is None:
        return None
    try:
        return int(match[1]), None if match[2] is None else parse_indices(match[2], text)
    except OptionError:
        return None


def own_id(environ: Mapping[str, str]) -> str | None:
    """Return the id of the job that this process runs in; None outside jobs.

    Args:
        environ: with LSB_JOBID and LSB_JOBINDEX, which is 0 outside arrays.
    """
    job_id, index = environ.get("LSB_JOBID"), environ.get("LSB_JOBINDEX") or "0"
    if not job_id or not (job_id.isdigit() and index.isdigit()):
        return job_id or None
    return key_of(int(job_id), int(index))


def slurm_id(job_id: str) -> str:
    """Write an id as Slurm does: `101_3` for the element that LSF calls `101[3]`."""
    number, bracket, indices = job_id.removesuffix("]").partition("[")
    if not bracket:
        return job_id
    return f"{number}_{indices}" if indices.isdigit() else f"{number}_[{indices}]"


def lsf_id(job_id: str) -> str:
    """Write an id of Slurm's as LSF does; the counterpart of `slurm_id`."""
    number, mark, indices = job_id.partition("_")
    return f"{number}[{indices.strip('[]').partition('%')[0]}]" if mark else job_id


def key_of(job_id: int, index: int) -> str:
    """Write an id as LSF does: `101`, or `101[3]` for an element."""
    return f"{job_id}[{index}]" if index else str(job_id)
