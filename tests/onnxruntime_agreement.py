#!/usr/bin/env python3
"""`selvedge run` agrees with onnxruntime on every row and image of the replay data.

usage: onnxruntime_agreement.py [--selvedge PATH] [--models DIR]
needs: pip install numpy onnxruntime (the versions in models/requirements.txt)

Each version of each recipe is packed, and its bundle answers all replay data. onnxruntime runs the graph as it is
written, with every graph optimisation off (ORT_DISABLE_ALL): that is what the file means. Its own optimised graph
replaces QDQ groups by integer kernels, and is another approximation. Pre-processing is done here again, in numpy.

Demanded of each sample: every output within one quantisation step (the manifest's `scale`), and the same argmax
wherever onnxruntime's first two differ by more than that step. Prints one line per version; exits 1 if any differs.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parent.parent
# Two floats on the same grid are one step apart give or take their rounding.
ROUNDING = 1e-4


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--selvedge", type=Path, default=ROOT / "target/debug/selvedge")
    arguments.add_argument("--models", type=Path, default=ROOT / "models")
    given = arguments.parse_args()
    if not given.selvedge.exists():
        sys.exit(f"{given.selvedge} is not there: build it with `cargo build`, or give --selvedge")
    manifests = sorted(given.models.glob("*/*/manifest.toml"))
    if not manifests:
        sys.exit(f"{given.models} has no recipes")
    with tempfile.TemporaryDirectory() as folder:
        agree = [check(given.selvedge, manifest, Path(folder)) for manifest in manifests]
    sys.exit(0 if all(agree) else 1)


def check(selvedge, path, folder):
    """Prints one line and says whether the version agrees."""
    manifest = tomllib.loads(path.read_text())
    name = f"{manifest['name']} {manifest['version']}"
    image = manifest["sample"]["kind"] == "image"
    replay = path.parent.parent / "data" / ("replay.npy" if image else "replay.csv")
    bundle = folder / f"{manifest['name']}-{manifest['version']}"
    command(selvedge, "pack", path.parent, "--out", bundle)
    lines = [json.loads(line) for line in command(selvedge, "run", bundle, replay, "--json").splitlines()]
    answers, summary = lines[:-1], lines[-1]["summary"]

    expected = onnxruntime_outputs(path.parent / "model.onnx", prepare(manifest, samples(manifest, replay)))
    agree, words = summary["failed"] == 0 and len(answers) == len(next(iter(expected.values()))), []
    for output in manifest["outputs"]:
        step, reference = output["scale"], expected[output["name"]]
        found = np.array([answer["outputs"][output["name"]] for answer in answers], dtype=np.float32)
        steps = np.abs(found - reference).max(axis=1) / step
        agree &= bool((steps <= 1 + ROUNDING).all())
        words.append(f"{output['name']} off by {steps.max():.3f} steps at most, {int((steps > 0.5).sum())} samples by one")
        if output["axes"][-1] == "class":
            best = np.sort(reference, axis=1)
            clear = best[:, -1] - best[:, -2] > step * (1 + ROUNDING)
            classes = np.array([answer["class"] for answer in answers])
            wrong = int((classes != reference.argmax(axis=1))[clear].sum())
            agree &= wrong == 0
            words.append(f"{wrong} of {int(clear.sum())} clear classes differ")
    accuracy = summary["accuracy"]
    print(f"{'ok  ' if agree else 'FAIL'} {name}: {len(answers)} samples, accuracy {accuracy:.4f}, {', '.join(words)}")
    return agree


def command(*words):
    return subprocess.run([str(word) for word in words], check=True, stdout=subprocess.PIPE, text=True).stdout


def samples(manifest, path):
    """The samples as the manifest describes them, one per row of the result."""
    if manifest["sample"]["kind"] == "image":
        return np.load(path).astype(np.float32)
    columns = [column["name"] for column in manifest["sample"]["columns"]]
    with path.open(newline="") as file:
        return np.array([[row[column] for column in columns] for row in csv.DictReader(file)], dtype=np.float32)


def prepare(manifest, values):
    """The manifest's steps, in float32."""
    axes = list(manifest["sample"].get("axes", ["column"]))
    for step in manifest["pre"]:
        match step["op"]:
            case "normalize":
                assert axes == ["column"], "recipes normalise rows alone"
                values = (values - np.float32(step["mean"])) / np.float32(step["std"])
            case "scale":
                values = values * np.float32(step["factor"]) + np.float32(step["offset"])
            case "layout":
                if "channel" not in axes:
                    axes, values = ["channel", *axes], values[:, None]
                values = values.transpose(0, *(1 + axes.index(axis) for axis in step["to"]))
                axes = step["to"]
            case other:
                raise NotImplementedError(f"no recipe has the step {other}")
    return np.ascontiguousarray(values)


def onnxruntime_outputs(path, inputs):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: inputs}), strict=True))


if __name__ == "__main__":
    main()
