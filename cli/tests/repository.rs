//! Keys and the repository as people handle them: the ceremony on files, and changes at a fleet manager.

mod support;

use std::fs;

use support::{Desk, Fleet, models, text};

/// The id that a command printed of a key.
fn id_in(said: &str) -> &str {
    let line = said.lines().find(|line| line.trim_start().starts_with("id"));
    line.and_then(|line| line.split_whitespace().last()).expect("a key has an id")
}

/// The public key that a command printed.
fn public_in(said: &str) -> &str {
    let line = said.lines().find(|line| line.trim_start().starts_with("public key"));
    line.and_then(|line| line.split_whitespace().last()).expect("a key has a public half")
}

#[test]
fn a_root_is_signed_by_its_holders_one_after_the_other() {
    let desk = Desk::new();
    fs::write(desk.path("secret"), "correct horse\n").expect("writable");
    fs::write(desk.path("guess"), "battery staple\n").expect("writable");
    let new = ["keys", "new", "keys", "--root-keys", "3", "--threshold", "2"];
    let secret = ["--passphrase-file", "secret"];
    desk.succeeds(&[new.as_slice(), &secret].concat());
    assert!(desk.fails(&["keys", "new", "keys"]).contains("keys are never overwritten"));
    let made = desk.succeeds(&["keys", "generate", "second.pk8"]);

    let add = format!("targets={}", public_in(&made));
    let edited = desk.succeeds(&[
        "keys",
        "root",
        "edit",
        "keys/root.json",
        "--add",
        &add,
        "--threshold",
        "targets=2",
        "--online",
        "second.pk8",
        "--days",
        "400",
    ]);
    assert!(edited.contains("keys/2.root.json is root 2"), "{edited}");
    assert!(edited.contains("root keys of version 1: 0 of 2 signatures; 2 missing"), "{edited}");

    // Whoever carries the file to a machine of their own signs it there.
    fs::create_dir(desk.path("elsewhere")).expect("writable");
    fs::rename(desk.path("keys/2.root.json"), desk.path("elsewhere/2.root.json")).expect("ours");
    let sign = |key: &str, more: &[&str]| {
        let key = ["keys", "root", "sign", "elsewhere/2.root.json", "--key", key];
        [key.as_slice(), &["--after", "keys/root.json"], more].concat().join(" ")
    };
    let run = |line: String, good: bool| {
        let words: Vec<&str> = line.split(' ').collect();
        if good { desk.succeeds(&words) } else { desk.fails(&words) }
    };
    let wrong = run(sign("keys/root-1.pem", &["--passphrase-file", "guess"]), false);
    assert!(wrong.contains("root-1.pem") && wrong.contains("passphrase is wrong"), "{wrong}");
    let stranger = run(sign("second.pk8", &[]), false);
    assert!(stranger.contains("holds the role root in neither root"), "{stranger}");
    let first = run(sign("keys/root-1.pem", &secret), true);
    assert!(first.contains("1 of 2 signatures; 1 missing"), "{first}");
    let second = run(sign("keys/root-3.pem", &secret), true);
    assert!(second.contains("no signature is missing"), "{second}");
    let shown = desk.succeeds(&["keys", "show", "elsewhere/2.root.json"]);
    assert!(shown.contains("targets: 2 of 2 must sign"), "{shown}");
    assert!(shown.contains(id_in(&made)), "{shown}");
    let too_many = ["keys", "root", "edit", "keys/root.json", "--threshold", "root=4"];
    assert!(desk.fails(&too_many).contains("3 keys and a threshold of 4"));
}

/// A fleet manager with a packed bundle of each model beside it.
fn fleet_with_bundles(desk: &Desk) -> Fleet {
    desk.succeeds(&["keys", "new", "keys"]);
    for (model, version) in [("shuttle", "v1"), ("shuttle", "v2"), ("meter-digits", "v1")] {
        let (source, out) = (models().join(model).join(version), format!("{model}-{version}"));
        desk.succeeds(&["pack", &text(&source), "--out", &out]);
    }
    desk.fleet("keys")
}

/// Runs commands at a fleet manager.
struct At<'a>(&'a Desk, &'a Fleet);

impl At<'_> {
    fn succeeds(&self, arguments: &[&str]) -> String {
        self.0.succeeds(&[arguments, &["--fleet-url", &self.1.url]].concat())
    }

    fn fails(&self, arguments: &[&str]) -> String {
        self.0.fails(&[arguments, &["--fleet-url", &self.1.url]].concat())
    }

    fn shows(&self) -> String {
        self.succeeds(&["repository", "show", "--keys", "keys"])
    }
}

#[test]
fn publishers_and_teams_say_what_may_run() {
    let desk = Desk::new();
    let fleet = fleet_with_bundles(&desk);
    let at = At(&desk, &fleet);
    let keys = ["--keys", "keys"];
    let publish = |bundle: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        [&["publish", bundle][..], &keys, more].concat()
    };

    let dry = at.succeeds(&publish("shuttle-v1", &["--dry-run"]));
    assert!(dry.contains("nothing is changed") && dry.contains("adds shuttle/1.0.0"), "{dry}");
    assert!(!at.shows().contains("shuttle/1.0.0"));
    let said = at.succeeds(&publish("shuttle-v1", &[]));
    assert!(said.contains("published shuttle 1.0.0 as sha256:"), "{said}");
    assert!(at.succeeds(&publish("shuttle-v1", &[])).contains("is published already"));
    let patched = at.succeeds(&publish("shuttle-v2", &[]));
    assert!(patched.contains("published shuttle 2.0.0"), "{patched}");
    assert!(at.shows().contains("shuttle/2.0.0"));

    let team = desk.succeeds(&["keys", "generate", "team.pk8"]);
    let delegate = ["repository", "delegate", "meters", "--paths", "meter-*/*", "--key"];
    let delegate = [&delegate[..], &[public_in(&team)], &keys].concat();
    let dry = at.succeeds(&[&delegate[..], &["--dry-run"]].concat());
    assert!(dry.contains("delegates meter-*/* to the role meters"), "{dry}");
    assert!(!at.shows().contains("meters"));
    at.succeeds(&delegate);
    let as_team = ["--role", "meters", "--key", "team.pk8"];
    let late = text(&models().join("shuttle/v2"));
    desk.succeeds(&["pack", &late, "--version", "2.1.0", "--out", "shuttle-late"]);
    let outside = at.fails(&publish("shuttle-late", &as_team));
    assert!(outside.contains("not among the paths of the role meters"), "{outside}");
    at.succeeds(&publish("meter-digits-v1", &as_team));
    let shown = at.shows();
    assert!(shown.contains("delegates meter-*/* to meters"), "{shown}");
    assert!(shown.contains("meter-digits/1.0.0"), "{shown}");

    let revoke = ["repository", "revoke", "shuttle/1.0.0", "--keys", "keys"];
    let dry = at.succeeds(&[&revoke[..], &["--dry-run"]].concat());
    assert!(dry.contains("revokes shuttle/1.0.0"), "{dry}");
    assert!(at.shows().contains("shuttle/1.0.0"));
    at.succeeds(&revoke);
    assert!(!at.shows().contains("shuttle/1.0.0"));
    let renewed = at.succeeds(&["repository", "renew", "--days", "30", "--keys", "keys"]);
    assert!(renewed.contains("the role targets goes from version"), "{renewed}");
    at.succeeds(&["repository", "undelegate", "meters", "--keys", "keys"]);
    assert!(!at.shows().contains("meter-digits/1.0.0"));
}

#[test]
fn a_change_that_two_must_sign_goes_from_desk_to_desk() {
    let desk = Desk::new();
    desk.succeeds(&["keys", "new", "keys"]);
    let fleet = desk.fleet("keys");
    let at = At(&desk, &fleet);
    let second = desk.succeeds(&["keys", "generate", "second.pk8"]);
    let add = format!("targets={}", public_in(&second));
    let edit = ["keys", "root", "edit", "keys/root.json", "--threshold", "targets=2", "--add"];
    desk.succeeds(&[&edit[..], &[&add]].concat());
    let rotate = ["repository", "rotate", "keys/2.root.json", "--keys", "keys"];
    let both = ["--signing-key", "keys/targets.pk8", "--signing-key", "second.pk8"];
    let unsigned = at.fails(&[&rotate[..], &both].concat());
    assert!(unsigned.contains("signatures are missing"), "{unsigned}");
    desk.succeeds(&["keys", "root", "sign", "keys/2.root.json", "--key", "keys/root.pk8"]);
    let one = at.fails(&rotate);
    assert!(one.contains("1 of 2 signatures") && one.contains("--signing-key"), "{one}");
    let rotated = at.succeeds(&[&rotate[..], &both].concat());
    assert!(rotated.contains("root goes from version 1 to 2"), "{rotated}");

    let renew = ["repository", "renew", "--days", "40", "--keys", "keys"];
    let one = at.fails(&renew);
    assert!(one.contains("--out FILE"), "{one}");
    at.succeeds(&[&renew[..], &["--out", "change.json"]].concat());
    let submit = ["repository", "submit", "change.json", "--keys", "keys"];
    let missing = at.fails(&submit);
    assert!(missing.contains(id_in(&second)), "{missing}");
    fs::copy(desk.path("change.json"), desk.path("copy.json")).expect("writable");
    desk.succeeds(&["repository", "sign", "copy.json", "--key", "second.pk8"]);
    let submitted = at.succeeds(&[&submit[..3], &["copy.json"], &submit[3..]].concat());
    assert!(submitted.contains("the role targets goes from version 2 to version 3"), "{submitted}");
}

#[test]
fn a_stolen_online_key_is_replaced_while_the_fleet_runs() {
    let desk = Desk::new();
    desk.succeeds(&["keys", "new", "keys"]);
    let fleet = desk.fleet("keys");
    let at = At(&desk, &fleet);
    desk.succeeds(&["keys", "generate", "director-2.pk8"]);
    desk.succeeds(&["keys", "root", "edit", "keys/root.json", "--online", "director-2.pk8"]);
    desk.succeeds(&["keys", "root", "sign", "keys/2.root.json", "--key", "keys/root.pk8"]);
    let rotate = ["repository", "rotate", "keys/2.root.json", "--keys", "keys"];
    let lacking = at.fails(&rotate);
    assert!(lacking.contains("0 of the online keys hold the role"), "{lacking}");
    fs::rename(desk.path("director-2.pk8"), desk.path("keys/director-2.pk8")).expect("ours");
    let dry = at.succeeds(&[&rotate[..], &["--dry-run"]].concat());
    assert!(dry.contains("devices forget the timestamp and the snapshot"), "{dry}");
    at.succeeds(&rotate);
    assert!(at.shows().starts_with("root 2"), "{}", at.shows());
}

#[test]
fn a_repository_of_other_keys_is_not_believed() {
    let desk = Desk::new();
    desk.succeeds(&["keys", "new", "keys"]);
    desk.succeeds(&["keys", "new", "others"]);
    let fleet = desk.fleet("keys");
    let at = At(&desk, &fleet);
    let refused = at.fails(&["repository", "show", "--keys", "others"]);
    assert!(refused.contains("is not that of others/root.json"), "{refused}");
    assert!(at.succeeds(&["repository", "show"]).contains("root 1"));
}
