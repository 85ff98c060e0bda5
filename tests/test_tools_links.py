"""What is closed stays closed wherever it is kept: by links, the environment, git's settings."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused
from agentd.paths import Paths, discover
from agentd.tools import links, surroundings
from agentd.tools.closed import Closed
from agentd.tools.links import Disks, hidden_links
from agentd.tools.toolbox import Toolbox
from tests.repository import Repository


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with folders of dotfiles, of notes and of a project."""
    for name in ("dotfiles", "notes", "proj"):
        (tmp_path / "home" / name).mkdir(parents=True)
    for name in (*surroundings.IN_PLACE_OF, "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def toolbox(*roots: Path, **more: Any) -> Toolbox:
    listed = tuple(map(str, roots))
    return Toolbox(Permissions(read=listed, write=listed), **more)


def is_open(path: Path, *roots: Path, **more: Any) -> bool:
    """Try to write; nothing is there afterwards of what is refused."""
    try:
        toolbox(*roots, **more).call("WriteFile", {"path": str(path), "text": "x"})
    except PermissionRefused as refused:
        assert "written by no tool" in refused.what or "belongs to agentd" in refused.what
        return False
    return True


# --- agentd's own


@pytest.fixture
def paths(tmp_path: Path, home: Path) -> Paths:
    paths = discover({"AGENTD_HOME": str(tmp_path / "agentd")})
    paths.create()
    return paths


def linked(link: Path, to: Path, *, there: bool = True) -> Path:
    """Put a link in the place of whatever is there, and return what it leads to."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if link.is_dir():
        link.rename(to)
    elif there:
        to.write_text("secret")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(to)
    return to


def in_home(name: str) -> Callable[[Paths, Path], Path]:
    return lambda paths, home: paths.data / name


def in_homes(name: str) -> Callable[[Paths, Path], Path]:
    return lambda paths, home: home / name


@pytest.mark.parametrize("kept", [in_home("kept"), in_homes("notes/kept")])
@pytest.mark.parametrize(
    ("link", "inner"),
    [
        *(("config/agents.d", "evil.toml"), ("config/agents.d/x.toml", ""), ("config", "new.toml")),
        *(("config/agentd.toml", ""), ("agents", "greet.py"), ("agents/greet.py", "")),
        *(("baml_src/greet.baml", ""), ("baml_src", "x.baml"), ("config/eval", "x.toml")),
        *(("models/small", "config.json"), ("models", "small/weights")),
    ],
)
def test_no_agent_gives_itself_permissions_by_a_link(
    paths: Paths, home: Path, link: str, inner: str, kept: Callable[[Paths, Path], Path]
) -> None:
    """What agents are made of is not written where it is really kept, and may be read there."""
    if link in ("config/eval", "models/small"):
        (paths.user / link).mkdir()
    real = linked(paths.user / link, kept(paths, home))
    closed = Closed.of(paths, "one", None)
    for path in (real / inner, paths.user / link / inner):
        assert not is_open(path, paths.data, home, closed=closed)
        assert not is_open(path, real, closed=closed), "nor where the permission names it"
    assert is_open(home / "notes" / "beside", paths.data, home, closed=closed)
    if not inner and real.is_relative_to(home):
        value = toolbox(home, paths.data, closed=closed).call("ReadFile", {"path": str(real)}).value
        assert value["text"] == "secret"


def test_a_link_to_nothing_yet_is_one_all_the_same(paths: Paths, home: Path) -> None:
    """Who writes what it leads to makes an agent; also where the folder is not there."""
    linked(paths.agents_d / "x.toml", home / "notes" / "x.toml", there=False)
    linked(paths.agents / "y.py", home / "coming" / "y.py", there=False)
    (home / "coming").rmdir()
    closed = Closed.of(paths, "one", None)
    assert not is_open(home / "notes" / "x.toml", home, closed=closed)
    assert not is_open(home / "coming" / "y.py", home, closed=closed)


@pytest.mark.parametrize(
    "name", ["logs/one.jsonl", "run/model.token", "run/locks/a.lock", "backups/b.db", "logs/old"]
)
def test_agentds_own_is_not_read_by_a_link(paths: Paths, home: Path, name: str) -> None:
    """A log or a token that is kept elsewhere is as secret there, also by a further hard link."""
    real = linked(paths.data / name, home / "notes" / "kept")
    tools = toolbox(home, paths.data, closed=Closed.of(paths, "one", None))
    with pytest.raises(PermissionRefused, match="belongs to agentd"):
        tools.call("ReadFile", {"path": str(real)})
    (home / "notes" / "hard").hardlink_to(real)
    for path in (real, home / "notes" / "hard", paths.data / name):
        with pytest.raises(PermissionRefused, match="belongs to agentd"):
            tools.call("ReadFile", {"path": str(path)})
        with pytest.raises(PermissionRefused, match="belongs to agentd"):
            tools.call("WriteFile", {"path": str(path), "text": ""})
    found = tools.call("SearchText", {"path": str(home), "text": "secret"}).value["found"]
    assert found == []


def test_a_link_to_a_home_closes_no_home(paths: Paths, home: Path) -> None:
    """One to the whole disk or home, as some programs lay down, would close all there is."""
    for folder in (paths.logs, paths.agents, home / ".wine", home / ".wine" / "deep"):
        folder.mkdir(exist_ok=True)
        for number, to in enumerate((Path("/"), home, home.parent)):
            (folder / f"all{number}").symlink_to(to)
    tools = toolbox(home, closed=Closed.of(paths, "one", None))
    tools.call("WriteFile", {"path": str(home / "notes" / "a"), "text": "x"})
    assert tools.call("ReadFile", {"path": str(home / "notes" / "a")}).value["text"] == "x"


# --- a home's


@pytest.mark.parametrize(
    ("link", "inner"),
    [
        *((".gitconfig", ""), (".config/git", "config"), (".config/nvim", "init.lua")),
        *((".ssh/config", ""), (".p10k.zsh", ""), (".zshrc", ""), (".unheard", "of")),
        *((".config/systemd/user/x.service", ""), (".config", "autostart/x.desktop")),
        *(
            (".local/bin/tool", ""),
            (".vim/pack/a/start/b", "plugin/x.vim"),
            (".emacs.d", "init.el"),
        ),
        *(("Library/LaunchAgents/x.plist", ""), ("Library/Application Support/Code/x.json", "")),
        *((".config/fish/conf.d", "a.fish"), (".aws", "config"), (".config/pip/pip.conf", "")),
    ],
)
def test_what_a_hidden_link_leads_to_is_as_hidden(home: Path, link: str, inner: str) -> None:
    """Dotfiles are kept in a folder that one can see, and linked from where programs look."""
    real = home / "dotfiles" / "kept"
    if inner:
        real.mkdir()
    else:
        real.touch()
    (home / link).parent.mkdir(parents=True, exist_ok=True)
    (home / link).symlink_to(real)
    for root in (home, home / "dotfiles"):
        assert not is_open(real / inner, root)
    assert is_open(home / "dotfiles" / "other", home)


def test_a_chain_of_links_is_followed_to_its_end(home: Path) -> None:
    """Relative ones, by `..`, by a folder that is a link itself."""
    (home / "notes" / "deep").mkdir()
    (home / "via").symlink_to("notes/deep")
    (home / "dotfiles" / "zsh").symlink_to("../via/../kept")
    (home / ".zshrc").symlink_to("dotfiles/zsh")
    assert not is_open(home / "notes" / "kept", home), "by the link, `..` is notes"
    assert is_open(home / "kept", home)


def test_a_permission_that_names_what_a_link_leads_to_names_the_link(home: Path) -> None:
    """A hidden link into one's own notes closes them no more than a hidden folder would be."""
    (home / ".mine").symlink_to("notes")
    (home / ".zsh_aliases").symlink_to("proj")
    assert not is_open(home / "notes" / "a", home)
    assert is_open(home / "notes" / "a", home / "notes")
    assert is_open(home / "notes" / "b", home / "notes" / "b")
    assert not is_open(home / "proj" / "a", home / "proj"), "a shell reads it, named or not"


def test_looks_are_bounded_and_the_nearest_come_first(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fills a hidden folder, links beside it are found; an endless one is left."""
    for number in range(60):
        (home / ".many" / str(number)).mkdir(parents=True)
        for inner in range(5):
            (home / ".many" / str(number) / str(inner)).touch()
    (home / ".last").symlink_to("notes")
    (home / ".cache").mkdir()
    (home / ".cache" / "x").symlink_to("notes")
    looks = hidden_links(str(home), Disks())
    assert looks == [str(home / ".last")], "nothing obeys a cache"
    monkeypatch.setattr(links, "ENTRIES_MAX", 40)
    assert hidden_links(str(home), Disks()) == looks
    monkeypatch.setattr(links, "SECONDS_MAX", -1.0)
    assert hidden_links(str(home), Disks()) == [], "a disk that is too slow"


def test_a_large_home_costs_little(home: Path) -> None:
    """Every call of WriteFile looks: ten thousand entries, half of them hidden."""
    for number in range(50):
        (home / ".config" / str(number)).mkdir(parents=True)
        for inner in range(100):
            (home / ".config" / str(number) / str(inner)).touch()
            (home / "notes" / f"{number}-{inner}").touch()
    took = []
    for _ in range(5):
        started = time.process_time()
        Closed().marks(writing=True)
        took.append(time.process_time() - started)
    assert min(took) < 0.1, "it takes some 10 ms"


def test_a_disk_that_may_not_answer_is_not_looked_at(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link onto it is compared by its text; where our own home lies, we wait anyway."""
    table = tmp_path / "mountinfo"
    dead = tmp_path / "dead disk"
    dead.mkdir()
    name = str(dead).replace(" ", "\\040")
    table.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {name} rw shared:1 - nfs4 server:/x rw\n"
        f"3 1 0:8 / {home} rw - fuse.sshfs me@there rw\nodd line\n"
    )
    monkeypatch.setattr(links, "MOUNTS", table)
    monkeypatch.setattr("agentd.tools.links.sys.platform", "linux")
    asked: list[str] = []
    for function in ("stat", "readlink", "scandir", "lstat"):
        plain = getattr(os, function)

        def noting(path: Any = ".", *args: Any, _plain: Any = plain, **more: Any) -> Any:
            asked.append(os.fsdecode(path) if not isinstance(path, int) else "")
            return _plain(path, *args, **more)

        monkeypatch.setattr(os, function, noting)
    (home / ".gitconfig").symlink_to(dead / "gitconfig")
    (home / ".vim").symlink_to(dead / "a" / ".." / "vim")
    (home / ".mail").symlink_to("notes")
    asked.clear()
    marks = Closed(own=(home / "own",)).marks(writing=True)
    assert not [path for path in asked if path.startswith(str(dead))]
    assert marks.reason(str(dead / "gitconfig"), 0) and marks.reason(str(dead / "vim" / "x"), 0)
    assert marks.reason(str(home / "notes" / "x"), 0)
    assert not marks.reason(str(dead / "other"), 0)


# --- projects


@pytest.mark.parametrize(
    "path",
    [
        *(".hg/hgrc", ".jj/repo/config.toml", ".bzr/branch/branch.conf", "_darcs/prefs/defaults"),
        *(".svn/wc.db", ".sl/config", ".vscode/tasks.json", ".zed/tasks.json", ".idea/x.xml"),
        *(".devcontainer/x", ".nvim.lua", ".dir-locals.el", "_vimrc", ".spacemacs", ".yarnrc.yml"),
        *(".cargo/config", ".mvn/extensions.xml", ".bundle/config", ".bazelrc", ".mise.toml"),
        *(".pre-commit-config.yaml", ".psqlrc", ".kube/config", ".claude/settings.json", ".env"),
        *("node_modules/x/index.js", "a/node_modules/.bin/x", "src/.anything/new", ".githooks/x"),
        *(".github/workflows/x.yml", ".github/copilot-instructions.md", ".github/actions/a/b.yml"),
        *(".gitlab-ci.yml", "__pycache__/x.pyc", ".eslintrc.js", ".python-version", ".", "..."),
    ],
)
def test_hidden_files_of_a_project_are_not_written(home: Path, path: str) -> None:
    """Editors, tools and version control obey them; the permission is for the project."""
    if path == ".":
        pytest.skip("the folder itself")
    assert not is_open(home / "proj" / path, home / "proj")
    assert list((home / "proj").iterdir()) == []


def test_a_hidden_file_of_a_project_is_written_where_it_is_named(home: Path) -> None:
    """By its own name or its folder's; what lies hidden in there has to be named again."""
    proj = home / "proj"
    for root, path in ((".changes", "a/b"), (".one.yml", ""), ("docs/.vuepress", "x")):
        assert is_open(proj / root / path, proj, proj / root)
    assert not is_open(proj / ".changes" / ".x" / "y", proj / ".changes")
    for named in (".hg", ".git", ".vim", "node_modules"):
        assert not is_open(proj / named / "x", proj / named)


SETTINGS = {
    "include": ("[include]\n\tpath = ../team.inc\n", "team.inc"),
    "include in one line": (
        '[includeIf "gitdir:~/a]b/"] path = "../my team.inc" ; ours',
        "my team.inc",
    ),
    "include of an include": ("[INCLUDE]\npath=../one.inc", "two.inc"),
    "hooks": ("[core]\n\thooksPath = hooks # ours\n", "hooks/lib.sh"),
    "hooks far": ("[core]\n\thookspath = \\\n./tools/git\n", "tools/git/pre-push"),
    "filter": ('[filter "x"]\n\tclean = "sh tools/clean.sh %f"\n', "tools/clean.sh"),
    "monitor": ("[core] fsmonitor=./tools/watch", "tools/watch"),
    "alias": ("[alias]\n\tdone = !tools/done && git push\n", "tools/done"),
    "attributes": ("[core]\n\tattributesFile = attributes\n", "attributes"),
    "driver": ('[merge "x"]\n\tdriver = python3 ./tools/merge.py %O\n', "tools/merge.py"),
}


@pytest.mark.parametrize("way", SETTINGS)
@pytest.mark.parametrize("worktree", [False, True])
def test_what_a_repositorys_settings_name_is_not_written(
    home: Path, way: str, worktree: bool
) -> None:
    """Files that git includes and programs that it runs lie in the working tree as well."""
    text, path = SETTINGS[way]
    repo = Repository(home / "proj")
    repo.commit("one")
    top = home / "proj"
    (top / "one.inc").write_text("[include]\npath = two.inc\npath = one.inc\n")
    if worktree:  # all of them share the settings; programs are run in each
        if "inc" in path:
            pytest.skip("named from where the settings lie")
        repo.git("worktree", "add", "-q", str(home / "tree"))
        top = home / "tree"
    with (home / "proj" / ".git" / "config").open("a") as file:
        file.write('[remote "x"]\n\turl = ./src/deep\n[core]\n\tworktree = ../src\n' + text)
    assert not is_open(top / path, home)
    assert is_open(top / "src" / "deep" / "a.c", home), "a remote's address is no program"


@pytest.mark.parametrize("file", [".gitconfig", ".config/git/config"])
def test_what_a_persons_git_settings_name_is_not_written(home: Path, file: str) -> None:
    """Their includes, hooks and programs are at work in each repository."""
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).write_text(
        "[include]\npath = ~/dotfiles/work.inc\n[core]\nhooksPath = ~/tools/hooks\n"
        "[safe]\ndirectory = ~/proj\n"
    )
    (home / "dotfiles" / "work.inc").write_text("[init]\ntemplateDir=../tpl/x\n")
    for path in ("dotfiles/work.inc", "tools/hooks/pre-commit"):
        assert not is_open(home / path, home)
    assert is_open(home / "proj" / "a", home)


# --- the environment and the machine


@pytest.mark.parametrize(
    ("variable", "value", "path", "named"),
    [
        ("XDG_CONFIG_HOME", "conf", "conf/git/config", "conf/git"),
        ("XDG_CONFIG_HOME", "conf", "conf/autostart/x.desktop", "conf/autostart"),
        ("XDG_CONFIG_HOME", "conf", "conf/systemd/user/x.service", "conf"),
        ("XDG_CONFIG_HOME", "conf", "conf/fish/config.fish", ""),
        ("XDG_DATA_HOME", "kept", "kept/applications/x.desktop", "kept"),
        ("XDG_DATA_HOME", "share", "share/anybody/x", "share"),
        ("CARGO_HOME", "cargo", "cargo/bin/x", "cargo/bin"),
        ("PYTHONPATH", "pylib", "pylib/json.py", "pylib"),
        ("PYTHONPATH", "other:{home}/pylib", "pylib/agentd.py", ""),
        ("PYTHONUSERBASE", "py", "py/lib/x.py", "py"),
        ("PATH", "nothing:{home}/tools", "tools/git", "tools"),
        ("LD_LIBRARY_PATH", "so", "so/x", ""),
        ("XDG_DATA_DIRS", "a:{home}/b", "b/x", ""),
        ("SSL_CERT_FILE", "certs.pem", "certs.pem", "certs.pem"),
        ("GIT_CONFIG_GLOBAL", "gitsettings", "gitsettings", "gitsettings"),
    ],
)
def test_places_that_the_environment_names_are_not_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, path: str, named: str
) -> None:
    """A folder of settings, programs or modules, wherever somebody has put it."""
    assert is_open(home / path, home), "without that variable it is nobody's"
    (home / path).unlink()
    monkeypatch.setenv(variable, f"{home}/{value.format(home=home)}")
    assert not is_open(home / path, home)
    assert not is_open(home / path, home / named)
    if variable in surroundings.IN_PLACE_OF:
        mine = home / value / "mine"
        mine.mkdir()
        assert is_open(mine / "x", mine), "as a folder of `.config` is"


@pytest.mark.parametrize(
    "path",
    [
        *("conda/lib/python3.12/os.py", "conda/etc/conda/activate.d/x.sh", "conda/bin/python"),
        *("conda/etc/profile.d/conda.sh", "conda/envs/a/x", "py/lib/python3.13t/json/__init__.py"),
        *("py/lib64/python3/x.py", "Py/Lib/Python3.11/x.py"),
    ],
)
def test_no_pythons_parts_are_written(home: Path, path: str) -> None:
    """Conda's, and one that somebody built: no `pyvenv.cfg` says so."""
    (home / "conda" / "conda-meta").mkdir(parents=True)
    assert not is_open(home / path, home)
    assert not is_open(home / path, (home / path).parent)
    assert is_open(home / "proj" / "lib" / "python_tools" / "x.py", home)


@pytest.mark.parametrize(
    "path",
    [
        *("/run/user/1000/systemd/user/x.service", "/run/udev/rules.d/x", "/usr/local/Cellar/x"),
        *("/usr/local/share/zsh/site-functions/_x", "/usr/games/x", "/usr/src/x", "/usr/include/x"),
        *("/usr/lib32/x", "/usr/libx32/x", "/usr/new/x", "/var/lib/dpkg/info/x.postinst"),
    ],
)
def test_the_systems_places_are_not_written(home: Path, path: str) -> None:
    """Nothing is tried: what the list says of a place that is there."""
    marks = Closed().marks(writing=True)
    there = next(str(up) for up in Path(path).parents if up.exists())
    if there == "/" or stat.S_ISLNK(os.lstat(there).st_mode) or there in ("/var", "/var/lib"):
        pytest.skip(f"this machine has no {path}")
    assert marks.reason(path, len(Path(path).parts))
    assert not marks.reason("/run/media/me/STICK/x", 0)


def test_places_that_are_not_there_yet_are_closed_as_well(home: Path) -> None:
    """A system's folder that comes later is one from its first file on."""
    marks = Closed().marks(writing=True)
    for path in ("/nix/store/x", "/snap/x", "/opt/local/bin/x", "/gnu/store/x", "/efi/x"):
        assert marks.reason(path, 0)
    for path in ("/srv/x", "/opt/mine/x", "/data/x", "/var/www/x", "/mnt/x", "/var/lib/mine/x"):
        assert not marks.reason(path, 0)
