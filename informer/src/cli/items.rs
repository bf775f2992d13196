//! The items of an array, read one by one: lines, or the elements of a JSON array. A file of any size takes the memory of one item.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use proto::{bounds, check};

use super::error::Error;

/// Takes an item; false when no more are wanted.
type Take<'a> = &'a mut dyn FnMut(String) -> bool;

/// Longest text of one element of a JSON array: an item in which every byte is an escape of six, and its quotes.
const ELEMENT_BYTES: usize = 6 * bounds::ITEM_BYTES + 2;

/// Each line of a file is an item, empty ones too, so that an item's index is the number of its line. A line break at the very end
/// makes no further item; `\r\n` is a line break.
///
/// # Errors
/// A file that cannot be read; a line that is no text, or too long.
pub(crate) fn lines(path: &Path, take: Take<'_>) -> Result<(), Error> {
    lines_of(path, open(path)?, take)
}

/// The same of what is open already; `path` is told in errors.
pub(crate) fn lines_of(path: &Path, mut input: impl BufRead, take: Take<'_>) -> Result<(), Error> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // With room for the line break, and for one byte that shows that it is too long.
        let most = bounds::ITEM_BYTES as u64 + 3;
        input.by_ref().take(most).read_until(b'\n', &mut line).map_err(|source| unreadable(path, source))?;
        if line.is_empty() {
            break;
        }
        if line.pop_if(|byte| *byte == b'\n').is_some() {
            line.pop_if(|byte| *byte == b'\r');
        }
        let wrong = |problem: String| Error::Content { path: path.to_owned(), line: number, problem };
        let text = std::str::from_utf8(&line);
        // Of a line that is too long the end may be cut within a character.
        let item = text.map(str::to_owned).or_else(|_| match line.len() > bounds::ITEM_BYTES {
            true => Ok(String::from_utf8_lossy(&line).into_owned()),
            false => Err(wrong("the line is not UTF-8 text".into())),
        })?;
        check::item(number - 1, &item).map_err(|faults| wrong(faults.to_string()))?;
        if !take(item) {
            break;
        }
    }
    Ok(())
}

/// Each element of a JSON array is an item: a string as it is, anything else as its compact JSON, numbers and keys as they are
/// written.
///
/// # Errors
/// A file that cannot be read; what is no JSON array; an element that is too long.
pub(crate) fn json(path: &Path, take: Take<'_>) -> Result<(), Error> {
    json_of(path, open(path)?, take)
}

/// The same of what is open already; `path` is told in errors.
pub(crate) fn json_of(path: &Path, input: impl BufRead, take: Take<'_>) -> Result<(), Error> {
    let mut scan = Scan { path, input, line: 1, begun: 1 };
    if scan.next_significant()? != Some(b'[') {
        return Err(scan.wrong("it is no JSON array; write one like [\"a.mp4\", \"b.mp4\"]"));
    }
    for index in 0.. {
        let (text, last) = scan.element()?;
        if index == 0 && last && text.is_empty() {
            break;
        }
        let wrong = |problem| Error::Content { path: path.to_owned(), line: scan.begun, problem };
        let item = decoded(&text).map_err(wrong)?;
        check::item(index, &item).map_err(|faults| wrong(faults.to_string()))?;
        if !take(item) {
            return Ok(());
        }
        if last {
            break;
        }
    }
    match scan.next_significant()? {
        None => Ok(()),
        Some(_) => Err(scan.wrong("something follows the array")),
    }
}

/// Checks one element, and unquotes a string.
fn decoded(text: &[u8]) -> Result<String, String> {
    let wrong = |error: serde_json::Error| {
        let text = error.to_string();
        format!(
            "an element is no JSON: {}",
            text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem)
        )
    };
    if text.first() == Some(&b'"') {
        return serde_json::from_slice(text).map_err(wrong);
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(text).map_err(wrong)?;
    String::from_utf8(text.to_vec()).map_err(|_| "an element is not UTF-8 text".to_owned())
}

/// Finds where elements begin and end, without understanding them.
struct Scan<'a, R> {
    path: &'a Path,
    input: R,
    line: usize,
    /// The line on which the last element began.
    begun: usize,
}

impl<R: BufRead> Scan<'_, R> {
    fn wrong(&self, problem: &str) -> Error {
        Error::Content { path: self.path.to_owned(), line: self.line, problem: problem.to_owned() }
    }

    fn next(&mut self) -> Result<Option<u8>, Error> {
        let mut byte = [0];
        let read = self.input.read(&mut byte).map_err(|source| unreadable(self.path, source))?;
        if read > 0 && byte[0] == b'\n' {
            self.line += 1;
        }
        Ok((read > 0).then_some(byte[0]))
    }

    fn next_significant(&mut self) -> Result<Option<u8>, Error> {
        loop {
            match self.next()? {
                Some(b' ' | b'\t' | b'\r' | b'\n') => {}
                other => return Ok(other),
            }
        }
    }

    /// The bytes of the next element without the space between its parts, and whether it is the last one.
    fn element(&mut self) -> Result<(Vec<u8>, bool), Error> {
        let mut text = Vec::new();
        let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
        // Space ends a number or a word; two of them must not become one.
        let mut parted = false;
        loop {
            let byte = self.next()?.ok_or_else(|| self.wrong("the array does not end; its ] is missing"))?;
            if quoted {
                quoted = byte != b'"' || escaped;
                escaped = byte == b'\\' && !escaped;
                text.push(byte);
            } else {
                if text.is_empty() {
                    self.begun = self.line;
                }
                match byte {
                    b' ' | b'\t' | b'\r' | b'\n' => {
                        parted = true;
                        continue;
                    }
                    b',' | b']' if depth == 0 => return Ok((text, byte == b']')),
                    b'"' => quoted = true,
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if parted && is_word(byte) && text.last().is_some_and(|last| is_word(*last)) {
                    return Err(self.wrong("an element is no JSON: a comma is missing"));
                }
                parted = false;
                text.push(byte);
            }
            if text.len() > ELEMENT_BYTES {
                let problem =
                    format!("an element is longer than {} bytes; put larger ones into files", bounds::ITEM_BYTES);
                return Err(self.wrong(&problem));
            }
        }
    }
}

/// A byte of a number or of `true`, `false`, `null`.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-')
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, Error> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    Ok(Box::new(BufReader::new(file)))
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Read { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    type Reader = fn(&Path, Take<'_>) -> Result<(), Error>;

    fn read(reader: Reader, content: &[u8]) -> Result<Vec<String>, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("items-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).expect("a file");
        let mut items = Vec::new();
        let result = reader(&path, &mut |item| {
            items.push(item);
            true
        });
        std::fs::remove_file(&path).expect("removed");
        result.map(|()| items).map_err(|error| error.to_string().split(':').skip(1).collect::<Vec<_>>().join(":"))
    }

    #[test]
    fn every_line_is_an_item_and_the_last_line_break_makes_none() {
        let lines = |text: &str| read(lines, text.as_bytes()).expect("items");
        assert_eq!(lines("a\n\n b \r\nc"), ["a", "", " b ", "c"]);
        assert_eq!(lines("a\nc\n"), ["a", "c"]);
        assert_eq!(lines("\n"), [""]);
        assert!(lines("").is_empty());
        let longest = "x".repeat(bounds::ITEM_BYTES);
        assert_eq!(lines(&format!("{longest}\r\n{longest}\n")), [longest.clone(), longest]);
    }

    #[test]
    fn a_line_that_is_no_item_is_told_with_its_number() {
        assert_eq!(read(lines, b"a\n\xff\n").expect_err("no text"), "2: the line is not UTF-8 text");
        for text in ["x".repeat(bounds::ITEM_BYTES + 1), "é".repeat(bounds::ITEM_BYTES)] {
            let long = read(lines, format!("a\nb\n{text}\n").as_bytes()).expect_err("too long");
            assert!(long.starts_with("3: ") && long.contains("over the bound"), "{long}");
        }
        assert!(read(lines, b"a\0b").expect_err("a NUL").contains("NUL"));
    }

    #[test]
    fn every_element_is_an_item_as_it_is_written() {
        let items = |text: &str| read(json, text.as_bytes()).expect("items");
        assert_eq!(items(r#" ["a b", "q\"]\\", "\u00e9,"] "#), ["a b", "q\"]\\", "é,"]);
        assert_eq!(
            items("[1.50, true,\n null, {\"z\": [1, \" ] \"], \"a\" : {}}, [ ]]"),
            ["1.50", "true", "null", r#"{"z":[1," ] "],"a":{}}"#, "[]"]
        );
        assert_eq!(items("[12345678901234567890123]"), ["12345678901234567890123"]);
        assert!(items("[ ]").is_empty());
    }

    #[test]
    fn what_is_no_array_is_told_with_its_line() {
        let table = [
            ("", "1: it is no JSON array"),
            ("{}", "1: it is no JSON array"),
            ("[1,]", "1: an element is no JSON"),
            ("[,1]", "1: an element is no JSON"),
            ("[1\n,2", "2: the array does not end"),
            ("[1 2]", "1: an element is no JSON: a comma is missing"),
            ("[\"a\" \"b\"]", "1: an element is no JSON"),
            ("[1]\n\n2", "3: something follows the array"),
            ("[\n{\"a\" 1}]", "2: an element is no JSON"),
            ("[1}]", "1: an element is no JSON"),
            ("[tru]", "1: an element is no JSON"),
        ];
        for (text, expected) in table {
            let problem = read(json, text.as_bytes()).expect_err(text);
            assert!(problem.starts_with(expected), "{text:?} gave {problem:?}");
        }
        let long = format!("[\"{}\"]", "x".repeat(bounds::ITEM_BYTES + 1));
        assert!(read(json, long.as_bytes()).expect_err("too long").contains("over the bound"));
        let endless = format!("[\"{}", "x".repeat(ELEMENT_BYTES));
        assert!(read(json, endless.as_bytes()).expect_err("endless").contains("longer than"));
    }
}
