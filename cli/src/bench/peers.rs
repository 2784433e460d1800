//! A model in this runtime and in others, in turn.
//!
//! Each measurement is a process of its own, so that memory is its own, and one after the other within a round, so that
//! what else the machine does meets all of them. Compared are medians over the rounds: a ratio says more than either of
//! its sides, and one under 1.3 from a single round says nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use super::model::{Measured, ModelArgs};
use super::rounded;
use crate::terminal::progress;

/// Measures another runtime; Python reads it from the command line.
const PEER: &str = include_str!("peer.py");

/// One runtime that takes its turn.
struct Contender {
    /// What it is called until it says so itself.
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    found: Vec<Measured>,
    /// Why it takes no part.
    absent: Option<String>,
}

/// A runtime in the report.
#[derive(Serialize)]
struct Row {
    runtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    figures: Option<Figures>,
}

/// Medians over the rounds.
#[derive(Serialize)]
struct Figures {
    cpu_us_p10: f64,
    /// Its CPU time as a multiple of the first row's.
    ratio: f64,
    load_ms: f64,
    peak_rss_mb: f64,
}

/// Runs the command.
pub fn main(args: &ModelArgs, path: &Path, onnx: &[u8]) -> anyhow::Result<ExitCode> {
    let mut file = tempfile::Builder::new()
        .suffix(".onnx")
        .tempfile()
        .context("cannot make a temporary file")?;
    file.write_all(onnx).context("cannot write a temporary file")?;
    let mut contenders = contenders(args, file.path())?;
    let turns = contenders.len() * args.rounds as usize;
    let bar = progress(turns, "measuring (turns)");
    for _ in 0..args.rounds {
        for contender in &mut contenders {
            contender.take_turn()?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let rows = rows(&contenders)?;
    if args.json {
        let report = serde_json::json!({ "model": path, "rounds": args.rounds, "runtimes": rows });
        println!("{report}");
    } else {
        print_table(path, args.rounds, &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn contenders(args: &ModelArgs, onnx: &Path) -> anyhow::Result<Vec<Contender>> {
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let (seconds, seed) = (args.seconds.to_string(), args.seed.to_string());
    let contender = |name, program: &Path, arguments: Vec<String>| Contender {
        name,
        program: program.to_owned(),
        arguments,
        found: Vec::new(),
        absent: None,
    };
    let ours = |runtime: &str| {
        let model = onnx.display().to_string();
        let words = [
            "bench",
            &model,
            "--json",
            "--runtime",
            runtime,
            "--seconds",
            &seconds,
            "--seed",
            &seed,
        ];
        words.map(str::to_owned).to_vec()
    };
    let theirs = |model: &Path| {
        ["-c", PEER, &model.display().to_string(), &seconds, &seed].map(str::to_owned).to_vec()
    };
    let mut all = vec![
        contender("selvedge", &this, ours("selvedge")),
        contender("tract alone", &this, ours("tract")),
        contender("onnxruntime", &args.python, theirs(onnx)),
    ];
    if let Some(tflite) = &args.tflite {
        all.push(contender("LiteRT", &args.python, theirs(tflite)));
    }
    Ok(all)
}

impl Contender {
    fn take_turn(&mut self) -> anyhow::Result<()> {
        if self.absent.is_some() {
            return Ok(());
        }
        let output = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            self.absent =
                Some(text.trim().lines().last().unwrap_or("it failed without a word").to_owned());
            return Ok(());
        }
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{} printed something that is not JSON", self.name))?;
        match report.get("missing") {
            Some(module) => {
                self.absent = Some(format!("the Python module {module} is not installed"))
            }
            None => {
                self.found.push(serde_json::from_value(report).context("a report lacks a figure")?)
            }
        }
        Ok(())
    }

    fn median(&self, figure: impl Fn(&Measured) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.found.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    }
}

fn rows(contenders: &[Contender]) -> anyhow::Result<Vec<Row>> {
    let first = match contenders.first() {
        Some(Contender { absent: Some(reason), .. }) => {
            bail!("the model cannot run here: {reason}")
        }
        Some(first) => first.median(|measured| measured.cpu_us_p10),
        None => bail!("there is nothing to measure"),
    };
    let row = |contender: &Contender| Row {
        runtime: contender
            .found
            .first()
            .map_or(contender.name, |measured| &measured.runtime)
            .to_owned(),
        absent: contender.absent.clone(),
        figures: contender.absent.is_none().then(|| {
            let cpu_us_p10 = contender.median(|measured| measured.cpu_us_p10);
            Figures {
                cpu_us_p10: rounded(cpu_us_p10),
                ratio: rounded(cpu_us_p10 / first),
                load_ms: rounded(contender.median(|measured| measured.load_ms)),
                peak_rss_mb: rounded(contender.median(|measured| measured.peak_rss_mb)),
            }
        }),
    };
    Ok(contenders.iter().map(row).collect())
}

fn print_table(path: &Path, rounds: u32, rows: &[Row]) {
    println!("{}, medians of {rounds} rounds, one thread", path.display());
    println!(
        "  {:28} {:>12} {:>7} {:>10} {:>10}",
        "runtime", "CPU µs (p10)", "ratio", "load ms", "peak MB"
    );
    for row in rows {
        match (&row.figures, &row.absent) {
            (Some(found), _) => println!(
                "  {:28} {:12.2} {:7.2} {:10.2} {:10.1}",
                row.runtime, found.cpu_us_p10, found.ratio, found.load_ms, found.peak_rss_mb
            ),
            (None, reason) => {
                println!("  {:28} {}", row.runtime, reason.as_deref().unwrap_or("not measured"))
            }
        }
    }
}
