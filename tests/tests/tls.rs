//! Beyond one machine: certificates and a token between informer, sidecars and clients, and nobody without them.

use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use tests::world::secure::{Network, certify};
use tests::world::{DEADLINE, World, binary, wait_for};

/// Seconds of the generated video.
const VIDEO_SECONDS: &str = "4";

/// An informer and a sidecar in two network namespaces; `None` where they cannot be made. The network goes after the world.
fn apart(test: &str) -> Result<Option<(World, Network)>> {
    let network = match Network::new() {
        Ok(network) => network,
        Err(error) => {
            println!("SKIP {test}: {error:#}");
            return Ok(None);
        }
    };
    let mut world = World::empty()?;
    world.secure(&network.host)?;
    world.put_sidecars_behind(&network);
    world.start_informer(&[])?;
    ensure!(world.url().starts_with(&format!("https://{}:", network.host)), "{}", world.url());
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    Ok(Some((world, network)))
}

/// An informer with certificate and token on loopback.
fn guarded() -> Result<World> {
    let mut world = World::empty()?;
    world.secure("127.0.0.1")?;
    world.start_informer(&[])?;
    Ok(world)
}

fn address(world: &World) -> Result<SocketAddr> {
    Ok(world.url().split_once("://").context("a URL")?.1.parse()?)
}

/// What `informer list` says on stderr; empty if it succeeds.
fn refusal(world: &World, args: &[&str]) -> Result<String> {
    let output = world.informer(&[&["list"], args].concat())?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success() == said.is_empty(), "{:?}: {said}", output.status);
    Ok(said)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[test]
fn a_task_survives_its_agent_over_tls() -> Result<()> {
    let Some((mut world, _network)) = apart("a_task_survives_its_agent_over_tls")? else { return Ok(()) };
    let dir = world.dir().display();
    let script = format!(
        "echo started >> {dir}/starts; echo one; : > {dir}/wrote; while [ ! -e {dir}/go ]; do sleep 0.02; done; echo two; exit 7"
    );
    let id = world.submit(&["--tries", "1", "--", "sh", "-c", &script])?;
    world.wait_file("wrote")?;
    world.wait_state(&id, &["running"])?;
    world.kill_agent(0);
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    world.touch("go")?;
    let task = world.wait_state(&id, &["failed", "succeeded", "cancelled"])?;
    assert_eq!((&task["exit_code"], task["attempts"].as_array().map(Vec::len)), (&7.into(), Some(1)), "{task}");
    assert_eq!(world.lines("starts").len(), 1, "started more than once");
    assert_eq!(world.informer(&["logs", &id])?.stdout, b"one\ntwo\n");
    Ok(())
}

#[test]
fn a_transcode_over_tls() -> Result<()> {
    if !Command::new("ffmpeg").arg("-version").output().is_ok_and(|output| output.status.success()) {
        println!("SKIP a_transcode_over_tls: ffmpeg is not installed");
        return Ok(());
    }
    let Some((world, _network)) = apart("a_transcode_over_tls")? else { return Ok(()) };
    let (input, output) = (world.dir().join("input.mkv"), world.dir().join("output.mkv"));
    let source = format!("testsrc2=size=320x240:rate=25:duration={VIDEO_SECONDS}");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &source, "-c:v", "mpeg4"])
        .arg(&input)
        .status()?;
    ensure!(made.success(), "ffmpeg made no input");
    let file = world.dir().join("transcode.toml");
    std::fs::write(
        &file,
        format!("[transcode]\ninput = {input:?}\noutput = {output:?}\nargs = [\"-c:v\", \"mpeg4\"]\n"),
    )?;
    let id = world.submit(&["-f", text(&file)?])?;
    let task = world.wait_state(&id, &["failed", "succeeded", "cancelled"])?;
    assert_eq!(task["state"], "succeeded", "{task}");
    let size = std::fs::metadata(&output)?.len();
    assert_eq!(task["attempts"][0]["outputs"][0]["size_bytes"], size, "{task}");
    Ok(())
}

#[test]
fn strangers_are_kept_out_and_told_why() -> Result<()> {
    let mut world = guarded()?;
    assert_eq!(refusal(&world, &[])?, "");
    let other = world.dir().join("other");
    certify(&other, &["--host", "127.0.0.1"])?;
    let ca = refusal(&world, &["--tls-ca", text(&other.join("ca.pem"))?])?;
    assert!(ca.contains("certificate of 127.0.0.1 is not accepted") && ca.contains("--tls-ca"), "{ca}");
    let token = refusal(&world, &["--token-file", text(&other.join("token"))?])?;
    assert!(token.contains("not this informer's") && token.contains("[unauthenticated]"), "{token}");
    world.set("INFORMER_TOKEN_FILE", "".into());
    let none = refusal(&world, &[])?;
    assert!(none.contains("no token") && none.contains("INFORMER_TOKEN_FILE"), "{none}");
    let by_name = refusal(&world, &["--informer", &world.url().replace("127.0.0.1", "localhost")])?;
    assert!(by_name.contains("use a name or address that it is made for"), "{by_name}");
    let plain = refusal(&world, &["--informer", &world.url().replace("https", "http")])?;
    assert!(plain.starts_with("error: cannot reach the informer at http://127.0.0.1:"), "{plain}");
    assert!(plain.ends_with("or write https:// if this one speaks TLS\n"), "{plain}");
    // Before anything is sent.
    let away =
        ["--informer", "http://192.0.2.1:7070", "--token-file", text(&world.tls().join("token"))?].map(String::from);
    let away = refusal(&world, &away.each_ref().map(String::as_str))?;
    assert!(away.contains("is not sent to http://192.0.2.1:7070"), "{away}");
    Ok(())
}

#[test]
fn a_sidecar_with_a_wrong_token_says_so_once_and_is_let_in_when_it_is_mended() -> Result<()> {
    let mut world = guarded()?;
    let (own, tls) = (world.dir().join("token"), world.tls());
    certify(&world.dir().join("other"), &["--host", "127.0.0.1"])?;
    std::fs::copy(world.dir().join("other/token"), &own)?;
    // What clients say in this world is right; only the sidecar's is not.
    world.start_sidecar(0, &["--token-file", text(&own)?], &[("SIDECAR_LOG", "info")])?;
    let told = |world: &World| world.log("sidecar-0.log").matches("does not let this sidecar in").count();
    wait_for("the sidecar says why it is not let in", || (told(&world) == 1).then_some(()))?;
    // Whoever waits for a sidecar learns why there is none.
    let id = world.submit(&["--", "true"])?;
    let why = world.informer(&["why", &id])?;
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(
        why.contains("no sidecar is linked; ") && why.contains("a sidecar was turned away: its token is not"),
        "{why}"
    );
    std::fs::copy(tls.join("token"), &own)?;
    world.wait_linked(1)?;
    world.wait_state(&id, &["succeeded"])?;
    assert_eq!(told(&world), 1, "{}", world.log("sidecar-0.log"));
    Ok(())
}

#[test]
fn an_open_address_without_tls_is_refused_with_the_commands_that_mend_it() -> Result<()> {
    let world = World::empty()?;
    let data = world.dir().join("informer");
    let serve = |args: &[&str]| {
        Command::new(binary("informer"))
            .args(["serve", "--listen", "0.0.0.0:0", "--data"])
            .arg(&data)
            .args(args)
            .output()
    };
    let output = serve(&[])?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("missing: --tls-cert, --tls-key, --token-file"), "{said}");
    assert!(!data.exists(), "it began nevertheless");
    // What it says is what helps.
    let made = said.split('`').nth(1).context("a command")?;
    ensure!(made.starts_with("informer certificate "), "{made}");
    let made = Command::new(binary("informer")).args(made.split(' ').skip(1)).output()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(data.join("tls/token"), mode)?;
    let start: Vec<&str> = said.split('`').nth(3).context("a command")?.split(' ').skip(1).collect();
    let output = Command::new(binary("informer")).args(&start).output()?;
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains("can be read by others (mode 0644); run `chmod 600 "), "{said}");
    Ok(())
}

#[test]
fn a_broken_or_slow_handshake_costs_only_its_own_connection() -> Result<()> {
    let world = guarded()?;
    let mut silent =
        (0..32).map(|_| TcpStream::connect(address(&world)?).map_err(Into::into)).collect::<Result<Vec<_>>>()?;
    let mut half = TcpStream::connect(address(&world)?)?;
    // The first bytes of a handshake, and then nothing.
    half.write_all(&[22, 3, 1, 2, 0, 1])?;
    let mut garbage = TcpStream::connect(address(&world)?)?;
    garbage.write_all(&[22; 4096])?;
    let mut plain = TcpStream::connect(address(&world)?)?;
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")?;
    plain.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    plain.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("this port speaks TLS: https://\n"), "{answer}");
    assert_eq!(answer.rsplit_once("\r\n\r\n").map(|(_, body)| body.len()), Some(31), "content-length");
    assert_eq!(refusal(&world, &[])?, "");
    // Each is closed by the deadline of handshakes.
    for stream in silent.iter_mut().chain([&mut half]) {
        stream.set_read_timeout(Some(DEADLINE))?;
        let ended = stream.read(&mut [0; 16]);
        assert!(matches!(ended, Ok(0)) || ended.as_ref().is_err_and(is_reset), "{ended:?}");
    }
    assert_eq!(refusal(&world, &[])?, "");
    Ok(())
}

fn is_reset(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionReset
}

#[test]
fn certificates_and_token_are_replaced_while_it_runs() -> Result<()> {
    let mut world = guarded()?;
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    let (tls, next) = (world.tls(), world.dir().join("next"));
    certify(&next, &["--host", "127.0.0.1"])?;
    let ours = world.dir().join("ours");
    std::fs::create_dir(&ours)?;
    for name in ["ca.pem", "token"] {
        std::fs::copy(next.join(name), ours.join(name))?;
    }
    // The informer's own, and those of the sidecar, which are the same files.
    for name in ["informer.pem", "informer-key.pem", "ca.pem", "token"] {
        std::fs::copy(next.join(name), tls.join(name))?;
    }
    let new = ["--tls-ca", text(&ours.join("ca.pem"))?, "--token-file", text(&ours.join("token"))?].map(String::from);
    let new = new.each_ref().map(String::as_str);
    assert!(!refusal(&world, &new)?.is_empty(), "nobody has told it yet");
    world.hang_up_informer();
    wait_for("the new certificate is shown", || refusal(&world, &new).ok()?.is_empty().then_some(()))?;
    world.kill_agent(0);
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    // A mistake changes nothing.
    std::fs::write(tls.join("informer.pem"), "no certificate")?;
    world.hang_up_informer();
    wait_for("it is told", || world.log("informer.log").contains("stay as they were").then_some(()))?;
    assert_eq!(refusal(&world, &new)?, "");
    Ok(())
}

#[test]
fn an_informer_can_demand_certificates_of_all_who_connect() -> Result<()> {
    let mut world = World::empty()?;
    world.secure("127.0.0.1")?;
    let tls = world.tls();
    certify(&tls, &["--client", "box-1"])?;
    world.set("INFORMER_SERVER_TLS_CA", tls.join("ca.pem"));
    world.start_informer(&[])?;
    let said = refusal(&world, &[])?;
    assert!(said.contains("lets in only who shows a certificate; give one by --tls-cert and --tls-key"), "{said}");
    world.set("INFORMER_TLS_CERT", tls.join("box-1.pem"));
    world.set("INFORMER_TLS_KEY", tls.join("box-1-key.pem"));
    assert_eq!(refusal(&world, &[])?, "");
    world.start_sidecar(0, &[], &[])?;
    world.wait_linked(1)?;
    assert_eq!(world.informer(&["run", "--", "echo", "hello"])?.stdout, b"hello\n");
    Ok(())
}

/// A token alone, as on a machine that several people use.
#[test]
fn only_health_is_told_without_a_token() -> Result<()> {
    let mut world = World::empty()?;
    world.secure("127.0.0.1")?;
    for variable in ["INFORMER_SERVER_TLS_CERT", "INFORMER_SERVER_TLS_KEY"] {
        world.set(variable, "".into());
    }
    world.start_informer(&[])?;
    assert_eq!(refusal(&world, &[])?, "");
    let ask = |path: &str, header: &str| -> Result<String> {
        let mut stream = TcpStream::connect(address(&world)?)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{header}\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let token = std::fs::read_to_string(world.tls().join("token"))?;
    assert!(ask("/healthz", "")?.starts_with("HTTP/1.1 200 "));
    let refused = ask("/", "")?;
    assert!(refused.starts_with("HTTP/1.1 401 ") && refused.contains("www-authenticate: Bearer"), "{refused}");
    assert!(ask("/", &format!("authorization: Bearer {}\r\n", token.trim()))?.starts_with("HTTP/1.1 200 "));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = tonic::transport::Channel::from_shared(world.url().to_owned())?.connect().await?;
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
        health.check(tonic_health::pb::HealthCheckRequest::default()).await?;
        let mut client = proto::v1::informer_client::InformerClient::new(channel);
        let refused = client.list(proto::v1::ListRequest::default()).await;
        assert_eq!(refused.err().map(|status| status.code()), Some(tonic::Code::Unauthenticated));
        Ok(())
    })
}
