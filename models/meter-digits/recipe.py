"""Makes `meter-digits`: an int8 CNN that reads a digit of a utility meter, with its last hidden layer as embedding.

    python recipe.py            writes data/, v1/, v2/, broken/, slow/ and prints the results
    python recipe.py --check    makes all of it elsewhere and compares

scikit-learn's 1,797 digits, shuffled by seed: 450 are the replay data, the other 1,347 train;
the first 900 of those are the reference data.
"""

import sys
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
from onnx import helper
from sklearn.datasets import load_digits

HOME = Path(__file__).resolve().parent
sys.path.insert(0, str(HOME.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import training  # noqa: E402
import versions  # noqa: E402
from versions import Version, conv3x3, gemm, relu  # noqa: E402

SEED = 1
REPLAY_IMAGES, REFERENCE_IMAGES, FEW_IMAGES = 450, 900, 300
EMBEDDING = 32
CHANNELS, CHANNELS_SLOW = 16, 164
OUTPUTS = {"logits": ("class", 10), "embedding": ("feature", EMBEDDING)}


def main():
    return versions.run_recipe(HOME, make, judge, accuracy_bound=0.015)


def make(folder):
    images, labels = shuffled_images()
    (folder / "data").mkdir(exist_ok=True)
    replay, train = slice(0, REPLAY_IMAGES), slice(REPLAY_IMAGES, None)
    reference = slice(REPLAY_IMAGES, REPLAY_IMAGES + REFERENCE_IMAGES)
    versions.write_data(
        folder / "data",
        reference=images[reference],
        reference_labels=labels[reference],
        replay=images[replay],
        replay_labels=labels[replay],
    )
    inputs = to_tensor(images[train])
    v1 = trained(inputs[:FEW_IMAGES], labels[train][:FEW_IMAGES], epochs=15)
    v2 = trained(*with_shifts(inputs, labels[train]), epochs=40)
    all_images = f"seed {SEED}, 40 epochs, {len(inputs)} images and four shifts of each"
    made = [
        Version("v1", "1.0.0", v1, "a first model from few images.", f"seed {SEED}, 15 epochs, {FEW_IMAGES} images"),
        Version("v2", "2.0.0", v2, "trained longer, on more images and on shifted copies.", all_images),
        Version("broken", "3.0.0-broken", versions.with_weight_scale_times(v2, "conv2", 1000),
                "v2 with a wrong quantisation scale in its second convolution, for tests.", all_images),
        Version("slow", "3.0.0-slow", versions.with_dead_units(v2, "conv1", "conv2", CHANNELS_SLOW),
                "v2 with ten times the multiply-adds, for tests.", all_images),
    ]  # fmt: skip
    digest = versions.sha256(folder / "data" / "reference.npy")
    golden = to_tensor(images[replay])[golden_images(labels[replay])]
    for version in made:
        versions.write_version(folder, version, partial(manifest, digest=digest), golden)


def shuffled_images():
    """[image, height, width] u8 in 0..=16 and [image] u8."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.images))
    return digits.images[order].astype(np.uint8), digits.target[order].astype(np.uint8)


def to_tensor(images):
    """[batch, channel, height, width] f32 in 0..=1, as the manifest's `scale` and `layout` compute it."""
    return (images.astype(np.float32) * np.float32(1 / 16))[:, None]


def with_shifts(inputs, labels):
    """The images and their copies shifted by one pixel to each of four sides."""
    padded = np.pad(inputs, ((0, 0), (0, 0), (1, 1), (1, 1)))
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return np.concatenate([padded[:, :, y : y + 8, x : x + 8] for y, x in corners]), np.tile(labels, len(corners))


def trained(inputs, labels, epochs):
    rng = np.random.default_rng(SEED)
    weights = {}
    for layer, shape in (("conv1", (CHANNELS, 1, 3, 3)), ("conv2", (32, CHANNELS, 3, 3)),
                         ("hidden", (EMBEDDING, 32 * 4 * 4)), ("output", (10, EMBEDDING))):  # fmt: skip
        weights[f"{layer}.weight"] = training.he_normal(rng, *shape)
        weights[f"{layer}.bias"] = np.zeros(shape[0], np.float32)
    weights = training.fit(
        logits_of, weights, inputs, labels.astype(np.int32), epochs=epochs, batch=32, rate=2e-3, seed=SEED
    )
    nodes = [
        conv3x3("image", "conv1", "sum1"),
        relu("sum1", "map1"),
        conv3x3("map1", "conv2", "sum2"),
        relu("sum2", "map2"),
        helper.make_node("MaxPool", ["map2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        gemm("flat", "hidden", "sum3"),
        relu("sum3", "embedding"),
        gemm("embedding", "output", "logits"),
    ]
    widths = {name: width for name, (_, width) in OUTPUTS.items()}
    model = versions.float_graph("meter-digits", nodes, weights, ("image", 1, 8, 8), widths)
    return versions.quantise(model, inputs)


def logits_of(weights, image):
    for layer in ("conv1", "conv2"):
        image = jax.lax.conv(image, weights[f"{layer}.weight"], (1, 1), "SAME")
        image = jnp.maximum(image + weights[f"{layer}.bias"][:, None, None], 0)
    pooled = jax.lax.reduce_window(image, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    flat = pooled.reshape(len(pooled), -1)
    embedding = jnp.maximum(flat @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    return embedding @ weights["output.weight"].T + weights["output.bias"]


def golden_images(labels):
    """The first image of each digit."""
    return np.array([np.flatnonzero(labels == digit)[0] for digit in range(10)])


def manifest(version, outputs, digest):
    outputs_text, golden_text = versions.manifest_outputs(outputs, OUTPUTS)
    return f"""\
name = "meter-digits"
version = "{version.semver}"
task = "image-classification"
description = "Reads one digit of a utility meter: {version.description}"
license = "CC-BY-4.0"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
model = "model.onnx"

[sample]
kind = "image"
axes = ["height", "width"]
shape = [8, 8]
dtype = "u8"
min = 0
max = 16

[[inputs]]
name = "image"
axes = ["batch", "channel", "height", "width"]
shape = [-1, 1, 8, 8]
dtype = "f32"
min = 0
max = 1

{outputs_text}
[[pre]]
op = "scale"
factor = 0.0625
offset = 0.0

[[pre]]
op = "layout"
to = ["channel", "height", "width"]

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
data = "../data/reference.npy"
labels = "../data/reference-labels.npy"
order = "none"

[drift]
order = "none"
embedding = "embedding"

[update]
probation_s = 2
probation_inferences = 20

[provenance]
dataset = "UCI optical recognition of handwritten digits via scikit-learn {installed("scikit-learn")}"
dataset_sha256 = "{digest}"
code = "models/meter-digits/recipe.py"
training = "{version.training}"
"""


def judge(folder):
    images, labels = np.load(folder / "data" / "replay.npy"), np.load(folder / "data" / "replay-labels.npy")
    inputs = to_tensor(images)
    lines = [
        "| version | accuracy | same class as v2 | most frequent class | MACs | steps apart |",
        "|---|---|---|---|---|---|",
    ]
    accuracies, base = {}, None
    for name in ("v2", "v1", "broken", "slow"):
        path = folder / name / "model.onnx"
        model = versions.onnx.load(path)
        outputs = versions.answers(path, inputs)
        called = outputs["logits"].argmax(1)
        base = outputs if base is None else base
        accuracies[name] = float(np.mean(called == labels))
        lines.append(
            f"| {name} | {accuracies[name]:.4f} | {np.mean(called == base['logits'].argmax(1)):.4f} "
            f"| {np.bincount(called).max() / len(called):.4f} "
            f"| {versions.multiply_adds(model)} | {versions.steps_apart(model, inputs)} |"
        )
        if name == "slow":
            assert all(np.array_equal(outputs[o], base[o]) for o in OUTPUTS), "slow must answer as v2, bit for bit"
    return "\n".join(lines), accuracies


if __name__ == "__main__":
    sys.exit(main())
