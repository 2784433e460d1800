//! Integer programs, loaded: their ports as a model has them, and arenas that are used again.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use selvedge_bundle::{DType, NamedTensor, TensorData};
use selvedge_engine::{Arena, Element, Executable, KernelSet, Limits, Port};

use crate::engine::TensorPort;
use crate::error::Error;

/// Idle arenas that a program keeps; more calls at a time than this allocate their own.
const IDLE_ARENAS_MAX: usize = 4;

/// A program that can run.
#[derive(Debug)]
pub(crate) struct LoadedProgram {
    executable: Executable<Arena>,
    inputs: Vec<ProgramPort>,
    outputs: Vec<ProgramPort>,
    idle: Mutex<Vec<Arena>>,
}

/// An input or output of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramPort {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    range: Range<usize>,
}

impl ProgramPort {
    fn of(port: Port<'_>) -> ProgramPort {
        let dtype = match port.element {
            Element::F32 => DType::F32,
            Element::I8 => DType::I8,
            Element::U8 => DType::U8,
            Element::I32 => DType::I32,
            Element::I64 => DType::I64,
        };
        let shape = port.shape.extents().iter().map(|extent| *extent as usize).collect();
        ProgramPort { name: port.name.to_owned(), dtype, shape, range: port.range() }
    }
}

impl LoadedProgram {
    /// Checks a program and prepares it for `kernels`.
    pub(crate) fn load(
        program: &[u8],
        kernels: &'static KernelSet,
        limits: &Limits,
    ) -> Result<LoadedProgram, Error> {
        let executable = Executable::prepare(Arena::copied(program), kernels, limits)
            .map_err(|source| Error::Program { source })?;
        let checked = executable.program();
        let inputs = checked.inputs().map(ProgramPort::of).collect();
        let outputs = checked.outputs().map(ProgramPort::of).collect();
        Ok(LoadedProgram { executable, inputs, outputs, idle: Mutex::new(Vec::new()) })
    }

    pub(crate) fn inputs(&self) -> &[ProgramPort] {
        &self.inputs
    }

    pub(crate) fn outputs(&self) -> &[ProgramPort] {
        &self.outputs
    }

    pub(crate) fn executable(&self) -> &Executable<Arena> {
        &self.executable
    }

    /// Runs the program once: `give` puts an input's bytes into its place, `take` reads those of an output. Both are
    /// called for each port, by its index.
    pub(crate) fn run<E>(
        &self,
        mut give: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
        mut take: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut arena = idle.unwrap_or_else(|| Arena::zeroed(self.executable.arena_bytes()));
        for (index, port) in self.inputs.iter().enumerate() {
            give(index, &mut arena[port.range.clone()])?;
        }
        self.executable.run(&mut arena).expect("the arena is as large as the program asks for");
        for (index, port) in self.outputs.iter().enumerate() {
            take(index, &arena[port.range.clone()])?;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_ARENAS_MAX {
            idle.push(arena);
        }
        Ok(())
    }
}

/// A whole model that is one program.
#[derive(Debug)]
pub(crate) struct IntegerPlan {
    program: LoadedProgram,
    /// The caller's inputs, in the order of the program's.
    inputs: Vec<usize>,
    /// The outputs that the caller asks for, and which of the program's each is.
    outputs: Vec<(TensorPort, usize)>,
}

impl IntegerPlan {
    /// The plan that computes `outputs` from `inputs` with a program that has these ports.
    pub(crate) fn new(
        program: LoadedProgram,
        inputs: &[TensorPort],
        outputs: &[TensorPort],
    ) -> Result<IntegerPlan, Error> {
        let taken = program.inputs().iter().map(|port| find("input", inputs, port));
        let taken = taken.collect::<Result<Vec<_>, _>>()?;
        let given = outputs.iter().map(|output| {
            let index = program.outputs().iter().position(|port| same(output, port));
            let missing = || Error::ProgramPort { side: "output", name: output.name.clone() };
            index.map(|index| (output.clone(), index)).ok_or_else(missing)
        });
        let given = given.collect::<Result<Vec<_>, _>>()?;
        Ok(IntegerPlan { program, inputs: taken, outputs: given })
    }

    pub(crate) fn outputs(&self) -> impl Iterator<Item = &TensorPort> {
        self.outputs.iter().map(|(port, _)| port)
    }

    /// Runs the model on `inputs`, each `[batch, axis…]`, sample by sample.
    pub(crate) fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, Error> {
        let samples = inputs.first().and_then(|input| input.shape().first()).copied().unwrap_or(1);
        let mut found: Vec<Vec<u8>> = vec![Vec::new(); self.outputs.len()];
        for sample in 0..samples {
            self.program.run(
                |index, bytes| {
                    put(inputs[self.inputs[index]].data(), sample, bytes);
                    Ok::<_, Error>(())
                },
                |index, bytes| {
                    for (found, (_, from)) in found.iter_mut().zip(&self.outputs) {
                        if *from == index {
                            found.extend_from_slice(bytes);
                        }
                    }
                    Ok(())
                },
            )?;
        }
        self.outputs
            .iter()
            .zip(found)
            .map(|((port, _), bytes)| {
                let shape = std::iter::once(samples).chain(port.shape.iter().copied()).collect();
                NamedTensor::new(port.name.clone(), shape, data_of(port.dtype, &bytes))
                    .map_err(|source| Error::Run { source: Box::new(source) })
            })
            .collect()
    }
}

fn find(side: &'static str, ports: &[TensorPort], wanted: &ProgramPort) -> Result<usize, Error> {
    let index = ports.iter().position(|port| same(port, wanted));
    index.ok_or_else(|| Error::ProgramPort { side, name: wanted.name.clone() })
}

fn same(port: &TensorPort, of_program: &ProgramPort) -> bool {
    let shape = of_program.shape.split_first();
    let same_shape = shape.is_some_and(|(batch, rest)| *batch == 1 && rest == port.shape);
    port.name == of_program.name && port.dtype == of_program.dtype && same_shape
}

/// Copies the elements of one sample to where a program reads them.
fn put(data: &TensorData, sample: usize, bytes: &mut [u8]) {
    fn words<T: Copy, const N: usize>(
        values: &[T],
        sample: usize,
        bytes: &mut [u8],
        of: fn(T) -> [u8; N],
    ) {
        let count = bytes.len() / N;
        let values = values.iter().skip(sample * count);
        for (place, value) in bytes.chunks_exact_mut(N).zip(values) {
            place.copy_from_slice(&of(*value));
        }
    }
    match data {
        TensorData::F32(values) => words(values, sample, bytes, f32::to_le_bytes),
        TensorData::I8(values) => words(values, sample, bytes, i8::to_le_bytes),
        TensorData::U8(values) => words(values, sample, bytes, u8::to_le_bytes),
        TensorData::I32(values) => words(values, sample, bytes, i32::to_le_bytes),
        TensorData::I64(values) => words(values, sample, bytes, i64::to_le_bytes),
    }
}

fn data_of(dtype: DType, bytes: &[u8]) -> TensorData {
    fn words<T, const N: usize>(bytes: &[u8], of: fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks().0.iter().map(|word| of(*word)).collect()
    }
    match dtype {
        DType::F32 => TensorData::F32(words(bytes, f32::from_le_bytes)),
        DType::I8 => TensorData::I8(words(bytes, i8::from_le_bytes)),
        DType::U8 => TensorData::U8(bytes.to_vec()),
        DType::I32 => TensorData::I32(words(bytes, i32::from_le_bytes)),
        DType::I64 => TensorData::I64(words(bytes, i64::from_le_bytes)),
    }
}
