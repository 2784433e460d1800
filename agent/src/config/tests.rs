use super::*;

const MINIMAL: &str = r#"device = "line-1"
fleet = "demo"
state_dir = "state"
root = "root.json"
[broker]
url = "mqtt://127.0.0.1:1883"
"#;

struct Folder {
    temp: tempfile::TempDir,
}

impl Folder {
    #[expect(clippy::disallowed_methods, reason = "a test's folder needs no durability")]
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("the machine has a temporary folder");
        for (name, content) in [
            ("root.json", "{}"),
            ("password", "secret\n"),
            ("empty", ""),
            ("rows.csv", "a,b\n1,2\n"),
            ("rows.txt", ""),
            ("ca.pem", ""),
        ] {
            fs::write(temp.path().join(name), content).expect("the folder is writable");
        }
        Self { temp }
    }

    fn parse(&self, text: &str) -> Result<Config, ConfigError> {
        Config::parse(&self.temp.path().join("agent.toml"), text)
    }
}

#[test]
fn a_minimal_configuration_has_defaults() {
    let folder = Folder::new();
    let config = folder.parse(MINIMAL).expect("the configuration is complete");
    assert_eq!(config.device.as_str(), "line-1");
    assert_eq!(config.state_dir, folder.temp.path().join("state"));
    assert_eq!(config.key, folder.temp.path().join("device.pk8"));
    assert!(config.publish_results && config.sources.is_empty());
    assert_eq!(config.profile_window, Duration::from_secs(60));
    assert_eq!((config.stuck_samples, config.capture, config.labels), (50, None, None));
}

#[test]
fn samples_are_captured_only_where_that_is_configured() {
    let folder = Folder::new();
    let text = format!("{MINIMAL}[inputs]\nstuck_samples = 0\n[capture]\nsamples_max = 20\n");
    let config = folder.parse(&text).expect("the configuration is good");
    assert_eq!(config.stuck_samples, 0);
    let expected = CaptureConfig {
        samples_max: 20,
        bytes_max: 16 << 20,
        per_hour_max: 60,
        upload_bytes_per_day_max: 16 << 20,
    };
    assert_eq!(config.capture, Some(expected));
}

#[test]
fn every_kind_of_source_is_read() {
    let folder = Folder::new();
    let text = format!(
        r#"{MINIMAL}user = "line-1"
password_file = "password"
[local_broker]
url = "mqtt://127.0.0.1:1884"
[[source]]
name = "replay"
kind = "replay"
slot = "main"
file = "rows.csv"
rate_hz = 50
repeat = true
[[source]]
name = "bench"
kind = "mqtt"
slot = "main"
topic = "sensors/line-1"
[[source]]
name = "node"
kind = "node"
address = "127.0.0.1:5555"
[[source]]
name = "tty"
kind = "node"
device = "/dev/ttyUSB0"
[results]
publish = false
[profile]
window_s = 5
[labels]
topic = "labels/line-1"
[spool]
results_bytes_max = 65536
resend_after_s = 2
"#
    );
    let config = folder.parse(&text).expect("the configuration is good");
    assert_eq!(config.sources.len(), 4);
    assert_eq!(config.broker.login.map(|login| login.password), Some("secret".into()));
    assert_eq!(config.spool.quotas.results_bytes_max, 65536);
    assert!(!config.publish_results);
    let (topic, answers_remembered) = ("labels/line-1".into(), 4096);
    assert_eq!(config.labels, Some(LabelsConfig { topic, answers_remembered }));
    let SourceKind::Node { line } = &config.sources[3].kind else { panic!("it is a node") };
    assert_eq!(*line, NodeLine::Tty { device: "/dev/ttyUSB0".into(), baud: 115_200 });
}

#[test]
fn every_error_names_line_key_and_what_was_expected() {
    let folder = Folder::new();
    let source = "[[source]]\nname = \"a\"\nkind = \"replay\"\nslot = \"main\"\n";
    let cases: &[(&str, usize, &str, &[&str])] = &[
        ("[profile]\nwindow = 5\n", 8, "window", &["unknown field `window`", "window_s"]),
        ("[profile]\nwindow_s = \"5 min\"\n", 8, "window_s", &["string", "u64"]),
        ("[profile]\nwindow_s = 0\n", 8, "window_s", &["expected 1 to 86400 seconds"]),
        ("[capture]\nper_hour_max = 0\n", 8, "per_hour_max", &["1 to 10000 samples an hour"]),
        (
            "[capture]\nupload_bytes_per_day_max = 9\n",
            8,
            "upload_bytes_per_day_max",
            &["65536 to", "bytes"],
        ),
        ("[spool]\ncaptures_bytes_max = 4096\n", 8, "captures_bytes_max", &["262144 to"]),
        ("user = \"a\"\n", 7, "user", &["expected password_file"]),
        ("password_file = \"password\"\n", 7, "password_file", &["expected user"]),
        ("user = \"a\"\npassword_file = \"empty\"\n", 8, "password_file", &["empty"]),
        ("ca = \"missing.pem\"\n", 7, "ca", &["missing.pem", "No such file"]),
        ("ca = \"ca.pem\"\ncertificate = \"ca.pem\"\n", 8, "certificate", &["key beside"]),
        ("keep_alive_s = 4\n", 7, "keep_alive_s", &["5 to 3600 seconds"]),
        ("colour = 1\n", 7, "colour", &["unknown field"]),
        (source, 7, "[[source]]", &["lacks the key file"]),
        (&format!("{source}file = \"none.csv\"\n"), 11, "file", &["none.csv"]),
        (&format!("{source}file = \"rows.txt\"\n"), 11, "file", &[".csv or .npy"]),
        (
            &format!("{source}file = \"rows.csv\"\nrate_hz = 0\n"),
            12,
            "rate_hz",
            &["samples per second"],
        ),
        (&format!("{source}topic = \"t\"\n"), 11, "topic", &["no key topic"]),
        (&source.replace("\"main\"", "\"Main Slot\""), 7, "[[source]]", &["lacks"]),
        ("[[source]]\nname = \"a\"\nkind = \"camera\"\n", 9, "kind", &["camera", "replay"]),
        (
            "[[source]]\nname = \"a\"\nkind = \"node\"\naddress = \"here\"\n",
            10,
            "address",
            &["host:port"],
        ),
        (
            "[[source]]\nname = \"a\"\nkind = \"mqtt\"\nslot = \"m\"\ntopic = \"a/#\"\n",
            11,
            "topic",
            &["without + and #"],
        ),
        ("[labels]\nanswers_remembered = 1\n", 7, "", &["missing field `topic`"]),
        ("[labels]\ntopic = \"a/+\"\n", 8, "topic", &["without + and #"]),
        (
            "[labels]\ntopic = \"a\"\nanswers_remembered = 0\n",
            9,
            "answers_remembered",
            &["1 to 65536 answers"],
        ),
        (
            "[labels]\ntopic = \"a\"\n[[source]]\nname = \"a\"\nkind = \"mqtt\"\nslot = \"m\"\n\
             topic = \"a\"\n",
            8,
            "topic",
            &["source a has its samples"],
        ),
        ("[spool]\nevents_bytes_max = 1\n", 8, "events_bytes_max", &["bytes"]),
        ("[limits\n", 7, "", &[]),
    ];
    let mut failures = Vec::new();
    for (addition, line, key, parts) in cases {
        let error = match folder.parse(&format!("{MINIMAL}{addition}")) {
            Ok(_) => {
                failures.push(format!("{addition:?} was accepted"));
                continue;
            }
            Err(error) => error,
        };
        let text = error.to_string();
        let key_is_named = error.key.as_deref().unwrap_or_default() == *key;
        if error.line != Some(*line)
            || !key_is_named
            || !parts.iter().all(|part| text.contains(part))
        {
            failures.push(format!("{addition:?}: {text}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn keys_at_the_top_are_checked_where_they_stand() {
    let folder = Folder::new();
    for (from, to, line, part) in [
        ("\"line-1\"", "\"Line 1\"", 1, "device id"),
        ("\"root.json\"", "\"gone.json\"", 4, "gone.json"),
        ("\"root.json\"", "\"root.json\"\nkey = \"gone.pk8\"", 5, "gone.pk8"),
        ("mqtt://", "http://", 6, "mqtt"),
        ("mqtt://", "mqtts://", 6, "expected ca"),
    ] {
        let error = folder.parse(&MINIMAL.replace(from, to)).expect_err(part);
        assert_eq!(error.line, Some(line), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = folder.parse(&MINIMAL.replace("fleet = \"demo\"\n", "")).expect_err("a key lacks");
    assert!(error.to_string().contains("missing field `fleet`"), "{error}");
}

#[test]
fn a_password_does_not_cross_a_network_in_clear() {
    let folder = Folder::new();
    let login = "user = \"line-1\"\npassword_file = \"password\"\n";
    for (host, stays) in [
        ("127.0.0.1", true),
        ("127.8.9.1", true),
        ("localhost", true),
        ("[::1]", true),
        ("10.0.0.7", false),
        ("broker.local", false),
        ("localhost.example", false),
        ("[fe80::1]", false),
    ] {
        let text = MINIMAL.replace("127.0.0.1", host);
        assert!(folder.parse(&text).is_ok(), "{host}: without a login");
        match folder.parse(&format!("{text}{login}")) {
            Ok(_) => assert!(stays, "{host} was accepted"),
            Err(error) => {
                assert!(!stays, "{error}");
                assert_eq!((error.line, error.key.as_deref()), (Some(6), Some("url")));
                assert!(error.problem.contains("use mqtts://"), "{error}");
            }
        }
        let site = format!("{MINIMAL}[local_broker]\nurl = \"mqtt://{host}\"\n{login}");
        assert_eq!(folder.parse(&site).is_ok(), stays, "{host}: the site's broker");
    }
}

#[test]
fn a_missing_configuration_names_its_path() {
    let error = Config::load(Path::new("/nowhere/agent.toml")).expect_err("there is none");
    assert!(error.to_string().starts_with("/nowhere/agent.toml: cannot read"), "{error}");
}

#[test]
fn names_of_sources_are_unique() {
    let folder = Folder::new();
    let source = "[[source]]\nname = \"a\"\nkind = \"node\"\naddress = \"h:1\"\n";
    let error = folder.parse(&format!("{MINIMAL}{source}{source}")).expect_err("same names");
    assert_eq!(error.line, Some(12), "{error}");
}
