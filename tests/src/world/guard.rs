//! Ends what a world has started when its test cannot: a test that hangs is killed by its runner, and nothing of it is dropped then.
//!
//! A shell in a process group of its own waits on a pipe. A world that is dropped says so; the end of the pipe without a word is
//! the end of the test.

use anyhow::{Context as _, Result};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Reads the directory, then waits. It names the directory on no command line, so it never finds itself; what it kills may have
/// started something meanwhile, so it looks again until nothing is left.
const SCRIPT: &str = r#"
read -r dir || exit 0
read -r _ && exit 0
for _ in 1 2 3 4 5 6 7 8 9 10; do
    left=$(printf '%s\n' "$dir" | grep -lsaF -f - /proc/[0-9]*/cmdline /proc/[0-9]*/environ | cut -d/ -f3 | sort -u)
    [ -n "$left" ] || exit 0
    kill -9 $left 2>/dev/null
    sleep 0.2
done
"#;

/// The shell that waits.
pub(super) struct Guard {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Watches over whatever names `dir` in its command line or environment.
    ///
    /// # Errors
    /// There is no shell.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .process_group(0)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start /bin/sh")?;
        let mut pipe = shell.stdin.take().context("stdin was piped")?;
        writeln!(pipe, "{}", dir.display())?;
        Ok(Self { shell, pipe: Some(pipe) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"ended\n");
        }
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    fn sleeper(dir: &Path) -> Result<Child> {
        Ok(Command::new("sleep").arg("300").env("MARK", dir.join("x")).stdin(Stdio::null()).spawn()?)
    }

    #[test]
    fn what_a_killed_test_leaves_is_ended_and_nothing_else() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("guard-test-{}", std::process::id()));
        let mut guard = Guard::new(&dir)?;
        let (mut left, mut other) = (sleeper(&dir)?, sleeper(&Path::new("/elsewhere"))?);
        // As the kernel does for who is killed.
        drop(guard.pipe.take());
        let ended = left.wait()?;
        let spared = other.try_wait()?.is_none();
        other.kill()?;
        other.wait()?;
        assert_eq!(ended.signal(), Some(9));
        assert!(spared, "it ended what was not its own");
        Ok(())
    }
}
