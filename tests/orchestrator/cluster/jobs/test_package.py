"""What travels with a job, what is refused, and that the same content gives the same file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
from toyland import install_toyland

from orchestrator.cluster.jobs.client import PackageError
from orchestrator.cluster.jobs.package import Package, build_package, check_size, source_files

KEY = "-----BEGIN {}PRIVATE KEY-----\nMIIE\n"
"""Written in two parts, so that this file may travel itself."""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A package that has everything that stays at home without a word."""
    code = tmp_path / "code"
    for name in ("__init__.py", "deep/model.py", "deep/words.txt", "credentials.py", "environment.env.py"):
        _write(code / name)
    for name in ("__pycache__/model.cpython-311.pyc", "deep/old.pyc", ".git/config", ".mypy_cache/x", ".DS_Store"):
        _write(code / name)
    return code


def _write(path: Path, text: str = "x = 1\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_code_travels_and_caches_and_history_stay(code: Path) -> None:
    names = [file.name for file in source_files(code, "code")]
    assert names == [
        "code/__init__.py",
        "code/credentials.py",
        "code/deep/model.py",
        "code/deep/words.txt",
        "code/environment.env.py",
    ]


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".env.production", "deep/server.pem", "deep/TLS.KEY", "id_rsa", "id_ed25519.pub", "me.p12"),
        *("deep/credentials", "credentials.json", ".netrc", ".aws/config", ".ssh/known_hosts", ".pypirc"),
    ],
)
def test_a_secret_by_name_is_refused_and_named(code: Path, name: str) -> None:
    _write(code / name)
    with pytest.raises(PackageError, match="by its name it holds a secret") as caught:
        source_files(code, "code")
    assert str(code / name.split("/", maxsplit=1)[0]) in str(caught.value)


@pytest.mark.parametrize("kind", ["", "RSA ", "OPENSSH ", "EC ", "ENCRYPTED "])
def test_a_private_key_is_refused_wherever_it_is(code: Path, kind: str) -> None:
    _write(code / "deep" / "settings.py", f'KEY = """{KEY.format(kind)}"""\n')
    with pytest.raises(PackageError, match=r"settings\.py: .* holds a private key"):
        [file.read() for file in source_files(code, "code")]


def test_a_link_does_not_smuggle_a_secret_in(code: Path, tmp_path: Path) -> None:
    _write(tmp_path / "id_rsa")
    (code / "innocent.txt").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(PackageError, match=r"innocent\.txt: .* by its name"):
        source_files(code, "code")


def test_a_link_to_a_folder_is_refused(code: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (code / "elsewhere").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageError, match="elsewhere: is a link to a folder"):
        source_files(code, "code")


def test_what_is_no_file_is_refused(code: Path) -> None:
    os.mkfifo(code / "pipe")
    with pytest.raises(PackageError, match="pipe: is not a regular file"):
        source_files(code, "code")


def test_too_much_is_refused_with_the_largest_files_named(code: Path) -> None:
    (code / "weights.bin").write_bytes(bytes(3 * 2**20))
    files = source_files(code, "code")
    with pytest.raises(PackageError, match=r"the code is 3\.0 MB, more than the 2\.0 MB .*weights\.bin \(3\.0 MB\)"):
        check_size(files, most_bytes=2 * 2**20)
    check_size(files, most_bytes=4 * 2**20)


def test_the_same_content_gives_the_same_file(tmp_path: Path) -> None:
    first = build_package(tmp_path / "a.zip", "name: x\n", "albef")
    source = Path(sys.modules["orchestrator.cluster.jobs.package"].__file__ or "")
    os.utime(source, (source.stat().st_atime, source.stat().st_mtime))
    second = build_package(tmp_path / "b.zip", "name: x\n", "albef")
    other = build_package(tmp_path / "c.zip", "name: y\n", "albef")
    assert first.digest == second.digest != other.digest
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_nothing_but_code_recipe_and_prices_travels(tmp_path: Path) -> None:
    package = build_package(tmp_path / "a.zip", "name: x\n", "albef", prices="machines: {}\n")
    tops = {name.split("/", maxsplit=1)[0] for name in package.names}
    information = {top for top in tops if top.endswith(".dist-info")}
    assert tops - information == {"orchestrator", "workloads", "recipe.yaml", "prices.yaml"}
    assert len(information) == 1
    assert not [name for name in package.names if "__pycache__" in name or name.endswith(".pyc")]
    assert package.size_bytes < 2 * 2**20


def test_a_recipe_with_a_key_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"recipe\.yaml: .* private key"):
        build_package(tmp_path / "a.zip", f"name: |\n  {KEY.format('')}", "albef")
    assert not (tmp_path / "a.zip").exists()


@pytest.fixture
def toyland(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Package]:
    """A third party's distribution on the path; calling it packs a recipe of its workload."""
    monkeypatch.syspath_prepend(install_toyland(tmp_path / "site"))
    return lambda: build_package(tmp_path / "toy.zip", "workload: paced\n", "paced")


def test_the_workload_of_a_third_party_is_found_where_only_the_package_is(
    toyland: Callable[[], Package], tmp_path: Path
) -> None:
    package = toyland()
    assert {"toy_workload.py", "paced_workload.py", "toy_land-1.2.dist-info/METADATA"} <= {*package.names}
    with ZipFile(package.path) as archive:
        archive.extractall(tmp_path / "there")
        points = archive.read("toy_land-1.2.dist-info/entry_points.txt").decode()
    assert "console_scripts" not in points
    code = (
        "from orchestrator.config.loading import find_workload, workload_distribution;"
        "print(type(find_workload('paced')).__module__, workload_distribution('albef').version);"
        "import orchestrator, paced_workload; print(orchestrator.__file__, paced_workload.__file__)"
    )
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "there", env=bare, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found, places = ran.stdout.splitlines()
    assert found.split()[0] == "paced_workload"
    assert all(place.startswith(str(tmp_path / "there")) for place in places.split())


def test_an_editable_distribution_that_lists_no_code_is_packed_by_its_entry_point(
    toyland: Callable[[], Package], tmp_path: Path
) -> None:
    information = tmp_path / "site" / "toy_land-1.2.dist-info"
    (information / "RECORD").write_text("_editable_impl_toy_land.pth,,\ntoy_land-1.2.dist-info/METADATA,,\n")
    assert "toy_workload.py" not in toyland().names
    (information / "top_level.txt").write_text("toy_workload\npaced_workload\n")
    assert {"toy_workload.py", "paced_workload.py"} <= {*toyland().names}


def test_a_namespace_that_others_share_is_not_packed_whole(toyland: Callable[[], Package], tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("acme/vision/__init__.py", "acme/vision/entry.py", "acme/audio/__init__.py"):
        _write(site / name)
    information = site / "toy_land-1.2.dist-info"
    (information / "entry_points.txt").write_text("[fuseray.workloads]\npaced = acme.vision.entry:ENTRY\n")
    (information / "RECORD").write_text("acme/vision/__init__.py,,\nacme/vision/entry.py,,\n")
    names = [name for name in toyland().names if name.startswith("acme")]
    assert names == ["acme/vision/__init__.py", "acme/vision/entry.py"]
