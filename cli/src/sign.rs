//! `selvedge sign`: model signatures (OpenSSF Model Signing v1.0), made and verified with a key of P-256.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use selvedge_bundle::Bundle;
use selvedge_bundle::oms::{
    self, KEY_FILE_BYTES_MAX, SIGNATURE_BYTES_MAX, SigningKey, Tree, VerifyingKey,
};
use selvedge_trust::SystemRandom;
use selvedge_wire::Digest;

use crate::terminal::good;

/// The file of a signature, where no other is named.
const SIGNATURE_FILE: &str = "model.sig";

/// Signs the files of a model, or verifies their signature (OpenSSF Model Signing v1.0)
#[derive(Debug, clap::Args)]
pub struct SignArgs {
    /// The folder with the files, as `selvedge inspect BUNDLE --extract DIR` writes it
    tree: PathBuf,
    /// The private key: P-256, PKCS#8 in PEM
    #[arg(long, value_name = "KEY.pem", required_unless_present = "verify")]
    key: Option<PathBuf>,
    /// Where to put the signature; it is never overwritten
    #[arg(long, value_name = "FILE", default_value = SIGNATURE_FILE)]
    out: PathBuf,
    /// Verify this signature instead
    #[arg(long, value_name = "FILE", requires = "public_key", conflicts_with_all = ["key", "out"])]
    verify: Option<PathBuf>,
    /// The public key that verifies, in PEM
    #[arg(long, value_name = "KEY.pem", requires = "verify")]
    public_key: Option<PathBuf>,
}

/// Runs the command.
pub fn main(args: SignArgs) -> anyhow::Result<ExitCode> {
    match (args.key, args.verify, args.public_key) {
        (Some(key), _, _) => sign(&args.tree, &key, &args.out)?,
        (_, Some(signature), Some(key)) => verify(&args.tree, &signature, &key)?,
        _ => unreachable!("the arguments have a key, or a signature and its public key"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Verifies the model signature that a bundle comes with. The digest is that of the signature's file and
/// belongs into the bundle's signed target.
pub fn verify_bundle(
    bundle: &Bundle,
    signature: &Path,
    public_key: &Path,
) -> anyhow::Result<Digest> {
    verify_tree(&Tree::of(bundle)?, signature, public_key)
}

fn sign(folder: &Path, key: &Path, out: &Path) -> anyhow::Result<()> {
    let random = SystemRandom::new();
    let pem = read_text(key, KEY_FILE_BYTES_MAX)?;
    let key = SigningKey::from_pem(&pem, &random)
        .with_context(|| format!("cannot sign with {}", key.display()))?;
    let tree = read_tree(folder, out)?;
    let root = real(folder)?;
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    let signature = oms::sign(&tree, &name, place_in(&root, out)?.as_deref(), &key, &random)
        .with_context(|| format!("cannot sign {}", folder.display()))?;
    write_new(out, &signature)?;
    println!("signed {} files of {}: {}", tree.len(), folder.display(), out.display());
    Ok(())
}

fn verify(folder: &Path, signature: &Path, key: &Path) -> anyhow::Result<()> {
    let tree = read_tree(folder, signature)?;
    let digest = verify_tree(&tree, signature, key)?;
    println!("{} {} files are as they were signed; signature {digest}", good("ok"), tree.len());
    Ok(())
}

fn verify_tree(tree: &Tree, signature: &Path, public_key: &Path) -> anyhow::Result<Digest> {
    let key = VerifyingKey::from_pem(&read_text(public_key, KEY_FILE_BYTES_MAX)?)
        .with_context(|| format!("cannot verify with {}", public_key.display()))?;
    let bytes = read(signature, SIGNATURE_BYTES_MAX as u64)?;
    oms::verify(tree, &bytes, &key)
        .with_context(|| format!("the model signature {} does not hold", signature.display()))
}

fn read_tree(folder: &Path, without: &Path) -> anyhow::Result<Tree> {
    Tree::read(folder, Some(without)).with_context(|| format!("cannot read {}", folder.display()))
}

/// The path in `root` of a file that is still to be written, if it will lie there.
fn place_in(root: &Path, file: &Path) -> anyhow::Result<Option<String>> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = real(parent.unwrap_or(Path::new(".")))?;
    let name = file.file_name().with_context(|| format!("{} is no file", file.display()))?;
    let place = parent.join(name);
    Ok(place.strip_prefix(root).ok().map(|place| place.to_string_lossy().into_owned()))
}

fn real(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot open {}", path.display()))
}

fn read_text(path: &Path, bytes_max: u64) -> anyhow::Result<String> {
    String::from_utf8(read(path, bytes_max)?)
        .with_context(|| format!("{} is not text", path.display()))
}

fn read(path: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.len() as u64 <= bytes_max, "{} has more than {bytes_max} bytes", path.display());
    Ok(bytes)
}

fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let mut file = File::options().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_signature_inside_the_tree_is_named_by_its_path_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = real(folder.path()).expect("just made");
        fs::create_dir(root.join("below")).expect("can be made");
        let place = |path: &str| place_in(&root, &root.join(path)).expect("its folder is there");
        assert_eq!(place("model.sig").as_deref(), Some("model.sig"));
        assert_eq!(place("below/../below/model.sig").as_deref(), Some("below/model.sig"));
        assert_eq!(place("../model.sig"), None);
        place_in(&root, &root.join("nowhere/model.sig")).expect_err("no such folder");
    }
}
