//! A client of a repository that answers whatever the fuzzer wants.
//!
//! The input is a list of documents between zero bytes. A document that is pushed as a timestamp begins a
//! refresh, an empty one begins a refresh that asks for everything; the documents behind it are the
//! answers, an empty one is *not found*. What the client believes in the end must read back as it is,
//! and no root or timestamp may have gone back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_trust::{
    Answer, BundleTarget, Error, Limits, MetadataState, Next, Refresh, Repository, RoleName,
    TrustedMetadata,
};
use selvedge_trust_fuzz::{NOW, TARGET_PATH, document, signed_root};

/// How many refreshes one input is worth.
const REFRESHES_MAX: usize = 4;

fuzz_target!(|input: &[u8]| {
    let mut client = Client {
        documents: input.split(|byte| *byte == 0).collect::<Vec<_>>().into_iter(),
        trusted: TrustedMetadata::new([(RoleName::root(), signed_root().to_vec())]),
    };
    let mut before = client.trusted.state();
    for _ in 0..REFRESHES_MAX {
        let Some(outcome) = client.refresh() else { break };
        let after = client.trusted.state();
        check_nothing_went_back(before, after);
        before = after;
        if let Ok(repository) = outcome {
            client.search(&repository);
        }
    }
    client.check_reads_back();
});

struct Client<'a> {
    documents: std::vec::IntoIter<&'a [u8]>,
    trusted: TrustedMetadata,
}

impl Client<'_> {
    /// Nothing at the end of the input.
    fn refresh(&mut self) -> Option<Result<Repository, Error>> {
        let next = match self.documents.next()? {
            b"" => Refresh::start(&self.trusted, NOW, Limits::DEVICE).map(Next::Fetch),
            pushed => {
                let timestamp = document(pushed);
                Refresh::pushed(timestamp, &mut self.trusted, NOW, Limits::DEVICE)
            }
        };
        let mut next = match next {
            Ok(next) => next,
            Err(error) => return Some(Err(error)),
        };
        loop {
            match next {
                Next::Done(repository) => return Some(Ok(repository)),
                Next::Fetch(refresh) => {
                    assert!(refresh.request().max_bytes <= Limits::DEVICE.targets_bytes as u64);
                    let answer = self.answer()?;
                    match refresh.answer(answer, &mut self.trusted) {
                        Ok(after) => next = after,
                        Err(error) => return Some(Err(error)),
                    }
                }
            }
        }
    }

    fn search(&mut self, repository: &Repository) {
        let Ok(mut next) = repository.search(TARGET_PATH, &self.trusted) else { return };
        loop {
            match next {
                Next::Done(None) => return,
                Next::Done(Some(file)) => {
                    if let Ok(target) = BundleTarget::read(&file) {
                        assert_eq!(target.path(), TARGET_PATH);
                    }
                    return;
                }
                Next::Fetch(search) => {
                    let Some(answer) = self.answer() else { return };
                    let Ok(after) = search.answer(answer, &mut self.trusted) else { return };
                    next = after;
                }
            }
        }
    }

    fn answer(&mut self) -> Option<Answer> {
        Some(match self.documents.next()? {
            b"" => Answer::NotFound,
            found => Answer::Found(document(found)),
        })
    }

    fn check_reads_back(&self) {
        let files = self.trusted.files().map(|(role, bytes)| (role.clone(), bytes.to_vec()));
        let again = TrustedMetadata::new(files);
        assert_eq!(again.state(), self.trusted.state());
        Refresh::start(&again, NOW, Limits::DEVICE)
            .expect("a root that was believed is believed again");
    }
}

fn check_nothing_went_back(before: MetadataState, after: MetadataState) {
    assert!(after.root_version >= before.root_version);
    // Only a root can make a client forget.
    assert!(
        after.timestamp_version >= before.timestamp_version
            || after.root_version > before.root_version
    );
}
