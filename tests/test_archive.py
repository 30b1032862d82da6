"""Packed models, of authors who mean well and of others."""

import io
import shutil
import stat
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
import yaml

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export import archive, model_zoo
from espnet_onnx_plugin.export.archive import unpack

META = dict(
    yaml_files={"asr_train_config": "exp/asr/config.yaml"},
    files={"asr_model_file": "exp/asr/model.pth"},
    espnet="202611",
)
CONFIG = {
    "bpemodel": "data/bpe.model",
    "init_param": ["data/bpe.model", "elsewhere"],
    "normalize_conf": {"stats_file": "/elsewhere/exp/stats.npz"},
}
FILES = {
    "meta.yaml": yaml.safe_dump(META).encode(),
    "exp/asr/config.yaml": yaml.safe_dump(CONFIG).encode(),
    "exp/asr/model.pth": b"weights",
    "data/bpe.model": b"pieces",
    "elsewhere/exp/stats.npz": b"statistics",
}


def zipped(path, files, **entries):
    """A zip of files, and of entries: contents by ZipInfo."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
        for info, content in entries.get("entries", ()):
            file.writestr(info, content)
    return path


def tarred(path, files, entries=()):
    """A tar of files, and of entries: TarInfo and content."""
    with tarfile.open(path, "w:gz") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for info, content in entries:
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def place(tmp_path):
    """Where an archive is unpacked, beside a file that is nobody's business."""
    (tmp_path / "canary").write_text("alive")
    yield tmp_path / "a" / "unpacked"
    assert (tmp_path / "canary").read_text() == "alive"
    below = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")}
    assert below <= {"canary", "a", "model.zip", "model.tgz"}
    assert {p.name for p in (tmp_path / "a").glob("*")} <= {"unpacked"}


@pytest.mark.fast
@pytest.mark.parametrize("pack, name", [(zipped, "model.zip"), (tarred, "model.tgz")])
def test_files_of_a_model(place, tmp_path, pack, name):
    files = unpack(pack(tmp_path / name, FILES), place)
    assert files == {
        "asr_train_config": f"{place}/exp/asr/config.yaml",
        "asr_model_file": f"{place}/exp/asr/model.pth",
    }
    assert (place / "exp/asr/model.pth").read_bytes() == b"weights"
    with open(files["asr_train_config"]) as file:
        config = yaml.safe_load(file)
    assert config == {
        "bpemodel": f"{place}/data/bpe.model",
        "init_param": [f"{place}/data/bpe.model", "elsewhere"],
        "normalize_conf": {"stats_file": f"{place}/elsewhere/exp/stats.npz"},
    }


def refused(path, place, what):
    with pytest.raises(PluginError) as e:
        unpack(path, place)
    line = str(e.value)
    assert "\n" not in line and line.startswith(str(path)), line
    assert what in line, line


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:/evil", "a\nb"]
)
@pytest.mark.parametrize("pack, file", [(zipped, "model.zip"), (tarred, "model.tgz")])
def test_names_that_lead_elsewhere(place, tmp_path, pack, file, name):
    path = pack(tmp_path / file, {**FILES, name: b"evil"})
    refused(path, place, "leads out of" if "\n" not in name else "no name of a file")


def test_links_and_devices(place, tmp_path):
    link = zipfile.ZipInfo("exp/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    entries = [(link, str(tmp_path / "canary"))]
    refused(zipped(tmp_path / "model.zip", FILES, entries=entries), place, "'exp/link'")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo("exp/link")
        info.type, info.linkname = kind, str(tmp_path / "canary")
        path = tarred(tmp_path / "model.tgz", FILES, [(info, b"")])
        refused(path, place, "'exp/link' is a link or a device")
    info = tarfile.TarInfo("exp/asr/config.yaml")
    info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path / "canary")
    path = tarred(tmp_path / "model.tgz", {}, [(info, b"")])
    refused(path, place, "is a link")


def test_a_name_that_is_there_twice(place, tmp_path):
    for name in ("data/bpe.model", "./data//bpe.model"):
        info = tarfile.TarInfo(name)
        path = tarred(tmp_path / "model.tgz", FILES, [(info, b"")])
        refused(path, place, "it holds 'data/bpe.model' twice")


def test_sizes(place, tmp_path, monkeypatch):
    path = zipped(tmp_path / "model.zip", FILES)
    content = path.read_bytes()
    size = len(FILES["exp/asr/model.pth"]).to_bytes(4, "little")
    assert content.count(size + size) == 2  # of both headers
    path.write_bytes(content.replace(size + size, size + (2).to_bytes(4, "little")))
    with pytest.raises(PluginError, match="model.zip"):
        unpack(path, place)
    path.write_bytes(content)
    monkeypatch.setattr(archive, "LARGEST_YAML", 100)
    refused(path, place, "no settings")
    monkeypatch.undo()
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(path, place, "are free in")


def test_a_member_that_goes_on(place, tmp_path):
    member = archive._Member(3, lambda: io.BytesIO(b"four"))
    with pytest.raises(PluginError, match="'x' is larger than it says"):
        archive._copy("x", member, tmp_path / "a")
    member = archive._Member(9, lambda: io.BytesIO(b"four"))
    with pytest.raises(PluginError, match="'x' is shorter than it says"):
        archive._copy("x", member, tmp_path / "a")
    (tmp_path / "a").unlink()


@pytest.mark.parametrize(
    "member, content, what",
    [
        ("meta.yaml", b"files: [", "no YAML of settings"),
        ("meta.yaml", b"a: 1", "lists no yaml_files"),
        ("meta.yaml", b"[]", "lists no yaml_files"),
        ("meta.yaml", b"!!python/object/apply:os.system ['true']", "no YAML"),
        ("exp/asr/config.yaml", b"!!python/name:os.system", "no YAML of settings"),
        ("exp/asr/config.yaml", b"a: &a [*a]", "no YAML of settings"),
        (
            "exp/asr/config.yaml",
            b"\n".join(
                [b"a0: &a0 [0, 0]"]
                + [
                    b"a%d: &a%d [*a%d, *a%d]" % (i, i, i - 1, i - 1)
                    for i in range(1, 40)
                ]
            ),
            "more than 1,000,000 values",
        ),
    ],
)
def test_yaml_that_is_no_settings(place, tmp_path, member, content, what):
    path = zipped(tmp_path / "model.zip", {**FILES, member: content})
    refused(path, place, what)


@pytest.mark.parametrize(
    "name, what",
    [
        ("../canary", "'../canary' leads out of"),
        ("exp/asr/none.pth", "names 'exp/asr/none.pth', which it does not hold"),
        ("", "'' leads out of"),
        ("meta/../x", "'meta/../x' leads out of"),
    ],
)
def test_a_list_of_files_that_are_not_there(place, tmp_path, name, what):
    meta = {**META, "files": {"asr_model_file": name}}
    content = yaml.safe_dump(meta).encode()
    path = zipped(tmp_path / "model.zip", {**FILES, "meta.yaml": content})
    refused(path, place, what)


def test_damage(place, tmp_path):
    for pack, name in ((zipped, "model.zip"), (tarred, "model.tgz")):
        path = pack(tmp_path / name, FILES)
        path.write_bytes(path.read_bytes()[:200])
        refused(path, place, "is not a model packed by ESPnet, or is damaged")
    path = zipped(tmp_path / "model.zip", {"README": b""})
    refused(path, place, "it has no meta.yaml")
    path.write_bytes(b"")
    refused(path, place, "not a model packed by ESPnet")


def test_the_model_zoos_are_unpacked_alike(place, tmp_path, monkeypatch):
    downloader = pytest.importorskip("espnet_model_zoo.downloader")

    def download_and_unpack(self, tag):
        return downloader.unpack(tag, place)

    monkeypatch.setattr(downloader.ModelDownloader, "__init__", lambda self: None)
    monkeypatch.setattr(
        downloader.ModelDownloader, "download_and_unpack", download_and_unpack
    )
    path = tarred(tmp_path / "model.tgz", {**FILES, "../evil": b""})
    with pytest.raises(PluginError, match="leads out of"):
        model_zoo._download(str(path))
