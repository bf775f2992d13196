//! Where boxes, frames and lines lie: top down, branches side by side, all in whole pixels.
//!
//! ```text
//!        ┌──────┐          ┌─ frame ────────┐
//!        │ head │          │    ┌──────┐    │
//!        └──┬───┘ DROP     │ ┌─▶│ loop │    │
//!    ┌──────┴──────┐       │ │  └──┬───┘    │
//!    │ case a      │ LABEL │ │  ┌──▼───┐    │
//!  ┌─▼──┐        ┌─▼──┐    │ │  │ body │    │
//!  └─┬──┘        └─┬──┘    │ │  └──┬───┘    │
//!    └──────┬──────┘ MERGE │ └─────┘        │
//!           ▼              └───────┬────────┘
//! ```

use super::Chart;
use super::build::{Item, Lane, Shape, Taken, UNAWAITED};
use super::label::{self, columns, fit};

/// A box's width: 43 columns of the small text.
pub(super) const BOX: i32 = 288;
/// The start's and the end's.
const PILL: i32 = 80;
const PILL_HEIGHT: i32 = 26;
/// From line to line of text.
pub(super) const LINE: i32 = 15;
/// Between a box's border and its text.
pub(super) const PAD: i32 = 12;
/// Between two nodes of a sequence.
const GAP: i32 = 28;
/// From a head down to the line that its branches hang on.
const DROP: i32 = 14;
/// The room for the name of a case.
const LABEL: i32 = 24;
/// From the longest branch down to the line that brings them together.
const MERGE: i32 = 14;
/// Between two branches.
const BETWEEN: i32 = 24;
/// Between a frame and what it holds; above it, below it.
const FRAME: [i32; 3] = [24, 12, 28];
/// How narrow a branch with nothing in it is.
const NARROW: i32 = 56;
/// Columns of the name of a case; half a box holds them.
const CASE_COLUMNS: usize = 20;
/// Pixels of a column of small text, rounded up.
pub(super) const COLUMN: i32 = 7;

/// A rectangle that belongs to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rect {
    pub node: usize,
    pub x: i32,
    pub y: i32,
    pub w: i32,
    pub h: i32,
}

/// A line from point to point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub points: Vec<(i32, i32)>,
    pub taken: Taken,
    /// Whether it ends at a box.
    pub arrow: bool,
}

/// The name of a case, or a remark, beside its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    pub x: i32,
    pub y: i32,
    pub text: String,
    pub taken: Taken,
}

/// A picture without its title and legend.
#[derive(Debug, Default)]
pub(super) struct Scene {
    pub width: i32,
    pub height: i32,
    pub boxes: Vec<Rect>,
    pub frames: Vec<Rect>,
    pub lines: Vec<Line>,
    pub cases: Vec<Case>,
    /// The text in each node's box.
    pub texts: Vec<Vec<String>>,
}

/// An item that knows how much room it takes.
struct Room<'a> {
    w: i32,
    h: i32,
    /// The head's own box.
    head: (i32, i32),
    item: &'a Item,
    lanes: Vec<LaneRoom<'a>>,
}

struct LaneRoom<'a> {
    w: i32,
    h: i32,
    lane: &'a Lane,
    items: Vec<Room<'a>>,
}

/// Lays a chart out.
pub(super) fn lay_out(chart: &Chart) -> Scene {
    let texts: Vec<Vec<String>> = chart.nodes.iter().map(label::lines).collect();
    let heads: Vec<(i32, i32)> = chart.nodes.iter().zip(&texts).map(|(node, lines)| head(node.kind, lines)).collect();
    let root = measure_lane(&chart.root, &heads);
    let mut scene = Scene { width: root.w, height: root.h, texts, ..Scene::default() };
    scene.lane(&root, root.w / 2, 0);
    scene
}

fn head(kind: &str, lines: &[String]) -> (i32, i32) {
    match kind {
        "START" | "END" => (PILL, PILL_HEIGHT),
        _ => (BOX, PAD + LINE * i32::try_from(lines.len()).unwrap_or(i32::from(u8::MAX))),
    }
}

fn measure_lane<'a>(lane: &'a Lane, heads: &[(i32, i32)]) -> LaneRoom<'a> {
    let items: Vec<Room<'_>> = lane.items.iter().map(|item| measure(item, heads)).collect();
    let name = lane.label.as_deref().map_or(0, |label| columns(&fit(label, CASE_COLUMNS)));
    // The name stands beside the line in the middle.
    let name = 2 * (i32::try_from(name).unwrap_or(0) * COLUMN + 6);
    let w = items.iter().map(|item| item.w).chain([NARROW, name]).max().unwrap_or(NARROW);
    let gaps = GAP * i32::try_from(items.len().saturating_sub(1)).unwrap_or(0);
    let h = items.iter().map(|item| item.h).sum::<i32>() + gaps;
    LaneRoom { w, h, lane, items }
}

fn measure<'a>(item: &'a Item, heads: &[(i32, i32)]) -> Room<'a> {
    let head = heads[item.node];
    match &item.shape {
        Shape::Plain => Room { w: head.0, h: head.1, head, item, lanes: Vec::new() },
        Shape::Split(lanes) => {
            let lanes: Vec<_> = lanes.iter().map(|lane| measure_lane(lane, heads)).collect();
            let w = row(&lanes).max(head.0);
            let tallest = lanes.iter().map(|lane| lane.h).max().unwrap_or(0);
            Room { w, h: head.1 + DROP + LABEL + tallest + MERGE, head, item, lanes }
        }
        Shape::Loop(body, _) => {
            let body = measure_lane(body, heads);
            let (w, h) = (body.w.max(head.0) + 2 * FRAME[0], FRAME[1] + head.1 + GAP + body.h + FRAME[2]);
            Room { w, h, head, item, lanes: vec![body] }
        }
    }
}

fn row(lanes: &[LaneRoom<'_>]) -> i32 {
    let between = BETWEEN * i32::try_from(lanes.len().saturating_sub(1)).unwrap_or(0);
    lanes.iter().map(|lane| lane.w).sum::<i32>() + between
}

impl Scene {
    fn line(&mut self, points: &[(i32, i32)], taken: Taken, arrow: bool) {
        self.lines.push(Line { points: points.to_vec(), taken, arrow });
    }

    /// Draws a lane around the middle `cx`, from `top` down.
    fn lane(&mut self, lane: &LaneRoom<'_>, cx: i32, top: i32) {
        let mut y = top;
        for (index, item) in lane.items.iter().enumerate() {
            if index > 0 && lane.items[index - 1].item.open {
                let into_box = !matches!(item.item.shape, Shape::Loop(..));
                self.line(&[(cx, y - GAP), (cx, y)], item.item.entered, into_box);
            }
            self.item(item, cx, y);
            y += item.h + GAP;
        }
    }

    fn item(&mut self, room: &Room<'_>, cx: i32, top: i32) {
        let (w, h) = room.head;
        let node = room.item.node;
        match &room.item.shape {
            Shape::Plain => self.boxes.push(Rect { node, x: cx - w / 2, y: top, w, h }),
            Shape::Split(_) => {
                self.boxes.push(Rect { node, x: cx - w / 2, y: top, w, h });
                self.split(room, cx, top);
            }
            Shape::Loop(_, back) => {
                self.frames.push(Rect { node, x: cx - room.w / 2, y: top, w: room.w, h: room.h });
                self.boxes.push(Rect { node, x: cx - w / 2, y: top + FRAME[1], w, h });
                self.line(&[(cx, top), (cx, top + FRAME[1])], room.item.entered, true);
                self.rounds(room, *back, cx, top);
            }
        }
    }

    fn split(&mut self, room: &Room<'_>, cx: i32, top: i32) {
        let head = top + room.head.1;
        let (bus, lanes_top, merge) = (head + DROP, head + DROP + LABEL, top + room.h);
        let entered = room.lanes.iter().map(|lane| lane.lane.entered);
        let entered = entered.reduce(|any, lane| any.zip(lane).map(|(any, lane)| any || lane)).flatten();
        self.line(&[(cx, head), (cx, bus)], entered, false);
        let mut x = cx - row(&room.lanes) / 2;
        for room in &room.lanes {
            let (lane, at) = (room.lane, x + room.w / 2);
            let into_box = room.items.first().is_some_and(|item| !matches!(item.item.shape, Shape::Loop(..)));
            self.line(&[(cx, bus), (at, bus), (at, lanes_top)], lane.entered, into_box);
            if let Some(label) = &lane.label {
                let text = fit(label, CASE_COLUMNS);
                self.cases.push(Case { x: at + 6, y: lanes_top - 9, text, taken: lane.entered });
            }
            self.lane(room, at, lanes_top);
            if lane.open {
                self.line(&[(at, lanes_top + room.h), (at, merge), (cx, merge)], lane.left, false);
            }
            if lane.unawaited {
                self.cases.push(Case { x: at + 6, y: merge - 3, text: UNAWAITED.to_owned(), taken: lane.left });
            }
            x += room.w + BETWEEN;
        }
    }

    fn rounds(&mut self, room: &Room<'_>, back: Taken, cx: i32, top: i32) {
        let head = top + FRAME[1] + room.head.1;
        for body in &room.lanes {
            let into_box = body.items.first().is_some_and(|item| !matches!(item.item.shape, Shape::Loop(..)));
            self.line(&[(cx, head), (cx, head + GAP)], body.lane.entered, into_box);
            self.lane(body, cx, head + GAP);
            if body.lane.open {
                let bottom = head + GAP + body.h;
                let (left, middle) = (cx - room.w / 2 + FRAME[0] / 2, head - room.head.1 / 2);
                let turn = bottom + FRAME[2] / 2;
                let to = cx - room.head.0 / 2;
                self.line(&[(cx, bottom), (cx, turn), (left, turn), (left, middle), (to, middle)], back, true);
            }
        }
    }
}
