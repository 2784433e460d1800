//! A certificate authority for one test, and what it signs, as PEM files in a folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate authority with its files in a folder.
#[derive(Debug)]
pub struct CertificateAuthority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The certificate, in PEM.
    pub certificate: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
}

impl CertificateAuthority {
    /// Makes a new authority, whose certificate is `ca.pem` in `folder`.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn new(folder: &Path) -> Self {
        // Authorities of one name would be told apart by their signatures alone.
        let mut params = params(&format!("authority of {}", folder.display()), &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = new_key();
        let certificate = params.self_signed(&key).expect("the parameters are well formed");
        write(&folder.join("ca.pem"), &certificate.pem());
        Self { folder: folder.into(), issuer: Issuer::new(params, key) }
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Signs a certificate for a server on this machine: `localhost` and `127.0.0.1`.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn sign_server(&self, file_stem: &str) -> CertificateFiles {
        let mut params = params("localhost", &["localhost", "127.0.0.1"]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file_stem, &params)
    }

    /// Signs a certificate for a client of that name.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn sign_client(&self, name: &str) -> CertificateFiles {
        let mut params = params(name, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, &params)
    }

    fn sign(&self, file_stem: &str, params: &CertificateParams) -> CertificateFiles {
        let key = new_key();
        let certificate =
            params.signed_by(&key, &self.issuer).expect("the parameters are well formed");
        let files = CertificateFiles {
            certificate: self.folder.join(format!("{file_stem}.pem")),
            key: self.folder.join(format!("{file_stem}.key")),
        };
        write(&files.certificate, &certificate.pem());
        write(&files.key, &key.serialize_pem());
        files
    }
}

fn params(common_name: &str, alternative_names: &[&str]) -> CertificateParams {
    let names: Vec<String> = alternative_names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("the names are well formed");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the system has random bytes")
}

fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
