"""An upload to the Hugging Face Hub: what it would send, the same as commands, and the upload.

Everything goes through huggingface_hub, which splits large folders, resumes, and asks the Hub which
files it has. A token is never printed, nor part of a message. Called by `alpenglow release push`;
torch is not called.
"""

from __future__ import annotations

import glob
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils.tqdm import disable_progress_bars

from alpenglow.release.cards.front_matter import is_repository
from alpenglow.release.cards.markdown import size
from alpenglow.release.error import ReleaseError
from alpenglow.release.hub.package import Package

# Versions of huggingface_hub speak through requests, httpx or httpx2; errors of transport are
# OSErrors, or of the class that the Hub's own error is made of.
_UNREACHABLE: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)
# hf_xet, which carries large files where it is installed, raises RuntimeError.
_REFUSED: tuple[type[BaseException], ...] = (
    HfHubHTTPError,
    ValueError,
    RuntimeError,
    *_UNREACHABLE,
)


@dataclass(frozen=True)
class Plan:
    """What goes where."""

    repository: str
    """ORGANISATION/NAME."""
    packages: Sequence[Package]
    private: bool = False

    def __post_init__(self) -> None:
        if not is_repository(self.repository):
            raise ReleaseError(
                f"{self.repository}: not a name that the Hub takes: ORGANISATION/NAME of letters, "
                "digits, -, _ and ., at most 96 of them"
            )

    def lines(self) -> list[str]:
        """The plan for a person: files, bytes, revisions, what stays."""
        kind = self.packages[0].kind
        where = f"{kind} {self.repository}{', private' if self.private else ''}"
        found = [f"to {constants.ENDPOINT}: {where}"]
        for package in self.packages:
            revision = package.revision or "main"
            total = f"{len(package.files)} files, {size(package.bytes)}"
            found.append(f"  {revision}: {total} of {package.folder}")
        shown = self.packages[0]
        found += [f"    {name}  {size(count)}" for name, count in shown.files.items()]
        for package in self.packages:
            if package.left_out:
                names = ", ".join(package.left_out)
                found.append(f"  left out, not files of a release: {names}")
        return found

    def commands(self) -> list[str]:
        """The same as commands of huggingface_hub's own `hf`."""
        return [self._command(package) for package in self.packages]

    def _command(self, package: Package) -> str:
        words = ["hf", "upload", self.repository, str(package.folder), "."]
        words += ["--repo-type", package.kind]
        if package.revision is not None:
            words += ["--revision", package.revision]
        if self.private:
            words.append("--private")
        for name in package.left_out:
            words += ["--exclude", glob.escape(name)]
        for pattern in package.stale:
            words += ["--delete", pattern]
        return shlex.join(words)


def unreachable(token: str) -> str | None:
    """Why the Hub cannot be spoken to from here; None where it answers and knows the token.

    Raises:
        ReleaseError: it answers, and refuses.
    """
    try:
        HfApi(token=token).whoami()
    except HfHubHTTPError as error:
        raise ReleaseError(f"{constants.ENDPOINT} refuses: {_reason(error, token)}") from None
    except _UNREACHABLE as error:
        return f"{constants.ENDPOINT} does not answer ({_reason(error, token)})"
    return None


def upload(plan: Plan, token: str, say: Callable[[str], None]) -> None:
    """Make the repository where there is none, and send each package to its revision.

    Args:
        plan: what goes where.
        token: of the Hub.
        say: told of each revision that is there.

    Raises:
        ReleaseError: the Hub refused, or went away; what was sent until then stays there.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()  # the log of a batch job is no place for them
    api, kind = HfApi(token=token), plan.packages[0].kind
    done = 0
    try:
        api.create_repo(plan.repository, repo_type=kind, private=plan.private, exist_ok=True)
        for package in plan.packages:
            if package.revision is not None:
                api.create_branch(
                    plan.repository, branch=package.revision, repo_type=kind, exist_ok=True
                )
            commit = api.upload_folder(
                repo_id=plan.repository,
                folder_path=package.folder,
                repo_type=kind,
                revision=package.revision,
                allow_patterns=list(package.files),
                delete_patterns=package.stale or None,
                commit_message=_message(package.folder),
            )
            done += 1
            say(f"sent: {package.revision or 'main'}, {commit.commit_url}")
    except _REFUSED as error:
        sent = f"after {done} of {len(plan.packages)} revisions, " if done else ""
        raise ReleaseError(
            f"{sent}{constants.ENDPOINT} refused {plan.repository}: {_reason(error, token)}; run "
            "it again, what is there is not sent twice"
        ) from None


def saved_token() -> str | None:
    """The token of this user (HF_TOKEN, or `hf auth login`), None without one."""
    return huggingface_hub.get_token()


def _message(folder: Path) -> str:
    return f"Release of {folder.absolute().name}"


def _reason(error: BaseException, token: str) -> str:
    """The first line of what was said, without the token."""
    text = str(getattr(error, "server_message", None) or error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return (line or type(error).__name__).replace(token, "***").rstrip(".")
