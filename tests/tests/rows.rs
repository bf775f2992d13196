//! `docs/rows.md` is true: each row that this version covers is there, and each test it names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The rows that this version covers.
const REQUIRED: &[RangeInclusive<u32>] = &[
    1..=18,
    22..=25,
    27..=28,
    30..=37,
    40..=41,
    43..=44,
    48..=50,
    53..=63,
    65..=66,
    69..=70,
    74..=75,
    78..=83,
    85..=85,
    91..=91,
    93..=95,
    98..=107,
    111..=113,
    117..=117,
    120..=121,
    123..=140,
    142..=143,
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// Rows of the table: number, and what stands between backticks in the last column.
fn rows() -> BTreeMap<u32, Vec<String>> {
    let text = std::fs::read_to_string(root().join("docs/rows.md")).expect("docs/rows.md");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| R")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, how, tests] = cells[..] else { panic!("not three columns: {line}") };
        let number = row.trim_start_matches('R').parse().unwrap_or_else(|_| panic!("no row number: {line}"));
        assert!(!how.is_empty(), "row {number} does not say how");
        let names = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert!(rows.insert(number, names).is_none(), "row {number} stands twice");
    }
    rows
}

/// The file that `package::file` means.
fn source(package: &str, file: &str) -> Option<PathBuf> {
    let folder = match package {
        "keeper" => root().join("sidecar/keeper"),
        "workflow" => root().join("informer/workflow"),
        _ => root().join(package),
    };
    let places = [format!("src/{file}.rs"), format!("src/{file}/mod.rs"), format!("tests/{file}.rs")];
    places.into_iter().map(|place| folder.join(place)).find(|path| path.exists())
}

/// Names of functions below `#[test]` or `#[tokio::test]`, whatever stands between.
fn tests_of(source: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        marked |= line == "#[test]" || line.starts_with("#[tokio::test");
        let function = line.strip_prefix("async fn ").or(line.strip_prefix("fn "));
        if let Some(function) = function.filter(|_| marked) {
            names.extend(function.split(['(', '<']).next());
            marked = false;
        }
    }
    names
}

/// Why the reference leads nowhere.
fn fault(reference: &str) -> Option<String> {
    let parts: Vec<&str> = reference.split("::").collect();
    let [package, file, name] = parts[..] else { return Some(format!("{reference} is not package::file::name")) };
    let Some(path) = source(package, file) else { return Some(format!("{reference}: there is no such file")) };
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    (!tests_of(&text).contains(name)).then(|| format!("{reference}: no such test in {}", path.display()))
}

#[test]
fn every_row_is_there_and_names_tests_that_exist() {
    let rows = rows();
    let required: BTreeSet<u32> = REQUIRED.iter().cloned().flatten().collect();
    let present: BTreeSet<u32> = rows.keys().copied().collect();
    let missing: Vec<_> = required.difference(&present).collect();
    assert!(missing.is_empty(), "rows without a line: {missing:?}");
    let bare: Vec<_> = rows.iter().filter(|(_, tests)| tests.is_empty()).map(|(row, _)| row).collect();
    assert!(bare.is_empty(), "rows without a test: {bare:?}");
    let faults: Vec<String> = rows.values().flatten().filter_map(|reference| fault(reference)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_reference_that_leads_nowhere_is_seen() {
    let own = "tests::rows::a_reference_that_leads_nowhere_is_seen";
    assert_eq!(fault(own), None);
    for wrong in ["tests::rows::fault", "tests::nothing::x", "tests::rows", "tests::rows::nobody"] {
        assert!(fault(wrong).is_some(), "{wrong} was found");
    }
}
