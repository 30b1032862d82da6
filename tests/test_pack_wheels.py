"""scripts/pack_wheels.py: from a network's packages to a machine without one."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pack_wheels
import pytest

SCRIPT = Path(pack_wheels.__file__)

#: Without the packages and the settings of this one.
ALONE = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1"}


def make_wheel(directory: Path, name: str, size: int = 10, needs: str = "") -> Path:
    """A wheel whose package holds some bytes; ``shared`` belongs to every one."""
    info = f"{name}-1.0.dist-info"
    path = directory / f"{name}-1.0-py3-none-any.whl"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", f"NAME = {name!r}\n")
        wheel.writestr(f"{name}.pth", f"import sys; sys.{name} = True\n")
        data = np.random.default_rng(len(name)).bytes(size)
        wheel.writestr(f"shared/{name}.bin", data)
        requires = f"Requires-Dist: {needs}\n" if needs else ""
        wheel.writestr(f"{info}/METADATA", head + requires)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        names = [f"{name}.py", f"{name}.pth", f"shared/{name}.bin"]
        names += [f"{info}/{file}" for file in ("METADATA", "WHEEL", "RECORD")]
        wheel.writestr(f"{info}/RECORD", "".join(f"{n},,\n" for n in names))
    return path


@pytest.fixture
def packed(tmp_path):
    """A packing of a small wheel and of a large one, in parts of 20 KiB."""
    wheels = tmp_path / "packed" / "wheels"
    wheels.mkdir(parents=True)
    make_wheel(wheels, "small", needs="large>=2")
    make_wheel(wheels, "large", 50_000, needs="other")
    options = ["--output_dir", str(wheels.parent), "--part_mib", str(20 / 1024)]
    pack_wheels.main(["pack", *options])
    return wheels.parent


def parts(packed):
    return sorted(packed.glob("part_*"))


def test_parts_are_no_larger_than_they_may_be(packed, capsys):
    manifest = pack_wheels.Manifest.read(parts(packed)[0] / "manifest.json")
    assert [wheel.name for wheel in manifest.wheels] == ["small", "large"]
    for number, part in enumerate(parts(packed), 1):
        pieces = [path for path in part.iterdir() if path.name != "manifest.json"]
        assert 0 < sum(path.stat().st_size for path in pieces) <= 20 * 1024
        assert pack_wheels.Manifest.read(part / "manifest.json") == manifest
        assert {p.file for p in manifest.pieces if p.part == number} == {
            path.name for path in pieces
        }
    assert len(parts(packed)) == manifest.parts == 3


def run(python, *arguments):
    """Run the script in an environment of its own."""
    command = [python, "-I", SCRIPT, *arguments]
    return subprocess.run(command, env=ALONE, capture_output=True, text=True)


def test_parts_are_joined_and_installed_as_they_come(packed, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python, store = tmp_path / "venv" / "bin" / "python", tmp_path / "store"
    first, second, third = parts(packed)
    target = ("--target", tmp_path / "target")

    joined = run(python, "join", "--store", store, first)
    assert joined.returncode == 0, joined.stderr
    assert joined.stdout == (
        "1 of 2 wheels are whole; still to come: part 2, 3 "
        "(for large-1.0-py3-none-any.whl)\n"
    )
    installed = run(python, "install", "--store", store, *target)
    assert installed.returncode == 0, installed.stderr
    assert f"installed 1 wheels into {target[1]}\n" in installed.stdout
    assert "note: small needs large>=2, here is none\n" in installed.stdout

    joined = run(python, "join", "--store", store, third, second, first)
    assert joined.stdout == "2 of 2 wheels are whole\n"
    assert list((store / "pieces").iterdir()) == []
    installed = run(python, "install", "--store", store, *target)
    assert "installed 1 wheels" in installed.stdout
    assert "note: small needs large>=2, here is 1.0\n" in installed.stdout
    assert "note: large needs other, here is none\n" in installed.stdout
    assert {path.name for path in (target[1] / "shared").iterdir()} == {
        "small.bin",
        "large.bin",
    }
    code = "import sys; print(sys.large, sys.small)"
    environment = {**ALONE, "PYTHONPATH": str(target[1])}
    answer = subprocess.run(
        [python, "-c", code], env=environment, capture_output=True, text=True
    )
    assert answer.stdout == "True True\n", answer.stderr
    again = run(python, "install", "--store", store, *target)
    assert "installed 0 wheels" in again.stdout

    assert "installed 2 wheels" in run(python, "install", "--store", store).stdout
    code = "import large, small; print(large.NAME, small.NAME)"
    answer = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
    assert answer.stdout == "large small\n"


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as error:
        pack_wheels.main([str(argument) for argument in arguments])
    assert error.value.code == 1
    return capsys.readouterr()


def test_a_damaged_part_is_named_and_the_others_are_taken(packed, tmp_path, capsys):
    store, chosen = tmp_path / "store", parts(packed)
    [piece] = chosen[1].glob("large*")
    sound = piece.read_bytes()
    for damage in (sound[:-1], b"x" + sound[1:]):
        piece.write_bytes(damage)
        printed = refused(capsys, "join", "--store", store, *chosen)
        assert f"error: damaged, bring them again: {piece}\n" in printed.err
        assert "1 of 2 wheels are whole; still to come: part 2 (" in printed.out
    piece.write_bytes(sound)
    pack_wheels.main(["join", "--store", str(store), str(chosen[1])])
    assert capsys.readouterr().out == "2 of 2 wheels are whole\n"


def test_parts_of_another_packing_are_refused(packed, tmp_path, capsys):
    store = tmp_path / "store"
    pack_wheels.main(["join", "--store", str(store), str(parts(packed)[0])])
    path = parts(packed)[1] / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "pieces": content["pieces"][:-1]}))
    printed = refused(capsys, "join", "--store", store, path.parent)
    assert f"{path.parent} is of another packing than {store}" in printed.err
    path.write_text(json.dumps({**content, "python": "2.7"}))
    printed = refused(capsys, "join", "--store", store, path.parent)
    assert f"{path.parent} is for Python 2.7, this is 3." in printed.err
    assert "is no manifest" in refused(capsys, "install", "--store", tmp_path).err


def test_what_the_other_machine_has_does_not_travel(tmp_path, monkeypatch, capsys):
    index = tmp_path / "index"
    index.mkdir()
    make_wheel(index, "small", needs="large_one>=1")
    make_wheel(index, "large_one", needs="other")
    make_wheel(index, "other")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    have, output = tmp_path / "have.txt", tmp_path / "packed"
    have.write_text("# there\nLarge.One==1.0\n-e git+file:///x#egg=x\n")
    pack = ["pack", "--have", str(have), "--output_dir", str(output), "small"]
    pack_wheels.main(pack)
    names = {path.name for path in (output / "wheels").iterdir()}
    assert names == {"small-1.0-py3-none-any.whl", "other-1.0-py3-none-any.whl"}
    have.write_text("large_one==2.0\n")
    assert "pip install failed" in refused(capsys, *pack).err
