"""Reads KLL sketches of ours with Apache DataSketches, merges them with its own, and writes the merge.

Each file COUNT-K.kll holds a sketch of the whole numbers below COUNT. Exits with 1 and a reason where one
is not read, or does not say what it must.
"""

import argparse
import sys
from pathlib import Path

from datasketches import kll_floats_sketch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    merged = kll_floats_sketch(200)
    paths = sorted(folder.glob("*-*.kll"))
    for path in paths:
        count, k = map(int, path.stem.split("-"))
        sketch = kll_floats_sketch.deserialize(path.read_bytes())
        check(path.name, sketch, count, k)
        merged.merge(sketch)
        native = kll_floats_sketch(k)
        for value in range(count, 2 * count):
            native.update(value)
        native.merge(sketch)
        check(f"{path.name} with as many of its own", native, 2 * count, k)
    (folder / "merged.kll").write_bytes(merged.serialize())
    print(f"read and merged {len(paths)} sketches of {merged.n} values")


def check(name: str, sketch: kll_floats_sketch, count: int, k: int) -> None:
    if (sketch.n, sketch.k) != (count, k):
        sys.exit(f"{name}: n {sketch.n} and k {sketch.k}, not {count} and {k}")
    if count == 0:
        return
    if (sketch.get_min_value(), sketch.get_max_value()) != (0, count - 1):
        sys.exit(f"{name}: from {sketch.get_min_value()} to {sketch.get_max_value()}")
    bound = sketch.normalized_rank_error(False)
    for rank in (0.1, 0.25, 0.5, 0.9, 0.99):
        quantile = sketch.get_quantile(rank, True)
        # Of few values, one is a larger share than the bound.
        if abs((quantile + 1) / count - rank) > bound + 1 / count:
            sys.exit(f"{name}: the quantile of {rank} is {quantile}, bound {bound}")


if __name__ == "__main__":
    main()
