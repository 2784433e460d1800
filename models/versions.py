"""From a trained float graph to the version folders of a recipe: quantise, break, slow down, judge, write, compare.

A version folder holds `manifest.toml`, `model.onnx` (QDQ, int8) and `golden/`. Expected outputs are those of
onnxruntime with every graph optimisation off: the quantised graph as it is written.
"""

import argparse
import filecmp
import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

OPSET, IR_VERSION = 17, 8
FRAMEWORK = f"onnxruntime {ort.__version__}"


@dataclass
class Version:
    folder: str
    semver: str
    model: onnx.ModelProto
    description: str
    training: str


# --- graph ---


def gemm(source, layer, target):
    return helper.make_node("Gemm", [source, f"{layer}.weight", f"{layer}.bias"], [target], transB=1)


def conv3x3(source, layer, target):
    """Stride 1, one pixel of zeros around: height and width stay."""
    weight_and_bias = [f"{layer}.weight", f"{layer}.bias"]
    return helper.make_node("Conv", [source, *weight_and_bias], [target], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def relu(source, target):
    return helper.make_node("Relu", [source], [target])


def float_graph(name, nodes, weights, input_shape, outputs):
    """A float ONNX model whose first axis is free. `outputs` maps a tensor name to its width."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(input_shape[0], TensorProto.FLOAT, ["batch", *input_shape[1:]])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, ["batch", width]) for o, width in outputs.items()],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="selvedge-recipe")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


class _Rows(CalibrationDataReader):
    def __init__(self, input_name, inputs):
        self._batches = iter({input_name: inputs[i : i + 64]} for i in range(0, len(inputs), 64))

    def get_next(self):
        return next(self._batches, None)


def quantise(model, calibration):
    """Static int8 QDQ, weights per output channel, ranges from `calibration` (input tensors)."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            _Rows(model.graph.input[0].name, calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        quantised = onnx.load(target)
    domains = {node.domain for node in quantised.graph.node}
    assert domains <= {"", "ai.onnx"}, f"only standard operators may remain, found {domains}"
    del quantised.graph.value_info[:]  # some loaders read "batch" there as a size that no caller may fix
    del quantised.opset_import[:]
    quantised.opset_import.append(helper.make_opsetid("", OPSET))
    quantised.ir_version = IR_VERSION
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def with_weight_scale_times(model, layer, factor, channels=slice(None)):
    """A copy with a wrong weight scale in some output channels of `layer`.

    The bias keeps its integers and follows the scale, so float and integer engines still agree on the answers.
    """

    def enlarge(scale):
        enlarged = scale.copy()
        enlarged[channels] *= np.float32(factor)
        return enlarged

    broken = _copy(model)
    for suffix in ("weight_scale", "bias_quantized_scale"):
        _replace(broken, f"{layer}.{suffix}", enlarge)
    return broken


def with_dead_units(model, layer, next_layer, units):
    """A copy in which `layer` has `units` outputs: the new ones repeat the old and weigh zero in `next_layer`.

    Weights are [out, in, ...] and int8 with zero point 0, so a zero weighs exactly nothing.
    """
    wide = _copy(model)
    live = numpy_helper.to_array(_initialiser(wide, f"{layer}.weight_quantized")).shape[0]
    repeat = np.arange(units) % live
    for suffix in ("weight_quantized", "weight_scale", "weight_zero_point", "bias_quantized", "bias_quantized_scale",
                   "bias_quantized_zero_point"):  # fmt: skip
        _replace(wide, f"{layer}.{suffix}", lambda array: array if array.ndim == 0 else array[repeat])

    def ignore_dead(weight):
        widened = weight[:, repeat].copy()
        widened[:, live:] = 0
        return widened

    _replace(wide, f"{next_layer}.weight_quantized", ignore_dead)
    onnx.checker.check_model(wide, full_check=True)
    return wide


def output_quantisation(model, output):
    """(scale, zero point) of the DequantizeLinear that ends the graph at `output`."""
    last = next(node for node in model.graph.node if output in node.output)
    assert last.op_type == "DequantizeLinear", f"{output} must leave the graph through DequantizeLinear"
    scale, zero_point = (numpy_helper.to_array(_initialiser(model, name)) for name in last.input[1:3])
    return float(scale), int(zero_point)


def multiply_adds(model):
    """Multiply-adds of one sample in Conv and Gemm."""
    inferred = shape_inference.infer_shapes(model).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    shapes |= {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.output}
    total = 0
    for node in inferred.node:
        if node.op_type in ("Conv", "Gemm"):
            total += int(np.prod(shapes[node.input[1]])) * int(np.prod(shapes[node.output[0]][2:]))
    return total


def _copy(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _initialiser(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _replace(model, name, change):
    tensor = _initialiser(model, name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


# --- judging ---


def session(model, optimise=False):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def answers(model, inputs, optimise=False):
    """Raw outputs by name."""
    running = session(model, optimise)
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, {running.get_inputs()[0].name: inputs}), strict=True))


def accuracy(model, inputs, labels):
    return float(np.mean(answers(model, inputs)["logits"].argmax(1) == labels))


def steps_apart(model, inputs):
    """The largest difference, in quantisation steps, between the graph as written and as onnxruntime optimises it."""
    plain, optimised = answers(model, inputs), answers(model, inputs, optimise=True)
    return max(
        round(float(np.abs(plain[name] - optimised[name]).max()) / output_quantisation(model, name)[0])
        for name in plain
    )


def cpu_us_p10(model, samples, rounds=1000):
    """Process CPU time per call, one thread, 10th percentile, µs."""
    running = session(model, optimise=True)
    feed = {running.get_inputs()[0].name: samples}
    times = []
    for _ in range(rounds):
        start = time.process_time_ns()
        running.run(None, feed)
        times.append(time.process_time_ns() - start)
    return float(np.percentile(times, 10)) / 1000


def slowdown(home, batch, rounds=5):
    """CPU time of `slow` over that of `v2`: median of ratios measured in turns."""
    paths = {name: home / name / "model.onnx" for name in ("slow", "v2")}
    input_name = session(paths["v2"]).get_inputs()[0].name
    samples = np.load(home / "v2" / "golden" / f"{input_name}.npy")[:1].repeat(batch, axis=0)
    ratios = [cpu_us_p10(paths["slow"], samples) / cpu_us_p10(paths["v2"], samples) for _ in range(rounds)]
    return float(np.median(ratios))


# --- files ---


def write_data(folder, **arrays):
    """data/NAME.npy per array; underscores in names become hyphens."""
    for name, array in arrays.items():
        np.save(folder / f"{name.replace('_', '-')}.npy", array)


def write_version(home, version, manifest_of, golden_inputs):
    """The version folder below `home`; `manifest_of(version, outputs)` gives the manifest's text."""
    folder = home / version.folder
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    onnx.save(version.model, folder / "model.onnx")
    input_name = version.model.graph.input[0].name
    np.save(folder / "golden" / f"{input_name}.npy", golden_inputs)
    for name, expected in answers(folder / "model.onnx", golden_inputs).items():
        np.save(folder / "golden" / f"{name}.npy", expected)
    outputs = {o.name: output_quantisation(version.model, o.name) for o in version.model.graph.output}
    (folder / "manifest.toml").write_text(manifest_of(version, outputs))


def manifest_outputs(outputs, axes_and_widths):
    """The [[outputs]] and [golden] tables; the tolerance is one quantisation step of each output."""
    tables = [
        f'[[outputs]]\nname = "{name}"\naxes = ["batch", "{axes_and_widths[name][0]}"]\n'
        f'shape = [-1, {axes_and_widths[name][1]}]\ndtype = "f32"\nscale = {scale!r}\nzero_point = {zero_point}\n'
        for name, (scale, zero_point) in outputs.items()
    ]
    tolerance = ", ".join(f"{name} = {scale!r}" for name, (scale, _) in outputs.items())
    golden = f'[golden]\ndir = "golden"\norigin = "recipe"\nframework = "{FRAMEWORK}"\ntolerance = {{ {tolerance} }}\n'
    return "\n".join(tables), golden


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- command line ---


def run_recipe(home, make, judge, accuracy_bound):
    """`make(folder)` writes data and versions; `judge(folder)` gives (markdown table, accuracy by version)."""
    arguments = argparse.ArgumentParser(description=f"Makes the versions of {home.name}.")
    arguments.add_argument("--check", action="store_true", help="make everything elsewhere and compare with the files")
    if not arguments.parse_args().check:
        make(home)
        print(judge(home)[0])
        ratios = ", ".join(f"{slowdown(home, batch):.1f} (batch {batch})" for batch in (1, 64))
        print(f"CPU time of slow over v2, one thread: {ratios}")
        return 0
    with tempfile.TemporaryDirectory() as elsewhere:
        made = Path(elsewhere, home.name)
        made.mkdir()
        make(made)
        return _compare(home, made, judge, accuracy_bound)


def _compare(home, made, judge, accuracy_bound):
    paths = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    differing = [path for path in paths if not _same_bytes(home / path, made / path)]
    for path in differing:
        print(f"differs: {path}")
    table, fresh = judge(made)
    card_is_current = table in (home / "README.md").read_text()
    if not differing:
        print(f"{len(paths)} files byte-identical; results in the card: {'current' if card_is_current else 'STALE'}")
        return 0 if card_is_current else 1
    if any(path.parts[0] == "data" for path in differing):
        print("data files must be byte-identical on every machine")
        return 1
    committed = judge(home)[1]
    worst = max(abs(fresh[name] - committed[name]) for name in committed)
    print(f"{len(differing)} of {len(paths)} files differ (float sums depend on the CPU); ", end="")
    print(f"replay accuracy differs by {worst:.4f} at most, bound {accuracy_bound}")
    return 0 if worst <= accuracy_bound else 1


def _same_bytes(left, right):
    return left.is_file() and filecmp.cmp(left, right, shallow=False)
