//! Whoever speaks nonsense to an open port or socket loses his connection; everybody else is served, and nothing panics.
#![cfg(feature = "faults")]

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request};
use prost::Message as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use tests::fuzz::TARGETS;
use tests::sim::rng::Rng;
use tests::world::{DEADLINE, World, alive};

/// What an HTTP/2 client says first, and its empty settings.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// Damaged messages for each method.
const DAMAGED: usize = 12;
/// Largest noise.
const NOISE_BYTES: u64 = 4_000;

/// One frame of HTTP/2 (RFC 9113, 4.1), right or wrong.
fn frame(length: u32, kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

fn noise(rng: &mut Rng, most: u64) -> Vec<u8> {
    let length = rng.range(0, most);
    (0..length).map(|_| rng.bits() as u8).collect()
}

/// What strangers say.
fn nonsense() -> Vec<Vec<u8>> {
    let opened = |frames: &[Vec<u8>]| [OPENING, &frames.concat()].concat();
    let mut rng = Rng::new(1);
    let mut all = vec![
        b"PRI * HT".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /%00%ff HTTP/1.1\r\nhost: \x80\r\n\r\n".to_vec(),
        b"POST /v1/callback/x.1?token=%zz HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999999999999\r\n\r\n{".to_vec(),
        [b"GET / HTTP/1.1\r\nhost: x\r\nx: ", &vec![b'a'; 1 << 20][..], b"\r\n\r\n"].concat(),
        opened(&[]),
        // A frame longer than may be; one cut short; a header block of noise; one that never ends.
        opened(&[frame(0x00ff_ffff, 0, 0, 1, &[0; 100])]),
        opened(&[frame(100, 0, 0, 1, &[0; 10])]),
        opened(&[frame(200, 1, 4, 1, &[0xff; 200])]),
        opened(&[vec![frame(3, 1, 0, 1, &[0x82, 0x86, 0x84])], vec![frame(1000, 9, 0, 1, &[0; 1000]); 200]].concat()),
        // Streams that are opened and reset at once; windows beyond the last number; pings without end.
        opened(&(0..2000).flat_map(|n| rapid_reset(2 * n + 1)).collect::<Vec<_>>()),
        opened(&vec![frame(4, 8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]); 3]),
        opened(&vec![frame(8, 6, 0, 0, &[1; 8]); 2000]),
        opened(&[frame(6, 4, 0, 0, &[0, 5, 0, 0, 0, 1])]),
    ];
    all.extend((0..40).map(|_| noise(&mut rng, NOISE_BYTES)));
    all.extend((0..40).map(|_| [OPENING, &noise(&mut rng, NOISE_BYTES)].concat()));
    all
}

fn rapid_reset(stream: u32) -> [Vec<u8>; 2] {
    [frame(3, 1, 5, stream, &[0x82, 0x86, 0x84]), frame(4, 3, 0, stream, &[0, 0, 0, 8])]
}

/// Whether the far end took offence, which is its right.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected)
}

/// Says it, and waits until the other end has closed.
fn say(address: &str, words: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let said = stream.write_all(words).and_then(|()| stream.shutdown(Shutdown::Write));
    let heard = said.and_then(|()| stream.read_to_end(&mut Vec::new()).map(drop));
    match heard {
        Err(error) if !is_gone(&error) => {
            let start = words.get(..60).unwrap_or(words).escape_ascii().to_string();
            Err(error).with_context(|| format!("{} bytes, {start}: still open", words.len()))
        }
        _ => Ok(()),
    }
}

fn check_unharmed(world: &mut World) -> Result<()> {
    ensure!(!world.informer_has_ended(), "the informer is gone: {}", world.log("informer.log"));
    for log in std::fs::read_dir(world.dir())?
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "log"))
    {
        let text = String::from_utf8_lossy(&std::fs::read(log.path())?).into_owned();
        ensure!(!text.contains("panicked"), "{}: {text}", log.path().display());
    }
    Ok(())
}

#[test]
fn nonsense_on_the_informers_port_costs_only_its_own_connection() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let address = world.url().trim_start_matches("http://").to_owned();
    for words in nonsense() {
        say(&address, &words)?;
    }
    // All of it at once, and somebody else in between.
    let shouting: Vec<_> = nonsense()
        .into_iter()
        .map(|words| {
            let address = address.clone();
            std::thread::spawn(move || say(&address, &words))
        })
        .collect();
    let output = world.informer(&["run", "--", "echo", "served"])?;
    assert_eq!(output.stdout, b"served\n", "{}", String::from_utf8_lossy(&output.stderr));
    for shout in shouting {
        shout.join().expect("it does not panic")?;
    }
    assert_eq!(world.informer(&["run", "--", "true"])?.status.code(), Some(0));
    check_unharmed(&mut world)
}

/// Every method of the schema, by its path.
fn methods() -> Result<Vec<String>> {
    let files = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS)?.file;
    let paths = files.iter().flat_map(|file| {
        file.service.iter().flat_map(move |service| {
            service.method.iter().map(move |method| format!("/{}.{}/{}", file.package(), service.name(), method.name()))
        })
    });
    Ok(paths.collect())
}

/// A message in gRPC's frame.
fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, body].concat()
}

/// Bodies of calls: right frames around damaged messages, and frames that are none.
fn bodies(rng: &mut Rng) -> Vec<Vec<u8>> {
    let seeds: Vec<Vec<u8>> = TARGETS.iter().take(4).flat_map(|target| (target.seeds)()).collect();
    let mut damaged = || {
        let mut bytes = seeds[rng.range(0, seeds.len() as u64 - 1) as usize].clone();
        for _ in 0..rng.range(0, 4) {
            let at = rng.range(0, bytes.len() as u64 - 1) as usize;
            bytes[at] = rng.bits() as u8;
        }
        bytes
    };
    let mut all: Vec<Vec<u8>> = (0..DAMAGED).map(|_| message(&damaged())).collect();
    all.push([message(&damaged()), message(&damaged()), message(&damaged())].concat());
    all.extend([
        Vec::new(),
        message(&[]),
        vec![0, 0, 0],
        [&[0, 0, 0, 0, 100][..], &[0; 50]].concat(),
        [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 50]].concat(),
        [&[1, 0, 0, 0, 4][..], &[0; 4]].concat(),
        [&[77, 0, 0, 0, 4][..], &[0; 4]].concat(),
        message(&noise(rng, NOISE_BYTES)),
        // Over the bound of a message.
        message(&vec![0; (4 << 20) + 1]),
    ]);
    all
}

/// Calls the method with this body, and waits for the beginning of its answer; what is left of it is dropped.
async fn call(sender: &mut h2::client::SendRequest<Bytes>, url: &str, path: &str, body: &[u8]) -> Result<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{url}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut ready = sender.clone().ready().await?;
    let (answer, mut stream) = ready.send_request(request, false)?;
    let sending = async {
        let mut rest = Bytes::copy_from_slice(body);
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
            let piece = rest.split_to(room.min(rest.len()));
            if stream.send_data(piece, false).is_err() {
                return;
            }
        }
        // Answered before everything was said: as good.
        let _ = stream.send_data(Bytes::new(), true);
    };
    let (_, answer) = tokio::join!(sending, answer);
    match answer {
        Ok(_) => Ok(()),
        // The stream's, not the connection's.
        Err(error) if error.is_reset() => Ok(()),
        Err(error) => bail!("{path}: {error}"),
    }
}

#[test]
fn damaged_messages_to_any_method_are_answered_and_forgotten() -> Result<()> {
    // Without a sidecar: what survives its damage may be a task.
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let (url, paths) = (world.url().to_owned(), methods()?);
    ensure!(paths.len() > 20 && paths.iter().any(|path| path == "/informer.v1.SidecarLink/Link"), "{paths:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let done = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await?;
        let (mut sender, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(connection);
        let mut rng = Rng::new(7);
        for path in &paths {
            for body in bodies(&mut rng) {
                let start = body.get(..60).unwrap_or(&body).escape_ascii().to_string();
                let called = tokio::time::timeout(DEADLINE, call(&mut sender, &url, path, &body)).await;
                called.with_context(|| format!("{path} does not answer to {start}"))??;
            }
        }
        drop(sender);
        connection.abort();
        anyhow::Ok(())
    });
    done.with_context(|| world.log("informer.log"))?;
    let id = world.submit(&["--", "true"])?;
    assert_eq!(world.task(&id)?["state"], "ready");
    check_unharmed(&mut world)
}

#[test]
fn nonsense_on_the_sockets_of_a_sidecar_costs_only_its_own_connection() -> Result<()> {
    let mut world = World::with_sidecars(1)?;
    let script = format!(
        "while [ ! -e {dir}/go ]; do sleep 0.05; done; {sidecar} progress 50 --note half; touch {dir}/told; while [ ! -e {dir}/end ]; do sleep 0.05; done",
        dir = world.dir().display(),
        sidecar = tests::world::binary("sidecar").display()
    );
    let id = world.submit(&["--", "sh", "-c", &script])?;
    world.wait_state(&id, &["running"])?;
    let mut rng = Rng::new(3);
    let mut words: Vec<Vec<u8>> = (0..30).map(|_| noise(&mut rng, NOISE_BYTES)).collect();
    words.extend([
        b"{}\n".to_vec(),
        b"{\"op\":\"progress\"".to_vec(),
        vec![b'x'; 100_000],
        b"\n\n\n\xff\n".to_vec(),
        vec![0xff; 8],
    ]);
    words.extend(TARGETS.iter().filter(|target| target.name.starts_with("keeper")).flat_map(|target| (target.seeds)()));
    for socket in ["sidecar.sock", "keeper.sock"] {
        for said in &words {
            // Its end of the directory: a name of a socket has 108 bytes.
            let mut stream = UnixStream::connect(world.sidecars[0].data.join(socket))?;
            stream.set_read_timeout(Some(DEADLINE))?;
            let done = stream.write_all(said).and_then(|()| stream.shutdown(Shutdown::Write));
            match done.and_then(|()| stream.read_to_end(&mut Vec::new()).map(drop)) {
                Err(error) if !is_gone(&error) => Err(error).with_context(|| format!("{socket}: {said:?}"))?,
                _ => {}
            }
        }
    }
    world.touch("go")?;
    world.wait_file("told")?;
    let output = world.informer(&["run", "--", "echo", "served"])?;
    assert_eq!(output.stdout, b"served\n", "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(world.agent(0).is_some_and(alive) && world.keeper(0).is_some(), "{}", world.log("sidecar-0.log"));
    world.touch("end")?;
    let task = world.wait_state(&id, &["succeeded", "failed"])?;
    assert_eq!((&task["state"], task["attempts"].as_array().map(Vec::len)), (&"succeeded".into(), Some(1)), "{task}");
    check_unharmed(&mut world)
}

/// What a sidecar may meet at its informer's address.
fn answers() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(5);
    let settings = frame(0, 4, 0, 0, &[]);
    vec![
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_vec(),
        [&settings[..], &noise(&mut rng, NOISE_BYTES)].concat(),
        noise(&mut rng, NOISE_BYTES),
        [&settings[..], &frame(100, 1, 4, 1, &[0xff; 100])].concat(),
        // A status that is none, with a body that is no message.
        [&settings[..], &frame(1, 1, 4, 1, &[0x88]), &frame(9, 0, 1, 1, &[0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff])]
            .concat(),
    ]
}

#[test]
fn a_sidecar_outlives_an_informer_that_speaks_nonsense() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let target = world.url().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    // First nonsense, one answer a connection; then it passes on what it gets.
    let server = std::thread::spawn(move || -> Result<()> {
        for answer in answers() {
            let (mut stream, _) = listener.accept()?;
            let said = stream.write_all(&answer).and_then(|()| stream.shutdown(Shutdown::Write));
            let heard = said.and_then(|()| stream.read_to_end(&mut Vec::new()).map(drop));
            heard.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })?;
        }
        let (stream, _) = listener.accept()?;
        let informer = TcpStream::connect(target)?;
        let (mut up, mut down) = ((stream.try_clone()?, informer.try_clone()?), (informer, stream));
        let pumped = std::thread::spawn(move || std::io::copy(&mut up.0, &mut up.1));
        let _closed = std::io::copy(&mut down.0, &mut down.1);
        let _ended = down.1.shutdown(Shutdown::Both);
        let _ended = down.0.shutdown(Shutdown::Both);
        let _closed = pumped.join().expect("it does not panic");
        Ok(())
    });
    world.start_sidecar_through(0, &url, &[], &[])?;
    world.wait_linked(1)?;
    let id = world.submit(&["--", "true"])?;
    world.wait_state(&id, &["succeeded"])?;
    check_unharmed(&mut world)?;
    drop(world);
    server.join().expect("it does not panic")
}
