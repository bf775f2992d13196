//! Databases that earlier builds have written (`tests/fixtures`): brought to this build's schema whole or not at all, with every task
//! in them; and those of later builds, left alone.

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tests::world::{World, binary};

/// Each has both databases of one moment, and what its own command line said of them.
const EARLIER: [&str; 2] = ["v1", "v2"];

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(version)
}

/// A world in which nothing runs yet, and the databases of that version lie.
fn world_of(version: &str) -> Result<World> {
    let world = World::empty()?;
    let files = [
        ("informer.db", "informer/informer.db"),
        ("ledger-0.db", "sidecar-0/ledger.db"),
        ("ledger-1.db", "sidecar-1/ledger.db"),
    ];
    for (from, to) in files {
        let to = world.dir().join(to);
        std::fs::create_dir_all(to.parent().context("a file lies in a directory")?)?;
        std::fs::write(&to, std::fs::read(fixture(version).join(from))?)?;
    }
    Ok(world)
}

fn expected(version: &str) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(fixture(version).join("expected.json"))?;
    match serde_json::from_str(&text)? {
        Value::Object(tasks) => Ok(tasks),
        other => anyhow::bail!("not tasks by id: {other}"),
    }
}

/// The task of that name in a fixture.
fn named(tasks: &Map<String, Value>, name: &str) -> Result<String> {
    let found = tasks.iter().find(|(_, task)| task["name"] == name);
    Ok(found.with_context(|| format!("no task {name}"))?.0.clone())
}

/// Without changing anything: what is in a log counts, and no log is moved.
fn query<T: rusqlite::types::FromSql>(path: &Path, sql: &str) -> Result<T> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    Ok(db.query_row(sql, [], |row| row.get(0))?)
}

fn version(path: &Path) -> Result<u32> {
    query(path, "PRAGMA user_version")
}

/// Everything that the earlier build said is still said; a list may have become longer at its end. What is foretold is no fact.
fn assert_still(earlier: &Value, now: &Value, path: &str) {
    match (earlier, now) {
        (Value::Object(earlier), Value::Object(now)) => {
            for (key, value) in earlier.iter().filter(|(key, _)| !matches!(key.as_str(), "eta_unix_ms" | "expected_ms"))
            {
                assert_still(value, now.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"));
            }
        }
        (Value::Array(earlier), Value::Array(now)) => {
            assert!(earlier.len() <= now.len(), "{path}: {} of {} are there", now.len(), earlier.len());
            earlier.iter().zip(now).for_each(|(earlier, now)| assert_still(earlier, now, path));
        }
        (earlier, now) => assert_eq!(now, earlier, "{path}"),
    }
}

fn assert_all_there(world: &World, version: &str) -> Result<()> {
    for (id, task) in expected(version)? {
        assert_still(&task, &world.json(&["show", &id, "--history", "--json"])?, &id);
    }
    Ok(())
}

#[test]
fn every_task_of_an_earlier_schema_is_there_as_it_was() -> Result<()> {
    for earlier in EARLIER {
        let mut world = world_of(earlier)?;
        world.start_informer(&[])?;
        assert_all_there(&world, earlier)?;
        let tasks = expected(earlier)?;
        let listed = world.json(&["list", "--all", "--json"])?;
        let listed: Vec<_> = listed.as_array().context("a list")?.iter().map(|task| task["id"].as_str()).collect();
        for id in tasks.keys().filter(|id| !id.contains('.')) {
            ensure!(listed.contains(&Some(id)), "{earlier}: {id} is not listed");
        }
        // A key is still a key, with the payload that it came with and no other.
        let keyed = ["--name", "keyed", "--owner", "fixture", "--tries", "1", "--cwd", "/", "--key", "once"];
        let rest = ["--require", "box=0", "--env", "A=b", "--", "sh", "-c"];
        let again = world.submit(&[&keyed[..], &rest, &["exit 0"]].concat())?;
        assert_eq!(again, named(&tasks, "keyed")?);
        let other = world.informer(&[&["submit"], &keyed[..], &rest, &["exit 1"]].concat())?;
        assert_eq!(other.status.code(), Some(1), "{}", String::from_utf8_lossy(&other.stderr));
        // And all of it a second time, from the file as it is now.
        world.kill_informer();
        world.start_informer(&[])?;
        assert_all_there(&world, earlier)?;
    }
    Ok(())
}

/// What ended unheard is heard, what was accepted is run, what runs nowhere any more is tried again.
#[test]
fn a_world_of_an_earlier_schema_goes_on_where_it_was() -> Result<()> {
    for earlier in EARLIER {
        let mut world = world_of(earlier)?;
        let tasks = expected(earlier)?;
        world.start_informer(&[])?;
        for n in 0..2 {
            let label = format!("box={n}");
            world.start_sidecar(n, &["--slots", "16", "--cpu", "16000", "--label", &label], &[])?;
        }
        world.wait_linked(2)?;
        let ends = [("ends", "failed", 7, 1), ("committing", "succeeded", 0, 1), ("assigned", "failed", 6, 1)];
        for (name, state, code, attempts) in ends {
            let task = world.wait_state(&named(&tasks, name)?, &["succeeded", "failed", "cancelled"])?;
            let found = (&task["state"], &task["exit_code"], task["attempts"].as_array().map(Vec::len));
            assert_eq!(found, (&state.into(), &code.into(), Some(attempts)), "{earlier}: {task}");
        }
        world.wait_attempt(&named(&tasks, "running")?, 2, &["running"])?;
        for name in ["ready", "waiting", "cancelled", "failed", "succeeded-0"] {
            let id = named(&tasks, name)?;
            assert_still(&tasks[&id], &world.json(&["show", &id, "--history", "--json"])?, &id);
        }
    }
    Ok(())
}

#[test]
fn a_ledger_of_an_earlier_schema_is_looked_at_without_a_change() -> Result<()> {
    for earlier in EARLIER {
        let world = world_of(earlier)?;
        let path = world.dir().join("sidecar-0/ledger.db");
        let rows: i64 = query(&path, "SELECT count(*) FROM attempts")?;
        let before = version(&path)?;
        let output = Command::new(binary("sidecar"))
            .args(["status", "--json", "--data"])
            .arg(world.dir().join("sidecar-0"))
            .output()?;
        let status: Value = serde_json::from_slice(&output.stdout)?;
        let attempts = status["attempts"].as_array().context("attempts")?;
        let count = |state: &str| attempts.iter().filter(|attempt| attempt["state"] == state).count();
        assert_eq!((attempts.len() as i64, count("ended"), count("published")), (rows, 1, 1), "{status}");
        assert_eq!((version(&path)?, before), (before, if earlier == "v1" { 1 } else { 2 }));
    }
    Ok(())
}

/// A program that is expected not to stay.
fn run(world: &World, program: &str, data: &str, env: &[(&str, String)]) -> Result<Output> {
    let mut command = Command::new(binary(program));
    match program {
        "informer" => command.args(["serve", "--listen", "127.0.0.1:0", "--data"]),
        _ => command.args(["run", "--informer", "http://127.0.0.1:9", "--data"]),
    };
    command.arg(world.dir().join(data)).envs(env.iter().map(|(name, value)| (name, value)));
    Ok(command.stdin(Stdio::null()).output()?)
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() -> Result<()> {
    for (program, data, file) in [
        ("informer", "informer", "informer.db"),
        ("sidecar", "sidecar-0", "ledger.db"),
        ("sidecar", "sidecar-1", "ledger.db"),
    ] {
        let world = world_of("v2")?;
        let path = world.dir().join(data).join(file);
        Connection::open(&path)?.pragma_update(None, "user_version", 99)?;
        let before = std::fs::read(&path)?;
        let output = run(&world, program, data, &[])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{program}: {said}");
        for word in ["99", file, "newer"] {
            ensure!(said.contains(word), "{program} does not say {word}: {said}");
        }
        ensure!(std::fs::read(&path)? == before, "{program} has changed {}", path.display());
        assert_eq!(version(&path)?, 99);
    }
    Ok(())
}

/// Runs until it has killed itself there.
#[cfg(feature = "faults")]
fn dies_at(world: &World, program: &str, data: &str, point: &str) -> Result<()> {
    use std::os::unix::process::ExitStatusExt as _;
    let variable = if program == "informer" { "INFORMER_FAILPOINT" } else { "SIDECAR_FAILPOINT" };
    let output = run(world, program, data, &[(variable, point.to_owned())])?;
    assert_eq!(output.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The newest schema of this build: that of a database it makes.
#[cfg(feature = "faults")]
fn newest() -> Result<u32> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    version(&world.dir().join("informer/informer.db"))
}

#[cfg(feature = "faults")]
#[test]
fn an_informer_killed_in_a_migration_leaves_one_schema_or_the_other() -> Result<()> {
    let newest = newest()?;
    for (earlier, first) in EARLIER.into_iter().zip(1..) {
        let mut world = world_of(earlier)?;
        let path = world.dir().join("informer/informer.db");
        assert_eq!(version(&path)?, first);
        let tasks: i64 = query(&path, "SELECT count(*) FROM tasks")?;
        for step in first..newest {
            // The first life loses its step, the second keeps it.
            for (point, left) in [("mid-migration", step), ("after-migration", step + 1)] {
                dies_at(&world, "informer", "informer", point)?;
                assert_eq!(version(&path)?, left, "{earlier}: {point}");
                assert_eq!(query::<i64>(&path, "SELECT count(*) FROM tasks")?, tasks, "{earlier}: {point}");
                assert_eq!(query::<String>(&path, "PRAGMA integrity_check")?, "ok", "{earlier}: {point}");
                let halves: i64 =
                    query(&path, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%!_v%' ESCAPE '!'")?;
                assert_eq!(halves, 0, "{earlier}: {point} leaves a table that is only there in between");
            }
        }
        world.start_informer(&[])?;
        assert_all_there(&world, earlier)?;
    }
    Ok(())
}

#[cfg(feature = "faults")]
#[test]
fn a_sidecar_killed_in_a_migration_leaves_one_schema_or_the_other() -> Result<()> {
    let world = world_of("v1")?;
    let path = world.dir().join("sidecar-0/ledger.db");
    let rows = || query::<i64>(&path, "SELECT count(*) FROM attempts");
    let columns = || query::<i64>(&path, "SELECT count(*) FROM pragma_table_info('attempts')");
    let before = (rows()?, columns()?);
    dies_at(&world, "sidecar", "sidecar-0", "mid-migration")?;
    assert_eq!((version(&path)?, rows()?, columns()?), (1, before.0, before.1));
    dies_at(&world, "sidecar", "sidecar-0", "after-migration")?;
    ensure!(version(&path)? > 1 && columns()? > before.1);
    assert_eq!(rows()?, before.0);
    Ok(())
}

#[cfg(feature = "faults")]
#[test]
fn an_earlier_sidecar_gets_its_id_beside_the_ledger_whole_or_not_and_counts_on() -> Result<()> {
    let world = world_of("v1")?;
    let data = world.dir().join("sidecar-0");
    let (file, path) = (data.join("sidecar.id"), data.join("ledger.db"));
    let in_ledger = || query::<i64>(&path, "SELECT incarnation FROM meta");
    let in_file = |counted: i64| -> Result<bool> {
        Ok(std::fs::read_to_string(&file)?.contains(&format!(" incarnation {counted} ")))
    };
    let before = in_ledger()?;
    dies_at(&world, "sidecar", "sidecar-0", "before-identity")?;
    ensure!(!file.exists() && in_ledger()? == before, "something was counted before it was written");
    for starts in 1..=2 {
        dies_at(&world, "sidecar", "sidecar-0", "after-identity")?;
        ensure!(in_file(before + starts)? && in_ledger()? == before, "start {starts}");
    }
    Ok(())
}
