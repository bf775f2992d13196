//! Where the output of `run`, `wait` and `logs` goes: the task's bytes unchanged, and beside them, on stderr, notes and progress.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::v1::{LogStream, LogsChunk, Progress};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{error, json, tally::Tally, text};

/// A plain progress line is due after this many permille, or ...
const STEP_PERMILLE: u32 = 100;
/// ... after this much time if anything moved. More lines would drown the log they stand in.
const STEP_TIME: Duration = Duration::from_secs(5);

/// How log bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Bytes,
    /// One JSON object a line.
    Lines,
    /// One JSON array; whether it has an element yet.
    Array { begun: bool },
}

/// A stream of this process, or a test's end of a pipe.
type Writer = Box<dyn AsyncWrite + Unpin>;

/// Stdout, stderr and the progress shown on it.
pub(crate) struct Screen {
    out: Writer,
    err: Writer,
    form: Form,
    /// Notes are wanted: a person looks at stderr, or asked for them.
    notes: bool,
    terminal: bool,
    bar: Option<ProgressBar>,
    last: Option<(u32, Instant)>,
}

impl Screen {
    /// For this process's streams.
    pub(crate) fn new(verbose: bool, form: Form) -> Self {
        let terminal = io::stderr().is_terminal();
        Self {
            out: Box::new(tokio::io::stdout()),
            err: Box::new(tokio::io::stderr()),
            form,
            notes: verbose || terminal,
            terminal,
            bar: None,
            last: None,
        }
    }

    /// On a test's pipes.
    #[cfg(test)]
    pub(crate) fn on(out: Writer, err: Writer, form: Form) -> Self {
        Self { out, err, form, notes: false, terminal: false, bar: None, last: None }
    }

    /// Writes `data`, which starts at `offset` of its stream.
    ///
    /// # Errors
    /// The stream is closed or its disk is full. Dropping the future may leave a part written.
    pub(crate) async fn log(&mut self, chunk: &LogsChunk, offset: u64, data: &[u8]) -> io::Result<()> {
        let document = match self.form {
            Form::Bytes => return self.bytes(chunk.stream() == LogStream::Err, data).await,
            Form::Lines => format!("{}\n", json::chunk(chunk, offset, data)),
            Form::Array { begun } => {
                format!("{}{}", if begun { ",\n " } else { "[" }, json::chunk(chunk, offset, data))
            }
        };
        if let Form::Array { begun } = &mut self.form {
            *begun = true;
        }
        self.bytes(false, document.as_bytes()).await
    }

    /// All log bytes are written: closes what they stand in.
    ///
    /// # Errors
    /// As [`Screen::log`].
    pub(crate) async fn end_log(&mut self) -> io::Result<()> {
        match self.form {
            Form::Bytes | Form::Lines => Ok(()),
            Form::Array { begun: true } => self.bytes(false, b"]\n").await,
            Form::Array { begun: false } => self.bytes(false, b"[]\n").await,
        }
    }

    async fn bytes(&mut self, to_err: bool, data: &[u8]) -> io::Result<()> {
        if let Some(bar) = &self.bar {
            // The bar stands on the line where these bytes belong.
            return bar.suspend(|| match to_err {
                true => io::stderr().write_all(data),
                false => io::stdout().write_all(data).and_then(|()| io::stdout().flush()),
            });
        }
        // Through the runtime, so that Ctrl-C is heard while a reader of ours is slow.
        let to = if to_err { &mut self.err } else { &mut self.out };
        to.write_all(data).await?;
        to.flush().await
    }

    /// A line for people: only if stderr is a terminal or notes were asked for. One that cannot be written is not missed.
    pub(crate) fn note(&self, line: &str) {
        if self.notes {
            self.line(line);
        }
    }

    /// A line that everybody must see.
    pub(crate) fn line(&self, line: &str) {
        let write = || drop(writeln!(io::stderr(), "{}", error::one_line(line)));
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Shows how far the task is: a bar on a terminal, else a line when it moved notably.
    pub(crate) fn progress(&mut self, progress: &Progress) {
        if progress.permille == 0 && progress.speed <= 0.0 {
            return;
        }
        if self.terminal {
            draw(self.bar.get_or_insert_with(bar), progress.permille, beside(progress));
        } else if self.is_notable(progress.permille) {
            self.last = Some((progress.permille, Instant::now()));
            self.line(&plain(progress));
        }
    }

    /// Shows how far an array is, in the same way.
    pub(crate) fn tally(&mut self, tally: &Tally) {
        let permille = tally.permille();
        if self.terminal {
            draw(self.bar.get_or_insert_with(bar), permille, tally.to_string());
        } else if self.is_notable(permille) {
            self.last = Some((permille, Instant::now()));
            self.line(&format!("progress {}% {tally}", permille / 10));
        }
    }

    fn is_notable(&self, permille: u32) -> bool {
        let Some((shown, at)) = self.last else { return true };
        let moved = permille.abs_diff(shown);
        moved >= STEP_PERMILLE || (moved > 0 && (permille >= 1_000 || at.elapsed() >= STEP_TIME))
    }

    /// The task ended: a bar is left at its end, or removed if the work was not done.
    pub(crate) fn close(&mut self, done: bool) {
        if let Some(bar) = self.bar.take() {
            if done {
                bar.set_position(1_000);
                bar.abandon();
            } else {
                bar.finish_and_clear();
            }
        } else if done && self.last.is_some_and(|(permille, _)| permille < 1_000) {
            self.line("progress 100%");
        }
    }
}

fn bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{percent:>3}% [{bar:40}] {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(1_000), ProgressDrawTarget::stderr()).with_style(style.progress_chars("=> "))
}

/// Moves the bar. Its text is put in first and without drawing: a bar drawn between the two would be full beside `0/3 done`.
fn draw(bar: &ProgressBar, permille: u32, text: String) {
    drop(bar.clone().with_message(text));
    bar.set_position(u64::from(permille));
    bar.tick();
}

/// What stands right of the bar.
fn beside(progress: &Progress) -> String {
    let mut parts = Vec::new();
    if progress.speed > 0.0 {
        parts.push(format!("speed {:.1}x", progress.speed));
    }
    if progress.eta_ms > 0 {
        parts.push(format!("eta {}", text::span(progress.eta_ms)));
    }
    parts.join("  ")
}

/// `progress 42% speed 3.1x eta 12s`.
fn plain(progress: &Progress) -> String {
    let beside = beside(progress).replace("  ", " ");
    format!("progress {}% {beside}", progress.permille.min(1_000) / 10).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_say_percent_speed_and_eta() {
        let progress = Progress { permille: 421, speed: 3.1, eta_ms: 12_000, ..Progress::default() };
        assert_eq!(plain(&progress), "progress 42% speed 3.1x eta 12s");
        assert_eq!(plain(&Progress { permille: 50, ..Progress::default() }), "progress 5%");
    }

    /// Keeps each frame that is drawn.
    #[derive(Debug, Clone, Default)]
    struct Frames(std::sync::Arc<std::sync::Mutex<String>>);

    impl indicatif::TermLike for Frames {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().expect("a lock").push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.write_str("\n")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_never_stands_beside_older_counts() {
        let (frames, bar) = (Frames::default(), bar());
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(frames.clone())));
        draw(&bar, 0, "0/3 done".into());
        draw(&bar, 1_000, "3/3 done".into());
        bar.abandon();
        let drawn = frames.0.lock().expect("a lock").clone();
        assert!(drawn.contains("0/3 done") && drawn.contains("3/3 done"), "{drawn}");
        assert!(!drawn.lines().any(|frame| frame.contains("100%") && frame.contains("0/3")), "{drawn}");
    }

    #[test]
    fn only_a_notable_step_makes_a_line() {
        let mut screen = Screen::on(Box::new(Vec::new()), Box::new(Vec::new()), Form::Bytes);
        assert!(screen.is_notable(3));
        screen.last = Some((300, Instant::now()));
        assert!(!screen.is_notable(300) && !screen.is_notable(320));
        assert!(screen.is_notable(400) && screen.is_notable(1_000));
        screen.last = Instant::now().checked_sub(STEP_TIME).map(|at| (300, at));
        assert!(screen.is_notable(301) && !screen.is_notable(300));
    }
}
