//! `selvedge bench drift`: how often drift is claimed wrongly, how long it takes to be found, and what that costs.
//!
//! Every stream comes from the seed that is given: another seed, other streams, the same bounds. B1 to B9 are the
//! rows of `docs/drift.md`, which holds what was measured. Times are only compared with those of a peer in the same run;
//! a time alone has no bound, since machines differ.

mod accuracy;
mod corruptions;
mod costs;
mod delays;
mod digits;
mod false_alarms;
mod faults;
mod fleet;
mod images;
mod laws;
mod shares;
mod shuttle;
mod sketches;
mod streams;
mod windows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::demo::find_models;
use crate::terminal::{bad, good, progress};

/// Measures how well drift is found: prints a row for each claim, and fails if one does not hold
#[derive(Debug, clap::Args)]
pub struct DriftArgs {
    /// Where the random streams begin
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// The recipes with the digits and the Shuttle data, if not those of the clone this was built in
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Only write streams as .npy into this new folder, and what was found in them, to set peers beside it
    #[arg(long, value_name = "DIR")]
    streams: Option<PathBuf>,
    /// A twentieth of everything: whether it runs, not what comes out
    #[arg(long, hide = true)]
    quick: bool,
}

/// Runs the command.
pub fn main(args: DriftArgs) -> anyhow::Result<ExitCode> {
    if cfg!(debug_assertions) {
        eprintln!("this build is not optimised: what it says of costs means nothing");
    }
    let effort = Effort { divisor: if args.quick { 20 } else { 1 } };
    if let Some(folder) = &args.streams {
        streams::export(folder, args.seed, effort)?;
        return Ok(ExitCode::SUCCESS);
    }
    let models = find_models(args.models.as_deref())?;
    let rows = rows(args.seed, effort, &models)?;
    if args.json {
        let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
        println!("{}", json!({"seed": args.seed, "rows": rows}));
    } else {
        print(&rows);
    }
    let passed = rows.iter().all(Row::pass);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured, and its unit.
    pub name: String,
    /// What came out.
    pub value: f64,
    /// What may come out.
    pub bound: Bound,
}

/// What a value is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Nothing: it is only told.
    Open,
}

impl Row {
    fn at_most(name: impl Into<String>, value: f64, bound: f64) -> Self {
        Self { name: name.into(), value, bound: Bound::AtMost(bound) }
    }

    fn at_least(name: impl Into<String>, value: f64, bound: f64) -> Self {
        Self { name: name.into(), value, bound: Bound::AtLeast(bound) }
    }

    fn open(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, bound: Bound::Open }
    }

    /// Whether the value is within its bound.
    pub fn pass(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.value <= bound,
            Bound::AtLeast(bound) => self.value >= bound,
            Bound::Open => true,
        }
    }

    fn bound_text(&self) -> Option<String> {
        match self.bound {
            Bound::AtMost(bound) => Some(format!("<= {}", rounded(bound))),
            Bound::AtLeast(bound) => Some(format!(">= {}", rounded(bound))),
            Bound::Open => None,
        }
    }

    fn to_json(&self) -> Value {
        let (name, value) = (&self.name, self.value);
        json!({"name": name, "value": value, "bound": self.bound_text(), "pass": self.pass()})
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    divisor: usize,
}

impl Effort {
    /// How many of `count` are.
    pub fn of(self, count: usize) -> usize {
        count.div_ceil(self.divisor)
    }
}

type Part<'a> = Box<dyn Fn(Effort, &mut Rng) -> anyhow::Result<Vec<Row>> + 'a>;

/// Measures every row.
fn rows(seed: u64, effort: Effort, models: &Path) -> anyhow::Result<Vec<Row>> {
    let parts: [Part<'_>; 10] = [
        Box::new(|effort, random| Ok(false_alarms::rows(effort, random))),
        Box::new(|effort, random| Ok(delays::rows(effort, random))),
        Box::new(|effort, random| Ok(costs::rows(effort, random))),
        Box::new(|effort, random| Ok(laws::rows(effort, random))),
        Box::new(|effort, random| Ok(sketches::rows(effort, random))),
        Box::new(|effort, random| digits::rows(models, effort, random)),
        Box::new(|effort, random| shuttle::rows(models, effort, random)),
        Box::new(|effort, random| Ok(fleet::rows(effort, random))),
        Box::new(|effort, random| Ok(faults::rows(effort, random))),
        Box::new(|effort, _| shares::rows(models, effort)),
    ];
    let mut random = Rng::with_seed(seed);
    let bar = progress(parts.len(), "measuring");
    let mut rows = Vec::new();
    for part in parts {
        // Each part has a generator of its own, so that a longer one does not change the next.
        rows.extend(part(effort, &mut random.fork())?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}

/// To four places, in words as short as they can be.
fn rounded(bound: f64) -> f64 {
    (bound * 1e4).round() / 1e4
}

fn print(rows: &[Row]) {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    println!("{:<width$}  {:>9}  {:>8}  pass", "name", "value", "bound");
    for row in rows {
        let bound = row.bound_text().unwrap_or_default();
        let digits = if row.value.abs() < 10.0 { 4 } else { 1 };
        let name = &row.name;
        print!("{name:<width$}  {:>9.digits$}  {bound:>8}  ", row.value);
        match (row.bound, row.pass()) {
            (Bound::Open, _) => println!(),
            (_, true) => println!("{}", good("yes")),
            (_, false) => println!("{}", bad("no")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_its_bound_passes_and_no_number_does_not() {
        assert!(Row::at_most("a", 1.0, 1.0).pass() && Row::at_least("b", 1.0, 1.0).pass());
        assert!(!Row::at_most("c", f64::NAN, 1.0).pass() && !Row::at_least("d", 0.9, 1.0).pass());
        assert!(Row::open("e", f64::NAN).pass());
        let json = Row::at_least("b", 0.5, 1.0).to_json();
        let expected = json!({"name": "b", "value": 0.5, "bound": ">= 1", "pass": false});
        assert_eq!(json, expected);
    }
}
