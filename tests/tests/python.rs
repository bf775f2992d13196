//! The client in Python, as the examples have it, against the real binaries.

use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tests::world::{World, binary};

/// The interpreter with `grpcio`, which `tests/run.sh` puts below the target directory.
fn python() -> Option<PathBuf> {
    let python = binary("informer").parent()?.parent()?.join("python/bin/python");
    let works = Command::new(&python).args(["-c", "import grpc, grpc_tools"]).output();
    works.is_ok_and(|output| output.status.success()).then_some(python)
}

fn client(python: &Path, world: &World, args: &[&str]) -> Result<Output> {
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python/client.py");
    let output = Command::new(python)
        .arg(client)
        .args(args)
        .env("INFORMER_URL", world.url())
        .env("INFORMER_STUBS", world.dir().join("stubs"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output();
    output.context("the client cannot be run")
}

#[test]
fn a_client_in_python_submits_waits_and_reads_logs() -> Result<()> {
    let Some(python) = python() else {
        println!("SKIP a_client_in_python: no grpcio; tests/run.sh installs it where pip reaches its index");
        return Ok(());
    };
    let world = World::with_sidecars(1)?;
    let output = client(&python, &world, &["sh", "-c", "echo to out; echo to err >&2; exit 3"])?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert_eq!((out.as_str(), output.status.code()), ("to out\n", Some(3)), "{err}");
    ensure!(err.contains("to err\n"), "{err}");

    let output = client(&python, &world, &["--array", "1-3", "sh", "-c", "echo member $INFORMER_ARRAY_INDEX"])?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert_eq!((out.as_str(), output.status.code()), ("member 1\nmember 2\nmember 3\n", Some(0)), "{err}");

    let output = client(&python, &world, &["sh", "-c", ""])?;
    assert_eq!(output.status.code(), Some(0));
    Ok(())
}
