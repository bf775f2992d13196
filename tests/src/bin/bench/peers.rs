//! Beside our peers: the same processes, the same rounds.

use crate::Size;
use crate::bare::Bare;
use crate::contender::{self, Contender};
use crate::ours::Ours;
use crate::peer::Peer;
use crate::stamps::Stamps;
use anyhow::Result;
use std::path::Path;

/// Driver and variant of each.
const PEERS: [(&str, &str); 5] = [
    ("hyperqueue", "default"),
    ("gearman", "builtin"),
    ("gearman", "sqlite"),
    ("celery", "default"),
    ("celery", "durable"),
];

pub(crate) fn run(dir: &Path, size: Size) -> Result<()> {
    let mut stamps = Stamps::new(dir)?;
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(Bare::new(&stamps)?)];
    for slots in [2, 16, 64] {
        contenders.push(Box::new(Ours::new(slots, stamps.pipe())?));
    }
    for (script, variant) in PEERS {
        match Peer::start(script, variant, dir, stamps.pipe())? {
            Ok(peer) => contenders.push(Box::new(peer)),
            Err(reason) => println!("{script} ({variant}): skipped: {reason}"),
        }
    }
    contender::rates(&mut contenders, size.of(4_000), size.rounds(5))?;
    contender::latencies(&mut contenders, &mut stamps, size.of(200), 200)?;
    contender::end(contenders)
}
