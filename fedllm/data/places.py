"""Where the rows of a source are: a file, a folder or pattern of files, a data set of the hub."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from fedllm.config import SourceConfig
from fedllm.data.columns import Row, paths_of
from fedllm.data.files import SUFFIXES, data_suffix, read_rows
from fedllm.errors import DataError

SAMPLES = "samples:"
"""What the name of a generated domain starts with."""


def rows_at(source: SourceConfig, root: Path) -> list[Row]:
    """The rows of a file, a folder, a pattern or a hub data set."""
    path, files = _place(source, root), source_files(source, root)
    if is_hub(source, root):
        return _hub(source)
    if source.subset and files:
        raise DataError(f"{source.path}: subset has no effect on a file; remove it")
    if _is_saved(path):
        return _hub(source, path)
    root = root.absolute()
    if not files:
        raise DataError(_missing(source.path, path, root))
    rows: list[Row] = []
    for file in files:
        below = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
        shown = source.path if file == path else below
        rows += read_rows(file, shown, split=source.split, header=not _by_position(source))
    return rows


def source_files(source: SourceConfig, root: Path) -> list[Path]:
    """The files a source is read from, sorted; none for what is generated or fetched.

    They are the file it names, a folder's data files, those that fit a pattern, or all of what
    `Dataset.save_to_disk` wrote.
    """
    path = _place(source, root)
    if source.path.startswith(SAMPLES):
        return []
    if _is_saved(path):
        return [file for file in sorted(path.rglob("*")) if file.is_file()]
    if path.is_file():
        return [path]
    if "*" in path.name:
        return sorted(file for file in path.parent.glob(path.name) if file.is_file())
    if path.is_dir():
        return [file for file in sorted(path.iterdir()) if data_suffix(file) in SUFFIXES]
    return []


def is_hub(source: SourceConfig, root: Path) -> bool:
    """Whether a source is fetched from the hub: its name fits, and no file has it."""
    there = source_files(source, root) or _place(source, root).exists()
    return not source.path.startswith(SAMPLES) and not there and _may_be_hub(source.path)


def _place(source: SourceConfig, root: Path) -> Path:
    return root.absolute() / Path(source.path).expanduser()


def _is_saved(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote this folder."""
    return (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()


def _hub(source: SourceConfig, saved: Path | None = None) -> list[Row]:
    """Rows of a data set of the hub, or of one that `Dataset.save_to_disk` wrote."""
    import datasets

    try:
        if saved is None:
            data = datasets.load_dataset(
                source.path, source.subset, split=source.split, revision=source.revision
            )
        else:
            data = datasets.load_from_disk(str(saved))
            data = data[source.split] if isinstance(data, datasets.DatasetDict) else data
        records = data.to_list()
    except Exception as error:  # the library raises many kinds: network, name, split, build
        reason = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]
        raise DataError(
            f"{source.path}: no such file under data.root, and no hub data set that can be loaded "
            f"({reason}); check path, subset and split={source.split}"
        ) from None
    return [Row(f"{source.path}:{number}", fields) for number, fields in enumerate(records, 1)]


def _may_be_hub(path: str) -> bool:
    return data_suffix(Path(path)) not in SUFFIXES and bool(
        re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", path)
    )


def _missing(shown: str, path: Path, root: Path) -> str:
    """A message that names the folder searched and the nearest file names in it."""
    if path.is_dir():
        return f"{shown}: the folder holds no {', '.join(SUFFIXES)} file; name a file in it"
    there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "check the path and data.root"
    return f"{shown}: does not exist under data.root={root}; {hint}"


def _by_position(source: SourceConfig) -> bool:
    """Whether all columns are named by number, as in a CSV file without header."""
    paths = [path for spec in source.columns.values() for path in paths_of(spec)]
    return bool(paths) and all(path.isdigit() for path in paths)


def hub_rows(path: str, *, subset: str | None, split: str) -> list[Row]:
    """The rows of a hub data set as they are.

    Raises:
        DataError: It cannot be loaded.
    """
    return _hub(SourceConfig(path=path, subset=subset, split=split))
