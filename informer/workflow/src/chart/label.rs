//! The lines of text in a node's box. Names are a user's: whatever they are, a line stays in its box.

use super::{Branches, Counts, Node, Rounds};

/// Columns of the first line, which is larger.
pub(super) const HEAD_COLUMNS: usize = 36;
/// Columns of the other lines: the id of a run that a step started has 43.
pub(super) const COLUMNS: usize = 43;

/// The lines of a node: its name first.
pub(super) fn lines(node: &Node) -> Vec<String> {
    let head = match node.kind {
        "START" => "start".to_owned(),
        "END" => "end".to_owned(),
        "MORE" => more(node.branches.as_ref()),
        _ => node.reference.clone(),
    };
    let mut lines = vec![fit(&head, HEAD_COLUMNS)];
    if matches!(node.kind, "START" | "END") {
        return lines;
    }
    if node.kind != "MORE" {
        let name = if node.name == node.kind || node.name == node.reference { "" } else { node.name.as_str() };
        lines.push(format!("{} {name}", node.kind));
    }
    lines.extend(status(node));
    lines.extend(node.rounds.as_ref().map(rounds));
    lines.extend(round(node));
    if let Some(branches) = &node.branches {
        let all = counts(&branches.states);
        lines.push(if node.kind == "MORE" {
            all
        } else {
            format!("{}: {all}", plural(branches.total, "branch", "branches"))
        });
    }
    lines.extend(node.resolved.as_ref().map(|name| format!("is {name}")));
    lines.extend(node.starts.as_ref().map(|name| format!("starts {name}")));
    lines.extend(node.child.as_ref().map(|child| format!("run {child}")));
    lines.extend(node.reason.clone());
    let rest = lines.split_off(1);
    lines.extend(rest.iter().map(|line| fit(line, COLUMNS)).filter(|line| !line.is_empty()));
    lines
}

fn more(branches: Option<&Branches>) -> String {
    match branches {
        Some(branches) => format!("… and {} more", number(branches.total)),
        None => "branches made at run time".to_owned(),
    }
}

fn status(node: &Node) -> Option<String> {
    let mut line = node.state?.as_str().to_owned();
    if node.retries > 0 {
        line.push_str(&format!(" · {}", plural(node.retries, "retry", "retries")));
    }
    if let (Some(from), Some(to)) = (node.started_ms, node.ended_ms) {
        line.push_str(&format!(" · {}", duration(to.saturating_sub(from))));
    }
    Some(line)
}

/// `round 2 · all: 1 COMPLETED, 1 SCHEDULED`; in a loop within a loop `round 1.2`.
fn round(node: &Node) -> Option<String> {
    let rounds: Vec<String> = node.round.iter().map(ToString::to_string).collect();
    let mut line = format!("round {}", rounds.join("."));
    if node.counts.values().sum::<u32>() > 1 {
        line.push_str(&format!(" · all: {}", counts(&node.counts)));
    }
    (!rounds.is_empty()).then_some(line)
}

fn rounds(rounds: &Rounds) -> String {
    let mut line = match rounds.of {
        Some(of) => format!("round {} of {}", number(rounds.round), number(of)),
        None => format!("round {}", number(rounds.round)),
    };
    if let Some(kept) = rounds.kept {
        line.push_str(&format!(", the last {} kept", number(kept)));
    }
    line
}

/// `9,900 COMPLETED, 70 IN_PROGRESS`.
fn counts(counts: &Counts) -> String {
    let each = counts.iter().map(|(state, count)| format!("{} {state}", number(*count)));
    each.collect::<Vec<_>>().join(", ")
}

fn plural(count: u32, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// With commas: 9,970.
fn number(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 s`, `5 min 20 s`.
pub(super) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s}.{} s", ms % 1000 / 100),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Text on one line of at most so many columns. What XML cannot hold, and what turns the direction of the text that follows, is
/// left out; what is not ASCII counts as wide.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let line: String = text.chars().filter_map(shown).collect();
    let line = line.trim();
    if self::columns(line) <= columns {
        return line.to_owned();
    }
    // The sign for what is left out is wide, like all that is not ASCII.
    let room = columns.saturating_sub(2);
    let mut used = 0;
    let kept = line.chars().take_while(|char| {
        used += width(*char);
        used <= room
    });
    let mut fitted: String = kept.collect();
    fitted.truncate(fitted.trim_end().len());
    fitted.push('…');
    fitted
}

/// How many columns a fitted text takes.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

fn width(char: char) -> usize {
    if char.is_ascii() { 1 } else { 2 }
}

fn shown(char: char) -> Option<char> {
    match char {
        '\t' | '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some(' '),
        '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}' => None,
        // Not characters to XML, or no characters at all.
        _ if char.is_control() || u32::from(char) & 0xFFFE == 0xFFFE => None,
        _ => Some(char),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_on_its_line_and_in_its_columns() {
        assert_eq!(fit("short", 5), "short");
        assert_eq!(fit("longer", 5), "lon…");
        assert_eq!(fit("  a\nb\u{0}\u{1b}[2J\u{202e}c\u{fffe} ", 40), "a b[2Jc");
        assert_eq!(fit("日本語のなまえ", 8), "日本語…");
        assert_eq!(columns("日本語…"), 8);
        assert_eq!(fit("", 5), "");
        assert_eq!(fit("日本", 1), "…");
    }

    #[test]
    fn numbers_and_durations_read_like_a_persons() {
        assert_eq!([number(7), number(970), number(9_970), number(1_000_000)], ["7", "970", "9,970", "1,000,000"]);
        let told = [0, 999, 12_345, 320_000, 7_500_000, 180_000_000].map(duration);
        assert_eq!(told, ["0 ms", "999 ms", "12.3 s", "5 min 20 s", "2 h 5 min", "2 d 2 h"]);
    }
}
