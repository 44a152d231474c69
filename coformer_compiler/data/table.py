"""Tables of texts: TSV with a header, TSV without one, JSON lines, or parquet, as rows of named columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import nearest

SUFFIXES = (".tsv", ".jsonl", ".parquet")
ENCODING = "utf-8-sig"
"""Some files begin with a byte order mark, GLUE's own MRPC among them, which is no part of the first column's name."""


def read_columns(
    path: Path, wanted: Sequence[str], where: str, header: Sequence[str] | None = None
) -> list[tuple[str, ...]]:
    """The wanted columns of all rows, as text.

    Args:
        path: a .tsv, .jsonl or .parquet file.
        wanted: names of columns.
        where: what error messages name.
        header: the columns of a TSV file that has no line for them.

    Raises:
        CoformerError: the file cannot be read, a column is missing, a row is too short.
    """
    columns, rows = _read(path, where, header)
    chosen = _places(path, columns, wanted, where)
    for number, row in enumerate(rows):
        if len(row) < len(columns):
            raise _short(path, number, row, columns, where)
    return [tuple(row[column] for column in chosen) for row in rows]


def read_whole_rows(
    path: Path, wanted: Sequence[str], where: str, header: Sequence[str] | None = None
) -> tuple[list[tuple[str, ...]], int]:
    """The wanted columns of the rows that have something in each, and how many rows have not.

    For files that are known to hold broken rows and cannot be mended by who uses them, such as QQP's.

    Raises:
        CoformerError: the file cannot be read, a column is missing, or no row is whole.
    """
    columns, rows = _read(path, where, header)
    chosen = _places(path, columns, wanted, where)
    whole = [row for row in rows if len(row) > max(chosen) and all(row[column].strip() for column in chosen)]
    if rows and not whole:
        raise _short(path, 0, rows[0], columns, where)
    return [tuple(row[column] for column in chosen) for row in whole], len(rows) - len(whole)


def _read(path: Path, where: str, header: Sequence[str] | None) -> tuple[list[str], list[list[str]]]:
    if path.suffix == ".jsonl":
        return _json_lines(path, where)
    return _parquet(path, where) if path.suffix == ".parquet" else _tsv(path, where, header)


def _places(path: Path, columns: Sequence[str], wanted: Sequence[str], where: str) -> list[int]:
    for name in wanted:
        if name not in columns:
            near = nearest(name, columns)
            raise CoformerError(
                f"'{path.name}' has no column '{name}'; there are {', '.join(columns)}",
                where,
                f"name the column '{near}' so" if near else f"give it the columns {', '.join(wanted)}",
            )
    return [columns.index(name) for name in wanted]


def _short(path: Path, number: int, row: Sequence[str], columns: Sequence[str], where: str) -> CoformerError:
    return CoformerError(
        f"row {number + 1} of '{path.name}' has {len(row)} columns of {len(columns)}",
        where,
        "separate columns by tabs, with no line break within a text",
    )


def _tsv(path: Path, where: str, header: Sequence[str] | None) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding=ENCODING, newline="") as file:
            # GLUE's files quote nothing: a text may hold a single quotation mark.
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CoformerError(f"'{path}' cannot be read ({error})", where, "give a TSV file in UTF-8") from error
    columns = list(rows.pop(0)) if header is None and rows else list(header or ())
    return columns, [row for row in rows if row]


def _json_lines(path: Path, where: str) -> tuple[list[str], list[list[str]]]:
    """Objects of one shape, one a line; the first one names the columns."""
    columns: list[str] = []
    rows: list[list[str]] = []
    try:
        for line in path.read_text(encoding=ENCODING).splitlines():
            if line.strip():
                row = json.loads(line)
                columns = columns or list(row)
                rows.append([str(row[name]) for name in columns])
    except KeyError as error:
        raise CoformerError(
            f"row {len(rows) + 1} of '{path.name}' has no {error}", where, "give every row the keys of the first"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise CoformerError(
            f"'{path}' cannot be read ({error})", where, "give a file in UTF-8 with a JSON object on every line"
        ) from error
    return columns, rows


def _parquet(path: Path, where: str) -> tuple[list[str], list[list[str]]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise CoformerError(
            f"pyarrow cannot be imported ({error})", where, "install it (pip install pyarrow), or give TSV files"
        ) from error
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise CoformerError(f"'{path}' cannot be read ({error})", where, "give a parquet file") from error
    columns = list(table.column_names)
    return columns, [["" if row[name] is None else str(row[name]) for name in columns] for row in table.to_pylist()]


def find_table(folder: Path, names: Sequence[str]) -> Path | None:
    """The table of the first name that a folder holds, also as `NAME-00000-of-00001.parquet`."""
    for name in names:
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
        shards = sorted(folder.glob(f"{name}-*-of-*.parquet"))
        if len(shards) == 1:
            return shards[0]
    return None
