use super::*;

#[derive(Debug, PartialEq)]
struct Read {
    listen: Option<u16>,
    data: Option<PathBuf>,
    slots: Option<u64>,
    quiet: Option<bool>,
    keep: Option<u64>,
    shares: BTreeMap<String, u64>,
    labels: BTreeMap<String, String>,
}

fn read(text: &str) -> Result<Read, Vec<String>> {
    let settings = Settings::parse(Path::new("/etc/x/x.toml"), text);
    let mut root = settings.root();
    let mut retention = root.section("retention");
    let read = Read {
        listen: root.text("listen", |text| text.parse::<u16>().map_err(|_| format!("{text:?} is no port; write 7070"))),
        data: root.path("data_dir"),
        slots: root.whole("slots", 1..=8),
        quiet: root.flag("quiet"),
        keep: retention.whole("keep", 0..=9),
        shares: root.section("fair_share").numbers(1..=100),
        labels: root.section("labels").texts(|_, value| if value.is_empty() { Err("it is empty") } else { Ok(()) }),
    };
    root.never("once", "it is for one start; give --once");
    retention.end();
    root.end();
    settings.finish(read).map_err(|faults| faults.lines().to_vec())
}

#[test]
fn what_is_right_is_read() {
    let text = "listen = \"1\"\ndata_dir = \"d\"\nslots = 0x8\nquiet = true\n\
                [retention]\nkeep = 3\n[fair_share]\nalice = 3\n[labels]\ngpu = \"yes\"\n";
    let read = read(text).unwrap();
    assert_eq!((read.listen, read.slots, read.quiet, read.keep), (Some(1), Some(8), Some(true), Some(3)));
    assert_eq!(read.data, Some("/etc/x/d".into()), "relative to the file");
    assert_eq!((read.shares["alice"], read.labels["gpu"].as_str()), (3, "yes"));
}

#[test]
fn all_faults_are_told_at_once_each_with_its_line() {
    let text = "listen = \"http\"\nslots = 9\nquiet = 1\nonce = true\ndata-dir = \"d\"\nzebra = 1\n\
                [retention]\nkep = 3\n[fair_share]\nalice = \"3\"\nbob = -1\n[labels]\ngpu = \"\"\n";
    let expected = [
        "/etc/x/x.toml:1: listen: \"http\" is no port; write 7070",
        "/etc/x/x.toml:2: slots: 9 is out of range; write a whole number from 1 to 8",
        "/etc/x/x.toml:3: quiet: it is a whole number; write true or false",
        "/etc/x/x.toml:4: once: it is for one start; give --once",
        "/etc/x/x.toml:5: data-dir: there is no such key; did you mean data_dir?",
        "/etc/x/x.toml:6: zebra: there is no such key; known are retention, listen, data_dir, slots, quiet, fair_share, \
         labels, once",
        "/etc/x/x.toml:8: retention.kep: there is no such key; did you mean keep?",
        "/etc/x/x.toml:10: fair_share.alice: it is a text; write a whole number from 1 to 100",
        "/etc/x/x.toml:11: fair_share.bob: -1 is out of range; write a whole number from 1 to 100",
        "/etc/x/x.toml:13: labels.gpu: it is empty",
    ];
    assert_eq!(read(text).unwrap_err(), expected);
}

#[test]
fn every_syntax_error_has_its_line() {
    let faults = read("listen = \nslots = 3\nquiet = tru\n").unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("/etc/x/x.toml:1: this is not TOML: "), "{faults:?}");
    assert!(faults[1].starts_with("/etc/x/x.toml:3: this is not TOML: "), "{faults:?}");
}

#[test]
fn garbage_is_told_within_a_bound() {
    let text: String = (0..1000).map(|n| format!("key{n} = 1\n")).collect();
    let faults = read(&text).unwrap_err();
    assert_eq!(faults.len(), FAULTS + 1);
    assert_eq!(faults.last().unwrap(), "/etc/x/x.toml: and 950 more");
}

#[test]
fn a_section_that_is_none_is_told() {
    assert_eq!(
        read("retention = 3").unwrap_err(),
        ["/etc/x/x.toml:1: retention: it is a whole number; write a section that begins with [retention]"]
    );
}
