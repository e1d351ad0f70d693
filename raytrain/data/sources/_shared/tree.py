"""Folders of a disk or an object store, listed one at a time,
and the images with their sidecars in them."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

from pyarrow import fs

from raytrain.data.files.location import (
    Found,
    absolute,
    base_name,
    child,
    look,
    of_info,
    parent,
    shown,
    store,
    write,
)
from raytrain.data.item import Item, Rejected
from raytrain.errors import UserError

# Those that cannot be decoded are listed too, so that they are rejected with a reason and not
# passed over.
IMAGES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jfif",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".jxl",
    )
)
SIDECARS = (".txt", ".caption")
JUNK = frozenset(("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"))


class Folder:
    """The visible names of one folder: `files` (all that is no folder) and `folders`, each sorted.

    `file` is the folder's own; `relative` the path to it from where the walk began, "" or "a/b/".
    OSError when unreadable.
    """

    def __init__(self, file: str, relative: str = "") -> None:
        self.file, self.relative = file, relative
        self.files: list[str] = []
        self.folders: list[str] = []
        self._infos: dict[str, fs.FileInfo] = {}
        self._sidecars: dict[str, dict[str, str]] | None = None
        if "://" in file:
            self._list_store()
        else:
            with os.scandir(file) as entries:
                for entry in entries:
                    if is_visible(entry.name):
                        (self.folders if _is_folder(entry) else self.files).append(entry.name)
        self.files.sort()
        self.folders.sort()

    def _list_store(self) -> None:
        filesystem, path = store(self.file)
        for info in filesystem.get_file_info(fs.FileSelector(path)):
            if is_visible(info.base_name):
                is_folder = info.type == fs.FileType.Directory
                (self.folders if is_folder else self.files).append(info.base_name)
                self._infos[info.base_name] = info

    def look(self, name: str) -> Found:
        """Say what stands behind a name of this folder."""
        if "://" not in self.file:
            return look(child(self.file, name))
        info = self._infos.get(name)
        return of_info(info) if info else Found("absent", reason="No such object")

    def sidecar(self, image: str, extensions: Collection[str] = SIDECARS) -> str:
        """Return the name of an image's text file, of the first extension there is; "" without
        one: the one of its stem (`a.txt` of `a.png`), else of its whole name (`a.png.txt`)."""
        if self._sidecars is None:
            self._sidecars = {}
            texts = [name for name in self.files if name.lower().endswith(tuple(extensions))]
            for spelled in (str, key):  # a name's own spelling comes before an equal one
                for name in texts:
                    own, extension = os.path.splitext(name)
                    same = self._sidecars.setdefault(spelled(own), {})
                    same.setdefault(extension.lower(), name)
        for own in (os.path.splitext(image)[0], image):
            for spelling in (own, key(own)):
                found = self._sidecars.get(spelling, {})
                for extension in extensions:
                    if extension in found:
                        return found[extension]
        return ""


def key(name: str) -> str:
    """Return what two spellings of one name share: archives and disks of different systems
    compose accents differently."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_image(name: str) -> bool:
    """Tell by its extension whether a file should be an image."""
    return os.path.splitext(name)[1].lower() in IMAGES


def open_folder(file: str) -> Folder:
    """Return a folder that the user named; UserError where it cannot be read."""
    try:
        return Folder(file)
    except OSError as error:
        raise UserError(
            f"The folder {file!r} must be readable: {error}. Nothing of it was used."
        ) from error


def walk(root: str, skip: Collection[str] = ()) -> Iterator[Folder | Rejected]:
    """Yield a folder and all below it, each after its own folders, in the order of their names.

    `root` and `skip` are files as locations have them. Links to folders are followed out of the
    tree; a link back into the tree (a loop among them) is refused, because what it leads to is
    read anyway.
    """
    top = open_folder(root)
    entered = set() if "://" in root else {_identity(root)}
    yield from _below(top, os.path.realpath(root), frozenset(skip), entered)


def images(
    root: str, skip: Collection[str] = (), sidecars: Collection[str] = SIDECARS, deep: bool = True
) -> Iterator[Item | Rejected]:
    """Yield the images of a folder, and of all below it when `deep`, with their sidecars."""
    for folder in walk(root, skip) if deep else [open_folder(root)]:
        if isinstance(folder, Rejected):
            yield folder
            continue
        for name in folder.files:
            if is_image(name):
                yield from image(folder, name, sidecars)


def image(
    folder: Folder, name: str, sidecars: Collection[str] = SIDECARS
) -> Iterator[Item | Rejected]:
    """Yield the image of that name in a folder, or why it is none,
    and what is wrong with its sidecar."""
    path, found = shown(folder.relative + name), folder.look(name)
    if found.kind != "file":
        yield Rejected(path=path, reason=why_no_file(found))
        return
    text, stamp = (
        folder.sidecar(name, sidecars) if sidecars else "",
        found.stamp,
    )
    if text:
        sidecar = folder.look(text)
        if sidecar.kind != "file":  # training without its caption would be wrong and go unnoticed
            yield Rejected(
                path=path, reason=f"its caption file {shown(text)}: {why_no_file(sidecar)}"
            )
            return
        stamp = f"{stamp} {sidecar.stamp}"
    place = write(child(folder.file, text)) if text else ""
    yield Item(path, write(child(folder.file, name)), caption_file=place, stamp=stamp)


def why_no_file(found: Found) -> str:
    """Say why what was found cannot be read as a file."""
    match found.kind:
        case "absent":
            return f"cannot be read: {found.reason}"
        case "folder":
            return "a folder, not a file"
        case _:
            return "not a regular file (a pipe, socket or device)"


class Places:
    """Looks at single files anywhere; in an object store by listing their folders,
    of which the last few are kept."""

    def __init__(self) -> None:
        self._folder = lru_cache(8)(_folder_or_none)
        self._stems = lru_cache(8)(_stems)

    def look(self, file: str) -> Found:
        """Say what is at a file."""
        if "://" not in file:
            return look(file)
        folder = self._folder(parent(file))
        return folder.look(base_name(file)) if folder else Found("absent", reason="No such folder")

    def spelled(self, file: str) -> str:
        """Return a file as its folder spells it, where that composes accents in another way."""
        if file.isascii() or self.look(file).kind != "absent":
            return file
        place, name = self.spelled(parent(file)), base_name(file)
        folder = self._folder(place)
        names = (*folder.files, *folder.folders) if folder else ()
        return child(place, next((other for other in names if key(other) == key(name)), name))

    def sidecar(self, file: str) -> tuple[str, str]:
        """Return location and stamp of the text file next to a file; empty where there is none."""
        folder = self._folder(parent(file))
        name = folder.sidecar(base_name(file)) if folder else ""
        found = folder.look(name) if folder and name else Found("absent")
        return (
            (write(child(parent(file), name)), found.stamp) if found.kind == "file" else ("", "")
        )

    def of_stem(self, folder: str, stem: str) -> tuple[str, str]:
        """Return the location and stamp of the image of this stem in a folder;
        empty where there is none."""
        listed = self._stems(folder)
        name = _named(listed[1], stem) if listed else None
        if listed is None or not name:
            return "", ""
        found = listed[0].look(name)
        return (write(child(folder, name)), found.stamp) if found.kind == "file" else ("", "")

    def name_of_stem(self, folder: str, stem: str) -> str:
        """Return the name of the image of this stem in a folder; "" where there is none."""
        listed = self._stems(folder)
        return _named(listed[1], stem) if listed else ""


@lru_cache(1)
def top(source: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return the names of files and folders directly in a source; None when it is no folder.

    For telling formats apart.
    """
    file = absolute(source)
    if look(file).kind != "folder":
        return None
    folder = _folder_or_none(file)
    return (tuple(folder.files), tuple(folder.folders)) if folder else None


def below(source: str, folders: Iterable[str], most: int = 10) -> Iterator[str]:
    """Yield the names of files in the first of these folders of a source.

    For telling formats apart.
    """
    for name in itertools.islice(folders, most):
        folder = _folder_or_none(child(absolute(source), name))
        yield from folder.files if folder else ()


def _folder_or_none(file: str) -> Folder | None:
    try:
        return Folder(file)
    except OSError:
        return None


def _stems(file: str) -> tuple[Folder, dict[str, str]] | None:
    folder = _folder_or_none(file)
    if folder is None:
        return None
    stems: dict[str, str] = {}
    for spelled in (str, key):
        for name in filter(is_image, folder.files):
            stems.setdefault(spelled(os.path.splitext(name)[0]), name)
    return folder, stems


def _named(stems: dict[str, str], stem: str) -> str:
    return stems.get(stem) or stems.get(key(stem), "")


def _below(
    top: Folder, root: str, skip: frozenset[str], entered: set[str]
) -> Iterator[Folder | Rejected]:
    stack = [(top, iter(top.folders))]
    while stack:
        folder, names = stack[-1]
        name = next(names, None)
        if name is None:
            stack.pop()
            yield folder
        elif (file := child(folder.file, name)) not in skip:
            inner = _enter(file, f"{folder.relative}{name}/", root, entered)
            if isinstance(inner, Rejected):
                yield inner
            else:
                stack.append((inner, iter(inner.folders)))


def _enter(file: str, relative: str, root: str, entered: set[str]) -> Folder | Rejected:
    try:
        reason = "" if "://" in file else _why_refused(file, root, entered)
        return Rejected(path=shown(relative), reason=reason) if reason else Folder(file, relative)
    except OSError as error:
        return Rejected(path=shown(relative), reason=f"cannot be read: {error.strerror or error}")


def _why_refused(file: str, root: str, entered: set[str]) -> str:
    if os.path.islink(file):
        real = os.path.realpath(file)
        if os.path.commonpath([real, root]) in (real, root):
            return "a link into the source itself (a loop, or what is read anyway)"
    identity = _identity(file)
    if identity in entered:
        return "a folder that was read already, by another way"
    entered.add(identity)
    return ""


def _identity(file: str) -> str:
    return look(file).stamp or file


def is_visible(name: str) -> bool:
    """Tell whether a name is neither hidden nor what an operating system leaves behind."""
    return not name.startswith(".") and name not in JUNK


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
