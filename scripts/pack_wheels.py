#!/usr/bin/env python3
"""Carry Python packages to a machine without a network, in parts of a limited size.

Usage, where there is a network, with the Python version and the kind of processor that
the other machine has:

    scripts/pack_wheels.py pack --output_dir DIR [--have FILE] REQUIREMENT ...

On the other machine, as the parts come in, in whatever order (nothing but this file and
pip is needed there):

    scripts/pack_wheels.py join --store STORE PART ...
    scripts/pack_wheels.py install --store STORE [--target DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MANIFEST = "manifest.json"

#: Has the .pth files beside it take effect, as in a directory of site-packages: ESPnet
#: needs distutils, which setuptools brings by such a file.
CUSTOMIZE = """import os
import site

site.addsitedir(os.path.dirname(os.path.abspath(__file__)))
"""
MIB = 2**20

#: Prints what the packages that are named need and do not find, a line each. Run where
#: they are installed; pip brings packaging along.
UNMET = """
import sys
from importlib import metadata
from pip._vendor.packaging.requirements import Requirement
for name in sys.argv[1:]:
    for text in metadata.requires(name) or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            found = None
        if found is None or not need.specifier.contains(found, prereleases=True):
            wanted = f"{need.name}{need.specifier}"
            print(f"{name} needs {wanted}, here is {found or 'none'}")
"""


class PackError(Exception):
    """Something that the user can mend."""


@dataclass(frozen=True)
class Wheel:
    """A wheel by its file name.

    Attributes:
        file: Its name.
        size: Bytes.
        sha256: Digest of them all.
    """

    file: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Return the package's name, as wheels spell it."""
        return self.file.split("-")[0]


@dataclass(frozen=True)
class Piece:
    """Bytes of a wheel that travel together.

    Attributes:
        file: Name of the file that holds them.
        part: Number of the part that it is in, from 1.
        wheel: The wheel's file.
        offset, size: Which bytes.
        sha256: Their digest.
    """

    file: str
    part: int
    wheel: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that a packing holds; a copy is in every part.

    Attributes:
        python: Version that the wheels are for, e.g. ``3.12``.
        wheels, pieces: What it holds.
    """

    python: str
    wheels: tuple[Wheel, ...]
    pieces: tuple[Piece, ...]

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @staticmethod
    def read(path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            PackError: If it cannot be read.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Manifest(
                content["python"],
                tuple(Wheel(**wheel) for wheel in content["wheels"]),
                tuple(Piece(**piece) for piece in content["pieces"]),
            )
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise PackError(f"{path} is no manifest of a packing: {e}")

    @property
    def parts(self) -> int:
        """Return how many parts there are."""
        return max((piece.part for piece in self.pieces), default=0)

    def pieces_of(self, wheel: str) -> list[Piece]:
        """Return the pieces of a wheel, in order."""
        return [piece for piece in self.pieces if piece.wheel == wheel]


def python_version() -> str:
    """Return that of this Python."""
    return ".".join(map(str, sys.version_info[:2]))


def digest(path: Path, offset: int = 0, size: int | None = None) -> str:
    """Return the SHA-256 of some bytes of a file, by default of all."""
    found = hashlib.sha256()
    for block in blocks(path, offset, size):
        found.update(block)
    return found.hexdigest()


def blocks(path: Path, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
    """Yield some bytes of a file, by default all, a few at a time."""
    left = path.stat().st_size - offset if size is None else size
    with open(path, "rb") as file:
        file.seek(offset)
        while left and (block := file.read(min(left, MIB))):
            left -= len(block)
            yield block


def normalized(name: str) -> str:
    """Return a package's name as it compares (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


# Where there is a network


def pack(args: argparse.Namespace) -> None:
    """Download wheels and split them."""
    wheels = args.output_dir / "wheels"
    if args.requirements:
        download(args.requirements, args.have, wheels)
    manifest = split(wheels, args.output_dir, round(args.part_mib * MIB))
    total = sum(wheel.size for wheel in manifest.wheels)
    print(
        f"{len(manifest.wheels)} wheels, {total / MIB:.1f} MiB, in {manifest.parts} "
        f"parts of at most {args.part_mib:g} MiB: {args.output_dir}/part_*"
    )


def read_have(path: Path | None) -> tuple[set[str], list[str]]:
    """Read the packages that the other machine has.

    Args:
        path: Lines ``NAME==VERSION``, as ``pip freeze`` gives them, or ``NAME``.

    Returns:
        The names, and the lines with a version, to which the others have to fit.
    """
    if path is None:
        return set(), []
    text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    names = {normalized(re.split(r"[=<>!~ @\[;]", line)[0]) for line in lines}
    return names, [line for line in lines if re.fullmatch(r"[\w.-]+==[\w.+!]+", line)]


def download(requirements: Sequence[str], have: Path | None, wheels: Path) -> None:
    """Bring wheels of requirements and of all that they need, but for what is there.

    A package without a wheel is built here.
    """
    names, constraints = read_have(have)
    with tempfile.TemporaryDirectory() as directory:
        fitting, report = Path(directory, "fitting"), Path(directory, "report")
        fitting.write_text("\n".join(constraints), encoding="utf-8")
        pip(
            *("install", "--dry-run", "--ignore-installed", "--report", report),
            *("--constraint", fitting, *requirements),
        )
        resolved = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = [entry["metadata"] for entry in resolved]
    wanted = [
        f"{one['name']}=={one['version']}"
        for one in found
        if normalized(one["name"]) not in names
    ]
    shutil.rmtree(wheels, ignore_errors=True)
    pip("wheel", "--no-deps", "--wheel-dir", wheels, *wanted)


def pip(command: str, *arguments: str | Path) -> None:
    """Run a command of pip."""
    start = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    if subprocess.run([*start, command, *map(str, arguments)]).returncode:
        raise PackError(f"pip {command} failed; its message stands above")


def split(wheels: Path, output_dir: Path, limit: int) -> Manifest:
    """Write wheels as parts, the smallest first, so that only the last are cut.

    Args:
        wheels: Their directory.
        output_dir: Of the parts.
        limit: The largest size of a part's pieces in bytes.
    """
    files = sorted(wheels.glob("*.whl"), key=lambda path: (path.stat().st_size, path))
    if not files:
        raise PackError(f"{wheels} holds no wheels: name what is to be packed")
    for old in output_dir.glob("part_*"):
        shutil.rmtree(old)
    found, pieces, part, free = [], [], 1, limit
    for path in files:
        size, offset, number = path.stat().st_size, 0, 0
        found.append(Wheel(path.name, size, digest(path)))
        while offset < size:
            if not free:
                part, free = part + 1, limit
            taken, number = min(free, size - offset), number + 1
            file = f"{path.name}.{number:02d}"
            piece = Piece(
                file, part, path.name, offset, taken, digest(path, offset, taken)
            )
            pieces.append(piece)
            copy(path, part_dir(output_dir, part) / file, offset, taken)
            offset, free = offset + taken, free - taken
    manifest = Manifest(python_version(), tuple(found), tuple(pieces))
    for number in range(1, manifest.parts + 1):
        path = part_dir(output_dir, number) / MANIFEST
        path.write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def part_dir(output_dir: Path, number: int) -> Path:
    """Return the directory of a part, which is there then."""
    path = output_dir / f"part_{number:02d}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def copy(source: Path, target: Path, offset: int = 0, size: int | None = None) -> None:
    """Write some bytes of a file as another one, aside until they are all there."""
    aside = target.with_name(target.name + ".new")
    with open(aside, "wb") as file:
        for block in blocks(source, offset, size):
            file.write(block)
    aside.replace(target)


# On the other machine


def join(args: argparse.Namespace) -> None:
    """Take in parts and put together the wheels that are whole."""
    damaged: list[str] = []
    for part in args.parts:
        damaged += take_in(part, args.store)
    manifest = Manifest.read(args.store / MANIFEST)
    damaged += put_together(manifest, args.store)
    print(state(manifest, args.store))
    if damaged:
        raise PackError(f"damaged, bring them again: {', '.join(damaged)}")


def take_in(part: Path, store: Path) -> list[str]:
    """Copy the sound pieces of a part; return the names of the others.

    Raises:
        PackError: If the part does not belong to the store's.
    """
    manifest = Manifest.read(part / MANIFEST)
    if manifest.python != python_version():
        raise PackError(
            f"{part} is for Python {manifest.python}, this is {python_version()}"
        )
    for name in ("pieces", "wheels"):
        (store / name).mkdir(parents=True, exist_ok=True)
    known = store / MANIFEST
    if not known.exists():
        copy(part / MANIFEST, known)
    elif Manifest.read(known) != manifest:
        raise PackError(f"{part} is of another packing than {store}: empty {store}")
    damaged = []
    for piece in manifest.pieces:
        source = part / piece.file
        if not source.exists() or (store / "wheels" / piece.wheel).exists():
            continue
        if source.stat().st_size == piece.size and digest(source) == piece.sha256:
            copy(source, store / "pieces" / piece.file)
        else:
            damaged.append(str(source))
    return damaged


def put_together(manifest: Manifest, store: Path) -> list[str]:
    """Write the wheels whose pieces are all there; return the names of damaged ones."""
    damaged = []
    for wheel in manifest.wheels:
        target = store / "wheels" / wheel.file
        paths = [store / "pieces" / p.file for p in manifest.pieces_of(wheel.file)]
        if target.exists() or not all(path.exists() for path in paths):
            continue
        aside = target.with_name(wheel.file + ".new")
        with open(aside, "wb") as file:
            for path in paths:
                file.writelines(blocks(path))
        for path in paths:
            path.unlink()
        if digest(aside) == wheel.sha256:
            aside.replace(target)
        else:
            aside.unlink()
            damaged.append(wheel.file)
    return damaged


def lacking(manifest: Manifest, store: Path) -> dict[str, list[int]]:
    """Return the parts that are still to come, by the wheel that waits for them."""
    return {
        wheel.file: [
            piece.part
            for piece in manifest.pieces_of(wheel.file)
            if not (store / "pieces" / piece.file).exists()
        ]
        for wheel in manifest.wheels
        if not (store / "wheels" / wheel.file).exists()
    }


def state(manifest: Manifest, store: Path) -> str:
    """Return in a line what is there."""
    waiting = lacking(manifest, store)
    whole = len(manifest.wheels) - len(waiting)
    line = f"{whole} of {len(manifest.wheels)} wheels are whole"
    parts = sorted({part for parts in waiting.values() for part in parts})
    if parts:
        line += f"; still to come: part {', '.join(map(str, parts))}"
        names = list(waiting)
        line += f" (for {', '.join(names[:3])}"
        line += f" and {len(names) - 3} more)" if len(names) > 3 else ")"
    return line


def install(args: argparse.Namespace) -> None:
    """Install the wheels that are whole and were not installed before."""
    manifest = Manifest.read(args.store / MANIFEST)
    done = args.store / f"installed_{hashlib.sha256(place(args).encode()).hexdigest()}"
    before = done.read_text().split() if done.exists() else []
    wheels = [args.store / "wheels" / wheel.file for wheel in manifest.wheels]
    new = [path for path in wheels if path.exists() and path.name not in before]
    if new:
        offline = ["--no-index", "--no-deps", "--no-compile"]
        if args.target is None:
            pip("install", *offline, *new)
        else:
            with fresh_directory(args.target) as fresh:
                pip("install", *offline, "--target", fresh, *new)
        done.write_text("\n".join([*before, *(path.name for path in new)]))
    print(f"installed {len(new)} wheels into {place(args)}")
    print(state(manifest, args.store))
    for line in unmet(manifest, args.store, args.target):
        print(f"note: {line}")


def place(args: argparse.Namespace) -> str:
    """Return where packages are installed."""
    return sys.prefix if args.target is None else str(args.target.resolve())


@contextlib.contextmanager
def fresh_directory(target: Path) -> Iterator[Path]:
    """Give a directory to install into, whose files are then moved to a target.

    pip itself replaces whole folders there, which other packages may share and
    programs may read meanwhile.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
        yield Path(fresh)
        Path(fresh, "sitecustomize.py").write_text(CUSTOMIZE)
        shutil.copytree(fresh, target, dirs_exist_ok=True, copy_function=os.replace)


def unmet(manifest: Manifest, store: Path, target: Path | None) -> list[str]:
    """Return what the installed packages need and do not find, a line each."""
    waiting = lacking(manifest, store)
    names = [wheel.name for wheel in manifest.wheels if wheel.file not in waiting]
    paths = [str(target.resolve())] if target else []
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    answer = subprocess.run(
        [sys.executable, "-c", UNMET, *names],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    return answer.stdout.splitlines()


def get_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="pack_wheels", description="Carry packages to a machine without a network"
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("pack", help="download wheels and split them")
    command.add_argument("requirements", nargs="*", help="e.g. onnxruntime-gpu==1.31.1")
    command.add_argument("--output_dir", type=Path, required=True, help="of the parts")
    command.add_argument(
        "--have",
        type=Path,
        help="packages of the other machine, a line each: NAME==VERSION, to which the "
        "others have to fit, or NAME",
    )
    command.add_argument("--part_mib", type=float, default=60.0, help="size of a part")
    command.set_defaults(command=pack)
    command = commands.add_parser("join", help="take in parts")
    command.add_argument("parts", nargs="*", type=Path, help="directories of parts")
    command.set_defaults(command=join)
    command.add_argument("--store", type=Path, required=True, help="outlasts the parts")
    command = commands.add_parser("install", help="install the wheels that are whole")
    command.add_argument("--store", type=Path, required=True, help="as of join")
    command.add_argument(
        "--target", type=Path, help="directory for PYTHONPATH; default: this Python's"
    )
    command.set_defaults(command=install)
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    args = get_parser().parse_args(cmd)
    try:
        args.command(args)
    except (PackError, OSError) as e:
        print(f"pack_wheels: error: {e}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
