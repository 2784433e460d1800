#!/usr/bin/env python3
"""Integer programs agree with onnxruntime and with exact arithmetic.

usage: lowering_agreement.py MODELS_DIR [--runner PATH] [--inputs N] [--only WORD] [--cases]
needs: pip install numpy onnx onnxruntime; and `cargo build --release -p selvedge-runtime --example raw_answers`

Every ONNX file of MODELS_DIR answers random inputs, here and in onnxruntime, on one thread. What is demanded:

* `*_tfqdq` without a residual addition: the bytes of onnxruntime, or where it rounds differently than exact
  arithmetic (it adds biases in f32), the bytes of that. With one, runtimes round differently: the same argmax wherever
  onnxruntime's first two differ by more than 20 steps.
* `*_tfqdq`: at most 2 steps on 99.9 % of outputs against the graph evaluated in f64, half to even at each
  QuantizeLinear (`Exact`, below).
* other files with a scale at their output: at most 2 steps on 99 % of outputs, and the same argmax likewise.
* the rest (float inside or at the end): at most 2 % of the largest value for quantised graphs, whose float parts may
  fall on the other side of a rounding; 0.01 % for float graphs.

`--cases` runs instead what `onnx.backend.test.case` generates for the quantised operators, and compares with the
outputs that the generator gives: at most one step. Scales and weights become constants, and a batch axis is put
around, which the runtime demands. What neither integer programs nor tract have must be refused by these words: scales
in blocks, scales that the graph computes.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
SEED = 20
CLEAR_STEPS = 20
QUANTISED_SHARE, FLOAT_SHARE = 2e-2, 1e-4
REFUSALS = ("blocked quantization is not supported", "y_scale must be a const")
CASE_OPERATORS = {
    "QLinearConv", "QLinearMatMul", "QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger",
    "DynamicQuantizeLinear",
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("models", type=Path, nargs="?")
    arguments.add_argument("--runner", type=Path, default=ROOT / "target/release/examples/raw_answers")
    arguments.add_argument("--inputs", type=int, default=1000)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--cases", action="store_true")
    given = arguments.parse_args()
    if not given.runner.exists():
        sys.exit(f"{given.runner} is not there: see the top of this file")
    ort.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if given.cases:
            agree = [check_case(given.runner, case, folder) for case in cases() if given.only in case.name]
        else:
            files = sorted(file for file in given.models.glob("*.onnx") if given.only in file.name)
            if not files:
                sys.exit(f"{given.models} has no such ONNX file")
            agree = [check(given.runner, file, given.inputs, folder) for file in files]
    print(f"{sum(agree)} of {len(agree)} agree")
    sys.exit(0 if all(agree) else 1)


def check(runner, file, count, folder):
    """Prints one line and says whether the file agrees."""
    model = onnx.load(file)
    session = ort.InferenceSession(str(file), one_thread(), providers=["CPUExecutionProvider"])
    samples = random_inputs(session.get_inputs()[0], count)
    name = session.get_inputs()[0].name
    expected = np.concatenate([session.run(None, {name: sample[None]})[0] for sample in samples])
    found, words = answers(runner, file, [samples], [(expected.dtype, expected.shape)], folder)
    if found is None:
        print(f"FAIL {file.name}: {words}")
        return False
    agree, verdict = judge(file.name, model, expected, found[0])
    if file.stem.endswith("_tfqdq"):
        exact = Exact(model)(samples)
        steps = np.abs(found[0].astype(int) - exact.astype(int))
        near = (steps <= 2).mean()
        agree &= bool(near >= 0.999)
        if not has_residual(model):
            explained = ((found[0] == expected) | (found[0] == exact)).mean()
            agree &= bool(explained == 1)
            verdict += f"; {explained:.6f} of outputs are onnxruntime's or exact"
        verdict += f"; exact arithmetic: {steps.max()} steps at most, {near:.5f} within 2"
    print(f"{'ok  ' if agree else 'FAIL'} {file.name}: {words}; {verdict}", flush=True)
    return agree


def judge(name, model, expected, found):
    differences = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    same = (differences.reshape(len(expected), -1).max(axis=1) == 0).mean()
    step = output_step(model)
    if step is None:
        quantised = any("Quantize" in node.op_type or "Linear" in node.op_type for node in model.graph.node)
        share = QUANTISED_SHARE if quantised else FLOAT_SHARE
        relative = differences.max() / np.abs(expected).max()
        return bool(relative <= share), f"{relative:.2e} of the largest value at most"
    steps = differences / step
    best = np.sort(expected.reshape(len(expected), -1) / step, axis=1)
    clear = best[:, -1] - best[:, -2] > CLEAR_STEPS
    classes = [values.reshape(len(expected), -1).argmax(axis=1) for values in (expected, found)]
    wrong = int((classes[0] != classes[1])[clear].sum())
    verdict = f"identical {same:.4f}, {steps.max():.0f} steps at most, {wrong} of {clear.sum()} clear classes differ"
    if name.endswith("_tfqdq.onnx"):
        return wrong == 0, verdict
    return bool((steps <= 2.01).mean() >= 0.99 and wrong == 0), verdict


def one_thread():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return options


def random_inputs(tensor, count):
    """Integers over their whole range, floats between -1 and 1."""
    shape = [count, *tensor.shape[1:]]
    random = np.random.default_rng(SEED)
    dtype = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8}[tensor.type]
    if dtype == np.float32:
        return random.uniform(-1, 1, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max + 1, shape).astype(dtype)


def answers(runner, file, inputs, outputs, folder):
    """What the runner makes of the samples: arrays, and its line; or None and why not."""
    given, made = folder / "inputs", folder / "outputs"
    samples = zip(*inputs)
    given.write_bytes(b"".join(np.ascontiguousarray(tensor).tobytes() for sample in samples for tensor in sample))
    done = subprocess.run([runner, file, given, made], capture_output=True, text=True)
    if done.returncode != 0:
        return None, done.stderr.strip()[:300]
    found = np.frombuffer(made.read_bytes(), np.uint8).reshape(len(inputs[0]), -1)
    arrays, start = [], 0
    for dtype, shape in outputs:
        end = start + int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        arrays.append(np.ascontiguousarray(found[:, start:end]).view(dtype).reshape(shape))
        start = end
    return arrays, done.stdout.strip()


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def output_step(model):
    """The real value of one step of the output; 1 for integers, None for floats that nothing has quantised."""
    output = model.graph.output[0]
    if output.type.tensor_type.elem_type in (TensorProto.INT8, TensorProto.UINT8):
        return 1.0
    last = next(node for node in model.graph.node if output.name in node.output)
    return float(constants(model)[last.input[1]]) if last.op_type == "DequantizeLinear" else None


def has_residual(model):
    """Whether two tensors that both depend on the input are added."""
    fixed = set(constants(model))
    for node in model.graph.node:
        if all(name in fixed for name in node.input):
            fixed.update(node.output)
        elif node.op_type == "Add" and not any(name in fixed for name in node.input):
            return True
    return False


class Exact:
    """A QDQ graph in f64, half to even at each QuantizeLinear, for a batch of samples."""

    CHUNK = 20

    def __init__(self, model):
        self.model = model
        self.constants = constants(model)

    def __call__(self, samples):
        chunks = [samples[at : at + self.CHUNK] for at in range(0, len(samples), self.CHUNK)]
        return np.concatenate([self.run(chunk) for chunk in chunks])

    def run(self, samples):
        graph = self.model.graph
        values = dict(self.constants) | {graph.input[0].name: samples}
        for node in graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs = [values[name] if name else None for name in node.input]
            values[node.output[0]] = getattr(self, node.op_type)(attributes, *inputs)
        return values[graph.output[0].name]

    def DequantizeLinear(self, attributes, x, scale, zero=0):
        def along(parameter):
            parameter = np.asarray(parameter, np.float64)
            shape = [1] * np.ndim(x)
            if parameter.size > 1:
                shape[attributes.get("axis", 1)] = parameter.size
            return parameter.reshape(shape) if np.ndim(x) else parameter
        return (x - along(zero)) * along(scale)

    def QuantizeLinear(self, _, x, scale, zero):
        limits = np.iinfo(zero.dtype)
        return np.clip(np.rint(x / np.float64(scale)) + zero, limits.min, limits.max).astype(zero.dtype)

    def Conv(self, attributes, x, weights, bias=None):
        top, left, bottom, right = attributes.get("pads", [0] * 4)
        down, across = attributes.get("strides", [1, 1])
        x = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)])
        height, width = weights.shape[2:]
        windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(2, 3))[:, :, ::down, ::across]
        groups = attributes.get("group", 1)
        n, channels, rows, columns = windows.shape[:4]
        if groups == channels and weights.shape[1] == 1:
            multiple = weights.shape[0] // channels
            result = np.einsum("nchwyx,cmyx->ncmhw", windows, weights.reshape(channels, multiple, height, width))
            result = result.reshape(n, -1, rows, columns)
        else:
            parts = []
            for windows, weights in zip(np.split(windows, groups, 1), np.split(weights, groups, 0)):
                flat = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * rows * columns, -1)
                parts.append(flat @ weights.reshape(weights.shape[0], -1).T)
            result = np.concatenate(parts, 1).reshape(n, rows, columns, -1).transpose(0, 3, 1, 2)
        return result if bias is None else result + bias[:, None, None]

    def MatMul(self, _, a, b):
        return a @ b

    def Gemm(self, attributes, a, b, c=0):
        assert not attributes.get("transA")
        b = b.T if attributes.get("transB") else b
        return attributes.get("alpha", 1.0) * (a @ b) + attributes.get("beta", 1.0) * c

    def Add(self, _, a, b):
        return a + b

    def Relu(self, _, x):
        return np.maximum(x, 0)

    def Clip(self, _, x, low=None, high=None):
        return np.clip(x, low, high)

    def Pad(self, _, x, pads, value=None):
        return np.pad(x, list(zip(pads[: x.ndim], pads[x.ndim :])), constant_values=0 if value is None else value)

    def AveragePool(self, attributes, x):
        assert not any(attributes.get("pads", [0]))
        (height, width), (down, across) = attributes["kernel_shape"], attributes["strides"]
        windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(2, 3))
        return windows[:, :, ::down, ::across].mean(axis=(4, 5))

    def GlobalAveragePool(self, _, x):
        return x.mean(axis=(2, 3), keepdims=True)

    def Softmax(self, attributes, x):
        powers = np.exp(x - x.max(axis=attributes.get("axis", -1), keepdims=True))
        return powers / powers.sum(axis=attributes.get("axis", -1), keepdims=True)

    def Reshape(self, _, x, shape):
        return x.reshape([len(x), *shape[1:]])

    def Transpose(self, attributes, x):
        return x.transpose(attributes["perm"])


def cases():
    from onnx.backend.test.case.node import collect_testcases

    collected = collect_testcases(None)
    return [case for case in collected if {node.op_type for node in case.model.graph.node} & CASE_OPERATORS]


def check_case(runner, case, folder):
    """A case with all inputs but the first as constants, and a batch axis around it."""
    given, expected = case.data_sets[0]
    graph = onnx.GraphProto()
    graph.CopyFrom(case.model.graph)
    types = [value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]]
    plain = {TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32}
    if not set(types) <= plain:
        print(f"skip {case.name}: its tensors have types that no bundle can carry")
        return True
    for value, array in list(zip(graph.input, given))[1:]:
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
    nodes, outputs = [], []
    name, sample = graph.input[0].name, np.asarray(given[0])
    graph.initializer.append(numpy_helper.from_array(np.array(sample.shape, np.int64), "case/shape"))
    nodes.append(helper.make_node("Reshape", ["case/input", "case/shape"], [name]))
    nodes.extend(graph.node)
    for value, array in zip(graph.output, expected):
        shape = [1, *np.shape(array)]
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"case/shape/{value.name}"))
        nodes.append(helper.make_node("Reshape", [value.name, f"case/shape/{value.name}"], [f"case/{value.name}"]))
        kind = value.type.tensor_type.elem_type
        outputs.append(helper.make_tensor_value_info(f"case/{value.name}", kind, shape))
    kind = graph.input[0].type.tensor_type.elem_type
    entry = helper.make_tensor_value_info("case/input", kind, [1, *sample.shape])
    wrapped = helper.make_graph(nodes, case.name, [entry], outputs, graph.initializer)
    model = helper.make_model(wrapped, opset_imports=case.model.opset_import, ir_version=8)
    file = folder / "case.onnx"
    onnx.save(model, file)
    shapes = [(np.asarray(array).dtype, (1, *np.shape(array))) for array in expected]
    found, words = answers(runner, file, [sample[None]], shapes, folder)
    if found is None:
        refused = any(refusal in words for refusal in REFUSALS)
        print(f"{'no  ' if refused else 'FAIL'} {case.name}: {words.split(': ', 1)[-1]}")
        return refused
    worst = max(
        float(np.abs(mine[0].astype(np.float64) - np.asarray(own).astype(np.float64)).max())
        for mine, own in zip(found, expected)
    )
    integer = all(np.asarray(array).dtype.kind in "iu" for array in expected)
    agree = worst <= (1 if integer else 1e-4)
    print(f"{'ok  ' if agree else 'FAIL'} {case.name}: {words}; off by {worst:g} at most")
    return agree


if __name__ == "__main__":
    main()
