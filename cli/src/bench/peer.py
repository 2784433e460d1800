"""Measures one model in another runtime on one thread, as `selvedge bench` measures it in ours.

usage: peer.py MODEL.onnx|MODEL.tflite SECONDS SEED

Prints one JSON line. An ONNX file is run by onnxruntime, a TensorFlow Lite file by LiteRT. A runtime that is not
installed is reported as {"missing": name}.
"""

import importlib
import json
import resource
import sys
import time

SAMPLE_SECONDS_MIN = 200e-6
REPEATS_MAX = 100
SAMPLES_MIN = 10


def imported(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        print(json.dumps({"missing": name.split(".")[0]}))
        sys.exit(0)


def onnxruntime_model(path):
    """Name, inputs as (name, shape, dtype), and a function that runs the model on a dict of arrays."""
    ort = imported("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    dtypes = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8",
              "tensor(int32)": "int32", "tensor(int64)": "int64"}
    extent = lambda axis: axis if isinstance(axis, int) and axis > 0 else 1
    inputs = [(i.name, [extent(axis) for axis in i.shape], dtypes[i.type]) for i in session.get_inputs()]
    return f"onnxruntime {ort.__version__}", inputs, lambda arrays: session.run(None, arrays)


def litert_model(path):
    """Likewise."""
    litert = imported("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    inputs = [(detail["name"], list(detail["shape"]), detail["dtype"]) for detail in details]

    def run(arrays):
        for detail in details:
            interpreter.set_tensor(detail["index"], arrays[detail["name"]])
        interpreter.invoke()

    version = importlib.import_module("importlib.metadata").version("ai-edge-litert")
    return f"LiteRT {version}", inputs, run


def random_array(numpy, generator, shape, dtype):
    if numpy.dtype(dtype).kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    bounds = numpy.iinfo(dtype)
    return generator.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True)


def samples_us(run, seconds):
    """Sorted CPU times per inference: each of a sample that lasts at least SAMPLE_SECONDS_MIN."""
    run()
    before = time.process_time()
    run()
    repeats = min(REPEATS_MAX, int(SAMPLE_SECONDS_MIN / max(time.process_time() - before, 1e-9)) + 1)
    samples, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples) < SAMPLES_MIN:
        before = time.process_time()
        for _ in range(repeats):
            run()
        samples.append((time.process_time() - before) * 1e6 / repeats)
    return sorted(samples)


def main():
    path, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    numpy = imported("numpy")
    started = time.perf_counter()
    name, inputs, run = (litert_model if path.endswith(".tflite") else onnxruntime_model)(path)
    load_ms = (time.perf_counter() - started) * 1e3
    generator = numpy.random.default_rng(seed)
    arrays = {name: random_array(numpy, generator, shape, dtype) for name, shape, dtype in inputs}
    samples = samples_us(lambda: run(arrays), seconds)
    print(json.dumps({
        "runtime": name,
        "cpu_us_p10": samples[len(samples) // 10],
        "cpu_us_median": samples[len(samples) // 2],
        "samples": len(samples),
        "load_ms": load_ms,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))


main()
