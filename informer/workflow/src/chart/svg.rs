//! The picture of a chart. Everything is an attribute of its element: no scripts, styles, fonts or links, so that it looks the
//! same in a browser, in a document and in a converter, and a name from a definition can do nothing in it.

use std::fmt::Write;

use super::label::{duration, fit};
use super::layout::{self, BOX, COLUMN, Case, LINE, Line, PAD, Rect, Scene};
use super::{Chart, Node, State};
use crate::run::TaskStatus;

/// Around everything.
const MARGIN: i32 = 24;
/// The title's lines.
const TITLE: i32 = 26;
/// No picture is narrower: the title and the legend need the room.
const MIN_WIDTH: i32 = 640;
/// Columns of a tooltip: a reason has 500 bytes at most.
const TIP_COLUMNS: usize = 600;

/// How a state looks: fill, border, dashes of the border.
type Look = (&'static str, &'static str, Option<&'static str>);

/// States in the order of the legend.
const STATES: [State; 11] = [
    State::Reached(TaskStatus::Completed),
    State::Reached(TaskStatus::CompletedWithErrors),
    State::Reached(TaskStatus::InProgress),
    State::Reached(TaskStatus::Scheduled),
    State::Reached(TaskStatus::Failed),
    State::Reached(TaskStatus::FailedWithTerminalError),
    State::Reached(TaskStatus::TimedOut),
    State::Reached(TaskStatus::Canceled),
    State::Reached(TaskStatus::Skipped),
    State::NotReached,
    State::Untaken,
];

const TEXT: &str = "#1f2328";
const FAINT: &str = "#59636e";
const NOT_TAKEN: &str = "#a8b0b8";

fn look(state: Option<State>) -> Look {
    match state {
        None => ("#f6f8fa", "#57606a", None),
        Some(State::NotReached) => ("#ffffff", "#818b98", None),
        Some(State::Untaken) => ("#ffffff", NOT_TAKEN, Some("4 3")),
        Some(State::Reached(status)) => match status {
            TaskStatus::Completed => ("#e3f5e7", "#1a7f37", None),
            TaskStatus::CompletedWithErrors => ("#fff6d6", "#9a6700", None),
            TaskStatus::InProgress => ("#dcebff", "#0969da", None),
            TaskStatus::Scheduled => ("#f0f6ff", "#0969da", Some("2 2")),
            TaskStatus::Failed | TaskStatus::FailedWithTerminalError => ("#ffe2e0", "#cf222e", None),
            TaskStatus::TimedOut => ("#ffe8d6", "#bc4c00", None),
            TaskStatus::Canceled => ("#f1e8fd", "#8250df", None),
            TaskStatus::Skipped => ("#eceff2", "#59636e", Some("6 3")),
        },
    }
}

/// Draws a chart.
pub(super) fn draw(chart: &Chart) -> String {
    let scene = layout::lay_out(chart);
    let width = scene.width.max(MIN_WIDTH) + 2 * MARGIN;
    let titles = titles(chart, width);
    let top = MARGIN + TITLE * i32::try_from(titles.len()).unwrap_or(0);
    let legend = legend(chart, width);
    let height = top + scene.height + MARGIN + legend.1 + MARGIN;
    let mut svg = Svg::default();
    svg.add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"10\" fill=\"{TEXT}\">"
    ));
    svg.add(format_args!("<title>{}</title>", escape(&fit(&titles.join(" · "), TIP_COLUMNS))));
    svg.add(format_args!("<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>"));
    for (line, title) in (1..).zip(&titles) {
        let (size, colour) = if line == 1 { ("15\" font-weight=\"bold", TEXT) } else { ("11", FAINT) };
        let y = MARGIN + TITLE * (line - 1) + 6;
        svg.add(format_args!(
            "<text x=\"{MARGIN}\" y=\"{y}\" font-size=\"{size}\" fill=\"{colour}\">{}</text>",
            escape(title)
        ));
    }
    let left = (width - scene.width) / 2;
    svg.add(format_args!("<g transform=\"translate({left} {top})\">"));
    svg.scene(chart, &scene);
    svg.add(format_args!("</g>"));
    svg.add(format_args!("<g transform=\"translate({MARGIN} {})\">", top + scene.height + MARGIN));
    svg.text.push_str(&legend.0);
    svg.add(format_args!("</g>"));
    svg.add(format_args!("</svg>"));
    svg.text
}

/// What the picture is of, cut to its width.
fn titles(chart: &Chart, width: i32) -> Vec<String> {
    let columns = |pixels: i32| usize::try_from((width - 2 * MARGIN) / pixels).unwrap_or(0);
    let version = format!(" · version {}", chart.version);
    let status = chart.run.as_ref().map(|run| format!(" · {}", run.status)).unwrap_or_default();
    let room = columns(10).saturating_sub(version.len() + status.len());
    let mut titles = vec![format!("{}{version}{status}", fit(&chart.workflow, room))];
    if let Some(run) = &chart.run {
        let took = run.ended_ms.map(|end| format!(" · took {}", duration(end.saturating_sub(run.started_ms))));
        titles.push(fit(&format!("run {}{}", run.id, took.unwrap_or_default()), columns(COLUMN)));
        titles.extend(run.reason.as_ref().map(|reason| fit(reason, columns(COLUMN))));
    }
    titles
}

/// The states that occur and what lines mean, and the height of that.
fn legend(chart: &Chart, width: i32) -> (String, i32) {
    let mut svg = Svg::default();
    if chart.run.is_none() {
        return (svg.text, 0);
    }
    let (mut x, mut y) = (0, 0);
    let mut place = |text: &str| {
        let w = 40 + COLUMN * i32::try_from(text.len()).unwrap_or(0);
        if x > 0 && x + w > width - 2 * MARGIN {
            (x, y) = (0, y + LINE + 4);
        }
        x += w;
        (x - w, y)
    };
    for state in STATES.into_iter().filter(|state| chart.nodes.iter().any(|node| node.state == Some(*state))) {
        let (x, y) = place(state.as_str());
        svg.add(format_args!("<rect x=\"{x}\" y=\"{y}\" width=\"18\" height=\"11\" rx=\"3\"{}/>", paint(Some(state))));
        svg.add(format_args!("<text x=\"{}\" y=\"{}\" fill=\"{FAINT}\">{}</text>", x + 24, y + 9, state.as_str()));
    }
    for (taken, text) in [(true, "way taken"), (false, "way not taken")] {
        let (x, y) = place(text);
        svg.line(&Line { points: vec![(x, y + 6), (x + 18, y + 6)], taken: Some(taken), arrow: false });
        svg.add(format_args!("<text x=\"{}\" y=\"{}\" fill=\"{FAINT}\">{text}</text>", x + 24, y + 9));
    }
    (svg.text, y + LINE)
}

fn paint(state: Option<State>) -> String {
    let (fill, border, dashes) = look(state);
    let dashes = dashes.map(|dashes| format!(" stroke-dasharray=\"{dashes}\"")).unwrap_or_default();
    format!(" fill=\"{fill}\" stroke=\"{border}\"{dashes}")
}

#[derive(Default)]
struct Svg {
    text: String,
}

impl Svg {
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("text takes whatever is written");
    }

    fn scene(&mut self, chart: &Chart, scene: &Scene) {
        for frame in &scene.frames {
            self.frame(&chart.nodes[frame.node], frame);
        }
        // Ways taken lie above those that were not.
        let taken = |line: &&Line| line.taken != Some(false);
        scene.lines.iter().filter(|line| !taken(line)).for_each(|line| self.line(line));
        scene.lines.iter().filter(taken).for_each(|line| self.line(line));
        scene.cases.iter().for_each(|case| self.case(case));
        for rect in &scene.boxes {
            self.node(&chart.nodes[rect.node], rect, &scene.texts[rect.node]);
        }
    }

    fn frame(&mut self, node: &Node, Rect { x, y, w, h, .. }: &Rect) {
        let (_, border, _) = look(node.state);
        self.add(format_args!(
            "<rect data-frame=\"{}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"10\" fill=\"#fafbfc\" stroke=\"{border}\" \
             stroke-dasharray=\"8 4\"/>",
            node.id
        ));
    }

    fn line(&mut self, line: &Line) {
        let (colour, width, dashes) = match line.taken {
            Some(false) => (NOT_TAKEN, "1", " stroke-dasharray=\"4 3\""),
            Some(true) => ("#1f2328", "2", ""),
            None => ("#57606a", "1.5", ""),
        };
        let points: Vec<String> = line.points.iter().map(|(x, y)| format!("{x},{y}")).collect();
        self.add(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{dashes}/>",
            points.join(" ")
        ));
        if let (true, [.., (from_x, _), (x, y)]) = (line.arrow, line.points.as_slice()) {
            let (a, b) = if from_x == x { ((x - 4, y - 7), (x + 4, y - 7)) } else { ((x - 7, y - 4), (x - 7, y + 4)) };
            self.add(format_args!("<polygon points=\"{x},{y} {},{} {},{}\" fill=\"{colour}\"/>", a.0, a.1, b.0, b.1));
        }
    }

    fn case(&mut self, Case { x, y, text, taken }: &Case) {
        let colour = if *taken == Some(false) { FAINT } else { TEXT };
        self.add(format_args!("<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{}</text>", escape(text)));
    }

    fn node(&mut self, node: &Node, rect: &Rect, lines: &[String]) {
        let Rect { x, y, w, h, .. } = *rect;
        self.add(format_args!("<g data-node=\"{}\">", node.id));
        let tip: Vec<&str> =
            [&node.reference, &node.name].into_iter().map(String::as_str).chain(node.reason.as_deref()).collect();
        self.add(format_args!("<title>{}</title>", escape(&fit(&tip.join(" · "), TIP_COLUMNS))));
        let round = match node.kind {
            "START" | "END" => h / 2,
            "WAIT" | "HUMAN" => 20,
            "SWITCH" | "DECISION" | "FORK_JOIN" | "FORK_JOIN_DYNAMIC" | "JOIN" | "EXCLUSIVE_JOIN" => 0,
            _ => 6,
        };
        let paint = paint(node.state);
        self.add(format_args!("<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"{round}\"{paint}/>"));
        self.mark(node, rect);
        if w < BOX {
            let (x, y) = (x + w / 2, y + h / 2 + 4);
            let text = lines.first().map(String::as_str).unwrap_or_default();
            self.add(format_args!("<text x=\"{x}\" y=\"{y}\" font-size=\"11\" text-anchor=\"middle\">{text}</text>"));
        } else {
            self.lines(node, rect, lines);
        }
        self.add(format_args!("</g>"));
    }

    /// What tells kinds apart: a diamond for a choice, a bar for forks and joins, a second border for another workflow.
    fn mark(&mut self, node: &Node, Rect { x, y, w, h, .. }: &Rect) {
        let (_, border, _) = look(node.state);
        match node.kind {
            "SWITCH" | "DECISION" => {
                let (x, y) = (x + w - 16, y + 14);
                let points = format!("{x},{} {},{y} {x},{} {},{y}", y - 8, x + 8, y + 8, x - 8);
                self.add(format_args!("<polygon points=\"{points}\" fill=\"none\" stroke=\"{border}\"/>"));
            }
            "FORK_JOIN" | "FORK_JOIN_DYNAMIC" => {
                self.add(format_args!(
                    "<rect x=\"{x}\" y=\"{}\" width=\"{w}\" height=\"4\" fill=\"{border}\"/>",
                    y + h - 4
                ));
            }
            "JOIN" | "EXCLUSIVE_JOIN" => {
                self.add(format_args!("<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"4\" fill=\"{border}\"/>"));
            }
            "SUB_WORKFLOW" | "START_WORKFLOW" => {
                let (x, y, w, h) = (x + 3, y + 3, w - 6, h - 6);
                self.add(format_args!(
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"4\" fill=\"none\" stroke=\"{border}\"/>"
                ));
            }
            _ => {}
        }
    }

    fn lines(&mut self, node: &Node, Rect { x, y, .. }: &Rect, lines: &[String]) {
        let faint = matches!(node.state, Some(State::Untaken));
        for (index, line) in (0..).zip(lines) {
            let style = match (index, faint) {
                (0, false) => " font-size=\"12\" font-weight=\"bold\"".to_owned(),
                (0, true) => format!(" font-size=\"12\" fill=\"{FAINT}\""),
                (1, _) if node.kind != "MORE" => format!(" fill=\"{FAINT}\""),
                _ => String::new(),
            };
            let (x, y) = (x + PAD, y + PAD + 4 + LINE * index);
            self.add(format_args!("<text x=\"{x}\" y=\"{y}\"{style}>{}</text>", escape(line)));
        }
    }
}

/// Text for XML; [`fit`] has taken out what XML cannot hold.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
    }
    escaped
}
