//! Transcodes by the real ffmpeg: progress that advances, an output that is whole or not there, reasons that help.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::world::{World, processes_with, wait_for};

/// Length of the generated input, seconds; frames of it, at 25 a second.
const INPUT_SECONDS: u32 = 12;
const INPUT_FRAMES: u32 = INPUT_SECONDS * 25;
/// Slows ffmpeg down to this many times real time, whatever the machine, so that there is a middle to look at.
const PACE: &str = "realtime=speed=4";

fn has_ffmpeg(test: &str) -> bool {
    let found = ["ffmpeg", "ffprobe"].iter().all(|name| {
        Command::new(name)
            .arg("-version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    if !found {
        println!("SKIP {test}: ffmpeg or ffprobe is not installed");
    }
    found
}

/// A world with a generated input.
fn world() -> Result<(World, PathBuf)> {
    let world = World::with_sidecars(1)?;
    let input = world.dir().join("input.mkv");
    let source = format!("testsrc2=size=320x240:rate=25:duration={INPUT_SECONDS}");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &source, "-c:v", "mpeg4"])
        .arg(&input)
        .stdin(Stdio::null())
        .status()?;
    ensure!(made.success(), "ffmpeg made no input");
    std::fs::create_dir(world.dir().join("out"))?;
    Ok((world, input))
}

fn submit(world: &World, input: &Path, args: &[&str]) -> Result<String> {
    let output = world.dir().join("out/output.mkv");
    let args: Vec<String> = args.iter().map(|arg| format!("{arg:?}")).collect();
    let file = format!(
        "[retry]\ntries = 1\n[transcode]\ninput = {input:?}\noutput = {output:?}\nargs = [{}]\n",
        args.join(", ")
    );
    let path = world.dir().join("transcode.toml");
    std::fs::write(&path, file)?;
    world.submit(&["-f", path.to_str().context("a path in UTF-8")?])
}

fn paced() -> [&'static str; 4] {
    ["-vf", PACE, "-c:v", "mpeg4"]
}

fn out(world: &World) -> PathBuf {
    world.dir().join("out/output.mkv")
}

/// Names in the destination's directory, except the lock that stays beside an output: it remembers the highest fence that published.
fn left(world: &World) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(world.dir().join("out"))?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name != ".output.mkv.fence").collect())
}

fn percent(task: &Value) -> f64 {
    task["progress"]["percent"].as_f64().unwrap_or(0.0)
}

fn is_over(task: &Value) -> bool {
    ["succeeded", "failed", "cancelled"].iter().any(|state| task["state"] == *state)
}

fn frames(path: &Path) -> Result<u32> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_packets", "-select_streams", "v:0", "-of", "csv=p=0"])
        .args(["-show_entries", "stream=nb_read_packets"])
        .arg(path)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    text.trim().trim_end_matches(',').parse().with_context(|| format!("ffprobe said {text:?}"))
}

/// Looks until the task is over: what is at the destination, and how far it is.
struct Looks {
    percents: Vec<f64>,
    sizes: Vec<u64>,
    task: Value,
}

fn look_to_the_end(world: &World, id: &str) -> Result<Looks> {
    let mut looks = Looks { percents: Vec::new(), sizes: Vec::new(), task: Value::Null };
    wait_for("the transcode ends", || {
        looks.sizes.extend(std::fs::metadata(out(world)).map(|found| found.len()));
        looks.task = world.task(id).ok()?;
        let now = percent(&looks.task);
        if now > looks.percents.last().copied().unwrap_or(0.0) {
            looks.percents.push(now);
        }
        is_over(&looks.task).then_some(())
    })
    .with_context(|| format!("last seen: {}", looks.task))?;
    Ok(looks)
}

/// One whole output and nothing else.
fn check_output(world: &World, looks: &Looks) -> Result<()> {
    assert_eq!(looks.task["state"], "succeeded", "{}", looks.task);
    let size = std::fs::metadata(out(world))?.len();
    assert!(looks.sizes.iter().all(|seen| *seen == size), "{:?} were seen before it was {size}", looks.sizes);
    assert_eq!(frames(&out(world))?, INPUT_FRAMES);
    assert_eq!(left(world)?, ["output.mkv"]);
    let manifest = &looks.task["attempts"][0]["outputs"][0];
    assert_eq!((&manifest["size_bytes"], manifest["sha256"].as_str().map(str::len)), (&size.into(), Some(64)));
    Ok(())
}

#[test]
fn progress_advances_and_the_output_is_there_when_it_is_whole() -> Result<()> {
    if !has_ffmpeg("progress_advances_and_the_output_is_there_when_it_is_whole") {
        return Ok(());
    }
    let (world, input) = world()?;
    let id = submit(&world, &input, &paced())?;
    let looks = look_to_the_end(&world, &id)?;
    check_output(&world, &looks)?;
    assert!(looks.percents.len() >= 2, "progress was seen at {:?} only", looks.percents);
    assert!(looks.percents.iter().all(|percent| (0.0..=100.0).contains(percent)), "{:?}", looks.percents);
    Ok(())
}

#[test]
fn a_transcode_survives_its_agent() -> Result<()> {
    if !has_ffmpeg("a_transcode_survives_its_agent") {
        return Ok(());
    }
    let (mut world, input) = world()?;
    let id = submit(&world, &input, &paced())?;
    wait_for("it is on its way", || world.task(&id).ok().filter(|task| percent(task) > 0.0))?;
    world.kill_agent(0);
    world.start_sidecar(0, &[], &[])?;
    let looks = look_to_the_end(&world, &id)?;
    check_output(&world, &looks)?;
    assert_eq!(looks.task["attempts"].as_array().map(Vec::len), Some(1), "{}", looks.task);
    Ok(())
}

#[test]
fn a_cancelled_transcode_leaves_nothing() -> Result<()> {
    if !has_ffmpeg("a_cancelled_transcode_leaves_nothing") {
        return Ok(());
    }
    let (world, input) = world()?;
    let id = submit(&world, &input, &paced())?;
    wait_for("a partial output is there", || left(&world).ok().filter(|names| !names.is_empty()))?;
    assert!(!out(&world).exists(), "a partial output under the final name");
    ensure!(world.informer(&["cancel", &id])?.status.success(), "cancel");
    let task = world.wait_state(&id, &["cancelled", "failed", "succeeded"])?;
    assert_eq!(task["state"], "cancelled", "{task}");
    wait_for("nothing is left at the destination", || left(&world).ok().filter(Vec::is_empty))?;
    let input = input.as_os_str().as_encoded_bytes().to_vec();
    wait_for("no ffmpeg is left", || processes_with(&input).is_empty().then_some(()))
}

/// Where the broken files are: `MEDIA_DIR`, or `../shared/media` beside the repository; else they are made.
fn broken(world: &World, name: &str, input: &Path) -> Result<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/media");
    let dir = std::env::var_os("MEDIA_DIR").map_or(beside, PathBuf::from);
    if dir.join(name).exists() {
        return Ok(dir.join(name));
    }
    let made = world.dir().join(name);
    match name {
        "c26_empty.mp4" => std::fs::write(&made, "")?,
        "c27_text.mp4" => std::fs::write(&made, "This is no film.\n".repeat(1000))?,
        _ => {
            // The table of an MP4 stands at its end: without that it cannot be read.
            let whole = world.dir().join("whole.mp4");
            let mut remux = Command::new("ffmpeg");
            remux.args(["-v", "error", "-y", "-i"]).arg(input).args(["-c", "copy"]).arg(&whole).stdin(Stdio::null());
            ensure!(remux.status()?.success(), "ffmpeg made no MP4");
            let bytes = std::fs::read(&whole)?;
            std::fs::write(&made, &bytes[..bytes.len() * 6 / 10])?;
        }
    }
    Ok(made)
}

#[test]
fn a_broken_input_fails_with_a_reason_that_tells() -> Result<()> {
    if !has_ffmpeg("a_broken_input_fails_with_a_reason_that_tells") {
        return Ok(());
    }
    let (world, input) = world()?;
    for (name, telling) in [
        ("c14_trunc_nomoov.mp4", "moov"),
        ("c26_empty.mp4", "empty"),
        ("c27_text.mp4", "not media"),
        ("c00.mp4", "does not exist"),
    ] {
        let path = if name == "c00.mp4" { world.dir().join(name) } else { broken(&world, name, &input)? };
        let id = submit(&world, &path, &["-c:v", "mpeg4"])?;
        let task = world.wait_state(&id, &["cancelled", "failed", "succeeded"])?;
        assert_eq!(task["state"], "failed", "{name}: {task}");
        let message = task["message"].as_str().unwrap_or_default();
        assert!(message.to_lowercase().contains(telling), "{name}: {message:?}");
        assert!(!message.contains('\n'), "{name}: {message:?}");
        assert_eq!(left(&world)?, Vec::<String>::new(), "{name}");
        let run = world.informer(&["wait", &id])?;
        assert!(!run.status.success(), "{name}");
    }
    Ok(())
}
