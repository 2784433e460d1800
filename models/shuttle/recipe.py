"""Makes `shuttle`: an int8 MLP that tells anomalous Statlog Shuttle readings from normal ones.

    python recipe.py            writes data/, v1/, v2/, broken/, slow/ and prints the results
    python recipe.py --check    makes all of it elsewhere and compares

Rows of river's copy, shuffled by seed: 8,000 are the reference data, 3,000 the replay data, the others train.
No row occurs twice in that copy, so the three parts are disjoint.
"""

import gzip
import sys
import tomllib
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
from river import datasets

HOME = Path(__file__).resolve().parent
sys.path.insert(0, str(HOME.parent))

import jax.numpy as jnp  # noqa: E402

import training  # noqa: E402
import versions  # noqa: E402
from versions import Version, gemm, relu  # noqa: E402

SEED = 1
COLUMNS = [f"f{i}" for i in range(1, 10)]
REFERENCE_ROWS, REPLAY_ROWS = 8_000, 3_000
HIDDEN, HIDDEN_SLOW = 96, 315
INPUT_RANGE = 8.0  # in standard deviations; the int8 input saturates beyond it, so training clips there too


def main():
    return versions.run_recipe(HOME, make, judge, accuracy_bound=0.005)


def make(folder):
    rows, labels = shuffled_rows()
    (folder / "data").mkdir(exist_ok=True)
    edge = REFERENCE_ROWS + REPLAY_ROWS
    reference, replay, train = (slice(0, REFERENCE_ROWS), slice(REFERENCE_ROWS, edge), slice(edge, None))
    for name, part in (("reference", reference), ("replay", replay)):
        table = np.column_stack([rows[part], labels[part]])
        header = ",".join([*COLUMNS, "label"])
        np.savetxt(folder / "data" / f"{name}.csv", table, fmt="%d", delimiter=",", header=header, comments="")

    mean, std = robust_normalisation(rows[train])
    inputs = normalise(rows[train], mean, std).clip(-INPUT_RANGE, INPUT_RANGE)
    v1 = trained(inputs[:1_500], labels[train][:1_500], epochs=12)
    v2 = trained(inputs, labels[train], epochs=12)
    slow = versions.with_dead_units(v2, "hidden1", "hidden2", HIDDEN_SLOW)
    slow = versions.with_dead_units(slow, "hidden2", "output", HIDDEN_SLOW)
    all_rows = f"seed {SEED}, 12 epochs, {len(inputs)} rows"
    made = [
        Version("v1", "1.0.0", v1, "a first model from few rows.", f"seed {SEED}, 12 epochs, 1500 rows"),
        Version("v2", "2.0.0", v2, "trained on all rows kept for training.", all_rows),
        Version("broken", "3.0.0-broken", broken_where_it_hurts(v2, inputs[:2_000], labels[train][:2_000]),
                "v2 with a wrong quantisation scale in its first hidden layer, for tests.", all_rows),
        Version("slow", "3.0.0-slow", slow, "v2 with ten times the multiply-adds, for tests.", all_rows),
    ]  # fmt: skip

    columns = [(name, int(low), int(high)) for name, low, high in zip(COLUMNS, rows.min(0), rows.max(0), strict=True)]
    digest = versions.sha256(folder / "data" / "reference.csv")
    golden = normalise(rows[replay], mean, std)[golden_rows(labels[replay])]
    describe = partial(manifest, columns=columns, mean=mean, std=std, digest=digest)
    for version in made:
        versions.write_version(folder, version, describe, golden)


def shuffled_rows():
    with gzip.open(datasets.Shuttle().path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.int64)
    table = table[np.random.default_rng(SEED).permutation(len(table))]
    return table[:, :-1], table[:, -1]


def robust_normalisation(rows):
    """Mean and deviation of each column between its 1st and 99th percentile: the tails reach 300 deviations."""
    low, high = np.percentile(rows, [1, 99], axis=0)
    clipped = rows.clip(low, high)
    return clipped.mean(0).round(4).astype(np.float32), clipped.std(0).round(4).astype(np.float32)


def normalise(rows, mean, std):
    """[batch, feature] f32, as the manifest's `normalize` computes it."""
    return (rows.astype(np.float32) - mean) / std


def trained(inputs, labels, epochs):
    rng = np.random.default_rng(SEED)
    weights = {}
    for layer, out, width in (("hidden1", HIDDEN, 9), ("hidden2", HIDDEN, HIDDEN), ("output", 2, HIDDEN)):
        weights[f"{layer}.weight"] = training.he_normal(rng, out, width)
        weights[f"{layer}.bias"] = np.zeros(out, np.float32)
    weights = training.fit(logits_of, weights, inputs, labels, epochs=epochs, batch=64, rate=1e-3, seed=SEED)
    nodes = [
        gemm("features", "hidden1", "sum1"),
        relu("sum1", "hidden1"),
        gemm("hidden1", "hidden2", "sum2"),
        relu("sum2", "hidden2"),
        gemm("hidden2", "output", "logits"),
    ]
    model = versions.float_graph("shuttle", nodes, weights, ("features", 9), {"logits": 2})
    return versions.quantise(model, inputs[:2_000])


def broken_where_it_hurts(model, inputs, labels):
    """One channel's weight scale is a thousand times too large: the channel that costs most on these rows."""
    candidates = [versions.with_weight_scale_times(model, "hidden1", 1000, [channel]) for channel in range(HIDDEN)]
    return min(candidates, key=lambda candidate: versions.accuracy(candidate, inputs, labels))


def logits_of(weights, features):
    for layer in ("hidden1", "hidden2"):
        features = jnp.maximum(features @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], 0)
    return features @ weights["output.weight"].T + weights["output.bias"]


def golden_rows(labels, each=6):
    return np.concatenate([np.flatnonzero(labels == label)[:each] for label in (0, 1)])


def manifest(version, outputs, columns, mean, std, digest):
    columns_text = "\n".join(f'  {{ name = "{n}", min = {low}, max = {high} }},' for n, low, high in columns)
    outputs_text, golden_text = versions.manifest_outputs(outputs, {"logits": ("class", 2)})
    return f"""\
name = "shuttle"
version = "{version.semver}"
task = "tabular-classification"
description = "Tells anomalous Space Shuttle sensor readings from normal ones: {version.description}"
license = "CC-BY-4.0"
labels = ["normal", "anomaly"]
model = "model.onnx"

[sample]
kind = "row"
columns = [
{columns_text}
]

[[inputs]]
name = "features"
axes = ["batch", "feature"]
shape = [-1, 9]
dtype = "f32"

{outputs_text}
[[pre]]
op = "normalize"
mean = {[float(str(value)) for value in mean]}
std = {[float(str(value)) for value in std]}

[[post]]
op = "softmax"
output = "logits"

[[post]]
op = "argmax"
output = "logits"

{golden_text}
[resources]
ram_peak_bytes_max = 33554432

[reference]
data = "../data/reference.csv"
label_column = "label"
order = "none"

[drift]
order = "none"

[update]
probation_s = 2
probation_inferences = 20

[provenance]
dataset = "Statlog (Shuttle) via river {installed("river")}"
dataset_sha256 = "{digest}"
code = "models/shuttle/recipe.py"
training = "{version.training}"
"""


def judge(folder):
    table = np.loadtxt(folder / "data" / "replay.csv", delimiter=",", skiprows=1, dtype=np.int64)
    rows, labels = table[:, :-1], table[:, -1]
    lines = [
        "| version | accuracy | precision | recall | called anomaly | same class as v2 | MACs | steps apart |",
        "|---|---|---|---|---|---|---|---|",
    ]
    accuracies, base = {}, None
    for name in ("v2", "v1", "broken", "slow"):
        path = folder / name / "model.onnx"
        model = versions.onnx.load(path)
        pre = tomllib.loads((folder / name / "manifest.toml").read_text())["pre"][0]
        inputs = normalise(rows, np.float32(pre["mean"]), np.float32(pre["std"]))
        outputs = versions.answers(path, inputs)
        called = outputs["logits"].argmax(1)
        base = outputs if base is None else base
        hits = np.sum((called == 1) & (labels == 1))
        accuracies[name] = float(np.mean(called == labels))
        lines.append(
            f"| {name} | {accuracies[name]:.4f} | {hits / max(1, np.sum(called)):.4f} | {hits / labels.sum():.4f} "
            f"| {np.mean(called):.4f} | {np.mean(called == base['logits'].argmax(1)):.4f} "
            f"| {versions.multiply_adds(model)} | {versions.steps_apart(model, inputs)} |"
        )
        if name == "slow":
            assert np.array_equal(outputs["logits"], base["logits"]), "slow must answer as v2, bit for bit"
    return "\n".join(lines), accuracies


if __name__ == "__main__":
    sys.exit(main())
