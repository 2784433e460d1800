//! The names of a repository's files, and the one message that each must fit into.

use selvedge_wire::{Chunk, ChunkCodec, FileName, PAYLOAD_BYTES_MAX, encode};

use crate::{Error, RoleName};

/// The longest name of a role that is delegated to, in bytes: with a version before it and `.json` after
/// it, it still is the name of a file.
pub const DELEGATED_ROLE_BYTES_MAX: usize = 40;

/// How hard metadata is compressed: it is done once, and read by every device.
const ZSTD_LEVEL: i32 = 15;

/// The name of a file with the metadata of `role`; the timestamp's has no version.
pub(crate) fn file_name(role: &RoleName, version: u64) -> String {
    role.remote_file_name((*role != RoleName::timestamp()).then_some(version))
}

/// The role and the version that a file's name tells, if it is one of a repository.
pub(crate) fn parse_file_name(name: &str) -> Option<(RoleName, u64)> {
    if name == file_name(&RoleName::timestamp(), 0) {
        return Some((RoleName::timestamp(), 0));
    }
    let (version, file) = name.split_once('.')?;
    let (role, version) = (RoleName::from_file_name(file)?, version.parse().ok()?);
    (file_name(&role, version) == name).then_some((role, version))
}

/// The file `name` as devices are sent it: the content of a retained message.
///
/// # Errors
/// [`Error::FileTooLong`] if it does not fit into one message, however it is compressed;
/// [`Error::FileNamed`] if no topic can be called after it.
pub fn metadata_chunk(name: &str, bytes: &[u8]) -> Result<Chunk, Error> {
    name.parse::<FileName>().map_err(|_| Error::FileNamed { file: name.into() })?;
    let compressed = zstd::bulk::compress(bytes, ZSTD_LEVEL)
        .expect("compression into memory fails at no level that there is");
    let chunk = if compressed.len() < bytes.len() {
        Chunk { codec: ChunkCodec::Zstd, bytes: compressed }
    } else {
        Chunk { codec: ChunkCodec::Raw, bytes: bytes.into() }
    };
    let len_bytes = encode(&chunk).len();
    if len_bytes > PAYLOAD_BYTES_MAX {
        return Err(Error::FileTooLong {
            file: name.into(),
            len_bytes,
            max_bytes: PAYLOAD_BYTES_MAX,
        });
    }
    Ok(chunk)
}

/// Whether a role may be delegated to by this name: it stands in topics and in file names.
pub(crate) fn check_delegated_name(role: &RoleName) -> Result<(), String> {
    let good = role.as_str().len() <= DELEGATED_ROLE_BYTES_MAX
        && role.as_str().parse::<FileName>().is_ok()
        && !role.is_top_level();
    if good {
        return Ok(());
    }
    Err(format!(
        "{role:?} cannot be delegated to: a role's name is 1 to {DELEGATED_ROLE_BYTES_MAX} of a-z, 0-9, \
         '.', '_' and '-', begins with a letter or digit, and is not a top-level role's"
    ))
}

#[cfg(test)]
mod tests {
    use ring::digest::{SHA256, digest};

    use super::*;

    #[test]
    fn file_names_tell_role_and_version() {
        for (name, role, version) in [
            ("timestamp.json", "timestamp", 0),
            ("1.root.json", "root", 1),
            ("12.snapshot.json", "snapshot", 12),
            ("7.team-a.json", "team-a", 7),
            ("7.8.x.json", "8.x", 7),
        ] {
            let (read, met) = parse_file_name(name).expect(name);
            assert_eq!((read.as_str(), met), (role, version), "{name}");
        }
        for name in
            ["", "root.json", "1.timestamp.json", "01.root.json", "+1.root.json", "1.root", "x.y"]
        {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_file_that_does_not_fit_into_a_message_is_refused() {
        let chunk = metadata_chunk("1.a.json", &vec![b'a'; 400_000]).expect("it compresses well");
        assert_eq!(chunk.codec, ChunkCodec::Zstd);
        let raw = metadata_chunk("1.a.json", b"{}").expect("it is short");
        assert_eq!((raw.codec, &raw.bytes[..]), (ChunkCodec::Raw, &b"{}"[..]));
        let error = metadata_chunk("1.a.json", &noise(PAYLOAD_BYTES_MAX)).expect_err("it does not");
        assert!(matches!(error, Error::FileTooLong { .. }), "{error}");
        let error = metadata_chunk("1.A.json", b"{}").expect_err("no topic is called so");
        assert!(matches!(error, Error::FileNamed { .. }), "{error}");
    }

    /// Bytes that do not compress: a chain of digests.
    fn noise(len_bytes: usize) -> Vec<u8> {
        let (mut out, mut last) = (Vec::new(), digest(&SHA256, b"seed"));
        while out.len() < len_bytes {
            out.extend(last.as_ref());
            last = digest(&SHA256, last.as_ref());
        }
        out
    }
}
