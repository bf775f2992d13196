//! What latency runs start: tells when it started. `bench_stamp PIPE ID` writes the id and its wall clock, in nanoseconds, into a named
//! pipe; `-` as id reads it from stdin.

use std::io::{Read as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> std::io::Result<()> {
    // Before anything else: all that follows is no part of a start.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let mut arguments = std::env::args().skip(1);
    let (Some(pipe), Some(mut id)) = (arguments.next(), arguments.next()) else {
        return Err(std::io::Error::other("usage: bench_stamp PIPE ID"));
    };
    if id == "-" {
        id.clear();
        std::io::stdin().read_to_string(&mut id)?;
    }
    // One write below PIPE_BUF, so that lines of several writers do not mix.
    std::fs::File::options().write(true).open(pipe)?.write_all(format!("{} {now}\n", id.trim()).as_bytes())
}
