//! What a plan consists of, for people: operations with their shapes and costs, and what stayed in tract.

use std::time::Duration;

use selvedge_engine::{Arena, Op, View};

use crate::error::Error;
use crate::integer::LoadedProgram;
use crate::lower::Unlowered;

/// Runs of a program of which the shortest time of each operation counts.
const TIMED_RUNS: usize = 20;

/// How a model is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanSurvey {
    /// The integer programs, in the order in which they run.
    pub programs: Vec<ProgramSurvey>,
    /// The nodes that tract runs; none where one program computes all.
    pub unlowered: Vec<Unlowered>,
}

/// An integer program.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramSurvey {
    /// The program itself.
    pub bytes: Vec<u8>,
    /// The arena that it asks for.
    pub arena_bytes: usize,
    /// The most bytes that hold something at one time; `None` for a program that was compiled elsewhere.
    pub live_bytes_max: Option<usize>,
    /// The set of kernels that it was prepared for.
    pub kernels: String,
    /// Its operations, in order.
    pub operations: Vec<OperationSurvey>,
}

/// An operation of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationSurvey {
    /// Its name.
    pub name: &'static str,
    /// The extents of its first input, `[height, width, channels]`; none for a constant.
    pub input: Option<[u32; 3]>,
    /// The extents of its output, likewise.
    pub output: [u32; 3],
    /// Multiplications.
    pub macs: u64,
    /// Bytes of the arena that it reads and writes.
    pub moved_bytes: usize,
    /// The shortest of some runs.
    pub time: Duration,
}

impl ProgramSurvey {
    /// Looks at a program and times its operations by `now`.
    pub(crate) fn of(
        program: &LoadedProgram,
        live_bytes_max: Option<usize>,
        mut now: impl FnMut() -> Duration,
    ) -> Result<ProgramSurvey, Error> {
        let executable = program.executable();
        let checked = executable.program();
        let mut operations: Vec<OperationSurvey> = checked.operations().map(survey).collect();
        let mut arena = Arena::zeroed(executable.arena_bytes());
        for _ in 0..TIMED_RUNS {
            let mut last = now();
            let timed = executable.run_observed(&mut arena, |index, _| {
                let time = now();
                let operation = &mut operations[index];
                operation.time = operation.time.min(time.saturating_sub(last));
                last = time;
            });
            timed.map_err(|source| Error::Program { source })?;
        }
        Ok(ProgramSurvey {
            bytes: executable.bytes().to_vec(),
            arena_bytes: executable.arena_bytes(),
            live_bytes_max,
            kernels: executable.kernels().name().to_owned(),
            operations,
        })
    }
}

fn survey(op: Op) -> OperationSurvey {
    let (inputs, output, element_bytes) = shapes(&op);
    let len = |extents: [u32; 3]| extents.iter().map(|extent| *extent as usize).product::<usize>();
    let read: usize = inputs.iter().map(|extents| len(*extents)).sum();
    let [read_bytes, written_bytes] = element_bytes;
    OperationSurvey {
        name: op.name(),
        input: inputs.first().copied(),
        output,
        macs: op.macs(),
        moved_bytes: read * read_bytes + len(output) * written_bytes,
        time: Duration::MAX,
    }
}

/// Bytes of the largest tensor that a program makes.
pub(crate) fn tensor_bytes_max(program: &LoadedProgram) -> usize {
    let checked = program.executable().program();
    let ports = checked.ports().map(|port| port.len_bytes());
    let outputs = checked.operations().map(|op| {
        let (_, output, [_, bytes]) = shapes(&op);
        output.iter().map(|extent| *extent as usize).product::<usize>() * bytes
    });
    ports.chain(outputs).max().unwrap_or(0)
}

/// The extents of inputs and output, and the bytes of an element of each side.
fn shapes(op: &Op) -> (Vec<[u32; 3]>, [u32; 3], [usize; 2]) {
    let of = |view: &View| [view.height, view.width, view.channels];
    let one = |input: &View, output: &View| (vec![of(input)], of(output), [1, 1]);
    let two =
        |inputs: &[View; 2], output: &View| (inputs.iter().map(of).collect(), of(output), [1, 1]);
    match op {
        Op::Import(op) => (vec![of(&op.output)], of(&op.output), [op.source.element.bytes(), 1]),
        Op::Export(op) => (vec![of(&op.input)], of(&op.input), [1, op.target.element.bytes()]),
        Op::Constant(op) => (Vec::new(), of(&op.output), [1, 1]),
        Op::Border(op) => {
            let View { height, width, channels, .. } = op.view;
            let [top, left, bottom, right] = op.extents;
            let pixels = (height + top + bottom) * (width + left + right) - height * width;
            (Vec::new(), [1, pixels, channels], [1, 1])
        }
        Op::Conv(op) => one(&op.input, &op.output),
        Op::Depthwise(op) => one(&op.input, &op.output),
        Op::Add(op) => two(&op.inputs, &op.output),
        Op::AddChannels(op) => one(&op.input, &op.output),
        Op::Mul(op) => two(&op.inputs, &op.output),
        Op::AveragePool(op) => one(&op.input, &op.output),
        Op::MaxPool(op) => one(&op.input, &op.output),
        Op::Softmax(op) => one(&op.input, &op.output),
        Op::Table(op) => one(&op.input, &op.output),
        Op::Copy(op) => {
            let [a, b, c, d, e] = op.extents;
            let extents = [a * b * c, d, e];
            (vec![extents], extents, [1, 1])
        }
        Op::Bilinear(op) => one(&op.input, &op.output),
        Op::ArgMax(op) => {
            let bytes = op.target.element.bytes();
            (vec![of(&op.input)], [op.input.height, op.input.width, 1], [1, bytes])
        }
        Op::MatMul(op) => two(&op.inputs, &op.output),
    }
}
