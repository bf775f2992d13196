//! Configuration files of both daemons, as the binaries take them, and the units that start them.

use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::process::{Command, Output};
use tests::world::{World, binary};

/// Runs a daemon that ends at once since its file is wrong.
fn refused(program: &str, verb: &str, file: &Path) -> Result<Output> {
    Ok(Command::new(binary(program)).args([verb, "--config"]).arg(file).output()?)
}

#[test]
fn every_fault_of_a_file_is_told_in_one_go() -> Result<()> {
    let world = World::empty()?;
    let file = world.dir().join("wrong.toml");
    let said = |output: Output| -> Result<Vec<String>> {
        Ok(String::from_utf8(output.stderr)?.lines().map(str::to_owned).collect())
    };
    std::fs::write(&file, "listn = \"127.0.0.1:0\"\nbeat = \"never\"\n[logs]\nupload = 1\n")?;
    let output = refused("informer", "serve", &file)?;
    assert_eq!(output.status.code(), Some(2));
    let path = file.display();
    let expected = [
        format!("{path}:1: listn: there is no such key; did you mean listen?"),
        format!("{path}:2: beat: \"never\" is not a duration; write one like 500ms, 30s, 5m, 1h30m or 2d"),
        format!("{path}:4: logs.upload: it is a whole number; write a text in quotes"),
    ];
    assert_eq!(said(output)?, expected);
    std::fs::write(&file, "slots = \"many\"\ndata_dir = \"x\"\n")?;
    let output = refused("sidecar", "run", &file)?;
    assert!(!output.status.success());
    let lines = said(output)?;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with(&format!("{path}:1: slots: it is a text; write a whole number")), "{lines:?}");
    assert!(lines[1].starts_with(&format!("{path}:2: data_dir: there is no such key; known are ")), "{lines:?}");
    Ok(())
}

#[test]
fn every_fault_of_the_environment_is_told_in_one_go_with_those_of_the_file() -> Result<()> {
    let world = World::empty()?;
    let file = world.dir().join("wrong.toml");
    std::fs::write(&file, "x = 1\n")?;
    let refused = |program: &str, verb: &str, variables: &[(&str, &str)]| -> Result<Vec<String>> {
        let output = Command::new(binary(program))
            .args([verb, "--config"])
            .arg(&file)
            .envs(variables.iter().copied())
            .env("INFORMER_DATA", world.dir().join("informer"))
            .env("SIDECAR_DATA", world.dir().join("sidecar"))
            .output()?;
        ensure!(output.status.code() == Some(2), "{program}: {output:?}");
        let mut lines: Vec<String> = String::from_utf8(output.stderr)?.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    let wrong = [
        ("INFORMER_BEAT", "never"),
        ("INFORMER_FENCE_GRACE", "500d"),
        ("INFORMER_LEASE_BEATS", "1"),
        ("INFORMER_LISTEN", "7070"),
        ("INFORMER_LOG", "=loud="),
    ];
    let told = refused("informer", "serve", &wrong)?;
    let begin_with = |told: &[String], wrong: &[(&str, &str)]| {
        let path = file.to_string_lossy().into_owned();
        let names = [path.as_str()].into_iter().chain(wrong.iter().map(|(name, _)| *name));
        let fits = told.iter().zip(names).all(|(line, name)| line.starts_with(&format!("{name}:")));
        assert!(fits && told.len() == wrong.len() + 1, "{told:?}");
    };
    begin_with(&told, &wrong);
    assert_eq!(told[1], "INFORMER_BEAT: \"never\" is not a duration; write one like 500ms, 30s, 5m, 1h30m or 2d");
    let wrong = [
        ("INFORMER_URL", "informer"),
        ("SIDECAR_CPU", "0"),
        ("SIDECAR_LABELS", "gpu"),
        ("SIDECAR_LOG", "=loud="),
        ("SIDECAR_METRICS", "0.0.0.0:1"),
        ("SIDECAR_SLOTS", "many"),
        ("SIDECAR_STOP_TASKS_ON_EXIT", "maybe"),
    ];
    begin_with(&refused("sidecar", "run", &wrong)?, &wrong);
    Ok(())
}

/// Flags over environment over file.
#[test]
fn a_file_starts_both_daemons() -> Result<()> {
    let mut world = World::empty()?;
    let informer = world.dir().join("informer.toml");
    std::fs::write(
        &informer,
        "listen = \"192.0.2.1:1\"\ndata = \"elsewhere\"\nlog = \"info\"\n[retention]\nkeep_ended = \"1d\"\n",
    )?;
    // The flags of this world win: `listen` of the file would be refused.
    world.start_informer(&[("INFORMER_CONFIG", informer.to_str().context("UTF-8")?)])?;
    ensure!(!world.dir().join("elsewhere").exists(), "the file won over the flag");
    let sidecar = world.dir().join("sidecar.toml");
    std::fs::write(
        &sidecar,
        "informer = \"http://127.0.0.1:9\"\nslots = 1\n[labels]\nzone = \"file\"\ngpu = \"yes\"\n",
    )?;
    let env = [("SIDECAR_CONFIG", sidecar.to_str().context("UTF-8")?), ("SIDECAR_LABELS", "zone=environment")];
    world.start_sidecar(0, &[], &env)?;
    world.wait_linked(1)?;
    let here = ["run", "--require", "zone=environment", "--require", "gpu=yes", "--", "true"];
    assert_eq!(world.informer(&here)?.status.code(), Some(0));
    Ok(())
}

#[test]
fn systemd_takes_the_units() -> Result<()> {
    let test = "systemd_takes_the_units";
    if !Command::new("systemd-analyze").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("SKIP {test}: systemd-analyze is not installed");
        return Ok(());
    }
    let world = World::empty()?;
    for name in ["informer", "sidecar"] {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/systemd/{name}.service"));
        let unit = std::fs::read_to_string(unit)?;
        let installed = format!("/usr/local/bin/{name}");
        ensure!(unit.contains(&installed), "{name} is not where the comment puts it");
        // It looks whether the program is there.
        let path = world.dir().join(format!("{name}.service"));
        std::fs::write(&path, unit.replace(&installed, binary(name).to_str().context("UTF-8")?))?;
        let output = Command::new("systemd-analyze").arg("verify").arg(&path).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains(&format!("{name}.service")), "{said}");
    }
    Ok(())
}
