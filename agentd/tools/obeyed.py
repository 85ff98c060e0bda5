"""What programs obey when they start, by name: no tool writes it, wherever it lies."""

import os
import pwd
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

WRITING = "is written by no tool, whatever [permissions] say: "
REPOSITORY = WRITING + "git obeys what lies in a repository's own folder"
STARTUP = WRITING + "programs obey it when they start"
ENVIRONMENT = WRITING + "it is an environment of installed packages"
SETTINGS = WRITING + "settings in a home; list that very folder if it holds none"
HIDDEN = WRITING + "what is hidden is settings; list that very file or folder if it is none"

Inode = tuple[int, int]

# By name, wherever they lie: homes are copied, linked into, and not all of them are ours.
STARTUP_NAMES = frozenset(
    {
        # shells
        *(".profile", ".login", ".logout", ".bashrc", ".bash_profile", ".bash_login"),
        *(".bash_logout", ".bash_aliases", ".bashrc.d", ".profile.d", ".zshrc", ".zshenv"),
        *(".zprofile", ".zlogin", ".zlogout", ".zsh_aliases", ".zshrc.d", ".oh-my-zsh"),
        *(".kshrc", ".mkshrc", ".cshrc", ".tcshrc", ".inputrc", ".envrc", ".direnvrc"),
        # sessions, terminals, remote and mail
        *(".xprofile", ".xinitrc", ".xsession", ".xsessionrc", ".xserverrc", ".pam_environment"),
        *(".screenrc", ".tmux.conf", ".ssh", ".gnupg", ".rhosts", ".shosts", ".netrc"),
        *("authorized_keys", "authorized_keys2", ".forward", ".procmailrc", ".mailcap"),
        *("launchagents", "launchdaemons", "startupitems", "crontabs"),
        # editors and tools whose settings are programs
        *(".vim", ".vimrc", ".gvimrc", ".exrc", ".nvimrc", ".emacs", ".emacs.d", ".nanorc"),
        *(".gdbinit", ".lldbinit", ".hgrc", ".npmrc", ".pypirc", ".curlrc", ".wgetrc"),
        *(".pythonrc", ".pythonrc.py", ".pythonstartup", ".ipython", ".pdbrc", ".perldb"),
        *(".irbrc", ".pryrc", ".ghci", ".rprofile", ".condarc", ".husky"),
        *("sitecustomize.py", "usercustomize.py", "_vimrc", "_gvimrc", "_netrc"),
    }
)
# Below `.config`, `.local` and a Mac's `Library`, two names in a row.
STARTUP_PAIRS = frozenset(
    {
        *((".config", "autostart"), (".config", "autostart-scripts"), (".config", "systemd")),
        *((".config", "environment.d"), (".config", "fish"), (".config", "zsh")),
        *((".config", "git"), (".config", "nvim"), (".config", "vim"), (".config", "emacs")),
        *((".config", "plasma-workspace"), (".config", "pip"), (".config", "direnv")),
        *((".config", "hypr"), (".config", "sway"), (".config", "i3"), (".config", "tmux")),
        *((".local", "bin"), (".local", "lib"), (".cargo", "bin"), (".cargo", "config.toml")),
        *(("share", "systemd"), ("share", "applications"), ("share", "dbus-1")),
        *(("library", "services"), ("library", "scripts"), ("library", "application scripts")),
        *(("library", "preferences"), ("library", "preferencepanes"), ("library", "quicklook")),
        *(("library", "keychains"), ("library", "input methods"), ("library", "internet plug-ins")),
    }
)
# Of git, and the folders of other programs that keep versions: all of these know hooks.
REPOSITORY_NAMES = frozenset(
    {
        *(".git", ".gitmodules", ".gitattributes", ".gitconfig"),
        *(".hg", ".jj", ".bzr", ".svn", ".sl", ".pijul", "_darcs"),
    }
)
ENVIRONMENT_NAMES = frozenset(
    {
        *("site-packages", "dist-packages", "pyvenv.cfg", "conda-meta"),
        *("node_modules", "__pypackages__", "__pycache__"),
    }
)
PREFIX_NAMES = ("pyvenv.cfg", "conda-meta")  # what they lie in is an environment
LIBRARIES = frozenset({"lib", "lib64", "lib32"})
PYTHON = re.compile(r"python\d(\.\d+)?t?")  # in one of these: the standard library
# Hidden, and yet obeyed by nothing that runs; besides all that ends in `ignore`.
HARMLESS = frozenset(
    {
        *(".gitkeep", ".keep", ".placeholder", ".nojekyll", ".editorconfig", ".clang-format"),
        *(".mailmap", ".git-blame-ignore-revs", ".env.example", ".env.sample"),
    }
)
# Texts for people in a folder whose other files are run elsewhere.
IN_GITHUB = frozenset(
    {
        *("contributing.md", "security.md", "support.md", "code_of_conduct.md", "funding.yml"),
        *("pull_request_template.md", "pull_request_template", "issue_template.md"),
        *("issue_template", "discussion_template"),
    }
)
# Folders of a home that only hold others' folders: to list one of these opens none of them.
SHELVES = frozenset(
    {
        *((".config",), (".local",), (".cache",), ("library",)),
        *((".local", "share"), (".local", "state"), ("library", "application support")),
    }
)
HOMES = ("/home", "/Users", "/var/home")  # folders of homes
ROOTS = ("/root", "/var/root", "/private/var/root")  # the homes that lie elsewhere
# HFS+ passes these over in a name, as git knows: utf8.c, next_hfs_char.
IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def folded(text: str) -> str:
    """Return the one form that all spellings of a name have on a Mac's file system."""
    return unicodedata.normalize("NFC", IGNORED.sub("", text)).casefold()


def why_unwritten(path: Path, named: int) -> str | None:
    """Return why no tool writes here, None where it may; `named`: see `closed.Marks.reason`."""
    names = tuple(folded(part) for part in path.parts)
    known = set(names)
    if known & REPOSITORY_NAMES or _in_repository(path):
        return REPOSITORY
    if known & STARTUP_NAMES or set(pairwise(names)) & STARTUP_PAIRS:
        return STARTUP
    if known & ENVIRONMENT_NAMES or _in_environment(path, names):
        return ENVIRONMENT
    if _is_setting(path, names, named):
        return SETTINGS
    return HIDDEN if _is_hidden(names, named) else None


def _in_environment(path: Path, names: tuple[str, ...]) -> bool:
    """Whether this lies in an environment, or in some Python's own library."""
    pairs = pairwise(names)
    if any(up in LIBRARIES and PYTHON.fullmatch(name) for up, name in pairs):
        return True
    return any(_lies(up, name) for up in path.parents for name in PREFIX_NAMES)


def _is_hidden(names: tuple[str, ...], named: int) -> bool:
    """Whether some part is hidden that the permission itself does not name."""
    for number, name in enumerate(names[named:], named):
        if not name.startswith(".") or name in HARMLESS or name.endswith("ignore"):
            continue
        if name == ".github" and set(names[number + 1 : number + 2]) & IN_GITHUB:
            continue
        return True
    return False


def _in_repository(path: Path) -> bool:
    """Whether a folder around `path` is a repository without a working tree, or becomes one."""
    return any(_is_git_folder(partial(_lies, up), path.parts[len(up.parts)]) for up in path.parents)


def _lies(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)


def is_open_git_folder(folder: int) -> bool:
    """Whether an open folder is one that git takes for its own."""

    def has(name: str) -> bool:
        try:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        return True

    return _is_git_folder(has)


def _is_git_folder(has: Callable[[str], bool], coming: str = "") -> bool:
    """Whether git takes a folder for its own, once it also has `coming`. See git's setup.c.

    `has` says whether a name is there. Nothing needs to be right in them: what is written first and
    what later is for the writer to choose.
    """
    new = folded(coming)

    def there(name: str) -> bool:
        return name.lower() == new or has(name)

    if not there("HEAD"):
        return False
    return there("commondir") or (there("objects") and there("refs"))


def _is_setting(path: Path, names: tuple[str, ...], named: int) -> bool:
    """Whether this is a hidden file or folder of a home, which its permission does not name."""
    homes = {inode_of(home) for home in homes_here()} - {None}
    for count in range(len(path.parts) - 1, 0, -1):
        up = str(Path(*path.parts[:count]))
        parent = str(Path(up).parent)
        if inode_of(up) not in homes and parent not in HOMES and up not in ROOTS:
            continue
        inner = names[count:]
        if not inner[0].startswith(".") and inner[0] != "library":
            return False
        needed = 1
        while needed <= len(inner) and inner[:needed] in SHELVES:
            needed += 1
        return named < count + needed
    return False


def homes_here() -> Iterator[str]:
    """Give this user's homes: what the environment says, and what the system does."""
    with suppress(RuntimeError):
        yield str(Path.home())
    with suppress(KeyError):
        yield pwd.getpwuid(os.getuid()).pw_dir


def inode_of(path: str) -> Inode | None:
    """Return what a path leads to, None where there is nothing or it may not be looked at."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
