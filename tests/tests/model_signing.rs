//! Model signatures against PyPI `model-signing`, the reference of the OpenSSF: each side believes what
//! the other signed, and neither believes a tree that differs from it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rcgen::KeyPair;
use selvedge_bundle::oms::{Tree, VerifyingKey, verify};
use selvedge_tests::{
    binary::selvedge,
    interop::{outcome, python, run},
    shuttle,
};
use tempfile::TempDir;

#[test]
fn model_signing_believes_what_selvedge_signed() {
    let Some(desk) = Desk::new() else { return };
    let folder = desk.tree.to_str().expect("a path of ours");
    let signature = desk.path("model.sig");
    run(selvedge(), ["sign", folder, "--key", &desk.path("key.pem"), "--out", &signature]);
    desk.both_believe("model.sig");
    // What is published is the bundle: its tree is the one that was extracted.
    let tree = Tree::of(&shuttle::bundle("v1")).expect("layers have names of files");
    let read = |name: &str| fs::read(desk.path(name)).expect("it was just written");
    let key = String::from_utf8(read("public.pem")).expect("PEM is text");
    let key = VerifyingKey::from_pem(&key).expect("a key of P-256");
    verify(&tree, &read("model.sig"), &key).expect("these files were signed");
    // Beside the files that it signs, a signature does not sign itself.
    let signature = desk.path("tree/model.sig");
    run(selvedge(), ["sign", folder, "--key", &desk.path("key.pem"), "--out", &signature]);
    desk.both_believe("tree/model.sig");
}

#[test]
fn selvedge_believes_what_model_signing_signed() {
    let Some(desk) = Desk::new() else { return };
    for signature in ["model.sig", "tree/model.sig"] {
        desk.sign_with_model_signing(signature);
        desk.both_believe(signature);
    }
}

#[test]
fn a_tree_that_differs_from_what_was_signed_fails_on_both_sides() {
    let Some(desk) = Desk::new() else { return };
    let tree = desk.tree.to_str().expect("a path of ours");
    run(
        selvedge(),
        ["sign", tree, "--key", &desk.path("key.pem"), "--out", &desk.path("ours.sig")],
    );
    desk.sign_with_model_signing("theirs.sig");
    let in_tree = |name: &str| desk.tree.join(name);

    for signature in ["ours.sig", "theirs.sig"] {
        fs::write(in_tree("golden/extra.npy"), "smuggled in").expect("can be written");
        desk.both_refuse(signature, "golden/extra.npy");
        fs::remove_file(in_tree("golden/extra.npy")).expect("just written");

        let manifest = fs::read(in_tree("manifest.json")).expect("part of every tree");
        fs::write(in_tree("manifest.json"), "{}").expect("can be written");
        desk.both_refuse(signature, "manifest.json");
        fs::remove_file(in_tree("manifest.json")).expect("just written");
        desk.both_refuse(signature, "manifest.json");
        fs::write(in_tree("manifest.json"), manifest).expect("can be written");

        std::os::unix::fs::symlink("model.onnx", in_tree("link.onnx")).expect("can be made");
        desk.both_refuse(signature, "link.onnx");
        fs::remove_file(in_tree("link.onnx")).expect("just made");

        desk.both_believe(signature);
    }
    desk.write_keys();
    desk.both_refuse("ours.sig", "");
    desk.both_refuse("theirs.sig", "");
}

/// A folder with a bundle's tree, `key.pem` and `public.pem`.
struct Desk {
    folder: TempDir,
    tree: PathBuf,
    python: PathBuf,
}

impl Desk {
    fn new() -> Option<Self> {
        let python = python()?;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (bundle, tree) = (folder.path().join("bundle"), folder.path().join("tree"));
        shuttle::bundle("v1").write(&bundle).expect("the folder is new");
        run(selvedge(), [Path::new("inspect"), &bundle, Path::new("--extract"), &tree]);
        let desk = Self { folder, tree, python };
        desk.write_keys();
        Some(desk)
    }

    /// Makes a new pair of keys.
    fn write_keys(&self) {
        let pair = KeyPair::generate().expect("the system has random bytes");
        for (name, pem) in
            [("key.pem", pair.serialize_pem()), ("public.pem", pair.public_key_pem())]
        {
            fs::write(self.path(name), pem).expect("the folder can be written");
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a path of ours").to_owned()
    }

    fn sign_with_model_signing(&self, signature: &str) {
        let (succeeded, said) = outcome(
            Command::new(&self.python)
                .args(["-m", "model_signing", "sign", "key"])
                .arg(&self.tree)
                .args(["--private_key", &self.path("key.pem")])
                .args(["--signature", &self.path(signature)]),
        );
        assert!(succeeded, "{said}");
    }

    fn both_believe(&self, signature: &str) {
        for (verifier, (succeeded, said)) in self.verdicts(signature) {
            assert!(succeeded, "{verifier} about {signature}: {said}");
        }
    }

    /// Both refuse the tree and name `reason`.
    fn both_refuse(&self, signature: &str, reason: &str) {
        for (verifier, (succeeded, said)) in self.verdicts(signature) {
            assert!(!succeeded, "{verifier} believes {signature} in spite of {reason:?}");
            assert!(said.contains(reason), "{verifier} about {signature}: {said}");
        }
    }

    fn verdicts(&self, signature: &str) -> [(&str, (bool, String)); 2] {
        let (signature, public) = (self.path(signature), self.path("public.pem"));
        let mut ours = Command::new(selvedge());
        ours.arg("sign").arg(&self.tree);
        ours.args(["--verify", &signature, "--public-key", &public]);
        let mut theirs = Command::new(&self.python);
        theirs.args(["-m", "model_signing", "verify", "key"]).arg(&self.tree);
        theirs.args(["--signature", &signature, "--public_key", &public]);
        [("selvedge", outcome(&mut ours)), ("model-signing", outcome(&mut theirs))]
    }
}
