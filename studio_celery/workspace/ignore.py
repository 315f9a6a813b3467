"""What stays out of a workspace: `.gitignore` and `.studioignore`, nested ones included.

Both have gitignore's syntax, and as in git a directory that is ignored is not looked into. `.studioignore` decides
first: it can ignore more, and with `!` it takes back what `.gitignore` ignores, even inside a directory that only
`.gitignore` ignores. Ignore files above the root, git's `info/exclude` and global excludes are not read.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pathspec.patterns.gitignore import GitIgnorePatternError
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from studio_celery.errors import WorkspaceError
from studio_celery.workspace.names import shown

#: Names of ignore files, the weaker first.
GIT_IGNORE, STUDIO_IGNORE = ".gitignore", ".studioignore"

#: Never captured, whatever the ignore files say: histories (`.git` is a file in a git worktree) and caches.
ALWAYS_IGNORED = frozenset(
    (".git", ".hg", ".svn", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints")
)

#: A directory that holds this file is a virtual environment: useless at any other place.
VENV_MARK = "pyvenv.cfg"


@dataclass(frozen=True)
class IgnorePattern:
    """One line of an ignore file. A directory is asked about before what is in it, so only the path itself counts."""

    pattern: GitIgnoreSpecPattern
    #: The line ends in "/": fits directories only.
    directories_only: bool

    @classmethod
    def parse(cls, line: str) -> IgnorePattern | None:
        """The pattern, or None for a comment, an empty line, or what can never fit."""
        text = line if line.endswith("\\ ") else line.rstrip()
        try:
            # Without its slash: with it, pathspec would let "a/**/" fit "a/" itself, and git does not.
            pattern = GitIgnoreSpecPattern(text.removesuffix("/"))
        except GitIgnorePatternError:
            return None  # git, too, takes an invalid pattern for one that never fits
        return cls(pattern, text.endswith("/")) if pattern.include is not None else None

    @property
    def takes_back(self) -> bool:
        """Whether the line begins with "!"."""
        return self.pattern.include is False

    def fits(self, path: str, *, is_directory: bool) -> bool:
        """Whether the pattern fits the path, and not only one of its parents."""
        if self.directories_only and not is_directory:
            return False
        match = self.pattern.match_file(path)
        # The only group of pathspec's expressions is the "/" behind a parent that fits.
        return match is not None and match.match.lastindex is None


@dataclass(frozen=True)
class IgnoreFile:
    """The patterns of one ignore file, and the directory they apply to ("" or ending in "/")."""

    directory: str
    patterns: tuple[IgnorePattern, ...]

    def verdict(self, path: str) -> bool | None:
        """True: ignored; False: taken back with `!`; None: no pattern fits. The last that fits decides."""
        name = path.removeprefix(self.directory).removesuffix("/")
        for pattern in reversed(self.patterns):
            if pattern.fits(name, is_directory=path.endswith("/")):
                return not pattern.takes_back
        return None


@dataclass(frozen=True)
class Rules:
    """The ignore files in force in one directory, outermost first."""

    git: tuple[IgnoreFile, ...] = ()
    studio: tuple[IgnoreFile, ...] = ()

    def entered(self, root: Path, directory: str, names: set[str]) -> Rules:
        """The rules inside a directory that holds these names."""
        rules = self
        if GIT_IGNORE in names and (file := _load(root, directory, GIT_IGNORE)):
            rules = dataclasses.replace(rules, git=(*rules.git, file))
        if STUDIO_IGNORE in names and (file := _load(root, directory, STUDIO_IGNORE)):
            rules = dataclasses.replace(rules, studio=(*rules.studio, file))
        return rules

    def studio_verdict(self, path: str) -> bool | None:
        """What `.studioignore` says; the innermost that says anything decides."""
        return _innermost(self.studio, path)

    def ignores(self, path: str) -> bool:
        """Whether a path stays out; a directory's must end in "/"."""
        verdict = self.studio_verdict(path)
        return bool(_innermost(self.git, path) if verdict is None else verdict)

    def may_take_back(self) -> bool:
        """Whether `.studioignore` could take back anything in a directory that `.gitignore` ignores."""
        return any(pattern.takes_back for file in self.studio for pattern in file.patterns)


def _innermost(files: tuple[IgnoreFile, ...], path: str) -> bool | None:
    for file in reversed(files):
        verdict = file.verdict(path)
        if verdict is not None:
            return verdict
    return None


def _load(root: Path, directory: str, name: str) -> IgnoreFile | None:
    path = root / directory / name
    try:
        if not path.is_file():
            return None
        # Undecodable bytes become what os.listdir makes of them, so patterns fit names that are not UTF-8.
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    except OSError as exc:
        raise WorkspaceError(
            f"{shown(path)} cannot be read ({exc.strerror}): give yourself permission to read it, or remove it."
        ) from exc
    patterns = (IgnorePattern.parse(line) for line in text.split("\n"))
    return IgnoreFile(directory, tuple(pattern for pattern in patterns if pattern is not None))
