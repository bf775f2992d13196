//! The real ffmpeg on real and damaged media. Without ffmpeg or the media the tests say so and pass.

use super::*;
use crate::exec::{Progress, discard, ending, plan, publish};
use keeper::wire::{End, EndReason};
use proto::{
    id::{AttemptId, Fence, TaskId},
    v1::{Reason, task_spec::Kind},
};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

/// A data directory with one attempt, laid out as the keeper would.
struct World {
    data: PathBuf,
    spec: v1::TaskSpec,
    attempt: AttemptId,
    fence: Fence,
}

impl Drop for World {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.data);
    }
}

fn media(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("MEDIA_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/media"), PathBuf::from);
    let path = dir.join(name);
    let has_ffmpeg = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).status().is_ok();
    if path.exists() && has_ffmpeg {
        return Some(path.canonicalize().expect("it exists"));
    }
    println!("skipped: needs ffmpeg and {} (set MEDIA_DIR)", path.display());
    None
}

impl World {
    fn new(label: &str, input: &Path, output: &str, args: &[&str]) -> Self {
        let data = std::env::temp_dir().join(format!("transcode-{}-{label}", std::process::id()));
        let _stale = fs::remove_dir_all(&data);
        fs::create_dir_all(data.join("out")).expect("a temporary directory");
        let transcode = v1::Transcode {
            input: input.to_str().expect("UTF-8").to_owned(),
            output: data.join("out").join(output).to_str().expect("UTF-8").to_owned(),
            args: args.iter().map(|&argument| argument.to_owned()).collect(),
            preset: String::new(),
        };
        let spec = v1::TaskSpec { kind: Some(Kind::Transcode(transcode)), ..Default::default() };
        let attempt = AttemptId { task: TaskId::from_u128(7), number: 1 };
        Self { data, spec, attempt, fence: Fence { epoch: 1, n: 1 } }
    }

    fn dir(&self) -> PathBuf {
        self.data.join("attempts").join(self.attempt.dir_name())
    }

    fn transcode(&mut self) -> &mut v1::Transcode {
        let Some(Kind::Transcode(transcode)) = &mut self.spec.kind else { panic!("a transcode") };
        transcode
    }

    fn output(&self) -> PathBuf {
        let Some(Kind::Transcode(transcode)) = &self.spec.kind else { panic!("a transcode") };
        PathBuf::from(&transcode.output)
    }

    /// Plans the attempt and writes its files, as keeper and monitor do; the job's path.
    fn laid_out(&self) -> PathBuf {
        let planned = plan(&Plan {
            attempt: self.attempt,
            fence: self.fence,
            task_name: "t",
            item: None,
            crun: None,
            spec: &self.spec,
            data_dir: &self.data,
            exe: Path::new("/usr/bin/sidecar"),
            base_env: &[],
            fence_grace_ms: 1,
        })
        .expect("a plan");
        let work = self.dir().join("work");
        fs::create_dir_all(&work).expect("a work directory");
        planned.files.iter().for_each(|file| fs::write(work.join(&file.name), &file.content).expect("a file"));
        assert_eq!(planned.argv[1..], ["exec-transcode", work.join(JOB_FILE).to_str().expect("UTF-8")]);
        work.join(JOB_FILE)
    }

    /// The supervisor in a process of its own: this test binary, told by its environment to be one.
    fn start(&self, log: Stdio) -> Child {
        Command::new(std::env::current_exe().expect("this test"))
            .args(["exec::transcode::tests::supervisor", "--exact", "--nocapture", "--ignored"])
            .env("JOB", self.laid_out())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("this test can be spawned")
    }

    fn run(&self) -> v1::Ending {
        let code = self.start(Stdio::null()).wait().expect("a child").code();
        self.ending(code)
    }

    fn ending(&self, code: Option<i32>) -> v1::Ending {
        let end = End { code, reason: EndReason::Exited, ..End::default() };
        let mut ending = ending(&self.dir(), &self.spec, &end);
        proto::check::ending(&mut ending).expect("the informer takes it");
        ending
    }

    fn siblings(&self) -> Vec<String> {
        let entries = fs::read_dir(self.data.join("out")).expect("the output's directory");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// Not a test: the body of [`World::start`].
#[test]
#[ignore = "runs only as a child of the other tests"]
fn supervisor() {
    let job = PathBuf::from(std::env::var_os("JOB").expect("set by the parent"));
    // ExitCode cannot be looked into; leaving through it is what the binary does.
    let code = supervise::exit_code(&job);
    std::process::exit(i32::from(code));
}

const SMALL: [&str; 4] = ["-vf", "scale=160:-2", "-c:v", "mpeg4"];

#[test]
fn a_good_input_is_staged_verified_and_published() {
    let Some(input) = media("bigbuckbunny.mp4") else { return };
    let world = World::new("good", &input, "small.mp4", &SMALL);
    let end = world.run();
    assert_eq!((end.reason(), end.message.as_str(), end.exit_code), (Reason::Unspecified, "", Some(0)));
    let [staged] = &end.outputs[..] else { panic!("one output: {end:?}") };
    assert_eq!((Path::new(&staged.path), staged.sha256.len()), (world.output().as_path(), 64));
    assert_eq!(world.siblings(), [format!(".small.mp4.{}.part", world.attempt)], "nothing at the destination yet");
    let mut progress = Progress::new(world.spec.kind.as_ref());
    assert_eq!(progress.read(&world.dir()).expect("progress").permille, 1000);
    assert_eq!(progress.read(&world.dir()), None, "told once");

    publish(&world.dir(), &world.spec, world.attempt).expect("published");
    publish(&world.dir(), &world.spec, world.attempt).expect("a replay is a success");
    assert_eq!(world.siblings(), [".small.mp4.fence", "small.mp4"]);
    assert_eq!(fs::metadata(world.output()).expect("the output").len(), staged.size_bytes);
    discard(&world.spec, world.attempt).expect("nothing left to discard");
}

/// Inputs that ffmpeg exits 0 on, or not, with what the attempt must say.
#[test]
fn damaged_inputs_fail_with_their_reason() {
    let cases = [
        ("c13_trunc_faststart.mp4", Exit::Input, "is damaged: Invalid NAL unit size"),
        ("c14_trunc_nomoov.mp4", Exit::Input, "moov atom not found"),
        ("c15_trunc.mkv", Exit::Input, "File ended prematurely"),
        ("c16_corrupt.mkv", Exit::Input, "is damaged: cabac decode"),
        ("c26_empty.mp4", Exit::Input, "is empty"),
        ("c27_text.mp4", Exit::Input, "is not media"),
    ];
    for (name, exit, words) in cases {
        let Some(input) = media(name) else { return };
        let world = World::new(name, &input, "o.mp4", &SMALL);
        let end = world.run();
        assert_eq!((end.reason(), end.exit_code), (Reason::ExitCode, Some(i32::from(exit.code()))), "{name}: {end:?}");
        assert!(end.message.contains(words), "{name}: {}", end.message);
        assert_eq!(world.siblings(), [""; 0], "{name}: nothing may be left behind");
    }
}

#[test]
fn damage_can_be_tolerated() {
    for name in ["c13_trunc_faststart.mp4", "c15_trunc.mkv"] {
        let Some(input) = media(name) else { return };
        let mut world = World::new(&format!("tolerate-{name}"), &input, "o.mp4", &SMALL);
        world.spec.env.insert(TOLERATE_VARIABLE.to_owned(), "1".to_owned());
        assert_eq!(world.run().reason(), Reason::Unspecified, "{name}");
    }
}

#[test]
fn odd_inputs_are_no_damaged_ones() {
    let cases: [(&str, &str, &[&str]); 8] = [
        ("c04_vfr_h264.mp4", "o.mp4", &SMALL),
        ("c09_one_frame.mp4", "o.mkv", &SMALL),
        ("c10_three_frames.mp4", "o.ts", &["-c:v", "mpeg2video"]),
        ("c12_audio_only.m4a", "o.mp3", &["-q:a", "4"]),
        ("c02_h264_opengop.mp4", "o.mp4", &["-c", "copy"]),
        ("c21_video_late.mkv", "o.mp4", &["-an", "-vf", "scale=160:-2", "-c:v", "mpeg4"]),
        ("c30_pts_wrap.ts", "o.mkv", &["-c", "copy"]),
        ("c11_noaudio.mp4", "o.mp4", &["-t", "1", "-c", "copy"]),
    ];
    for (name, output, args) in cases {
        let Some(input) = media(name) else { return };
        let world = World::new(&format!("odd-{name}"), &input, output, args);
        let end = world.run();
        assert_eq!((end.reason(), end.message.as_str()), (Reason::Unspecified, ""), "{name} {args:?}");
    }
}

#[test]
fn every_preset_makes_its_output() {
    let Some(input) = media("c10_three_frames.mp4") else { return };
    for (name, _) in PRESETS {
        let output = match *name {
            "vp9" => "o.webm",
            "audio-aac" => "o.m4a",
            "audio-opus" => "o.opus",
            _ => "o.mp4",
        };
        let mut world = World::new(&format!("preset-{name}"), &input, output, &[]);
        world.transcode().preset = (*name).to_owned();
        let end = world.run();
        assert_eq!((end.reason(), end.message.as_str()), (Reason::Unspecified, ""), "{name}");
    }
}

#[test]
fn the_presets_are_those_that_a_submit_accepts() {
    let accepted: Vec<&str> = proto::check::PRESETS.iter().map(|preset| preset.name).collect();
    assert_eq!(PRESETS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), accepted);
}

#[test]
fn the_page_for_users_names_everything() {
    let page = include_str!("../../../../docs/transcode.md");
    for (name, _) in PRESETS {
        assert!(page.contains(&format!("| `{name}` |")), "preset {name}");
    }
    for extension in format::extensions().split(", ") {
        let listed =
            [format!("({extension},"), format!(" {extension},"), format!("\n{extension},"), format!("{extension})")];
        assert!(listed.iter().any(|text| page.contains(text)), "extension {extension}");
    }
    let exits = [
        Exit::Job,
        Exit::Input,
        Exit::NoInput,
        Exit::NoFfmpeg,
        Exit::Ffmpeg,
        Exit::Destination,
        Exit::Io,
        Exit::Output,
    ];
    for exit in exits.into_iter().chain([Exit::Stopped]) {
        assert!(page.contains(&format!("| {} |", exit.code())), "{exit:?}");
    }
    assert!(page.contains(TOLERATE_VARIABLE));
}

#[test]
fn a_video_preset_wants_video_and_audio_wants_audio() {
    for (name, preset, kind) in [("c12_audio_only.m4a", "h264", "0:v:0"), ("c11_noaudio.mp4", "audio-aac", "0:a:0")] {
        let Some(input) = media(name) else { return };
        let mut world = World::new(&format!("wants-{preset}"), &input, "o.mp4", &[]);
        world.transcode().preset = preset.to_owned();
        let end = world.run();
        assert_eq!(end.message, format!("ffmpeg: Stream map '{kind}' matches no streams."), "{end:?}");
    }
}

#[test]
fn mistakes_are_named() {
    let Some(input) = media("c09_one_frame.mp4") else { return };
    let cases: [(&[&str], Exit, &str); 2] = [
        (&["-c:v", "nope"], Exit::Ffmpeg, "Unknown encoder 'nope'"),
        (&["-c:v", "mpeg4", "-f", "nope"], Exit::Ffmpeg, "nope"),
    ];
    for (n, (args, exit, words)) in cases.into_iter().enumerate() {
        let end = World::new(&format!("mistake-{n}"), &input, "o.mp4", args).run();
        assert_eq!(end.exit_code, Some(i32::from(exit.code())), "{end:?}");
        assert!(end.message.contains(words), "{}", end.message);
    }
    let missing = World::new("missing", Path::new("/no/such/input.mp4"), "o.mp4", &SMALL).run();
    assert_eq!(missing.exit_code, Some(66));
    assert_eq!(missing.message, "input /no/such/input.mp4 does not exist on the sidecar's machine");
    let nowhere = World::new("nowhere", &input, "no/dir/o.mp4", &SMALL).run();
    assert_eq!(nowhere.exit_code, Some(73), "{nowhere:?}");
}

#[test]
fn a_stop_ends_ffmpeg_and_leaves_nothing() {
    let Some(input) = media("c01_h264_closed_b3_25.mp4") else { return };
    // Real time, so that it would run for twenty seconds.
    let world = World::new("stop", &input, "o.mp4", &["-vf", "realtime,scale=64:-2", "-c:v", "mpeg4", "-an"]);
    let mut child = world.start(Stdio::piped());
    // ffmpeg announces its output when it begins to encode.
    let log = child.stderr.take().expect("piped");
    let begun = BufReader::new(log).lines().map_while(Result::ok).any(|line| line.contains("Output #0"));
    assert!(begun, "ended before it began");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let code = child.wait().expect("a child").code();
    assert_eq!(code, Some(i32::from(Exit::Stopped.code())));
    assert_eq!(world.ending(code).message, "stopped by a signal");
    assert_eq!(world.siblings(), [""; 0]);
}

#[test]
fn publishing_refuses_what_is_not_the_attempts() {
    let Some(input) = media("c09_one_frame.mp4") else { return };
    let mut world = World::new("fence", &input, "o.mp4", &SMALL);
    world.fence = Fence { epoch: 2, n: 5 };
    assert_eq!(world.run().reason(), Reason::Unspecified);
    publish(&world.dir(), &world.spec, world.attempt).expect("the winner");

    // The winner before it comes back: its fence is lower.
    let mut older = World { data: world.data.clone(), spec: world.spec.clone(), ..world };
    older.attempt.number = 2;
    older.fence = Fence { epoch: 1, n: 900 };
    assert_eq!(older.run().reason(), Reason::Unspecified);
    let refused = publish(&older.dir(), &older.spec, older.attempt).expect_err("fenced");
    assert!(refused.starts_with("a newer attempt of the task has already published"), "{refused}");
    discard(&older.spec, older.attempt).expect("discarded");
    discard(&older.spec, older.attempt).expect("again");
    assert_eq!(older.siblings(), [".o.mp4.fence", "o.mp4"]);
    let nothing =
        publish(&older.dir(), &older.spec, AttemptId { number: 9, ..older.attempt }).expect_err("not its own");
    assert!(nothing.contains("is not the task's output"), "{nothing}");
}

#[test]
fn plans_that_cannot_work_are_refused() {
    let refusal = |input: &str, output: &str, args: &[&str], preset: &str| {
        let mut world = World::new("refusal", Path::new(input), "x", args);
        world.transcode().output = output.to_owned();
        world.transcode().preset = preset.to_owned();
        let plan = Plan {
            attempt: world.attempt,
            fence: world.fence,
            task_name: "t",
            item: None,
            crun: None,
            spec: &world.spec,
            data_dir: &world.data,
            exe: Path::new("/s"),
            base_env: &[],
            fence_grace_ms: 1,
        };
        super::super::plan(&plan).expect_err("a refusal").to_string()
    };
    assert!(refusal("in.mp4", "/o.mp4", &[], "").contains("transcode.input \"in.mp4\" is relative"));
    assert!(refusal("/in.mp4", "", &[], "").contains("transcode.output \"\" is relative"));
    assert!(refusal("/in.mp4", "/out/", &[], "").contains("does not name a file"));
    assert!(refusal("/in.mp4", "/o.xyz", &[], "").contains("add `-f FORMAT` to args"));
    assert!(refusal("/in.mp4", "/o.m3u8", &["-f", "hls"], "").contains("writes several files"));
    assert!(refusal("/in.mp4", "/o.mp4", &[], "h264-8k").contains("the presets are audio-aac, audio-opus"));
    assert!(refusal("/in.mp4", "/o.mp4", &["-an"], "copy").contains("both args and preset"));
}

#[test]
fn staged_names_fit_the_file_system() {
    let attempt = AttemptId { task: TaskId::from_u128(u128::MAX), number: u32::MAX }.dir_name();
    for name in ["a.mp4".to_owned(), "é".repeat(125) + ".mp4"] {
        let staged = staged_path(&Path::new("/d").join(&name), &attempt);
        let staged = staged.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        assert!(staged.len() <= NAME_MAX && staged.starts_with('.') && staged.ends_with(".part"), "{staged}");
    }
}
