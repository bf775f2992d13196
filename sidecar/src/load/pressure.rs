//! Pressure stall information: the share of time in which some task waited for a resource.

use rustix::io::pread;
use std::fs;

/// Two lines of about sixty bytes.
const BYTES: usize = 256;

/// One file below `/proc/pressure`, kept open.
#[derive(Debug)]
pub(super) struct Pressure {
    /// `None` where the kernel has none.
    file: Option<fs::File>,
}

impl Pressure {
    pub(super) fn open(resource: &str) -> Self {
        Self { file: fs::File::open(format!("/proc/pressure/{resource}")).ok() }
    }

    /// `some avg10` in thousandths; 0 where unknown.
    pub(super) fn some_avg10_permille(&self) -> u32 {
        let mut buffer = [0; BYTES];
        let length = self.file.as_ref().and_then(|file| pread(file, &mut buffer, 0).ok()).unwrap_or(0);
        std::str::from_utf8(&buffer[..length]).ok().and_then(parse).unwrap_or(0)
    }
}

/// `some avg10=1.53 avg60=… total=…`.
fn parse(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f32 = line.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
    Some(((percent * 10.0) as u32).min(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read_and_others_are_not() {
        let text = "some avg10=12.34 avg60=1.00 avg300=0.10 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(parse(text), Some(123));
        assert_eq!(parse("some avg10=1000.0 x"), Some(1000));
        for text in ["", "full avg10=1.0", "some avg60=1.0", "some avg10=x"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(Pressure::open("no-such-resource").some_avg10_permille(), 0);
    }
}
