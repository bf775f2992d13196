//! `/metrics` of both daemons while tasks run: what they count moves, and Prometheus could read it.

use anyhow::{Context as _, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use tests::world::{World, wait_for};

/// The page of the server at this address.
fn scrape(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, page) = answer.split_once("\r\n\r\n").context("a head")?;
    ensure!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    ensure!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    Ok(page.to_owned())
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The samples of a page, by name and labels; each must belong to the family announced last, and stand there once.
fn samples(page: &str) -> Result<BTreeMap<String, f64>> {
    let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
    let mut family = "";
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').with_context(|| format!("no help: {line}"))?.0;
            ensure!(is_name(family) && families.insert(family), "announced twice or no name: {line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').with_context(|| format!("no type: {line}"))?;
            ensure!(name == family && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            continue;
        }
        let (key, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line:?}"))?;
        let name = key.split('{').next().unwrap_or_default();
        let suffix = name.strip_prefix(family).with_context(|| format!("{line} stands below {family}"))?;
        ensure!(["", "_bucket", "_sum", "_count"].contains(&suffix), "{line} stands below {family}");
        let value: f64 = value.parse().with_context(|| format!("no number: {line}"))?;
        ensure!(samples.insert(key.to_owned(), value).is_none(), "{key} stands twice");
    }
    Ok(samples)
}

#[test]
fn counters_of_both_daemons_move_and_can_be_read() -> Result<()> {
    let mut world = World::empty()?;
    world.start_informer(&[])?;
    // Nobody has this port just now.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let sidecar = format!("127.0.0.1:{port}");
    world.start_sidecar(0, &["--metrics", &sidecar], &[])?;
    world.wait_linked(1)?;
    let informer = world.url().strip_prefix("http://").context("a URL")?.to_owned();
    let before = (samples(&scrape(&informer)?)?, samples(&scrape(&sidecar)?)?);

    let running = world.submit(&["--", "sleep", "1000000"])?;
    world.wait_state(&running, &["running"])?;
    let array = world.submit(&["--array", "1-10", "--", "true"])?;
    assert_eq!(world.informer(&["wait", &array])?.status.code(), Some(0));
    world.informer(&["show", "01a1fe20-cbd1-769d-a8af-d0067be5cf3c"])?;
    let mut page = String::new();
    let after = wait_for("the gauges have followed", || {
        page = scrape(&informer).ok()?;
        let samples = samples(&page).ok()?;
        (samples.get("informer_tasks{state=\"running\"}") == Some(&1.0)).then_some(samples)
    });
    let after = (after.with_context(|| page.clone())?, samples(&scrape(&sidecar)?)?);

    let moved = |before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, name: &str| -> Result<f64> {
        let of = |samples: &BTreeMap<String, f64>| samples.get(name).copied().with_context(|| format!("no {name}"));
        Ok(of(after)? - of(before).unwrap_or_default())
    };
    for (name, least) in [
        ("informer_batches_total", 3.0),
        ("informer_commits_total", 3.0),
        ("informer_commit_seconds_count", 3.0),
        ("informer_refused_calls_total{code=\"unknown_task\"}", 1.0),
        ("informer_network_bytes_total{direction=\"received\"}", 100.0),
        ("informer_network_bytes_total{direction=\"sent\"}", 100.0),
    ] {
        let by = moved(&before.0, &after.0, name)?;
        assert!(by >= least, "{name} moved by {by}\n{page}");
    }
    assert!(moved(&before.1, &after.1, "sidecar_attempt_starts_total")? >= 11.0);
    assert!(moved(&before.1, &after.1, "sidecar_attempt_ends_total{reason=\"succeeded\"}")? >= 10.0);
    let shrunk = before.0.iter().filter(|(name, _)| name.contains("_total") || name.contains("_bucket"));
    let shrunk: Vec<_> = shrunk.filter(|(name, value)| after.0.get(*name).is_none_or(|now| now < *value)).collect();
    assert!(shrunk.is_empty(), "counters that went back: {shrunk:?}");
    Ok(())
}
