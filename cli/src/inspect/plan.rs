//! `selvedge inspect --plan`: how a model is computed, operation by operation.

use std::time::Instant;

use anyhow::Context;
use selvedge_bundle::Bundle;
use selvedge_runtime::{Limits, OperationSurvey, PlanSurvey, ProgramSurvey, desk};
use serde_json::{Value, json};

use crate::terminal::{bytes, strong};

/// Looks at the model of a bundle.
pub fn survey(bundle: &Bundle) -> anyhow::Result<PlanSurvey> {
    let start = Instant::now();
    let limits = Limits::default();
    let (manifest, onnx, program) = (bundle.manifest(), bundle.model(), bundle.program());
    desk::plan(manifest, onnx, program, &limits, || start.elapsed())
        .context("the model cannot be planned")
}

/// The plan as one JSON object.
pub fn as_json(plan: &PlanSurvey) -> Value {
    let operation = |operation: &OperationSurvey| {
        json!({
            "operation": operation.name,
            "input": operation.input,
            "output": operation.output,
            "macs": operation.macs,
            "moved_bytes": operation.moved_bytes,
            "time_ns": operation.time.as_nanos() as u64,
        })
    };
    let program = |program: &ProgramSurvey| {
        json!({
            "bytes": program.len_bytes,
            "arena_bytes": program.arena_bytes,
            "live_bytes_max": program.live_bytes_max,
            "kernels": program.kernels,
            "operations": program.operations.iter().map(operation).collect::<Vec<_>>(),
        })
    };
    let unlowered = plan
        .unlowered
        .iter()
        .map(|node| json!({"node": node.node, "operator": node.operator, "reason": node.reason}));
    json!({
        "programs": plan.programs.iter().map(program).collect::<Vec<_>>(),
        "unlowered": unlowered.collect::<Vec<_>>(),
    })
}

/// The plan for people.
pub fn print(plan: &PlanSurvey) {
    for (index, program) in plan.programs.iter().enumerate() {
        println!(
            "{}: {}, arena {}, kernels {}",
            strong(&format!("program {}", index + 1)),
            bytes(program.len_bytes as u64),
            bytes(program.arena_bytes as u64),
            program.kernels
        );
        println!(
            "  {:<13}{:>18}{:>18}{:>13}{:>12}{:>11}",
            "operation", "input", "output", "MACs", "bytes", "µs"
        );
        for operation in &program.operations {
            println!(
                "  {:<13}{:>18}{:>18}{:>13}{:>12}{:>11.2}",
                operation.name,
                operation.input.map_or("-".to_owned(), extents),
                extents(operation.output),
                operation.macs,
                operation.moved_bytes,
                operation.time.as_secs_f64() * 1e6
            );
        }
        let macs: u64 = program.operations.iter().map(|operation| operation.macs).sum();
        let moved: usize = program.operations.iter().map(|operation| operation.moved_bytes).sum();
        let time: f64 =
            program.operations.iter().map(|operation| operation.time.as_secs_f64()).sum();
        println!("  {:<13}{:>18}{:>18}{macs:>13}{moved:>12}{:>11.2}", "all", "", "", time * 1e6);
    }
    match plan.unlowered.as_slice() {
        [] => println!("nothing stays in tract"),
        nodes => println!("{} nodes stay in tract:", nodes.len()),
    }
    for node in &plan.unlowered {
        println!("  {} {:?}: {}", node.operator, node.node, node.reason);
    }
}

fn extents([height, width, channels]: [u32; 3]) -> String {
    format!("{height}×{width}×{channels}")
}
