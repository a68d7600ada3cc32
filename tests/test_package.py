"""What is built for an index: a source archive, a wheel made of it, and the wheel in an environment of its own."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
SHIPPED = ("py.typed", "recipes/demo.toml", "models/tiny/model.safetensors", "corpus/sotu.jsonl.xz")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the source archive, and the wheel made of that."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Programs of a fresh environment that has the wheel, and sees what else is installed here."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / ("python.exe" if os.name == "nt" else "python")
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    # A path alone: the .pth files over there, such as that of an editable install, are not read.
    (Path(site.strip()) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    wheel = next(built.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    return programs


def test_archives_hold_what_the_package_needs(built):
    wheel = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    assert {f"bytequilt/{name}" for name in SHIPPED} <= set(wheel)
    assert not [name for name in wheel if name.endswith(".pth")]  # nothing runs before it is asked for
    top = {name.split("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"bytequilt"}
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "tests/test_package.py"} <= source


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["patch", "Hello, world"], "patches"),
        (["generate", "Once", "--max-bytes", "8", "--seed", "0"], ""),
        (["info", "demo"], "parameters"),
    ],
)
def test_the_wheel_works_by_itself(installed, tmp_path, arguments, said):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / "bytequilt"), *arguments]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout
    assert said in done.stdout.decode("utf-8")


def test_what_is_imported_there_is_what_was_installed(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / "python"), "-c", "import bytequilt; print(bytequilt.__file__)"]
    path = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert Path(path.strip()).is_relative_to(installed.parent)
