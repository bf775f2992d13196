//! Whole durable tasks against bare spawn loops.

use crate::Size;
use crate::bare::{Bare, Xargs};
use crate::contender::{self, Contender};
use crate::ours::Ours;
use crate::stamps::Stamps;
use anyhow::Result;
use std::path::Path;

/// Slots compared: few show the latency of the chain, many its throughput.
const SLOTS: [usize; 4] = [4, 16, 64, 256];

pub(crate) fn run(dir: &Path, size: Size) -> Result<()> {
    let stamps = Stamps::new(dir)?;
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(Bare::new(&stamps)?), Box::new(Xargs)];
    for slots in SLOTS {
        contenders.push(Box::new(Ours::new(slots, stamps.pipe())?));
    }
    contender::rates(&mut contenders, size.of(10_000), size.rounds(5))?;
    contender::end(contenders)
}
