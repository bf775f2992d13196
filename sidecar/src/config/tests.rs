use super::*;

const EXAMPLE: &str = include_str!("../../../examples/config/sidecar.toml");

fn read(text: &str) -> Result<Config, Vec<String>> {
    parse(Path::new("/etc/sidecar/sidecar.toml"), text).map_err(|faults| faults.lines().to_vec())
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
    let Config { informer, data, slots, cpu_millis, memory_bytes, labels, stop_tasks_on_exit, metrics, log, access } =
        read(&uncommented()).expect("settings");
    assert_eq!(informer.as_deref(), Some(INFORMER));
    assert_eq!(log.as_deref(), Some(LOG));
    assert_eq!(stop_tasks_on_exit, Some(false));
    // Their defaults are the machine's.
    assert!(
        metrics.is_some()
            && data.is_some()
            && slots.is_some()
            && cpu_millis.is_some()
            && memory_bytes.is_some()
            && !labels.is_empty()
    );
    let Access { tls_ca, tls_cert, tls_key, token_file } = access;
    assert!([tls_ca, tls_cert, tls_key, token_file].iter().all(Option::is_some), "a file is not named");
}

#[test]
fn all_faults_of_a_file_are_told_at_once() {
    let text = "informer = \"here\"\nslots = 0\ntoken = \"t\"\nlog = \"[\"\nmetrics = \"0.0.0.0:1\"\n[labels]\n\"\" = \"x\"\ngpu = true\n";
    let faults = read(text).expect_err("faults");
    let starts = [
        "/etc/sidecar/sidecar.toml:1: informer: \"here\" is no URL of an informer: http:// or https:// is missing; write",
        "/etc/sidecar/sidecar.toml:2: slots: 0 is out of range; write a whole number from 1 to ",
        "/etc/sidecar/sidecar.toml:3: token: there is no such key; known are slots, informer, ",
        "/etc/sidecar/sidecar.toml:4: log: \"[\" says nothing about logs",
        "/etc/sidecar/sidecar.toml:5: metrics: 0.0.0.0:1 can be reached from other machines; write one of loopback",
        "/etc/sidecar/sidecar.toml:7: labels.: key and value have 1 to ",
        "/etc/sidecar/sidecar.toml:8: labels.gpu: it is true or false; write a text in quotes",
    ];
    assert_eq!(faults.len(), starts.len(), "{faults:#?}");
    for (fault, start) in faults.iter().zip(starts) {
        assert!(fault.starts_with(start), "{fault}");
    }
}
