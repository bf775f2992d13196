//! Container tasks: a root of their own from an image directory, through crun.
#![cfg(feature = "faults")]

use anyhow::{Context as _, Result, ensure};
use proto::v1::{self, container::Network, task_spec::Kind};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::files::{command, input, names, output, submit};
use tests::world::{World, processes_with, wait_for};

/// Programs of the image, all of them busybox.
const APPLETS: [&str; 12] = ["sh", "cat", "echo", "id", "ip", "ls", "sleep", "touch", "true", "head", "tail", "grep"];

/// A statically linked busybox, which alone makes an image.
fn busybox() -> Option<PathBuf> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.is_file())?;
    // One that wants a loader or libraries would not start in an image of its own.
    let bytes = std::fs::read(&found).ok()?;
    let has_interpreter = bytes.windows(10).take(4096).any(|window| window == b"/lib64/ld-" || window == b"/lib/ld-li");
    (!has_interpreter).then_some(found)
}

/// A world with an image, or the reason why there is none.
fn world(test: &str) -> Result<Option<(World, PathBuf)>> {
    let runs = Command::new("crun").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing = match (runs.is_ok_and(|status| status.success()), rustix::process::geteuid().is_root(), busybox()) {
        (false, ..) => Some("crun is not installed"),
        (_, false, _) => Some("needs root"),
        (.., None) => Some("a static busybox is not installed"),
        (true, true, Some(_)) => None,
    };
    if let Some(missing) = missing {
        println!("SKIP {test}: {missing}");
        return Ok(None);
    }
    let world = World::with_sidecars(1)?;
    let image = world.dir().join("image");
    std::fs::create_dir_all(image.join("usr/bin"))?;
    std::fs::create_dir_all(image.join("etc"))?;
    std::fs::copy(busybox().context("busybox")?, image.join("usr/bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", image.join("usr/bin").join(applet))?;
    }
    symlink("usr/bin", image.join("bin"))?;
    std::fs::write(image.join("etc/name"), "image\n")?;
    Ok(Some((world, image)))
}

fn container(image: &Path, line: &str) -> v1::TaskSpec {
    let argv = ["sh", "-c", line].map(str::to_owned).to_vec();
    let container = v1::Container { image: image.to_string_lossy().into_owned(), argv, ..Default::default() };
    v1::TaskSpec { kind: Some(Kind::Container(container)), ..command(&["unused"]) }
}

fn of(spec: &mut v1::TaskSpec) -> &mut v1::Container {
    let Some(Kind::Container(container)) = &mut spec.kind else { unreachable!("a container task") };
    container
}

fn run(world: &World, spec: v1::TaskSpec) -> Result<(Value, String)> {
    let id = submit(world, spec)?;
    let task = world.wait_state(&id, &["succeeded", "failed", "cancelled"])?;
    let logs = world.informer(&["logs", &id])?;
    let text = String::from_utf8_lossy(&logs.stdout).into_owned() + &String::from_utf8_lossy(&logs.stderr);
    Ok((task, text))
}

#[test]
fn a_container_has_its_own_root_and_the_tasks_files() -> Result<()> {
    let Some((world, image)) = world("a_container_has_its_own_root_and_the_tasks_files")? else { return Ok(()) };
    let (data, result) = (world.dir().join("data"), world.dir().join("result"));
    std::fs::write(&data, "given\n")?;
    std::fs::create_dir(world.dir().join("shared"))?;
    let line =
        "cat /etc/name in; cat /proc/1/cmdline | head -c 2; echo; [ $TASK_DIR = $PWD ] && echo $MINE $INFORMER_ATTEMPT;
                touch /usr/bin/new; touch /new; touch /shared/new; echo made > $TASK_OUTPUTS/r; ls /";
    let mut spec = container(&image, line);
    of(&mut spec).mounts = vec![v1::container::Mount {
        source: world.dir().join("shared").to_string_lossy().into_owned(),
        target: "/shared".to_owned(),
        writable: true,
    }];
    spec.env.insert("MINE".to_owned(), "yes".to_owned());
    spec.inputs = vec![input(&data.to_string_lossy(), "", "in")];
    spec.outputs = vec![output("r", &result)];
    let (task, log) = run(&world, spec)?;
    assert_eq!(task["state"], "succeeded", "{task}\n{log}");
    assert!(log.starts_with("image\ngiven\nsh\nyes 1\n"), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 2, "{log}");
    assert_eq!(std::fs::read_to_string(&result)?, "made\n");
    assert_eq!(names(&world.dir().join("shared"))?, ["new"]);
    assert_eq!(names(&image)?, ["bin", "etc", "usr"], "the image is not written");
    Ok(())
}

#[test]
fn a_container_has_no_network_unless_it_asks_for_the_hosts() -> Result<()> {
    let Some((world, image)) = world("a_container_has_no_network_unless_it_asks_for_the_hosts")? else { return Ok(()) };
    let links = "ls /sys/class/net; grep -c : /proc/net/dev; ip addr show lo | grep -c 127.0.0.1/8";
    let (task, log) = run(&world, container(&image, links))?;
    assert_eq!(task["state"], "succeeded", "{task}\n{log}");
    assert_eq!(log, "lo\n1\n1\n");
    let mut spec = container(&image, "cat /proc/net/dev");
    of(&mut spec).network = Network::Host.into();
    let (task, log) = run(&world, spec)?;
    assert_eq!(task["state"], "succeeded", "{task}\n{log}");
    let links = |text: &str| text.lines().filter(|line| line.contains(':')).count();
    assert_eq!(links(&log), links(&std::fs::read_to_string("/proc/net/dev")?));
    Ok(())
}

#[test]
fn exit_codes_users_and_memory_limits_are_told() -> Result<()> {
    let Some((world, image)) = world("exit_codes_users_and_memory_limits_are_told")? else { return Ok(()) };
    let (task, log) = run(&world, container(&image, "exit 7"))?;
    assert_eq!((&task["state"], &task["exit_code"]), (&"failed".into(), &7.into()), "{task}\n{log}");

    let mut spec = container(&image, "id -u; id -g; echo x > $TASK_DIR/x && echo y > $TASK_OUTPUTS/y");
    of(&mut spec).user = "4242:4343".to_owned();
    let result = world.dir().join("y");
    spec.outputs = vec![output("y", &result)];
    let (task, log) = run(&world, spec)?;
    assert_eq!((&task["state"], log.as_str()), (&"succeeded".into(), "4242\n4343\n"), "{task}");
    assert_eq!(std::fs::metadata(&result)?.uid(), 4242);

    let mut spec = container(&image, "tail /dev/zero");
    spec.limits = Some(v1::Limits { memory_bytes: 64 << 20, ..Default::default() });
    let (task, log) = run(&world, spec)?;
    assert_eq!((&task["state"], &task["reason"]), (&"failed".into(), &"oom".into()), "{task}\n{log}");

    let (task, _) = run(&world, container(Path::new("/nowhere/at/all"), "true"))?;
    assert_eq!((&task["state"], &task["reason"]), (&"failed".into(), &"input".into()), "{task}");
    assert!(task["attempts"].to_string().contains("container image /nowhere/at/all"), "{task}");
    let mounts = [("/nowhere", "/x", "container mount /nowhere"), ("/tmp", "/usr/none", "the image has no such path")];
    for (source, target, why) in mounts {
        let mut spec = container(&image, "true");
        let (source, target) = (source.to_owned(), target.to_owned());
        of(&mut spec).mounts = vec![v1::container::Mount { source, target, writable: false }];
        let (task, _) = run(&world, spec)?;
        assert_eq!((&task["state"], &task["reason"]), (&"failed".into(), &"input".into()), "{task}");
        assert!(task["attempts"].to_string().contains(why), "{task}");
    }
    Ok(())
}

/// The exit code of `crun` says 1 for both.
#[test]
fn a_program_that_is_not_in_the_image_is_told_apart_from_one_that_fails() -> Result<()> {
    let test = "a_program_that_is_not_in_the_image_is_told_apart_from_one_that_fails";
    let Some((world, image)) = world(test)? else { return Ok(()) };
    let mut absent = container(&image, "");
    of(&mut absent).argv = vec!["no-such-program".to_owned()];
    let (task, log) = run(&world, absent)?;
    assert_eq!((&task["state"], &task["reason"]), (&"failed".into(), &"spawn".into()), "{task}\n{log}");
    assert_eq!(task["exit_code"], Value::Null, "{task}");
    assert!(task["attempts"].to_string().contains("no-such-program"), "{task}");
    let id = task["id"].as_str().context("an id")?;
    assert_eq!(world.informer(&["wait", id])?.status.code(), Some(125));
    let (task, log) = run(&world, container(&image, "echo not found >&2; exit 1"))?;
    assert_eq!((&task["reason"], &task["exit_code"]), (&"exit_code".into(), &1.into()), "{task}\n{log}");
    Ok(())
}

#[test]
fn a_cancelled_container_hears_of_it_and_leaves_nothing() -> Result<()> {
    let Some((world, image)) = world("a_cancelled_container_hears_of_it_and_leaves_nothing")? else { return Ok(()) };
    let mark = format!("mark-{}", std::process::id());
    // One that listens, and one that does not, as the first process of a pid namespace never does by default.
    let heard = format!("trap 'echo heard; exit 3' TERM; touch $TASK_DIR/up; : {mark}; while :; do sleep 0.05; done");
    let deaf = format!("touch $TASK_DIR/up; : {mark}; sleep 1000 & while :; do sleep 0.05; done");
    for (line, log) in [(&heard, "heard\n"), (&deaf, "")] {
        let mut spec = container(&image, line);
        spec.stop = Some(v1::Stop { grace_ms: 2000, ..Default::default() });
        let id = submit(&world, spec)?;
        let attempt = world.sidecars[0].data.join("attempts").join(format!("{id}.1"));
        wait_for("the container is up", || attempt.join("work/up").exists().then_some(()))?;
        ensure!(world.informer(&["cancel", &id])?.status.success());
        let task = world.wait_state(&id, &["succeeded", "failed", "cancelled"])?;
        assert_eq!(task["state"], "cancelled", "{task}");
        assert_eq!(String::from_utf8_lossy(&world.informer(&["logs", &id])?.stdout), log);
        assert_eq!(processes_with(mark.as_bytes()), Vec::<i32>::new());
        wait_for("its bundle and crun's state are gone", || (!attempt.join("bundle").exists()).then_some(()))?;
    }
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    assert!(!mounts.contains(&*world.dir().to_string_lossy()), "{mounts}");
    Ok(())
}
