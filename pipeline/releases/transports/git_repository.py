"""A git repository that is published to: its refs, what commits hold, and new commits.

Each call works in an empty repository of its own that knows the remote, and fetches no more
than it needs. Shards go by Git LFS where `git lfs` is installed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from pipeline.errors import UserError
from pipeline.releases.publication import Publication, stale_paths
from pipeline.releases.transports.git_commands import has_lfs, run_git
from pipeline.remote.waiting import Patience
from pipeline.store.releases import FILE

MAIN: Final = "refs/heads/main"
ATTRIBUTES: Final = ".gitattributes"
_LFS: Final = "filter=lfs diff=lfs merge=lfs -text"


@dataclass
class GitRepository:
    """A git repository that can be pushed to.

    Args:
        url: What `git clone` takes.
        patience: How long to wait for the server.

    Attributes:
        address: What people see of the address: without a password.
    """

    url: str
    patience: Patience

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]  # a password in the address is shown to nobody
        self.address = f"git+{parts._replace(netloc=host).geturl()}"
        self.patience.address = self.address
        if shutil.which("git") is None:
            raise UserError("git is not installed", where=self.address, hint="apt install git")

    def git(self, *words: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
        """The output of a git command.

        Args:
            words: The command and its arguments.
            folder: Where it runs.
            env: Variables of the environment beside those of this process.

        Raises:
            TryLater: The remote has moved on, or cannot be reached.
            UserError: The remote refuses, or git fails.
        """
        shown = (self.url, self.address)
        return run_git(words, folder, shown, env)

    @contextmanager
    def work(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """An empty repository with the remote, and the remote's refs."""
        with tempfile.TemporaryDirectory(prefix="gristmill-") as name:
            folder = Path(name)
            self.git("init", "-q", ".", folder=folder)
            self.git("remote", "add", "origin", self.url, folder=folder)
            listed = self.git("ls-remote", "--refs", "origin", folder=folder)
            pairs = (line.split("\t") for line in listed.splitlines())
            yield folder, {ref: oid for oid, ref in pairs}

    def fetch(self, folder: Path, *refs: str) -> None:
        """Fetch commits of the remote without their history, as `refs/fetched/REF`.

        Args:
            folder: The repository of this call.
            refs: The remote's refs.
        """
        words = [f"{ref}:refs/fetched/{ref}" for ref in refs]
        self.git("fetch", "-q", "--depth", "1", "--no-tags", "origin", *words, folder=folder)

    def push(self, folder: Path, new: Mapping[str, str], refs: Mapping[str, str]) -> None:
        """Move the remote's refs to commits, all or none.

        Args:
            folder: The repository of this call.
            new: The commit of each ref; an empty one removes the ref.
            refs: The refs as they must still be.

        Raises:
            TryLater: They are not.
        """
        leases = [f"--force-with-lease={ref}:{refs.get(ref, '')}" for ref in new]
        moves = [f"{oid}:{ref}" for ref, oid in new.items()]
        self.git("push", "-q", "--atomic", *leases, "origin", *moves, folder=folder)

    def tree(self, folder: Path, revision: str) -> dict[str, str]:
        """The blob of every file of a commit.

        Args:
            folder: The repository of this call.
            revision: The commit.
        """
        listed = self.git("ls-tree", "-r", "-z", revision, folder=folder)
        entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
        return {path: described.split()[2] for described, _, path in entries}

    def holds(self, folder: Path, revision: str, publication: Publication) -> bool:
        """Whether a commit has the data of a release.

        Args:
            folder: The repository of this call.
            revision: The commit.
            publication: The release.
        """
        tree = self.tree(folder, revision)
        for path, entry in publication.data.items():
            if path not in tree:
                return False
            local = self.git(
                "hash-object", "--no-filters", str(publication.files[path]), folder=folder
            )
            if tree[path] == local.strip():
                continue
            size = int(self.git("cat-file", "-s", tree[path], folder=folder))
            pointer = self.git("cat-file", "-p", tree[path], folder=folder) if size < 1024 else ""
            if f"oid sha256:{entry['sha256']}\n" not in pointer:
                return False
        return True

    def commit(self, folder: Path, refs: Mapping[str, str], publication: Publication) -> str:
        """A commit on the head with the files of a release.

        Args:
            folder: The repository of this call.
            refs: The remote's refs.
            publication: The release.

        Returns:
            Its id.
        """
        parents: list[str] = []
        if MAIN in refs:
            self.fetch(folder, MAIN)
            parents = ["-p", refs[MAIN]]
            self.git("read-tree", refs[MAIN], folder=folder)
            tree = self.tree(folder, refs[MAIN])
            record = tree.get(FILE)
            published = self.git("cat-file", "-p", record, folder=folder) if record else ""
            stale = stale_paths(published.encode(), tree, publication)
            if stale:
                self.git("rm", "-q", "--cached", "--", *stale, folder=folder)
            if ATTRIBUTES in tree:
                self.git("checkout-index", "-f", ATTRIBUTES, folder=folder)
        self._set_attributes(folder)
        for path, local in publication.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(local, folder / path)
        paths = [*publication.files, *([ATTRIBUTES] if (folder / ATTRIBUTES).exists() else [])]
        for start in range(0, len(paths), 500):
            self.git("add", "-f", "--", *paths[start : start + 500], folder=folder)
        return self.commit_tree(
            folder,
            self.git("write-tree", folder=folder).strip(),
            *parents, "-m", publication.title, "-m", publication.message,
        )  # fmt: skip

    def _set_attributes(self, folder: Path) -> None:
        """Let shards go by LFS where it is installed."""
        file = folder / ATTRIBUTES
        text = file.read_text("utf-8") if file.exists() else ""
        if not has_lfs():
            if _LFS in text:
                raise UserError(
                    "the repository keeps its shards in Git LFS, which is not installed",
                    where=self.address,
                    hint="apt install git-lfs",
                )
            return
        rules = [f"*.{kind} {_LFS}" for kind in ("parquet", "jsonl", "gz", "zst")]
        missing = [rule for rule in rules if rule not in text.splitlines()]
        if missing:
            file.write_text("\n".join([*text.splitlines(), *missing, ""]), "utf-8")

    def commit_tree(self, folder: Path, tree: str, *words: str) -> str:
        """A commit of a tree.

        Args:
            folder: The repository of this call.
            tree: The tree.
            words: Its parents and its message, as `git commit-tree` takes them.

        Returns:
            Its id.
        """
        identity = {}
        try:
            self.git("config", "user.email", folder=folder)
        except UserError:  # nobody said who commits here
            for role in ("AUTHOR", "COMMITTER"):
                identity[f"GIT_{role}_NAME"] = "gristmill"
                identity[f"GIT_{role}_EMAIL"] = "gristmill@localhost"
        return self.git("commit-tree", tree, *words, folder=folder, env=identity).strip()

    def version_of(self, folder: Path, tree: Mapping[str, str]) -> str | None:
        """The version that a commit holds, as its `release.json` says.

        Args:
            folder: The repository of this call.
            tree: The files of the commit.
        """
        if FILE not in tree:
            return None
        record = self.git("cat-file", "-p", tree[FILE], folder=folder)
        try:
            return str(json.loads(record)["version"])
        except (ValueError, TypeError, KeyError):
            return None

    def collect(self) -> None:
        """Collect garbage at once where the repository is a folder of this machine."""
        parts = urlsplit(self.url)
        path = Path(unquote(parts.path))
        if parts.scheme in ("", "file") and path.is_dir():
            self.git("reflog", "expire", "--expire=now", "--all", folder=path)
            self.git("gc", "-q", "--prune=now", folder=path)
