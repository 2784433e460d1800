//! Merged counts for other programs: a table, and Apache's KLL sketch.

use std::fmt::Write;

use selvedge_sketch::{KLL_K_DEFAULT, Kll200};

use super::{CellKind, CellView, DriftView, StreamKind, StreamView};
use crate::Error;

/// The coin of the exported sketches: equal counts give equal bytes.
const KLL_SEED: u32 = 1;

/// The cells of all streams as CSV (RFC 4180), with a header that names the columns.
pub fn to_csv(view: &DriftView) -> String {
    let mut csv = String::from(
        "bundle,stream,stream_kind,cell,cell_kind,low,high,label,reference,reference_share,now,\
         now_share\r\n",
    );
    for stream in &view.streams {
        for (index, cell) in stream.cells.iter().enumerate() {
            let kind = match stream.kind {
                StreamKind::Feature => "feature",
                StreamKind::Class => "class",
                StreamKind::Confidence => "confidence",
            };
            let number = |number: Option<f64>| number.map(|it| it.to_string()).unwrap_or_default();
            let label = quoted(cell.label.as_deref().unwrap_or_default());
            writeln!(
                csv,
                "{},{},{kind},{index},{},{},{},{label},{},{},{},{}\r",
                view.bundle,
                quoted(&stream.name),
                cell_kind(cell.kind),
                number(cell.low),
                number(cell.high),
                cell.reference,
                cell.reference_share,
                cell.now,
                cell.now_share,
            )
            .expect("a string takes all that is written");
        }
    }
    csv
}

const fn cell_kind(kind: CellKind) -> &'static str {
    match kind {
        CellKind::Below => "below",
        CellKind::Bin => "bin",
        CellKind::Above => "above",
        CellKind::NotFinite => "not-finite",
        CellKind::Class => "class",
    }
}

/// A field, quoted where it must be.
fn quoted(text: &str) -> String {
    let plain = !text.contains(['"', ',', '\r', '\n']);
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// The values of a stream now, as Apache's KLL sketch of floats (k = 200) in its compact form.
///
/// It is approximate: of the values only the bins are known. Each enters as the middle of its bin, what is beyond
/// the reference as the end of it; what is not finite is left out. Ranks at the edges of bins are as exact as
/// KLL is, between them they are not.
///
/// # Errors
/// [`Error::Refused`] where the stream has no order, or too many values.
pub fn kll(stream: &StreamView) -> Result<Vec<u8>, Error> {
    if stream.kind == StreamKind::Class {
        let name = &stream.name;
        return Err(Error::Refused(format!("{name} has no order, so it has no KLL sketch")));
    }
    let too_many = |_| Error::Refused(format!("{} has more values than KLL takes", stream.name));
    let empty =
        || Kll200::new(KLL_K_DEFAULT, KLL_SEED).expect("there is room for a sketch of that k");
    let mut sketch = empty();
    for cell in &stream.cells {
        let Some(value) = value_of(cell) else { continue };
        // The count in binary: a sketch of 2ⁿ equal values is made by merging one with itself.
        let mut power = empty();
        power.update(value);
        let mut rest = cell.now;
        while rest > 0 {
            if rest % 2 == 1 {
                sketch.merge(&power).map_err(too_many)?;
            }
            rest /= 2;
            if rest > 0 {
                let same = power.clone();
                power.merge(&same).map_err(too_many)?;
            }
        }
    }
    let mut buffer = vec![0; Kll200::ENCODED_BYTES_MAX];
    let bytes = sketch.encode(&mut buffer).expect("the buffer holds every sketch");
    Ok(bytes.to_vec())
}

fn value_of(cell: &CellView) -> Option<f32> {
    let value = match cell.kind {
        CellKind::Below => cell.high?,
        CellKind::Above => cell.low?,
        CellKind::Bin => f64::midpoint(cell.low?, cell.high?),
        CellKind::NotFinite | CellKind::Class => return None,
    };
    Some(value as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(counts: &[u32]) -> StreamView {
        let bin = |(index, &now): (usize, &u32)| CellView {
            kind: CellKind::Bin,
            low: Some(index as f64),
            high: Some(index as f64 + 1.0),
            label: None,
            reference: 0,
            reference_share: 0.0,
            now,
            now_share: 0.0,
        };
        StreamView {
            name: "flow, \"main\"".into(),
            kind: StreamKind::Feature,
            state: "steady",
            uncalibrated: false,
            evidence_nats: None,
            finding: None,
            cells: counts.iter().enumerate().map(bin).collect(),
            reference_total: 0,
            now_total: counts.iter().map(|&count| u64::from(count)).sum(),
            statistics: None,
            moments: None,
            site: None,
        }
    }

    #[test]
    fn a_sketch_of_bins_has_their_count_and_their_ranks() {
        let counts = [100, 0, 3000, 70_000, 1, 26_899];
        let stream = stream(&counts);
        let bytes = kll(&stream).expect("a feature has an order");
        let sketch = Kll200::decode(&bytes, 1).expect("it is Apache's form");
        assert_eq!(sketch.count(), stream.now_total);
        let mut below = 0;
        for (bin, count) in counts.iter().enumerate() {
            below += u64::from(*count);
            let exact = below as f64 / stream.now_total as f64;
            let rank = sketch.rank(bin as f32 + 0.75).expect("there are values");
            assert!((rank - exact).abs() <= 0.0133, "bin {bin}: {rank} for {exact}");
        }
        assert_eq!(bytes, kll(&stream).expect("likewise"), "equal counts give equal bytes");
        let nothing = kll(&self::stream(&[0, 0])).expect("a feature has an order");
        assert_eq!(Kll200::decode(&nothing, 1).expect("it is Apache's form").count(), 0);
    }

    #[test]
    fn classes_have_no_sketch() {
        let classes = StreamView { kind: StreamKind::Class, ..stream(&[1, 2]) };
        let error = kll(&classes).expect_err("classes have no order");
        assert!(error.to_string().contains("has no order"), "{error}");
    }

    #[test]
    fn names_with_commas_and_quotes_stay_one_field() {
        assert_eq!(quoted("flow, \"main\""), "\"flow, \"\"main\"\"\"");
        assert_eq!(quoted("flow"), "flow");
    }
}
