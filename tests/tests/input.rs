//! Bad input of every kind: one clear line on stderr, the right exit status, and nothing lost.

use anyhow::{Context as _, Result};
use proto::v1::informer_client::InformerClient;
use proto::v1::sidecar_link_client::SidecarLinkClient;
use proto::v1::{self, informer_message::Message as Told, sidecar_message::Message as Said};
use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tests::world::{World, binary};

/// A task id that nobody has.
const NOBODY: &str = "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6c";

/// It failed with this status and one printable line that holds all the words.
fn assert_refused(output: &Output, status: i32, words: &[&str]) {
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{line}");
    assert_eq!(line.lines().count(), 1, "not one line: {line}");
    assert!(!line.trim_end().chars().any(char::is_control), "control characters: {line:?}");
    assert!(output.stdout.is_empty(), "stdout of a failure: {}", String::from_utf8_lossy(&output.stdout));
    for word in words {
        assert!(line.contains(word), "{word:?} is missing in {line}");
    }
}

/// A world with an informer alone.
fn informer() -> Result<World> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    Ok(world)
}

/// The informer answers, and a task of before is there.
fn assert_serves(world: &World, id: &str) -> Result<()> {
    assert_eq!(world.task(id)?["id"], id);
    Ok(())
}

/// A daemon that is to end by itself, without its log lines.
fn daemon(program: &str, args: &[&str], data: &Path) -> Result<Output> {
    let mut command = Command::new(binary(program));
    command.args(args).arg("--data").arg(data).env("INFORMER_LOG", "off").env("SIDECAR_LOG", "off");
    Ok(command.stdin(Stdio::null()).output()?)
}

fn serve(data: &Path) -> Result<Output> {
    daemon("informer", &["serve", "--listen", "127.0.0.1:0"], data)
}

async fn connect(world: &World) -> Result<tonic::transport::Channel> {
    Ok(tonic::transport::Endpoint::from_shared(world.url().to_owned())?.connect().await?)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[test]
fn a_program_that_is_not_there_fails_its_task_and_is_named() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let id = world.submit(&["--tries", "1", "--", "/no/such/program", "x"])?;
    let task = world.wait_state(&id, &["failed"])?;
    assert_eq!(task["reason"], "spawn", "{task}");
    assert!(task["message"].as_str().is_some_and(|text| text.contains("/no/such/program")), "{task}");
    let run = world.informer(&["run", "--", "/no/such/program"])?;
    assert_eq!(run.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&run.stderr).contains("/no/such/program"));
    // The sidecar is as good as before.
    assert_eq!(world.informer(&["run", "--", "true"])?.status.code(), Some(0));
    Ok(())
}

#[test]
fn misuse_of_the_command_line_is_one_line_and_2() -> Result<()> {
    let world = informer()?;
    let cases: [(&[&str], &[&str]); 9] = [
        (&["frobnicate"], &["frobnicate", "--help"]),
        (&["list", "--bogus"], &["--bogus", "informer list --help"]),
        (&["show"], &["<ID>"]),
        (&["submit"], &["nothing to run"]),
        (&["submit", "--timeout", "soon", "--", "true"], &["soon"]),
        (&["submit", "--memory", "much", "--", "true"], &["much"]),
        (&["submit", "--priority", "9999", "--", "true"], &["priority"]),
        (&["list", "--state", "asleep"], &["asleep"]),
        (&["--informer", "ftp://x", "list"], &["ftp://x"]),
    ];
    for (args, words) in cases {
        assert_refused(&world.informer(args)?, 2, words);
    }
    let more: [(&[&str], &[&str]); 5] = [
        (&["submit", "--timeout", "soon", "--", "true"], &["informer submit --help"]),
        (&["submit", "--array", "1-99999999999", "--", "true"], &["4294967294"]),
        (&["submit", "--label", "a=1", "--label", "a=2", "--", "true"], &["--label a is given twice"]),
        (&["submit", "echo", "hi"], &["informer submit -- echo hi"]),
        (&["submit", "--array", "1-2", "--out", "a=/tmp/a", "--", "true"], &["every member", "/tmp/a"]),
    ];
    for (args, words) in more {
        assert_refused(&world.informer(args)?, 2, words);
    }
    // Where 2 could be the task's own code, it is 125.
    assert_refused(&world.informer(&["run", "--bogus"])?, 125, &["--bogus"]);
    for args in [&["frobnicate"][..], &["run", "--slots", "0"]] {
        let output = Command::new(binary("sidecar")).args(args).output()?;
        assert_eq!(output.status.code(), Some(2));
    }
    Ok(())
}

#[test]
fn task_files_are_refused_with_file_and_line() -> Result<()> {
    let world = informer()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = world.dir().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let missing = world.dir().join("missing.toml").to_string_lossy().into_owned();
    assert_refused(&world.informer(&["submit", "-f", &missing])?, 1, &["missing.toml", "no such file"]);
    let missing = world.informer(&["submit", "--script", "/no/such/script.sh"])?;
    assert_refused(&missing, 1, &["/no/such/script.sh"]);
    let cases = [
        ("a.json", "{\n\"command\": [\n", "a.json:3"),
        ("b.json", "{\"comand\": {}}", "b.json:1: unknown field `comand`; did you mean `command`?"),
        ("c.toml", "name = \"x\"\ncommand = = 3\n", "c.toml:2"),
        ("d.toml", "\n\npriority = \"high\"\n", "d.toml:3"),
        ("e.toml", "name = \"only a name\"\n", "e.toml:1"),
    ];
    for (name, text, place) in cases {
        assert_refused(&world.informer(&["submit", "-f", &file(name, text)?])?, 2, &[place]);
    }
    assert_eq!(world.json(&["list", "--json"])?.as_array().map(Vec::len), Some(0), "nothing was submitted");
    Ok(())
}

#[test]
fn impossible_resources_are_refused_or_explained() -> Result<()> {
    let world = World::with_sidecars(1)?;
    assert_refused(&world.informer(&["submit", "--cpu", "99999999999", "--", "true"])?, 2, &["cpu"]);
    let id = world.submit(&["--cpu", "9000000", "--", "true"])?;
    let why = world.json(&["why", &id, "--json"])?;
    assert!(why["details"].to_string().contains("9000000 are asked for"), "{why}");
    let id = world.submit(&["--require", "gpu=yes", "--", "true"])?;
    let why = world.json(&["why", &id, "--json"])?;
    assert!(why["details"].to_string().contains("lacks the required label gpu=yes"), "{why}");
    // They block nobody.
    assert_eq!(world.informer(&["run", "--", "true"])?.status.code(), Some(0));
    Ok(())
}

#[test]
fn an_oversize_payload_is_refused() -> Result<()> {
    let world = informer()?;
    let kept = world.submit(&["--", "true"])?;
    let big = world.dir().join("big.sh");
    std::fs::write(&big, "#".repeat(300_000))?;
    assert_refused(&world.informer(&["submit", "--script", &big.to_string_lossy()])?, 1, &["big.sh", "larger than"]);
    // One argument has at most 128 KiB, says the kernel; three together are too many for us.
    let value = |name: &str| format!("{name}={}", "x".repeat(100_000));
    let (a, b, c) = (value("A"), value("B"), value("C"));
    let refused = world.informer(&["submit", "--env", &a, "--env", &b, "--env", &c, "--", "true"])?;
    assert_refused(&refused, 2, &["[invalid]"]);
    runtime()?.block_on(async {
        let mut client = InformerClient::new(connect(&world).await?);
        let spec = v1::TaskSpec { cwd: "x".repeat(proto::bounds::MESSAGE_BYTES + 1), ..Default::default() };
        let refused = client.submit(v1::SubmitRequest { spec: Some(spec), key: String::new() }).await;
        assert_eq!(refused.err().map(|status| status.code()), Some(tonic::Code::OutOfRange));
        anyhow::Ok(())
    })?;
    assert_serves(&world, &kept)
}

#[test]
fn garbage_on_the_port_costs_only_its_connection() -> Result<()> {
    let world = informer()?;
    let kept = world.submit(&["--", "true"])?;
    let address = world.url().trim_start_matches("http://");
    let garbage: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0xff; 4096],
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand then nonsense that is no frame at all",
        b"POST /informer.v1.Informer/Submit HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ];
    let mut silent = Vec::new();
    for bytes in garbage {
        let mut stream = TcpStream::connect(address)?;
        // It may hang up on us while we speak.
        let _ = stream.write_all(bytes);
        silent.push(stream);
        assert_serves(&world, &kept)?;
    }
    for mut stream in silent {
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // A reset is as good an end as another.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_serves(&world, &kept)
}

#[test]
fn a_sidecar_of_another_protocol_is_refused_for_good() -> Result<()> {
    let world = informer()?;
    let told = runtime()?.block_on(async {
        let mut link = SidecarLinkClient::new(connect(&world).await?);
        let hello = v1::Hello {
            protocol_min: 99,
            protocol_max: 99,
            sidecar: NOBODY.to_owned(),
            incarnation: 1,
            ..Default::default()
        };
        let (say, heard) = tokio::sync::mpsc::channel(1);
        say.send(v1::SidecarMessage { message: Some(Said::Hello(hello)) }).await?;
        let mut answers = link.link(tokio_stream::wrappers::ReceiverStream::new(heard)).await?.into_inner();
        anyhow::Ok(answers.message().await?.and_then(|message| message.message))
    })?;
    let Some(Told::Refuse(refuse)) = told else { panic!("not refused: {told:?}") };
    assert_eq!((refuse.code.as_str(), refuse.r#final), ("protocol", true));
    assert!(refuse.message.contains("upgrade"), "{}", refuse.message);
    Ok(())
}

#[test]
fn an_unusable_data_directory_is_named() -> Result<()> {
    let world = World::empty()?;
    let file = world.dir().join("file");
    std::fs::write(&file, b"in the way")?;
    for data in [file.clone(), file.join("below")] {
        assert_refused(&serve(&data)?, 1, &[&data.to_string_lossy(), "--data"]);
        assert_refused(
            &daemon("sidecar", &["run", "--informer", "http://127.0.0.1:1"], &data)?,
            1,
            &[&file.to_string_lossy()],
        );
    }
    assert_eq!(std::fs::read(&file)?, b"in the way");
    Ok(())
}

#[test]
fn a_read_only_data_directory_is_named() -> Result<()> {
    let test = "a_read_only_data_directory_is_named";
    let world = World::empty()?;
    let data = world.dir().join("ro");
    std::fs::create_dir(&data)?;
    // Permissions do not bind root; a read-only mount does, and it goes with its namespace.
    let line = "mount -t tmpfs -o ro none \"$1\" || exit 77; program=$2; shift 2; exec \"$program\" \"$@\"";
    for (program, args) in [("informer", &["serve", "--listen", "127.0.0.1:0"][..]), ("sidecar", &["run"])] {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", line, "sh"])
            .arg(&data)
            .arg(binary(program))
            .args(args)
            .arg("--data")
            .arg(&data);
        let output = command.env("INFORMER_LOG", "off").env("SIDECAR_LOG", "off").stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.code() != Some(77) && !output.stderr.starts_with(b"unshare:") => {
                assert_refused(&output, 1, &[&data.to_string_lossy()]);
            }
            other => println!("SKIP {test}: no mount namespace: {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn a_port_in_use_and_an_open_address_are_refused() -> Result<()> {
    let world = World::empty()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let data = world.dir().join("data");
    let refused = daemon("informer", &["serve", "--listen", &address], &data)?;
    assert_refused(&refused, 1, &["in use", &taken.local_addr()?.port().to_string()]);
    assert!(!data.join("informer.db").exists(), "a start that failed made a database");
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7070"] {
        assert_refused(&daemon("informer", &["serve", "--listen", open], &data)?, 2, &["TLS"]);
    }
    Ok(())
}

#[test]
fn a_data_directory_has_one_owner() -> Result<()> {
    let world = World::with_sidecars(1)?;
    assert_refused(&serve(&world.dir().join("informer"))?, 1, &["in use by another informer", "pid", "--data"]);
    let second = daemon("sidecar", &["run", "--informer", world.url()], &world.sidecars[0].data)?;
    assert_refused(&second, 1, &["belongs to the running sidecar", "--data"]);
    assert_eq!(world.informer(&["run", "--", "true"])?.status.code(), Some(0), "the owners go on");
    Ok(())
}

/// What a disk or a person can do to a database.
fn damage(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut pages = bytes.to_vec();
    // The second page on: the header is right, what follows is not.
    pages.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x5a);
    let mut header = bytes.to_vec();
    header[..16].fill(b'?');
    let half = bytes[..bytes.len() / 2].to_vec();
    vec![("pages", pages), ("header", header), ("half", half), ("stub", bytes[..10].to_vec())]
}

fn refuses_damaged(file: &Path, start: impl Fn() -> Result<Output>) -> Result<()> {
    let whole = std::fs::read(file)?;
    for (what, bytes) in damage(&whole) {
        std::fs::write(file, &bytes)?;
        let output = start()?;
        eprintln!("{what}: {}", String::from_utf8_lossy(&output.stderr));
        assert_refused(&output, 1, &[&file.to_string_lossy()]);
        assert!(std::fs::read(file)? == bytes, "{what}: the damaged file was changed");
    }
    std::fs::write(file, &whole)?;
    Ok(())
}

#[test]
fn a_damaged_informer_database_is_reported_and_left_alone() -> Result<()> {
    let mut world = informer()?;
    let id = world.submit(&["--", "true"])?;
    world.terminate_informer()?;
    let data = world.dir().join("informer");
    refuses_damaged(&data.join("informer.db"), || serve(&data))?;
    world.start_informer(&[])?;
    assert_serves(&world, &id)
}

#[test]
fn a_damaged_ledger_is_reported_and_left_alone() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    assert_eq!(world.informer(&["run", "--", "true"])?.status.code(), Some(0));
    world.terminate_agent(0)?;
    let data = world.sidecars[0].data.clone();
    let url = world.url().to_owned();
    refuses_damaged(&data.join("ledger.db"), || daemon("sidecar", &["run", "--informer", &url], &data))?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    assert_eq!(world.informer(&["run", "--", "true"])?.status.code(), Some(0));
    Ok(())
}

#[test]
fn a_key_names_one_payload() -> Result<()> {
    let world = informer()?;
    let id = world.submit(&["--key", "k", "--", "true"])?;
    assert_eq!(world.submit(&["--key", "k", "--", "true"])?, id);
    assert_refused(&world.informer(&["submit", "--key", "k", "--", "false"])?, 1, &["key", "[key_conflict]"]);
    assert_serves(&world, &id)
}

#[test]
fn an_unknown_id_is_told_by_every_verb() -> Result<()> {
    let world = informer()?;
    for verb in ["show", "logs", "cancel", "retry", "why"] {
        assert_refused(&world.informer(&[verb, NOBODY])?, 1, &[NOBODY]);
        assert_refused(&world.informer(&[verb, "no-id"])?, 2, &["no-id"]);
    }
    for id in [NOBODY, "no-id"] {
        assert_refused(&world.informer(&["wait", id])?, 125, &[id]);
    }
    Ok(())
}

#[test]
fn arguments_that_are_no_text_are_refused() -> Result<()> {
    let world = informer()?;
    let bytes = OsStr::from_bytes(b"caf\xe9");
    for (verb, status) in [("submit", 2), ("run", 125)] {
        let mut command = Command::new(binary("informer"));
        let output = command.args([verb, "--", "echo"]).arg(bytes).env("INFORMER_URL", world.url()).output()?;
        assert_refused(&output, status, &["UTF-8"]);
    }
    Ok(())
}

#[test]
fn binary_output_arrives_unchanged() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = world.dir().join("bytes");
    std::fs::write(&file, &bytes)?;
    let line = format!("cat {0}; cat {0} >&2", file.display());
    let output = world.informer(&["run", "--", "sh", "-c", &line])?;
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == bytes, "stdout differs");
    assert!(output.stderr == bytes, "stderr differs");
    Ok(())
}

#[test]
fn long_argument_lists_arrive_and_longer_ones_are_refused() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let args: Vec<String> = (0..4_000).map(|n| format!("a{n}")).collect();
    let words = |count: usize| args.iter().cycle().take(count).map(String::as_str).collect::<Vec<_>>();
    let line = ["run", "--", "sh", "-c", "echo $# $1", "sh"];
    let output = world.informer(&[&line[..], &words(4_000)].concat())?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "4000 a0\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_refused(&world.informer(&[&["submit", "--", "true"], &words(5_000)[..]].concat())?, 2, &["4096"]);
    Ok(())
}

#[test]
fn control_characters_in_names_are_refused_and_not_echoed() -> Result<()> {
    let world = informer()?;
    for flag in ["--name", "--owner", "--key"] {
        assert_refused(&world.informer(&["submit", flag, "a\u{1b}[2Jb", "--", "true"])?, 2, &[]);
    }
    assert_refused(&world.informer(&["submit", "--label", "a\nb=c", "--", "true"])?, 2, &[]);
    Ok(())
}

#[test]
fn a_reader_that_never_reads_delays_nobody() -> Result<()> {
    let world = World::with_sidecars(1)?;
    let id = world.submit(&["--", "sh", "-c", "head -c 30000000 /dev/zero; echo done >&2"])?;
    let runtime = runtime()?;
    // Asked for and never read: the stream fills its window and stands still.
    let _stream = runtime.block_on(async {
        let mut client = InformerClient::new(connect(&world).await?);
        let request = v1::LogsRequest { id: id.clone(), follow: true, ..Default::default() };
        anyhow::Ok((client.logs(request).await.context("logs")?.into_inner(), client))
    })?;
    world.wait_state(&id, &["succeeded"])?;
    for _ in 0..3 {
        let output = world.informer(&["run", "--", "echo", "hi"])?;
        assert_eq!(output.stdout, b"hi\n");
    }
    let other = world.informer(&["logs", &id])?;
    assert_eq!((other.stdout.len(), other.stderr), (30_000_000, b"done\n".to_vec()));
    Ok(())
}
