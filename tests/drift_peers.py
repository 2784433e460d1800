#!/usr/bin/env python3
"""Sets other drift detectors beside ours, on the same streams.

usage: selvedge bench drift --streams STREAMS && drift_peers.py STREAMS
needs: pip install -r tests/peers/requirements.txt

Each peer gets the reference and then windows of 250 values, with the thresholds that it has by default. Those that take
single values (river) first run over the last 50 windows of the reference. Prints a Markdown table: false alarms per
10,000 windows on streams without a change, the median of the windows until a change is found, nanoseconds per value for
summing up a window and testing it, and bytes per feature of what is kept of 1,000 values. A program that keeps raw
values has 4 bytes for each.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import whylogs
from datasketches import kll_floats_sketch, ks_test
from evidently.legacy.calculations.stattests import psi_stat_test, wasserstein_stat_test
from evidently.legacy.core import ColumnType
from river import drift
from whylogs.viz.drift.column_drift_algorithms import Hellinger, KS

CALM = ["calm-iid", "calm-ar0.9"]
CHANGED = ["shift-0.1", "shift-0.2", "shift-0.5", "spread-1.2"]
SAMPLES = 1000
WARM_UP_WINDOWS = 50


def whylogs_profile(values):
    return whylogs.log(pd.DataFrame({"v": values})).profile().view()


def whylogs_column(values):
    return whylogs_profile(values).get_column("v")


def whylogs_drifts(algorithm):
    def drifts(reference, window):
        outcome = algorithm.calculate(whylogs_column(window), reference, with_thresholds=True)
        return outcome.drift_category == "DRIFT"

    return drifts


def evidently_drifts(test):
    def drifts(reference, window):
        return bool(test(reference, pd.Series(window), ColumnType.Numerical, 0.1).drifted)

    return drifts


def sketch(values):
    kll = kll_floats_sketch(200)
    kll.update(values)
    return kll


class Windows:
    """A peer that compares a window with the reference."""

    def __init__(self, prepare, drifts, size, windows_max=2000, trials_max=20):
        self.prepare, self.drifts, self.size = prepare, drifts, size
        self.windows_max, self.trials_max = windows_max, trials_max

    def alarms(self, reference, windows):
        reference = self.prepare(reference)
        for window in windows:
            yield self.drifts(reference, window)


class Values:
    """A peer that takes one value after the other."""

    def __init__(self, fresh, windows_max=2000, trials_max=20):
        self.fresh, self.size = fresh, lambda values: math.nan
        self.windows_max, self.trials_max = windows_max, trials_max

    def alarms(self, reference, windows):
        detector = self.fresh()
        for value in reference[-WARM_UP_WINDOWS * windows.shape[1] :].tolist():
            detector.update(value)
        for window in windows:
            # Each value that raises an alarm would be one; a window has at most one here.
            alarm = False
            for value in window.tolist():
                detector.update(value)
                alarm |= detector.drift_detected
            yield alarm


def raw(values):
    return values.astype(np.float32).nbytes


def peers():
    kll_bytes = lambda values: len(sketch(values).serialize())
    why_bytes = lambda values: len(whylogs_profile(values).serialize())
    return {
        "datasketches KLL, ks_test p<.01": Windows(
            sketch, lambda reference, window: ks_test(reference, sketch(window), 0.01), kll_bytes
        ),
        "Evidently PSI >= 0.1": Windows(pd.Series, evidently_drifts(psi_stat_test), raw, 200, 5),
        "Evidently Wasserstein >= 0.1": Windows(
            pd.Series, evidently_drifts(wasserstein_stat_test), raw, 200, 5
        ),
        "whylogs Hellinger": Windows(
            whylogs_column, whylogs_drifts(Hellinger()), why_bytes, 200, 5
        ),
        "whylogs KS": Windows(whylogs_column, whylogs_drifts(KS()), why_bytes, 200, 5),
        "river ADWIN": Values(drift.ADWIN),
        "river PageHinkley": Values(drift.PageHinkley),
        "river KSWIN": Values(lambda: drift.KSWIN(seed=1), 40, 2),
    }


def measure(peer, streams):
    outcome, spent_ns, values = {}, 0, 0
    for name in CALM:
        reference, trials = streams[name]
        windows = trials[0][: peer.windows_max]
        started = time.process_time_ns()
        alarms = sum(peer.alarms(reference, windows))
        spent_ns += time.process_time_ns() - started
        values += windows.size
        outcome[name] = alarms * 10_000 / len(windows)
    for name in CHANGED:
        reference, trials = streams[name]
        delays = []
        for windows in trials[: peer.trials_max]:
            found = (i + 1 for i, alarm in enumerate(peer.alarms(reference, windows)) if alarm)
            delays.append(next(found, len(windows) + 1))
        outcome[name] = statistics.median_high(delays)
    outcome["ns"] = spent_ns / values
    outcome["bytes"] = peer.size(streams[CALM[0]][0][:SAMPLES])
    return outcome


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("streams", type=Path)
    folder = arguments.parse_args().streams
    load = lambda name: np.load(folder / f"{name}.npy")
    streams = {name: (load(f"{name}-reference"), load(name)) for name in CALM + CHANGED}
    ours = json.loads((folder / "ours.json").read_text())
    windows = {name: trials.shape[1] for name, (_, trials) in streams.items()}
    row = {name: ours["streams"][name]["alarms"] * 10_000 / windows[name] for name in CALM}
    row |= {name: ours["streams"][name]["delay"] for name in CHANGED}
    row |= {"ns": ours["ns_per_value"], "bytes": ours["bytes_per_feature"]}
    heads = ["", *CALM, *CHANGED, "ns/value", "bytes/feature"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    show("selvedge", row, windows)
    for name, peer in peers().items():
        show(name, measure(peer, streams), windows)


def show(name, row, windows):
    cells = [f"{row[stream]:,.0f}" for stream in CALM]
    for stream in CHANGED:
        found = row[stream] <= windows[stream]
        cells.append(f"{row[stream]:.0f}" if found else f"> {windows[stream]}")
    cells.append(f"{row['ns']:,.1f}")
    cells.append("–" if math.isnan(row["bytes"]) else f"{row['bytes']:,.0f}")
    print("| " + " | ".join([name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
