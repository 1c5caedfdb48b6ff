"""Publishing to a git repository: one commit on `main`, its tag and `latest`, in one push.

The push is atomic and names the refs that it replaces, so a place never has one without the
other, and a commit of somebody else is never lost. Shards go by Git LFS where `git lfs` is
installed; without it they are plain files, up to a size that a repository can bear.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from pipeline.errors import UserError
from pipeline.releases.publication import (
    Publication,
    missing_version,
    other_content,
    refuse_older,
    stale_paths,
)
from pipeline.releases.transports import Erased, Outcome, Source, pointer
from pipeline.releases.transports.git_commands import has_lfs, run_git
from pipeline.releases.transports.waiting import Patience
from pipeline.store.releases import FILE, LATEST, version_key

T = TypeVar("T")
PLAIN_LIMIT: Final = 50 * 2**20
"""Bytes of a file that go into a repository without LFS: hosts warn from there on."""

MAIN: Final = "refs/heads/main"
ATTRIBUTES: Final = ".gitattributes"
_LFS: Final = "filter=lfs diff=lfs merge=lfs -text"
_VERSION: Final = re.compile(r"refs/tags/(\d+\.\d+)", re.ASCII)


@dataclass
class GitTransport:
    """A git repository that can be pushed to.

    Args:
        url: What `git clone` takes.
        patience: How long to wait for the server.
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

    def retry(self, step: Callable[[], T]) -> T:
        """The result of a step, tried until the server answers.

        Args:
            step: Something that may be done again.

        Raises:
            UserError: The server refuses, or does not answer in time.
        """
        return self.patience.retry(step)

    def _git(self, *words: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
        """The output of a git command in a folder."""
        shown = (self.url, self.address)
        return run_git(words, folder, shown, env)

    @contextmanager
    def _work(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """An empty repository with the remote, and the remote's refs."""
        with tempfile.TemporaryDirectory(prefix="gristmill-") as name:
            folder = Path(name)
            self._git("init", "-q", ".", folder=folder)
            self._git("remote", "add", "origin", self.url, folder=folder)
            listed = self._git("ls-remote", "--refs", "origin", folder=folder)
            pairs = (line.split("\t") for line in listed.splitlines())
            yield folder, {ref: oid for oid, ref in pairs}

    def _fetch(self, folder: Path, *refs: str) -> None:
        words = [f"{ref}:refs/fetched/{ref}" for ref in refs]
        self._git("fetch", "-q", "--depth", "1", "--no-tags", "origin", *words, folder=folder)

    def _push(self, folder: Path, new: Mapping[str, str], refs: Mapping[str, str]) -> None:
        """Move refs to commits, all or none; an empty commit removes its ref."""
        leases = [f"--force-with-lease={ref}:{refs.get(ref, '')}" for ref in new]
        moves = [f"{oid}:{ref}" for ref, oid in new.items()]
        self._git("push", "-q", "--atomic", *leases, "origin", *moves, folder=folder)

    # Publishing

    def check(self, publication: Publication, move_latest: bool) -> None:  # noqa: ARG002
        """Refuse files that are too large without LFS.

        Args:
            publication: What is to be published.
            move_latest: Not used.

        Raises:
            UserError: One is.
        """
        large = [p for p, entry in publication.entries.items() if entry["bytes"] > PLAIN_LIMIT]
        if large and not has_lfs():
            raise UserError(
                f"a file without Git LFS must have at most {PLAIN_LIMIT >> 20} MiB, got {large[0]} "
                f"of {publication.entries[large[0]]['bytes'] / 2**20:,.0f} MiB",
                where=self.address,
                hint="install git-lfs (apt install git-lfs), or export smaller shards "
                "(rows_per_shard)",
            )

    def publish(self, publication: Publication, move_latest: bool) -> Outcome:
        """Push one commit with the release, its tag and `latest`.

        Args:
            publication: What is to be published.
            move_latest: Whether the tag `latest` is to name it.

        Raises:
            UserError: The version is there with other content, or the server refuses or does
                not answer in time.
        """
        commit, is_new, moved = self.retry(lambda: self._ensure(publication, move_latest))
        address = f"{self.address} {publication.version} (commit {commit[:12]})"
        return Outcome(address, is_new, publication.version if moved else None)

    def _ensure(self, publication: Publication, move_latest: bool) -> tuple[str, bool, bool]:
        tag, latest = f"refs/tags/{publication.version}", f"refs/tags/{LATEST}"
        with self._work() as (folder, refs):
            if tag in refs:
                self._fetch(folder, tag)
                if not self._holds(folder, f"refs/fetched/{tag}", publication):
                    raise other_content(publication.version, self.address)
                commit = refs[tag]
                moved = move_latest and refs.get(MAIN) == commit != refs.get(latest)
                if moved:
                    self._push(folder, {latest: commit}, refs)
                return commit, moved, moved
            versions = [match[1] for ref in refs if (match := _VERSION.fullmatch(ref))]
            refuse_older(publication.version, versions, self.address)
            commit = self._commit(folder, refs, publication)
            if has_lfs():
                self._git("update-ref", MAIN, commit, folder=folder)
                self._git("lfs", "push", "origin", "main", folder=folder)
            moves = {MAIN: commit, tag: commit} | ({latest: commit} if move_latest else {})
            self._push(folder, moves, refs)
            return commit, True, move_latest

    def _tree(self, folder: Path, revision: str) -> dict[str, str]:
        """The blob of every file of a commit."""
        listed = self._git("ls-tree", "-r", "-z", revision, folder=folder)
        entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
        return {path: described.split()[2] for described, _, path in entries}

    def _holds(self, folder: Path, revision: str, publication: Publication) -> bool:
        tree = self._tree(folder, revision)
        for path, entry in publication.data.items():
            if path not in tree:
                return False
            local = self._git(
                "hash-object", "--no-filters", str(publication.files[path]), folder=folder
            )
            if tree[path] == local.strip():
                continue
            size = int(self._git("cat-file", "-s", tree[path], folder=folder))
            pointer = self._git("cat-file", "-p", tree[path], folder=folder) if size < 1024 else ""
            if f"oid sha256:{entry['sha256']}\n" not in pointer:
                return False
        return True

    def _commit(self, folder: Path, refs: Mapping[str, str], publication: Publication) -> str:
        """A commit on the head with the files of the release; its id."""
        parents: list[str] = []
        if MAIN in refs:
            self._fetch(folder, MAIN)
            parents = ["-p", refs[MAIN]]
            self._git("read-tree", refs[MAIN], folder=folder)
            tree = self._tree(folder, refs[MAIN])
            record = tree.get(FILE)
            published = self._git("cat-file", "-p", record, folder=folder) if record else ""
            stale = stale_paths(published.encode(), tree, publication)
            if stale:
                self._git("rm", "-q", "--cached", "--", *stale, folder=folder)
            if ATTRIBUTES in tree:
                self._git("checkout-index", "-f", ATTRIBUTES, folder=folder)
        self._set_attributes(folder)
        for path, local in publication.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(local, folder / path)
        paths = [*publication.files, *([ATTRIBUTES] if (folder / ATTRIBUTES).exists() else [])]
        for start in range(0, len(paths), 500):
            self._git("add", "-f", "--", *paths[start : start + 500], folder=folder)
        return self._commit_tree(
            folder,
            self._git("write-tree", folder=folder).strip(),
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

    def _commit_tree(self, folder: Path, tree: str, *words: str) -> str:
        identity = {}
        try:
            self._git("config", "user.email", folder=folder)
        except UserError:  # nobody said who commits here
            for role in ("AUTHOR", "COMMITTER"):
                identity[f"GIT_{role}_NAME"] = "gristmill"
                identity[f"GIT_{role}_EMAIL"] = "gristmill@localhost"
        return self._git("commit-tree", tree, *words, folder=folder, env=identity).strip()

    def download(self, publication: Publication, folder: Path) -> Source:
        """Clone the tag.

        Args:
            publication: What was published.
            folder: An empty folder.

        Raises:
            UserError: The server refuses, or does not answer in time.
        """
        target = folder / "clone"

        def clone() -> None:
            shutil.rmtree(target, ignore_errors=True)
            words = ("clone", "-q", "--depth", "1", "--branch", publication.version)
            env = {"GIT_LFS_SKIP_SMUDGE": "0"}
            self._git(*words, self.url, str(target), folder=folder, env=env)

        self.retry(clone)
        shutil.rmtree(target / ".git")
        return Source(target, str(target))

    # Going back

    def rollback(self, name: str, version: str) -> Outcome:
        """Push a commit with the tree of an earlier version, and move `latest` to it.

        Args:
            name: The release's name.
            version: The earlier version.

        Raises:
            UserError: It is not published, or the server refuses or does not answer in time.
        """
        commit, is_new = self.retry(lambda: self._roll_back(name, version))
        return Outcome(f"{self.address} (commit {commit[:12]})", is_new, version)

    def _roll_back(self, name: str, version: str) -> tuple[str, bool]:
        tag, latest = f"refs/tags/{version}", f"refs/tags/{LATEST}"
        with self._work() as (folder, refs):
            if tag not in refs:
                known = [match[1] for ref in refs if (match := _VERSION.fullmatch(ref))]
                raise missing_version(version, known, self.address)
            self._fetch(folder, tag, MAIN)
            trees = [
                self._git("rev-parse", f"{refs[ref]}^{{tree}}", folder=folder).strip()
                for ref in (tag, MAIN)
            ]
            if trees[0] == trees[1]:
                commit = refs[MAIN]
                if refs.get(latest) == commit:
                    return commit, False
                self._push(folder, {latest: commit}, refs)
                return commit, True
            title = f"Roll back to {name} {version}"
            commit = self._commit_tree(folder, trees[0], "-p", refs[MAIN], "-m", title)
            self._push(folder, {MAIN: commit, latest: commit}, refs)
            return commit, True

    # Erasing

    def erase(self, versions: list[str]) -> Erased:
        """Leave the current version on a history of one commit, and remove the others' tags.

        Versions between an erased one and the current one go too: their history has it.

        Args:
            versions: The versions; the current one cannot be among them.

        Raises:
            UserError: The current version is one of them, or the server refuses.
        """
        return self.retry(lambda: self._erase(versions))

    def _erase(self, versions: list[str]) -> Erased:
        with self._work() as (folder, refs):
            known = {match[1]: ref for ref in refs if (match := _VERSION.fullmatch(ref))}
            present = sorted(set(versions) & known.keys(), key=version_key)
            if not present:
                return Erased((), 0, 0)
            self._fetch(folder, MAIN, *known.values())
            head = self._tree(folder, refs[MAIN])
            current = self._version_of(folder, head)
            if current in versions:
                raise pointer.current_version(str(current), self.address)
            first = version_key(present[0])
            with_them = [v for v in known if version_key(v) > first and v != current]
            tree = self._git("rev-parse", f"{refs[MAIN]}^{{tree}}", folder=folder).strip()
            commit = self._commit_tree(folder, tree, "-m", f"Current version: {current}")
            moves = {MAIN: commit, f"refs/tags/{LATEST}": commit}
            moves |= {f"refs/tags/{current}": commit} if current else {}
            moves |= {known[version]: "" for version in {*present, *with_them}}
            self._push(folder, moves, refs)
            gone, kept = set[str](), {*head.values()}
            for version, ref in known.items():
                blobs = self._tree(folder, refs[ref]).values()
                (gone if version in present else kept).update(blobs)
            gone -= kept
            sizes = [int(self._git("cat-file", "-s", blob, folder=folder)) for blob in gone]
        self._collect()
        others = sorted({*with_them} - {*present}, key=version_key)
        notes = [f"{', '.join(others)} went too: their history had the files"] if others else []
        server = "its server removes what no commit names when it collects garbage; objects of "
        notes.append(f"{server}Git LFS are removed by hand there")
        return Erased(tuple(present), len(gone), sum(sizes), tuple(notes))

    def _version_of(self, folder: Path, tree: Mapping[str, str]) -> str | None:
        if FILE not in tree:
            return None
        record = self._git("cat-file", "-p", tree[FILE], folder=folder)
        try:
            return str(json.loads(record)["version"])
        except (ValueError, TypeError, KeyError):
            return None

    def _collect(self) -> None:
        """Collect garbage at once where the repository is a folder of this machine."""
        parts = urlsplit(self.url)
        path = Path(unquote(parts.path))
        if parts.scheme in ("", "file") and path.is_dir():
            self._git("reflog", "expire", "--expire=now", "--all", folder=path)
            self._git("gc", "-q", "--prune=now", folder=path)
