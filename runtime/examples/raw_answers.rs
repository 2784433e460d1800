//! Runs an ONNX file on raw tensors, for comparisons with other runtimes.
//!
//! usage: raw_answers MODEL.onnx INPUTS OUTPUTS
//!
//! INPUTS holds samples one after the other, each as the bytes of the model's inputs in their order; OUTPUTS gets the
//! same of its outputs. Prints one line: how many programs there are, their largest arena and live set in bytes, and
//! the operators that stay in tract.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use selvedge_bundle::{DType, NamedTensor, TensorData};
use selvedge_runtime::Limits;
use selvedge_runtime::desk::{self, BareModel};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, inputs, outputs] = &arguments[..] else {
        eprintln!("usage: raw_answers MODEL.onnx INPUTS OUTPUTS");
        return ExitCode::FAILURE;
    };
    match answer(model, inputs, outputs) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            eprintln!("{model}: {text}");
            ExitCode::FAILURE
        }
    }
}

fn answer(model: &str, inputs: &str, outputs: &str) -> Result<String, Box<dyn Error>> {
    let onnx = std::fs::read(model)?;
    let limits = Limits::default();
    let bare = BareModel::build(&onnx, &limits)?;
    let ports: Vec<(String, DType, Vec<usize>)> =
        bare.inputs().map(|(name, dtype, shape)| (name.to_owned(), dtype, shape)).collect();
    let given = std::fs::read(inputs)?;
    let mut rest = given.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let mut sample = Vec::new();
        for (name, dtype, shape) in &ports {
            let len_bytes = shape.iter().product::<usize>() * width(*dtype);
            let (own, after) =
                rest.split_at_checked(len_bytes).ok_or("INPUTS ends within a sample")?;
            rest = after;
            sample.push(NamedTensor::new(name.clone(), shape.clone(), read(*dtype, own))?);
        }
        bare.run(sample)?.iter().for_each(|output| write(output.data(), &mut found));
    }
    std::fs::write(outputs, found)?;
    let plan = desk::bare_plan(&onnx, &limits, || Duration::ZERO)?;
    let arena = plan.programs.iter().map(|program| program.arena_bytes).max().unwrap_or(0);
    let live = plan.programs.iter().filter_map(|program| program.live_bytes_max).max().unwrap_or(0);
    let stays: Vec<&str> = plan.unlowered.iter().map(|node| node.operator.as_str()).collect();
    Ok(format!(
        "programs {} arena {arena} live {live} stays {}",
        plan.programs.len(),
        stays.join(",")
    ))
}

fn width(dtype: DType) -> usize {
    match dtype {
        DType::I8 | DType::U8 => 1,
        DType::F32 | DType::I32 => 4,
        DType::I64 => 8,
    }
}

fn read(dtype: DType, bytes: &[u8]) -> TensorData {
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

fn write(data: &TensorData, bytes: &mut Vec<u8>) {
    match data {
        TensorData::F32(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        TensorData::I8(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        TensorData::U8(values) => bytes.extend(values),
        TensorData::I32(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        TensorData::I64(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
    }
}
