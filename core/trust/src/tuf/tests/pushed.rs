//! Timestamps that are pushed, by the repository or by who owns the broker.

use super::*;

/// A repository whose timestamps say when and under which root they were signed.
fn hinting() -> Server {
    let mut server = Server::new();
    server.with_hashes = true;
    server.delegate("targets", "team", &["team/*"], false);
    server.document_mut("team")["targets"] = json!({ "team/x": target(b"x") });
    server.publish_all(&["team", "targets"]);
    server
}

impl Server {
    /// Serves the next versions of documents and of all that names them.
    fn publish_all(&mut self, names: &[&str]) {
        self.publish(names);
        self.publish(&["snapshot"]);
        let root_version = self.documents["root"]["version"].clone();
        let timestamp = self.document_mut("timestamp");
        timestamp["root_version"] = root_version;
        timestamp["issued"] = json!(NOW);
        self.publish(&["timestamp"]);
    }

    /// Gives the holders of the online roles a new key.
    fn rotate_online_key(&mut self) {
        for role in ["timestamp", "snapshot"] {
            self.signers.insert(role.into(), vec![new_key()]);
        }
        self.name_keys();
    }

    fn timestamp(&self) -> Vec<u8> {
        self.files["timestamp.json"].clone()
    }

    /// The timestamp with a change, signed by `signers`.
    fn changed_timestamp(&self, signers: &str, change: impl Fn(&mut Value)) -> Vec<u8> {
        let mut document = self.documents["timestamp"].clone();
        change(&mut document);
        sign_document(&document, &self.signers[signers].iter().collect::<Vec<_>>())
    }

    fn push_within(
        &mut self,
        timestamp: Vec<u8>,
        trusted: &mut TrustedMetadata,
        now: UnixMillis,
        limits: Limits,
    ) -> Result<Repository, Error> {
        let mut next = Refresh::pushed(timestamp, trusted, now, limits)?;
        loop {
            match next {
                Next::Done(repository) => return Ok(repository),
                Next::Fetch(refresh) => {
                    let answer = self.fetch(&refresh.request());
                    next = refresh.answer(answer, trusted)?;
                }
            }
        }
    }

    fn push(
        &mut self,
        timestamp: Vec<u8>,
        trusted: &mut TrustedMetadata,
    ) -> Result<Repository, Error> {
        self.push_within(timestamp, trusted, NOW, Limits::DEVICE)
    }

    /// A device that has everything.
    fn device(&mut self) -> TrustedMetadata {
        let mut trusted = self.first_root();
        let repository = self.push(self.timestamp(), &mut trusted).expect("it is sound");
        let mut next = repository.search("team/x", &trusted).expect("the way is sound");
        while let Next::Fetch(search) = next {
            let answer = self.fetch(&search.request());
            next = search.answer(answer, &mut trusted).expect("the role is sound");
        }
        trusted.take_changes();
        self.asked.clear();
        trusted
    }

    /// Pushes what an attacker made: it must be refused as `expected` and change nothing.
    fn refuses(
        &mut self,
        timestamp: Vec<u8>,
        trusted: &mut TrustedMetadata,
        expected: impl Fn(&Error) -> bool,
    ) {
        let before = trusted.clone();
        let error = self.push(timestamp, trusted).expect_err("the repository is not sound");
        assert!(expected(&error), "{}", told(&error));
        assert_eq!(error.kind(), ErrorKind::Peer);
        assert_eq!(*trusted, before);
    }
}

fn refused_as(error: &Error, file: &str, expected: impl Fn(&Error) -> bool) -> bool {
    matches!(error, Error::Refused { file: met, source } if met == file && expected(source))
}

fn versions(trusted: &TrustedMetadata) -> [u64; 5] {
    ["root", "timestamp", "snapshot", "targets", "team"]
        .map(|role| version(trusted, role).unwrap_or_default())
}

#[test]
fn a_repository_is_taken_over_without_a_question_for_the_next_root() {
    let mut server = hinting();
    let mut trusted = server.first_root();
    server.push(server.timestamp(), &mut trusted).expect("the repository is sound");
    assert_eq!(server.asked, ["2.snapshot.json", "2.targets.json"]);
    assert_eq!(versions(&trusted), [1, 2, 2, 2, 0]);
}

#[test]
fn an_unchanged_repository_costs_one_message() {
    let mut server = hinting();
    let mut trusted = server.device();
    let Ok(Next::Done(repository)) =
        Refresh::pushed(server.timestamp(), &mut trusted, NOW, Limits::DEVICE)
    else {
        panic!("everything is trusted already")
    };
    let Ok(Next::Done(Some(_))) = repository.search("team/x", &trusted) else {
        panic!("the delegated role is trusted already")
    };
    server.publish(&["timestamp"]);
    let next = Refresh::pushed(server.timestamp(), &mut trusted, NOW, Limits::DEVICE);
    assert!(matches!(next, Ok(Next::Done(_))), "only the timestamp is newer");
    assert_eq!(trusted.take_changes(), [RoleName::timestamp()]);
}

#[test]
fn a_hint_leads_through_all_roots_up_to_it_and_no_further() {
    let mut server = hinting();
    let mut trusted = server.device();
    server.publish(&["root"]);
    server.rotate_online_key();
    server.publish(&["root"]);
    server.publish_all(&[]);
    server.publish(&["root"]);
    server.push(server.timestamp(), &mut trusted).expect("the repository is sound");
    assert_eq!(server.asked, ["2.root.json", "3.root.json", "3.snapshot.json"]);
    assert_eq!(versions(&trusted), [3, 3, 3, 2, 2]);
}

#[test]
fn the_state_is_what_the_metadata_says_and_forgotten_with_it() {
    let mut server = hinting();
    assert_eq!(TrustedMetadata::default().state(), MetadataState::default());
    let mut trusted = server.first_root();
    let only_root = MetadataState { root_version: 1, ..MetadataState::default() };
    assert_eq!(trusted.state(), only_root);
    let expires = NOW.plus_seconds(60);
    server.document_mut("timestamp")["expires"] = json!(expires);
    server.publish_all(&[]);
    server.push(server.timestamp(), &mut trusted).expect("the repository is sound");
    let state = MetadataState {
        root_version: 1,
        timestamp_version: 3,
        fresh_until: expires,
        timestamp_fresh_until: expires,
        issued: NOW,
    };
    assert_eq!(trusted.state(), state);
    server.rotate_online_key();
    server.publish(&["root"]);
    let hint = |timestamp: &mut Value| timestamp["root_version"] = json!(2);
    let forged = server.changed_timestamp("targets", hint);
    server.push(forged, &mut trusted).expect_err("the timestamp is forged, its hint is not");
    assert_eq!(trusted.state(), MetadataState { root_version: 2, ..only_root });
}

#[test]
fn a_forged_timestamp_changes_nothing() {
    let mut server = hinting();
    let mut trusted = server.device();
    server.signers.insert("stranger".into(), vec![new_key()]);
    let newer = |timestamp: &mut Value| timestamp["version"] = json!(100);
    let forged = server.changed_timestamp("stranger", newer);
    server.refuses(forged, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| {
            matches!(error, Error::Threshold { role: Role::Timestamp, valid: 0, .. })
        })
    });
    let forged = server.changed_timestamp("targets", newer);
    server.refuses(forged, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| {
            matches!(error, Error::WrongRole { signed_by: Role::Targets, .. })
        })
    });
    assert_eq!(server.asked, [""; 0]);
}

#[test]
fn a_timestamp_that_is_too_long_or_no_timestamp_changes_nothing() {
    let mut server = hinting();
    let mut trusted = server.device();
    let long = vec![b'['; TIMESTAMP_BYTES_MAX + 1];
    server.refuses(long, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| matches!(error, Error::TooLong { .. }))
    });
    let nested = vec![b'['; TIMESTAMP_BYTES_MAX];
    server.refuses(nested, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| matches!(error, Error::Malformed { .. }))
    });
    let snapshot = server.files["snapshot.json"].clone();
    server.refuses(snapshot, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| matches!(error, Error::OtherType { .. }))
    });
    assert_eq!(server.asked, [""; 0]);
}

#[test]
fn a_hint_that_lies_high_costs_one_request_whoever_signed_it() {
    let mut server = hinting();
    let mut trusted = server.device();
    for signers in ["timestamp", "targets"] {
        for hint in [2, u64::MAX] {
            let lie = |timestamp: &mut Value| timestamp["root_version"] = json!(hint);
            let forged = server.changed_timestamp(signers, lie);
            server.refuses(
                forged,
                &mut trusted,
                |error| matches!(error, Error::Missing { file } if file == "2.root.json"),
            );
            assert_eq!(server.asked, ["2.root.json"]);
            server.asked.clear();
        }
    }
    let text = server.changed_timestamp("timestamp", |document| {
        document["root_version"] = json!("2");
    });
    server.refuses(text, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| matches!(error, Error::Malformed { .. }))
    });
}

#[test]
fn a_forged_timestamp_with_a_true_hint_brings_the_true_root_and_nothing_else() {
    let mut server = hinting();
    let mut trusted = server.device();
    let old = server.timestamp();
    server.publish(&["root"]);
    let hint = |timestamp: &mut Value| timestamp["root_version"] = json!(2);
    let forged = server.changed_timestamp("targets", hint);
    let error = server.push(forged, &mut trusted).expect_err("it is forged");
    let wrong_role = |error: &Error| matches!(error, Error::WrongRole { .. });
    assert!(refused_as(&error, "timestamp.json", wrong_role), "{}", told(&error));
    assert_eq!(versions(&trusted), [2, 2, 2, 2, 2]);
    server.push(old, &mut trusted).expect("it is trusted already");
    server.publish_all(&[]);
    server.push(server.timestamp(), &mut trusted).expect("the repository is sound");
    assert_eq!(versions(&trusted), [2, 3, 3, 2, 2]);
}

#[test]
fn a_hint_that_lies_low_hides_no_root_that_is_trusted() {
    let mut server = hinting();
    server.publish(&["root"]);
    server.publish_all(&[]);
    let mut trusted = server.device();
    let low = |timestamp: &mut Value| {
        timestamp["root_version"] = json!(1);
        timestamp["version"] = json!(100);
    };
    let forged = server.changed_timestamp("targets", low);
    server.refuses(forged, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| matches!(error, Error::WrongRole { .. }))
    });
    let signed = server.changed_timestamp("timestamp", low);
    server.refuses(signed, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| {
            matches!(error, Error::Rollback { file, version: 1, trusted: 2 } if file == "root.json")
        })
    });
}

#[test]
fn a_root_that_is_hidden_is_noticed_when_the_timestamp_expires() {
    let mut server = hinting();
    let expires = NOW.plus_seconds(60);
    server.document_mut("timestamp")["expires"] = json!(expires);
    server.publish_all(&[]);
    let mut trusted = server.device();
    let hiding = server.timestamp();
    server.publish(&["root"]);
    server.publish_all(&[]);
    let limits = Limits::DEVICE;
    let before = UnixMillis(expires.0 - 1);
    server.push_within(hiding.clone(), &mut trusted, before, limits).expect("nobody can tell");
    assert!(trusted.state().fresh_until > before);
    let error = server.push_within(hiding, &mut trusted, expires, limits).expect_err("expired");
    assert!(matches!(error, Error::Expired { document: DocumentKind::Timestamp, .. }), "{error}");
    assert!(trusted.state().fresh_until <= expires);
}

#[test]
fn a_root_that_is_kept_back_is_missed() {
    let mut server = hinting();
    let mut trusted = server.device();
    server.publish(&["root"]);
    server.publish_all(&[]);
    let hidden = server.files.remove("2.root.json").expect("it is served");
    server.refuses(
        server.timestamp(),
        &mut trusted,
        |error| matches!(error, Error::Missing { file } if file == "2.root.json"),
    );
    server.files.insert("2.root.json".into(), hidden);
    server.push(server.timestamp(), &mut trusted).expect("the repository is sound");
}

#[test]
fn endless_roots_of_a_stranger_end_with_the_first() {
    let mut server = hinting();
    let mut trusted = server.device();
    let mut stranger = hinting();
    stranger.publish(&["root"; 9]);
    server.files.extend(stranger.files.into_iter().filter(|(name, _)| name.contains("root")));
    let hint = |timestamp: &mut Value| timestamp["root_version"] = json!(u64::MAX);
    let forged = server.changed_timestamp("targets", hint);
    server.refuses(forged, &mut trusted, |error| {
        refused_as(error, "2.root.json", |error| {
            matches!(error, Error::Threshold { role: Role::Root, valid: 0, .. })
        })
    });
    assert_eq!(server.asked, ["2.root.json"]);
}

#[test]
fn the_same_root_over_and_over_ends_with_the_first() {
    let mut server = hinting();
    let mut trusted = server.device();
    server.files.insert("2.root.json".into(), server.files["1.root.json"].clone());
    let hint = |timestamp: &mut Value| timestamp["root_version"] = json!(u64::MAX);
    let forged = server.changed_timestamp("targets", hint);
    server.refuses(forged, &mut trusted, |error| {
        refused_as(error, "2.root.json", |error| {
            matches!(error, Error::OtherVersion { version: 1, expected: 2, .. })
        })
    });
    assert_eq!(server.asked, ["2.root.json"]);
}

#[test]
fn endless_roots_of_the_true_keys_end_at_the_limit_and_the_next_refresh_goes_on() {
    let mut server = hinting();
    let mut trusted = server.device();
    server.publish(&["root"; 5]);
    server.publish_all(&[]);
    let limits = Limits { root_rotations: 4, ..Limits::DEVICE };
    let error = server.push_within(server.timestamp(), &mut trusted, NOW, limits);
    assert_eq!(error, Err(Error::TooManyRoots { max: 4 }));
    assert_eq!(server.asked.len(), 4);
    server.push_within(server.timestamp(), &mut trusted, NOW, limits).expect("one is left");
    assert_eq!(versions(&trusted), [6, 3, 3, 2, 2]);
}

#[test]
fn an_old_timestamp_changes_nothing() {
    let mut server = hinting();
    let old = server.timestamp();
    server.publish_all(&["targets"]);
    let mut trusted = server.device();
    server.refuses(old, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| {
            matches!(error, Error::Rollback { file, version: 2, trusted: 3 } if file == "timestamp.json")
        })
    });
}

#[test]
fn an_old_timestamp_stays_out_after_a_root_took_another_key_away() {
    let mut server = hinting();
    let (stolen, kept) = (new_key(), server.signers["timestamp"][0].to_pkcs8().to_vec());
    let kept = || SigningKey::from_pkcs8(&kept).expect("the key is well formed");
    // Either key is enough for the timestamp, whoever signs.
    server.signers.insert("timestamp".into(), vec![kept(), stolen]);
    server.name_keys();
    server.document_mut("root")["roles"]["timestamp"]["threshold"] = json!(1);
    server.publish(&["root"]);
    server.publish_all(&[]);
    let old = server.timestamp();
    server.publish_all(&["targets"]);
    let mut trusted = server.device();
    server.signers.insert("timestamp".into(), vec![kept()]);
    server.name_keys();
    server.publish(&["root"]);
    let hint = |timestamp: &mut Value| timestamp["root_version"] = json!(3);
    let forged = server.changed_timestamp("targets", hint);
    server.push(forged, &mut trusted).expect_err("the timestamp is forged, its hint is not");
    assert_eq!(versions(&trusted), [3, 0, 0, 3, 2]);
    server.refuses(old, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| {
            matches!(error, Error::Rollback { file, version: 2, trusted: 3 } if file == "root.json")
        })
    });
    server.publish_all(&[]);
    server.push(server.timestamp(), &mut trusted).expect("the repository is sound");
}

#[test]
fn mixed_snapshots_are_refused() {
    let mut server = hinting();
    server.publish_all(&["targets"]);
    let mut trusted = server.device();
    server.publish_all(&["targets"]);
    server.publish_all(&["targets"]);
    let (new, other) = ("5.snapshot.json".to_owned(), "4.snapshot.json");
    let good = server.files.insert(new.clone(), server.files[other].clone()).expect("it is served");
    let error = server.push(server.timestamp(), &mut trusted).expect_err("another snapshot");
    let other_hash = |error: &Error| matches!(error, Error::FileHash { .. });
    assert!(refused_as(&error, "5.snapshot.json", other_hash), "{}", told(&error));
    assert_eq!(versions(&trusted), [1, 5, 3, 3, 2]);
    server.files.insert(new, good);
    let good = server.files.insert("5.targets.json".into(), server.files["4.targets.json"].clone());
    let error = server.push(server.timestamp(), &mut trusted).expect_err("other targets");
    assert!(refused_as(&error, "5.targets.json", other_hash), "{}", told(&error));
    assert_eq!(versions(&trusted), [1, 5, 5, 3, 2]);
    server.files.insert("5.targets.json".into(), good.expect("it is served"));
    server.push(server.timestamp(), &mut trusted).expect("the repository is sound");
    assert_eq!(versions(&trusted), [1, 5, 5, 5, 2]);
}

#[test]
fn expired_metadata_is_refused() {
    for (role, document) in [
        ("root", DocumentKind::Root),
        ("timestamp", DocumentKind::Timestamp),
        ("snapshot", DocumentKind::Snapshot),
        ("targets", DocumentKind::Targets),
    ] {
        let mut server = hinting();
        let mut trusted = server.device();
        server.document_mut(role)["expires"] = json!(NOW);
        if role == "timestamp" {
            // It can be issued neither later than it expires nor then.
            server.document_mut(role)["expires"] = json!(NOW.plus_seconds(1));
        }
        server.publish(&["root"]);
        server.publish_all(&["targets"]);
        let now = if role == "timestamp" { NOW.plus_seconds(1) } else { NOW };
        let error = server.push_within(server.timestamp(), &mut trusted, now, Limits::DEVICE);
        let expired = |error: &Error| matches!(error, Error::Expired { document: met, .. } if *met == document);
        let found = error.as_ref().is_err_and(|error| match error {
            Error::Refused { source, .. } => expired(source),
            error => expired(error),
        });
        assert!(found, "{role}: {error:?}");
    }
}

#[test]
fn a_timestamp_issued_after_it_expired_is_refused() {
    let mut server = hinting();
    let mut trusted = server.device();
    let late = server.changed_timestamp("timestamp", |timestamp| {
        timestamp["version"] = json!(100);
        timestamp["issued"] = timestamp["expires"].clone();
    });
    server.refuses(late, &mut trusted, |error| {
        refused_as(error, "timestamp.json", |error| matches!(error, Error::Malformed { .. }))
    });
}

/// What happens to a genuine repository.
#[derive(Clone, Copy, Debug)]
enum Publication {
    Target,
    DelegatedTarget,
    Delegation,
    Timestamp,
    OnlineKey,
    TargetsKey,
    RootKey,
}

/// A timestamp out of a repository's history, as a broker hands it on.
#[derive(Clone, Debug)]
struct Offer {
    which: prop::sample::Index,
    /// Bit by bit, whether the files that are asked for then are kept back.
    withheld: u32,
    damage: Option<(prop::sample::Index, u8)>,
}

fn publications() -> impl Strategy<Value = Vec<Publication>> {
    use Publication::*;
    let any =
        [Target, DelegatedTarget, Delegation, Timestamp, OnlineKey, TargetsKey, RootKey].to_vec();
    prop::collection::vec(prop::sample::select(any), 1..12)
}

fn offers() -> impl Strategy<Value = Vec<Offer>> {
    let index = any::<prop::sample::Index>;
    let withheld = prop_oneof![Just(0), any::<u32>()];
    let damage = prop::option::weighted(0.2, (index(), 1u8..));
    let offer = (index(), withheld, damage);
    let offer = offer.prop_map(|(which, withheld, damage)| Offer { which, withheld, damage });
    prop::collection::vec(offer, 0..24)
}

impl Server {
    fn apply(&mut self, publication: Publication, number: usize) {
        let path = format!("team/{number}");
        match publication {
            Publication::Target => {
                self.document_mut("targets")["targets"][path] = target(b"x");
                self.publish_all(&["targets"]);
            }
            Publication::DelegatedTarget => {
                self.document_mut("team")["targets"][path] = target(b"x");
                self.publish_all(&["team"]);
            }
            Publication::Delegation => {
                let role = format!("role-{number}");
                self.delegate("targets", &role, &["role/*"], false);
                self.publish_all(&[&role, "targets"]);
            }
            Publication::Timestamp => self.publish(&["timestamp"]),
            Publication::OnlineKey => {
                self.rotate_online_key();
                self.publish(&["root"]);
                self.publish_all(&[]);
            }
            Publication::TargetsKey => {
                self.signers.insert("targets".into(), vec![new_key()]);
                self.name_keys();
                self.publish(&["root"]);
                self.publish_all(&["targets"]);
            }
            Publication::RootKey => {
                let old = self.signers.insert("root".into(), vec![new_key()]).unwrap_or_default();
                self.name_keys();
                // Both the old key and the new one vouch for this root, the new one alone for the next.
                self.signers.entry("root".into()).or_default().extend(old);
                self.publish(&["root"]);
                self.signers.entry("root".into()).or_default().truncate(1);
                self.publish_all(&[]);
            }
        }
    }

    /// Hands `offer` of `history` to a client, and to the client the files that are not withheld.
    fn offer(&mut self, offer: &Offer, history: &[Vec<u8>], trusted: &mut TrustedMetadata) {
        let mut timestamp = history[offer.which.index(history.len())].clone();
        if let Some((at, change)) = &offer.damage {
            let at = at.index(timestamp.len());
            timestamp[at] ^= change;
        }
        let mut withheld = offer.withheld;
        let mut next = Refresh::pushed(timestamp, trusted, NOW, Limits::DEVICE);
        while let Ok(Next::Fetch(refresh)) = next {
            let answer = match withheld & 1 {
                0 => self.fetch(&refresh.request()),
                _ => Answer::NotFound,
            };
            withheld >>= 1;
            next = refresh.answer(answer, trusted);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn in_any_order_no_version_goes_back_and_the_newest_timestamp_brings_all(
        publications in publications(),
        offers in offers(),
    ) {
        let mut server = hinting();
        let mut history = vec![server.timestamp()];
        for (number, publication) in publications.into_iter().enumerate() {
            server.apply(publication, number);
            history.push(server.timestamp());
        }
        let mut trusted = server.first_root();
        let mut newest = versions(&trusted);
        for offer in offers {
            server.offer(&offer, &history, &mut trusted);
            // A device that restarts knows what it stored.
            let files = trusted.files().map(|(role, bytes)| (role.clone(), bytes.to_vec()));
            trusted = TrustedMetadata::new(files.collect::<Vec<_>>());
            for (newest, version) in newest.iter_mut().zip(versions(&trusted)) {
                // 0 is a file that a new root made the client forget.
                prop_assert!(version == 0 || version >= *newest, "{offer:?}");
                *newest = (*newest).max(version);
            }
        }
        let repository = server.push(server.timestamp(), &mut trusted);
        let repository = repository.map_err(|error| TestCaseError::fail(told(&error)))?;
        for role in ["root", "timestamp", "snapshot", "targets"] {
            let expected = server.documents[role]["version"].as_u64();
            prop_assert_eq!(version(&trusted, role), expected, "{}", role);
        }
        let mut next = repository.search("team/x", &trusted);
        while let Ok(Next::Fetch(search)) = next {
            let answer = server.fetch(&search.request());
            next = search.answer(answer, &mut trusted);
        }
        prop_assert!(matches!(next, Ok(Next::Done(Some(_)))));
        let expected = server.documents["team"]["version"].as_u64();
        prop_assert_eq!(version(&trusted, "team"), expected);
    }
}
