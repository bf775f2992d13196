//! The metrics of a sidecar: a page on loopback that says what it does.

use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use tests::world::{World, binary, wait_for};

/// A port that nobody has just now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    Ok(answer)
}

/// The value of a line, by name and labels as they are written.
fn value(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_scrape_tells_what_the_sidecar_did() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    let port = free_port()?;
    world.start_sidecar(0, &["--metrics", &format!("127.0.0.1:{port}")], &[])?;
    world.wait_linked(1)?;
    assert_eq!(world.informer(&["run", "--", "true"])?.status.code(), Some(0));
    assert_eq!(world.informer(&["run", "--", "sh", "-c", "exit 3"])?.status.code(), Some(3));
    let id = world.submit(&["--", "sleep", "1000000"])?;
    world.wait_state(&id, &["running"])?;
    let wanted = [
        ("sidecar_link_up", 1.0),
        ("sidecar_attempts{stage=\"running\"}", 1.0),
        ("sidecar_attempts{stage=\"retired\"}", 2.0),
        ("sidecar_attempt_starts_total", 3.0),
        ("sidecar_attempt_ends_total{reason=\"succeeded\"}", 1.0),
        ("sidecar_attempt_ends_total{reason=\"exit_code\"}", 1.0),
        ("sidecar_outbox_reports", 0.0),
        ("sidecar_keeper_connects_total", 1.0),
    ];
    let mut page = String::new();
    let seen = wait_for("the page says so", || {
        page = scrape(port).ok()?;
        wanted.iter().all(|(name, expected)| value(&page, name) == Some(*expected)).then_some(())
    });
    seen.with_context(|| page.clone())?;
    let at_least = |name: &str, least: f64| value(&page, name).is_some_and(|value| value >= least);
    assert!(at_least("sidecar_lease_seconds", 0.1) && at_least("sidecar_beats_acknowledged_total", 1.0), "{page}");
    assert!(at_least("sidecar_ledger_commit_seconds_count", 3.0) && at_least("process_open_fds", 5.0), "{page}");
    assert!(at_least("process_resident_memory_bytes", 1e6) && at_least("process_cpu_seconds_total", 0.001), "{page}");
    Ok(())
}

#[test]
fn metrics_stay_on_loopback() -> Result<()> {
    let world = World::empty()?;
    let output = Command::new(binary("sidecar"))
        .args(["run", "--metrics", "0.0.0.0:0", "--data"])
        .arg(world.dir().join("sidecar-0"))
        .stdin(Stdio::null())
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && stderr.contains("loopback"), "{stderr}");
    Ok(())
}
