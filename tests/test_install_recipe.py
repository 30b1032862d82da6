"""scripts/install_recipe.sh on recipes in a git repository."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ADAPTER = ROOT / "egs2_stage/asr.sh"


def git(directory, *args):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args]
    return subprocess.run(
        command, cwd=directory, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def checkout(tmp_path):
    """A repository shaped like ESPnet's, with spaces in its path."""
    root = tmp_path / "an espnet"
    for task, driver in {"asr1": "asr", "lm1": "lm"}.items():
        template = root / f"egs2/TEMPLATE/{task}"
        recipe = root / f"egs2/corpus/{task}"
        template.mkdir(parents=True)
        recipe.mkdir(parents=True)
        (template / f"{driver}.sh").write_text("echo driver\n")
        link = f"../../TEMPLATE/{task}/{driver}.sh"
        (recipe / f"{driver}.sh").symlink_to(link)
        (recipe / "run.sh").write_text(f"./{driver}.sh\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "recipes")
    return root


@pytest.fixture
def recipe(checkout):
    return checkout / "egs2/corpus/asr1"


def install(*args, root=ROOT):
    script = root / "scripts/install_recipe.sh"
    return subprocess.run([script, *args], capture_output=True, text=True)


def tree(directory):
    """Return everything in a directory: type, mode and content or link target."""
    return {
        path.relative_to(directory): (
            os.readlink(path)
            if path.is_symlink()
            else (path.stat().st_mode, path.is_file() and path.read_bytes())
        )
        for path in directory.rglob("*")
        if ".git" not in path.parts
    }


def assert_refused(directory, result, *messages):
    assert result.returncode == 1, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for message in messages:
        assert message in result.stderr


def test_install_and_uninstall(checkout, recipe):
    before = tree(checkout)
    assert install(recipe).returncode == 0
    assert os.readlink(recipe / "asr.sh") == str(ADAPTER)
    assert os.readlink(recipe / "asr.espnet.sh") == "../../TEMPLATE/asr1/asr.sh"
    installed = tree(checkout)
    assert set(installed) - set(before) == {Path("egs2/corpus/asr1/asr.espnet.sh")}

    again = install(recipe)
    assert again.returncode == 0 and "already" in again.stdout
    assert tree(checkout) == installed

    assert install(recipe, "--uninstall").returncode == 0
    assert tree(checkout) == before
    assert git(checkout, "status", "--porcelain") == ""

    again = install("--uninstall", recipe)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert tree(checkout) == before


def test_relative_path(checkout, recipe, monkeypatch):
    monkeypatch.chdir(recipe)
    assert install(".").returncode == 0
    assert install("--uninstall", ".").returncode == 0
    assert git(checkout, "status", "--porcelain") == ""


def test_driver_that_is_a_file(checkout, recipe):
    (recipe / "asr.sh").unlink()
    (recipe / "asr.sh").write_text("echo mine\n")
    (recipe / "asr.sh").chmod(0o755)
    before = tree(checkout)
    assert install(recipe).returncode == 0
    assert (recipe / "asr.espnet.sh").read_text() == "echo mine\n"
    assert install("--uninstall", recipe).returncode == 0
    assert tree(checkout) == before


@pytest.mark.parametrize("old_clone_is_there", [True, False])
def test_another_clone_takes_over(tmp_path, recipe, old_clone_is_there):
    clone = tmp_path / "clone"
    for name in ("scripts/install_recipe.sh", "egs2_stage/asr.sh"):
        (clone / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, clone / name)
    assert install(recipe, root=clone).returncode == 0
    if not old_clone_is_there:
        shutil.rmtree(clone)
    assert install(recipe).returncode == 0
    assert os.readlink(recipe / "asr.sh") == str(ADAPTER)
    assert os.readlink(recipe / "asr.espnet.sh") == "../../TEMPLATE/asr1/asr.sh"


def test_demo_ships_installed():
    demo = ROOT / "egs2_stage/demo/asr1"
    if not demo.is_dir():
        pytest.skip("no demo recipe here")
    before = tree(demo)
    result = install(demo)
    assert result.returncode == 0 and "already" in result.stdout
    assert tree(demo) == before


@pytest.mark.parametrize("option", [[], ["--uninstall"]])
def test_refusals(checkout, recipe, option):
    def refused(path, *messages):
        before = tree(checkout)
        assert_refused(path, install(*option, path), *messages)
        assert tree(checkout) == before

    corpus = recipe.parent
    refused(corpus / "asr9", "no such directory")
    refused(corpus, "not a recipe", "asr.sh")
    refused(corpus / "lm1", "not a recipe", "asr.sh, st.sh, slu.sh, s2t.sh, tts.sh")
    refused(checkout / "egs2/TEMPLATE/asr1", "template")

    espnets = recipe / "asr.espnet.sh"
    espnets.write_text("something else\n")
    refused(recipe, "asr.espnet.sh that is not ours")
    espnets.unlink()

    (recipe / "asr.sh").rename(espnets)
    refused(recipe, "half installed", "asr.sh is gone")
    espnets.unlink()

    (recipe / "asr.sh").symlink_to(ADAPTER)
    refused(recipe, "half installed", "asr.espnet.sh is gone")


def test_bad_command_lines(recipe):
    for args in ([], ["--force", recipe], [recipe, recipe]):
        assert_refused(recipe, install(*args))
    assert install("--help").stdout.startswith("Usage:")
