use super::*;
use crate::wire::*;

/// Deterministic source of variety: a linear congruential generator (Knuth's MMIX constants).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    fn below(&mut self, bound: u64) -> usize {
        (self.roll() % bound) as usize
    }
    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(40)).map(|_| self.roll() as u8).collect()
    }
    fn text(&mut self) -> String {
        (0..self.below(20)).map(|_| ['a', 'ß', '→', '\0', '🦀'][self.below(5)]).collect()
    }
    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }
    fn reason(&mut self) -> EndReason {
        [EndReason::Exited, EndReason::SpawnFailed, EndReason::Fenced, EndReason::Unhealthy][self.below(4)]
    }
    fn spec(&mut self) -> Spec {
        Spec {
            argv: (0..self.below(4)).map(|_| self.text()).collect(),
            env: (0..self.below(4)).map(|_| (self.text(), self.text())).collect(),
            cwd: self.text(),
            files: (0..self.below(3))
                .map(|_| File { name: self.text(), mode: self.roll() as u32, content: self.bytes() })
                .collect(),
            cpu_limit_millis: self.roll(),
            log_policy: if self.flag() { LogPolicy::KeepTail } else { LogPolicy::KeepHead },
            stop_signal: self.roll() as i32,
            stop_target: if self.flag() { StopTarget::Main } else { StopTarget::Group },
            on_disconnect: if self.flag() { OnDisconnect::Stop } else { OnDisconnect::Continue },
            without_lease: self.flag(),
            prepared: self.flag(),
            note: self.bytes(),
            ..Spec::default()
        }
    }
    fn process(&mut self) -> ProcessId {
        ProcessId {
            boot_id: self.text(),
            pid_ns: self.roll(),
            pid: self.roll() as u32,
            start_ticks: self.roll(),
            wall_ms: self.roll(),
        }
    }
    fn end(&mut self) -> End {
        End {
            code: self.flag().then(|| self.roll() as i32),
            signal: self.flag().then(|| self.roll() as i32),
            reason: self.reason(),
            oom: self.flag(),
            out_bytes: self.roll(),
            ran_ms: self.roll(),
            truncated: self.flag(),
            message: self.text(),
            ..End::default()
        }
    }
    fn request(&mut self) -> Request {
        match self.below(6) {
            0 => Request::Hello { version: self.roll() as u32 },
            1 => Request::Start { name: self.text(), spec: Box::new(self.spec()) },
            2 => Request::Stop { name: self.text(), reason: self.reason(), grace_ms: self.flag().then(|| self.roll()) },
            3 => Request::Warm { monitors: self.roll() as u32 },
            4 => Request::Upgrade { exe: self.text() },
            _ => Request::Shutdown { stop_tasks: self.flag() },
        }
    }
    fn listed(&mut self) -> Listed {
        let state = match self.below(4) {
            0 => ListedState::Starting,
            1 => ListedState::Running(self.process()),
            2 => ListedState::Ended(self.end()),
            _ => ListedState::Lost,
        };
        Listed { name: self.text(), state }
    }
    fn notice(&mut self) -> Notice {
        match self.below(7) {
            0 => Notice::Welcome {
                version: self.roll() as u32,
                pid: self.roll() as u32,
                fencing: if self.flag() { Fencing::Strong } else { Fencing::Weak },
                limits: [Limits::CgroupV1, Limits::CgroupV2, Limits::Rlimits][self.below(3)],
            },
            1 => Notice::Listing { attempts: (0..self.below(5)).map(|_| self.listed()).collect(), last: self.flag() },
            2 => Notice::Spawned { name: self.text(), process: self.process() },
            3 => Notice::Refused { name: self.text(), why: Refusal::NoLease, message: self.text() },
            4 => Notice::Ended { name: self.text(), end: self.end() },
            5 => Notice::Lost { name: self.text() },
            _ => Notice::Terminating,
        }
    }
}

#[test]
fn every_message_survives_the_round_trip_and_no_shorter_or_longer_body_is_one() {
    let mut dice = Dice(7);
    for _ in 0..3_000 {
        let request = dice.request();
        let body = encode_request(&request);
        assert_eq!(decode_request(&body).as_ref(), Ok(&request));
        let notice = dice.notice();
        let other = encode_notice(&notice);
        assert_eq!(decode_notice(&other).as_ref(), Ok(&notice));
        for cut in 0..body.len() {
            assert!(decode_request(&body[..cut]).is_err());
        }
        let longer = [body.as_slice(), &[0]].concat();
        assert_eq!(decode_request(&longer), Err(Error::Trailing));
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let mut dice = Dice(11);
    for _ in 0..20_000 {
        let mut body = if dice.flag() { encode_request(&dice.request()) } else { encode_notice(&dice.notice()) };
        for _ in 0..=dice.below(4) {
            let at = dice.below(body.len() as u64);
            body[at] = dice.roll() as u8;
        }
        // A changed byte may still be a message; only a panic or a runaway allocation would be wrong.
        let _ = decode_request(&body);
        let _ = decode_notice(&body);
        let _ = decode_spec(&body);
        let _ = decode_end(&body);
        let _ = decode_process(&body);
    }
}

#[test]
fn a_count_the_bytes_cannot_hold_is_refused_before_anything_is_held() {
    let mut body = vec![2];
    body.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode_notice(&body), Err(Error::TooMany));
}

#[test]
fn frames_are_cut_whatever_the_pieces() {
    let mut dice = Dice(3);
    let bodies: Vec<Vec<u8>> = (0..200).map(|_| encode_request(&dice.request())).collect();
    let mut stream = Vec::new();
    bodies.iter().for_each(|body| push_frame(&mut stream, body));
    let mut reader = FrameReader::default();
    let mut seen = Vec::new();
    let mut rest = stream.as_slice();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at((1 + dice.below(50)).min(rest.len()));
        reader.feed(piece);
        rest = later;
        while let Some(body) = reader.take().expect("well-formed") {
            seen.push(body.to_vec());
        }
    }
    assert_eq!(seen, bodies);
    assert!(reader.pending().is_empty());
}

#[test]
fn a_frame_beyond_the_bound_ends_the_stream() {
    let mut reader = FrameReader::default();
    reader.feed(&(MAX_FRAME_BYTES as u32 + 1).to_le_bytes());
    assert_eq!(reader.take(), Err(Error::TooLong { bytes: MAX_FRAME_BYTES + 1 }));
}

/// Agents and keepers of all versions rely on these bytes: they are how one has the other replaced.
#[test]
fn what_every_version_must_understand_is_as_it_was() {
    assert_eq!(encode_request(&Request::Hello { version: 0x0102 }), [1, 2, 1, 0, 0]);
    assert_eq!(encode_request(&Request::Upgrade { exe: "/k".into() }), [5, 2, 0, 0, 0, b'/', b'k']);
    let welcome = Notice::Welcome { version: 7, pid: 9, fencing: Fencing::Strong, limits: Limits::CgroupV2 };
    let body = encode_notice(&welcome);
    assert_eq!(body[..9], [1, 7, 0, 0, 0, 9, 0, 0, 0]);
    assert_eq!(decode_welcome(&body[..9]), Some((7, 9)));
    assert_eq!(decode_welcome(&[&body[..], b"and more"].concat()), Some((7, 9)));
    assert_eq!((decode_welcome(&body[..8]), decode_welcome(&[7, 0, 0])), (None, None));
}
