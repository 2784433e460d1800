//! TLS 1.3 over `ring`, from files.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};

use crate::{Error, TlsFiles};

pub(crate) fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, Error> {
    let roots = roots(&files.ca)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider ring has the cipher suites of TLS 1.3")
        .with_root_certificates(roots);
    let config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| pem(certificate, format!("does not go with its key: {error}")))?,
        (None, None) => builder.with_no_client_auth(),
        (certificate, _) => {
            let setting = if certificate.is_some() { "key" } else { "certificate" };
            let (value, expected) = ("missing".into(), "given together with the other");
            return Err(Error::Setting { setting, value, expected });
        }
    };
    Ok(Arc::new(config))
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| pem(path, format!("a bad certificate: {error}")))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(pem(path, "holds no certificate in PEM".into()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(pem(path, format!("is not PEM: {error}"))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| pem(path, format!("holds no private key in PEM: {error}")))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.into(), source })
}

fn pem(path: &Path, reason: String) -> Error {
    Error::Pem { path: path.into(), reason }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tempfile::TempDir;

    use super::*;

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            Self(TempDir::new().expect("there is room for a folder"))
        }

        fn file(&self, name: &str, content: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, content).expect("there is room for a file");
            path
        }
    }

    fn certified() -> (String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".into()]).expect("the name is well formed");
        (cert.pem(), signing_key.serialize_pem())
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_is_named() {
        let folder = Folder::new();
        let (certificate, key) = certified();
        let (_, other_key) = certified();
        let good = folder.file("good.pem", &certificate);
        let good_key = folder.file("good.key", &key);
        let other = folder.file("other.key", &other_key);
        let empty = folder.file("empty.pem", "");
        let garbage =
            folder.file("garbage.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----");
        let gone = folder.0.path().join("gone.pem");
        let files = |ca: &PathBuf, certificate: Option<&PathBuf>, key: Option<&PathBuf>| TlsFiles {
            ca: ca.clone(),
            certificate: certificate.cloned(),
            key: key.cloned(),
        };
        assert!(client_config(&files(&good, Some(&good), Some(&good_key))).is_ok());
        assert!(client_config(&files(&good, None, None)).is_ok());
        for (files, named) in [
            (files(&gone, None, None), "gone.pem"),
            (files(&empty, None, None), "empty.pem: holds no certificate"),
            (files(&garbage, None, None), "garbage.pem"),
            (files(&good, Some(&gone), Some(&good_key)), "gone.pem"),
            (files(&good, Some(&good), Some(&empty)), "empty.pem: holds no private key"),
            (files(&good, Some(&good), Some(&other)), "good.pem: does not go with its key"),
            (files(&good, Some(&good), None), "key is missing"),
            (files(&good, None, Some(&good_key)), "certificate is missing"),
        ] {
            let error = client_config(&files).expect_err(named).to_string();
            assert!(error.contains(named), "{named}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
