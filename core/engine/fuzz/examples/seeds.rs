//! Writes the seeds of the corpus: `cargo run --example seeds`.

use std::{fs, path::Path};

#[path = "../../tests/small/mod.rs"]
mod small;

fn main() {
    for (index, program) in small::programs().iter().enumerate() {
        write("programs", &format!("small-{index}"), program);
    }
    write("operations", "zeros", &[0; 256]);
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("the corpus can be written");
    fs::write(folder.join(name), bytes).expect("the corpus can be written");
}
