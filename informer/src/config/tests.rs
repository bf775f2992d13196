use super::*;
use crate::server::Options;

const EXAMPLE: &str = include_str!("../../../examples/config/informer.toml");

fn read(text: &str) -> Result<Config, Vec<String>> {
    parse(Path::new("/etc/informer/informer.toml"), text).map_err(|faults| faults.lines().to_vec())
}

/// The example with every setting in force: a setting that is commented out has no space after its `#`.
fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with([' ', '#']) => setting,
        _ => line,
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_changes_nothing_as_it_is() {
    assert_eq!(read(EXAMPLE), Ok(Config::default()));
}

#[test]
fn the_example_names_every_setting_with_its_default() {
    let Config { listen, data, beat_ms, lease_beats, fence_grace_ms, log, security, retention, log_upload, shares } =
        read(&uncommented()).expect("settings");
    let default = Options::new(place::LISTEN.parse().expect("an address"), PathBuf::new());
    assert_eq!(listen, Some(default.listen));
    assert!(data.is_some());
    assert_eq!(beat_ms, Some(default.beat_ms));
    assert_eq!(lease_beats, Some(default.lease_beats));
    assert_eq!(fence_grace_ms, Some(default.fence_grace_ms));
    assert_eq!(log.as_deref(), Some(place::LOG_DEFAULT));
    let Security { tls_cert, tls_key, tls_ca, token_file } = security;
    assert!([tls_cert, tls_key, tls_ca, token_file].iter().all(Option::is_some), "a file is not named");
    assert_eq!((retention, log_upload), (default.retention, default.log_upload));
    assert!(!shares.is_empty());
    for key in ["keep_ended", "keep_ended_count", "upload"] {
        assert!(EXAMPLE.contains(&format!("\n#{key} = ")), "{key} is not in the example");
    }
}

#[test]
fn all_faults_of_a_file_are_told_at_once() {
    let text = "listen = \"here\"\nbeat = 5\nlease-beats = 3\ntls_crt = \"x\"\naccept_restored = true\n[retention]\n\
                keep_ended = \"soon\"\n[logs]\nupload = \"sometimes\"\n[fair_share]\nalice = 0\n";
    let faults = read(text).expect_err("faults");
    let starts = [
        "/etc/informer/informer.toml:1: listen: \"here\" is not ADDRESS:PORT; write one like 127.0.0.1:7070",
        "/etc/informer/informer.toml:2: beat: it is a whole number; write a text in quotes",
        "/etc/informer/informer.toml:3: lease-beats: there is no such key; did you mean lease_beats?",
        "/etc/informer/informer.toml:4: tls_crt: there is no such key; did you mean tls_cert?",
        "/etc/informer/informer.toml:5: accept_restored: it vouches for one start",
        "/etc/informer/informer.toml:7: retention.keep_ended: \"soon\" is not a duration; write one like",
        "/etc/informer/informer.toml:9: logs.upload: \"sometimes\" is unknown; write \"always\" or \"on-failure\" or \"never\"",
        "/etc/informer/informer.toml:11: fair_share.alice: 0 is out of range; write a whole number from 1 to 1000",
    ];
    assert_eq!(faults.len(), starts.len(), "{faults:#?}");
    for (fault, start) in faults.iter().zip(starts) {
        assert!(fault.starts_with(start), "{fault}");
    }
}
