//! The table in the documentation: computed, and compared with what is committed.

use std::fmt::Write;
use std::path::Path;

/// With this variable set, the table in the documentation is written anew.
const UPDATE: &str = "UPDATE_TABLE";

const BEGIN: &str = "<!-- table: written by informer/workflow/tests/conformance.rs -->\n";
const END: &str = "<!-- table: end -->\n";

/// What became of one definition.
pub(crate) struct Row {
    /// Its file.
    pub(crate) file: String,
    /// The number of keys without effect, or why it is refused.
    pub(crate) registered: Result<usize, String>,
    /// The status at the end of a run whose tasks all succeed.
    pub(crate) end: Option<&'static str>,
    /// Its project's tests that begin with it, and which of these are met.
    pub(crate) tests: Vec<bool>,
}

/// The table and its sums, as Markdown.
fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let registered = rows.iter().filter(|row| row.registered.is_ok()).count();
    let ended = rows.iter().filter(|row| row.end.is_some()).count();
    let tests = rows.iter().map(|row| row.tests.len()).sum::<usize>();
    let met = rows.iter().flat_map(|row| &row.tests).filter(|met| **met).count();
    writeln!(
        text,
        "**{registered} of {} definitions register, {ended} come to an end, {met} of {tests} expectations are met; {} are refused.**\n",
        rows.len(),
        rows.len() - registered
    )
    .expect("text takes whatever is written");
    text.push_str("| definition | registers | a run whose tasks succeed | expectations met |\n|---|---|---|---|\n");
    for row in rows {
        let registers = match &row.registered {
            Ok(0) => "yes".to_owned(),
            Ok(1) => "yes, one key has no effect".to_owned(),
            Ok(notes) => format!("yes, {notes} keys have no effect"),
            Err(why) => format!("**refused**: {}", why.replace('|', "\\|")),
        };
        let met = row.tests.iter().filter(|met| **met).count();
        let tests = if row.tests.is_empty() { String::new() } else { format!("{met} of {}", row.tests.len()) };
        let line = [row.file.as_str(), &registers, row.end.unwrap_or_default(), &tests].join(" | ");
        text.push_str(&format!("| {line} |\n"));
    }
    text
}

/// Compares the documentation's table with what is so.
#[allow(clippy::disallowed_methods, reason = "a test compares with a file")]
pub(crate) fn compare(rows: &[Row]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conductor.md");
    let page = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has the beginning of the table");
    let (kept, after) = rest.split_once(END).expect("the page has the end of the table");
    let now = table(rows);
    if std::env::var(UPDATE).is_ok() {
        std::fs::write(&path, format!("{before}{BEGIN}{now}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(kept, now, "the table in {} is not what is so; set {UPDATE}=1 and run again", path.display());
}
