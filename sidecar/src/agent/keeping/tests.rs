//! What the agent says to keepers of other builds, played by the test.

use super::*;
use keeper::wire::Limits;
use std::path::PathBuf;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// A data directory with a keeper's socket, and an executable beside a sidecar that is not there.
struct Bed {
    dir: PathBuf,
    listener: UnixListener,
    agent: Option<JoinHandle<()>>,
    said: mpsc::Receiver<FromKeeper>,
}

impl Bed {
    /// `script` is what the keeper's executable does.
    fn new(name: &str, script: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("keeping-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let exe = dir.join("keeper");
        // Written by another process: a fork of this one, made meanwhile by another test, would hold it open and keep it from being run.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
        let mut writer = std::process::Command::new("sh");
        assert!(writer.args(["-c", write, "sh"]).arg(&exe).arg(script).status().unwrap().success());
        let listener = UnixListener::bind(dir.join(keeper::launch::SOCKET)).unwrap();
        let (sender, said) = mpsc::channel(8);
        let dirs = Dirs { data: dir.clone(), exe: dir.join("sidecar"), keeper_exe: exe };
        for file in crate::ledger::FILES {
            std::fs::write(dir.join(file), "").unwrap();
        }
        let place = Arc::new(Place::pin(&dir).unwrap());
        let agent = Some(tokio::spawn(keep(dirs, place, 3, sender)));
        Self { dir, listener, agent, said }
    }

    async fn accept(&self) -> Fake {
        let (reader, writer) = self.listener.accept().await.unwrap().0.into_split();
        let mut fake = Fake { incoming: Incoming::new(reader), writer };
        assert_eq!(fake.hear().await, Some(Request::Hello { version: VERSION }));
        fake
    }

    fn exe(&self) -> String {
        self.dir.join("keeper").to_str().unwrap().to_owned()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
        }
        let _gone = std::fs::remove_dir_all(&self.dir);
    }
}

/// The keeper's end of a connection.
struct Fake {
    incoming: Incoming,
    writer: OwnedWriteHalf,
}

impl Fake {
    async fn hear(&mut self) -> Option<Request> {
        self.incoming.next().await.unwrap().map(|body| codec::decode_request(&body).unwrap())
    }

    async fn say(&mut self, body: &[u8]) {
        self.writer.write_all(&codec::frame(body)).await.unwrap();
    }

    /// A welcome of that version; one that this build does not know goes on in a way it does not know either.
    async fn welcome(&mut self, version: u32) {
        let (fencing, limits) = (Fencing::Strong, Limits::Rlimits);
        // No process has this pid.
        let mut body = codec::encode_notice(&Notice::Welcome { version, pid: u32::MAX, fencing, limits });
        if version != VERSION {
            body.extend(b"more");
        }
        self.say(&body).await;
    }

    /// The rest of what a keeper of this build says.
    async fn serve(&mut self) {
        self.welcome(VERSION).await;
        self.say(&codec::encode_notice(&Notice::Listing { attempts: Vec::new(), last: true })).await;
        assert_eq!(self.hear().await, Some(Request::Warm { monitors: 3 }));
    }
}

const OURS: &str = "echo 'keeper 9.9.9 (protocol 1)'";

#[tokio::test]
async fn a_keeper_of_another_version_becomes_ours_and_nobody_hears_of_it() {
    let mut bed = Bed::new("becomes", OURS);
    let mut keeper = bed.accept().await;
    keeper.welcome(VERSION + 1).await;
    assert_eq!(keeper.hear().await, Some(Request::Upgrade { exe: bed.exe() }));
    drop(keeper);
    let mut keeper = bed.accept().await;
    keeper.serve().await;
    let first = bed.said.recv().await;
    assert!(matches!(&first, Some(FromKeeper::Connected { fencing: Fencing::Strong, .. })), "{first:?}");
}

#[tokio::test]
async fn a_keeper_that_stays_another_version_is_asked_once_and_gets_nothing() {
    let mut bed = Bed::new("stays", OURS);
    let mut keeper = bed.accept().await;
    keeper.welcome(VERSION + 1).await;
    assert_eq!(keeper.hear().await, Some(Request::Upgrade { exe: bed.exe() }));
    drop(keeper);
    let mut keeper = bed.accept().await;
    keeper.welcome(VERSION + 1).await;
    assert_eq!(keeper.hear().await, None);
    let first = bed.said.recv().await;
    assert!(matches!(&first, Some(FromKeeper::Gone)), "{first:?}");
}

#[tokio::test]
async fn a_keeper_older_than_the_question_is_good_enough() {
    let bed = Bed::new("older", "echo 'keeper: unknown argument --version; see keeper --help' >&2; exit 2");
    let mut keeper = bed.accept().await;
    keeper.welcome(VERSION + 1).await;
    assert_eq!(keeper.hear().await, Some(Request::Upgrade { exe: bed.exe() }));
}

#[tokio::test]
async fn nobody_becomes_what_does_not_run_or_does_not_speak_with_us() {
    for (name, script) in
        [("dies", "exit 127"), ("foreign", "echo hello"), ("newer", "echo 'keeper 9.9.9 (protocol 99)'")]
    {
        let mut bed = Bed::new(name, script);
        let mut keeper = bed.accept().await;
        keeper.welcome(VERSION + 1).await;
        assert_eq!(keeper.hear().await, None, "{name}");
        let first = bed.said.recv().await;
        assert!(matches!(&first, Some(FromKeeper::Gone)), "{first:?}");
    }
}

#[tokio::test]
async fn a_keeper_that_cannot_be_seen_is_worked_with() {
    let mut bed = Bed::new("unseen", "exit 127");
    let mut keeper = bed.accept().await;
    keeper.serve().await;
    assert!(matches!(bed.said.recv().await, Some(FromKeeper::Connected { .. })));
}

#[tokio::test]
async fn who_does_not_welcome_is_no_keeper() {
    let mut bed = Bed::new("rude", OURS);
    let mut keeper = bed.accept().await;
    keeper.say(&codec::encode_notice(&Notice::Terminating)).await;
    assert!(matches!(bed.said.recv().await, Some(FromKeeper::Gone)));
}
