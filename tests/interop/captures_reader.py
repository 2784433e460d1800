"""Reads exports of captured samples with pyarrow and NumPy, and prints what they say as one JSON object."""

import argparse
import json
from pathlib import Path

import numpy
import pyarrow
from pyarrow import parquet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with samples.parquet, samples.npy and samples.csv")
    folder = parser.parse_args().folder
    table = parquet.read_table(folder / "samples.parquet")
    table.validate(full=True)
    array = numpy.load(folder / "samples.npy", allow_pickle=False)
    lines = (folder / "samples.csv").read_text().splitlines()
    print(
        json.dumps(
            {
                "columns": table.column_names,
                "types": [str(field.type) for field in table.schema],
                "table": {name: plain(table[name]) for name in table.column_names},
                "dtype": str(array.dtype),
                "shape": array.shape,
                "array": array.reshape(len(array), -1).tolist(),
                "ids": [line.split(",")[0] for line in lines[1:]],
            }
        )
    )


def plain(column: pyarrow.ChunkedArray) -> list:
    """The values as JSON has them: times in Unix milliseconds, bytes as lists."""
    if pyarrow.types.is_timestamp(column.type):
        return column.cast(pyarrow.int64()).to_pylist()
    values = column.to_pylist()
    return [list(value) if isinstance(value, bytes) else value for value in values]


if __name__ == "__main__":
    main()
