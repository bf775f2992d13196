//! `informer drain` and `undrain`: a sidecar takes no new work, or does again.

use std::time::Duration;

use proto::{
    bounds,
    v1::{
        AttemptState, DrainMode, DrainRequest, Lack, ListRequest, Sidecar, SidecarState, SidecarsRequest, Task,
        TaskState,
    },
};
use tokio::time::MissedTickBehavior;
use tonic::Code;

use super::{
    Context,
    client::Client,
    error::Error,
    json,
    screen::{Form, Screen},
    words,
};

/// How often a draining sidecar is looked at: its books change with its beats, which come no more often.
const LOOK: Duration = Duration::from_secs(1);

/// Looks after which the order to stop is repeated while something set aside still runs: a link that was down may have missed it, and it
/// is remembered for what the informer knows only.
const REPEAT: u32 = 10;

/// Tasks named while it is waited for them: a line's worth.
const NAMED: usize = 3;

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The sidecar: its id, the beginning of it, or its host
    #[arg(value_name = "ID")]
    id: String,
    /// What has not started yet goes elsewhere; what runs is finished [default: all that it has is finished there]
    #[arg(long, conflicts_with = "stop")]
    hand_back: bool,
    /// What runs is stopped and goes elsewhere, too; what the informer does not know (set aside) is stopped
    #[arg(long)]
    stop: bool,
    /// Wait until nothing is left there; fails where that cannot be known, since the sidecar is lost
    #[arg(long)]
    wait: bool,
    /// Print the sidecar as a JSON document
    #[arg(long)]
    json: bool,
}

/// Arguments of `undrain`.
#[derive(Debug, clap::Args)]
pub(crate) struct UndrainArgs {
    /// The sidecar: its id, the beginning of it, or its host
    #[arg(value_name = "ID")]
    id: String,
    /// Print the sidecar as a JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let mode = match (args.hand_back, args.stop) {
        (true, _) => DrainMode::HandBack,
        (false, true) => DrainMode::Stop,
        (false, false) => DrainMode::Finish,
    };
    let id = resolve(&client, &args.id).await?.id;
    let mut sidecar = set(&client, "drain", &id, mode).await?;
    let screen = Screen::new(context.verbose, Form::Bytes);
    if args.wait {
        sidecar = emptied(&client, &id, &screen).await?;
    } else if mode == DrainMode::Stop && sidecar.state() == SidecarState::Suspect {
        screen.line(&format!(
            "sidecar {id} is not linked; what is set aside there is stopped only if this is said again when it is, or with --wait"
        ));
    } else if sidecar.state() == SidecarState::Lost {
        screen.line(&format!("sidecar {id} is lost; the drain holds from when it comes back"));
    } else if !is_empty(&sidecar) {
        let running = u64::from(sidecar.running) + u64::from(sidecar.set_aside_count);
        screen.note(&format!("{running} running there; `informer drain {id} --wait` waits for the end"));
    }
    if args.json {
        super::print_json(&json::sidecar(&sidecar))?;
    }
    Ok(0)
}

pub(crate) async fn undrain(args: UndrainArgs, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let id = resolve(&client, &args.id).await?.id;
    let sidecar = set(&client, "undrain", &id, DrainMode::Unspecified).await?;
    if args.json {
        super::print_json(&json::sidecar(&sidecar))?;
    }
    Ok(0)
}

/// Repeating it changes nothing, so a lost answer is asked for again.
async fn set(client: &Client, verb: &str, id: &str, mode: DrainMode) -> Result<Sidecar, Error> {
    let request = DrainRequest { sidecar: id.to_owned(), mode: mode.into() };
    let attempted = format!("{verb} sidecar {id}");
    let answer = client.persist(&attempted, async |mut grpc| grpc.drain(request.clone()).await).await?;
    Ok(answer.sidecar.unwrap_or_default())
}

async fn all(client: &Client) -> Result<Vec<Sidecar>, Error> {
    let request = SidecarsRequest { all: true };
    let answer = client.persist("list sidecars", async |mut grpc| grpc.sidecars(request).await).await?;
    Ok(answer.sidecars)
}

/// Nothing runs there, and nothing is on its way: the books hold no reservation. Of a lost sidecar the books say nothing: what it had was
/// taken out of them when it was given up, and may run there all the same. One that is not heard cannot say that nothing is set aside there.
fn is_empty(sidecar: &Sidecar) -> bool {
    let allocated = sidecar.allocated.unwrap_or_default();
    let heard = sidecar.state() != SidecarState::Suspect;
    heard && sidecar.running == 0 && allocated.cpu_millis == 0 && allocated.memory_bytes == 0 && !has_set_aside(sidecar)
}

/// Attempts run there that the informer does not know.
pub(crate) fn has_set_aside(sidecar: &Sidecar) -> bool {
    let taken = sidecar.set_aside.unwrap_or_default();
    sidecar.set_aside_count > 0 || taken.cpu_millis > 0 || taken.memory_bytes > 0
}

async fn emptied(client: &Client, id: &str, screen: &Screen) -> Result<Sidecar, Error> {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let refused = |code, message: &str| Error::Refused {
        attempted: format!("wait until sidecar {id} is empty"),
        code,
        message: message.to_owned(),
    };
    let mut told = None;
    let mut looks = 0_u32;
    loop {
        look.tick().await;
        looks = looks.wrapping_add(1);
        let Some(sidecar) = all(client).await?.into_iter().find(|sidecar| sidecar.id == id) else {
            return Err(refused(Code::NotFound, "the informer does not know it any more"));
        };
        if sidecar.drain() == DrainMode::Unspecified {
            return Err(refused(Code::Aborted, "somebody undrained it meanwhile"));
        }
        // Before the books, which are empty then. Nobody who takes a machine away after this may take silence for an end.
        if sidecar.state() == SidecarState::Lost {
            return Err(refused(Code::Unavailable, &lost(&sidecar.host, &missing(client, id).await)));
        }
        if is_empty(&sidecar) {
            return Ok(sidecar);
        }
        if looks.is_multiple_of(REPEAT) && sidecar.drain() == DrainMode::Stop && has_set_aside(&sidecar) {
            set(client, "drain", id, DrainMode::Stop).await?;
        }
        let books = (sidecar.running, sidecar.set_aside_count, sidecar.state());
        if told != Some(books) {
            told = Some(books);
            screen.line(&awaited(&sidecar, &there(client, id).await));
        }
    }
}

/// Tasks that are on the sidecar right now, some of them. An informer that does not answer gives none: the wait goes on without
/// their names.
async fn there(client: &Client, id: &str) -> Vec<Task> {
    let states = [TaskState::Assigned, TaskState::Running, TaskState::Committing].map(i32::from).to_vec();
    let request = ListRequest { sidecar: id.to_owned(), states, ..ListRequest::default() };
    let mut tasks = listed(client, request).await;
    // The list has those that only were there, too.
    tasks.retain(|task| task.attempts.last().is_some_and(|attempt| attempt.sidecar == id));
    tasks
}

/// Tasks with an attempt there that was given up and may still run, some of them.
async fn missing(client: &Client, id: &str) -> Vec<Task> {
    let request = ListRequest { sidecar: id.to_owned(), page_size: bounds::PAGE, ..ListRequest::default() };
    let mut tasks = listed(client, request).await;
    let may_run = |task: &Task| {
        let mut attempts = task.attempts.iter().filter(|attempt| attempt.sidecar == id);
        attempts.any(|attempt| attempt.state() == AttemptState::PresumedLost)
    };
    tasks.retain(may_run);
    tasks
}

async fn listed(client: &Client, request: ListRequest) -> Vec<Task> {
    client.grpc().list(request).await.map(|answer| answer.into_inner().tasks).unwrap_or_default()
}

/// Why it cannot be told that a lost sidecar is empty, and what may be left there.
fn lost(host: &str, missing: &[Task]) -> String {
    let mut line = format!("sidecar {host} is lost, so what runs there is not known");
    if !missing.is_empty() {
        line.push_str(&format!("; {} may: {}", missing.len(), named(missing)));
    }
    line.push_str("; look on the machine itself (`sidecar status`), or wait again when it is back");
    line
}

/// `web (service, ID), film (transcode, ID), ...`.
fn named(tasks: &[Task]) -> String {
    let named = tasks.iter().take(NAMED).map(|task| format!("{} ({}, {})", task.name, task.kind, task.id));
    let mut line = named.collect::<Vec<_>>().join(", ");
    if tasks.len() > NAMED {
        line.push_str(", ...");
    }
    line
}

/// `waiting for 2 on box: web (service, ID), film (transcode, ID); a service goes on until ...`.
fn awaited(sidecar: &Sidecar, there: &[Task]) -> String {
    let mut line = match sidecar.running {
        0 if sidecar.state() == SidecarState::Suspect => format!("waiting for {} to be heard again", sidecar.host),
        0 if has_set_aside(sidecar) => format!("waiting for {}", sidecar.host),
        0 => format!("waiting for what is on its way to {}", sidecar.host),
        running => format!("waiting for {running} on {}", sidecar.host),
    };
    if !there.is_empty() {
        line.push_str(&format!(": {}", named(there)));
    }
    if there.iter().any(|task| task.kind == "service") {
        line.push_str(
            "; a service has no end of its own: `informer cancel` it, or drain with --stop to have it go elsewhere",
        );
    }
    if has_set_aside(sidecar) {
        line.push_str(&aside(sidecar));
    }
    line
}

/// `; 2 run there that this informer does not know (set aside: ID.1, ID.1) ...`.
fn aside(sidecar: &Sidecar) -> String {
    let count = match sidecar.set_aside_count {
        0 => "some".to_owned(),
        count => count.to_string(),
    };
    let named = sidecar.set_aside_attempts.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let named = if named.is_empty() { "set aside".to_owned() } else { format!("set aside: {named}") };
    let remedy = match sidecar.drain() {
        DrainMode::Stop => "they are being stopped",
        _ => "they end by themselves, or by --stop",
    };
    format!("; {count} run there that this informer does not know ({named}); {remedy}")
}

/// The sidecar that a person means: by its whole id, by its host, or by the beginning of its id.
///
/// # Errors
/// None or several are named like that.
pub(crate) async fn resolve(client: &Client, text: &str) -> Result<Sidecar, Error> {
    choose(all(client).await?, text)
}

fn choose(sidecars: Vec<Sidecar>, text: &str) -> Result<Sidecar, Error> {
    let refused = |code, message| Err(Error::Refused { attempted: format!("find sidecar {text:?}"), code, message });
    // A host that came back under a new id leaves a lost one behind: who is there is meant first.
    let is_here = |sidecar: &Sidecar| sidecar.state() != SidecarState::Lost;
    let rules: [&dyn Fn(&Sidecar) -> bool; 4] = [
        &|sidecar| sidecar.id == text,
        &|sidecar| sidecar.host == text && is_here(sidecar),
        &|sidecar| sidecar.id.starts_with(text) && is_here(sidecar),
        &|sidecar| sidecar.host == text || sidecar.id.starts_with(text),
    ];
    for rule in rules.iter().filter(|_| !text.is_empty()) {
        let mut named: Vec<&Sidecar> = sidecars.iter().filter(|sidecar| rule(sidecar)).collect();
        match named.len() {
            0 => {}
            1 => return Ok(named.remove(0).clone()),
            count => {
                let ids = named.iter().take(3).map(|sidecar| sidecar.id.as_str()).collect::<Vec<_>>().join(", ");
                let message = format!("{count} are named like that ({ids}); write more of the id");
                return refused(Code::InvalidArgument, message);
            }
        }
    }
    refused(Code::NotFound, "none is named like that; `informer sidecars --all` lists them".to_owned())
}

/// `draining`, and how; `live`, and what it lacks.
pub(crate) fn state(sidecar: &Sidecar) -> String {
    let state = words::sidecar_state(sidecar.state());
    match words::drain_mode(sidecar.drain()) {
        Some(mode) => format!("{state} ({})", mode.replace('_', " ")),
        None => match sidecar.load.unwrap_or_default().lack() {
            Lack::Unspecified => state,
            Lack::Disk => format!("{state} (its disk is full)"),
            Lack::LeasePage => format!("{state} (it cannot write its lease page)"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(id: &str, host: &str, state: SidecarState) -> Sidecar {
        Sidecar { id: id.into(), host: host.into(), state: state.into(), ..Sidecar::default() }
    }

    #[test]
    fn a_sidecar_is_named_by_id_host_or_beginning() {
        let known = || {
            vec![
                sidecar("abc1", "box", SidecarState::Live),
                sidecar("abd2", "pair", SidecarState::Live),
                sidecar("abe3", "pair", SidecarState::Live),
                sidecar("xyz4", "box", SidecarState::Lost),
            ]
        };
        let named = |text: &str| choose(known(), text).map(|sidecar| sidecar.id);
        assert_eq!(named("abc1").expect("an id"), "abc1");
        assert_eq!(named("abd").expect("a beginning"), "abd2");
        assert_eq!(named("box").expect("the host that is there"), "abc1");
        assert_eq!(named("xyz").expect("a lost one"), "xyz4");
        let several = named("pair").expect_err("two");
        assert!(several.to_string().contains("2 are named like that (abd2, abe3)") && several.exit() == 2, "{several}");
        for text in ["", "nope"] {
            assert_eq!(named(text).expect_err("none").exit(), 1);
        }
    }

    #[test]
    fn what_is_waited_for_is_named() {
        let mut one = sidecar("a", "box", SidecarState::Draining);
        assert_eq!(awaited(&one, &[]), "waiting for what is on its way to box");
        one.running = 1;
        let task = |kind: &str| Task { id: "i".into(), name: "n".into(), kind: kind.into(), ..Task::default() };
        assert_eq!(awaited(&one, &[task("command")]), "waiting for 1 on box: n (command, i)");
        let service = awaited(&one, &[task("service")]);
        assert!(service.contains("n (service, i); a service has no end"), "{service}");
        let many = awaited(&one, &[task("script"), task("script"), task("script"), task("script")]);
        assert!(many.ends_with("n (script, i), ..."), "{many}");
    }

    #[test]
    fn what_is_set_aside_is_waited_for_and_told() {
        let mut one = sidecar("a", "box", SidecarState::Draining);
        one.set_drain(DrainMode::Finish);
        one.set_aside_count = 2;
        one.set_aside_attempts = vec!["x.1".into(), "y.3".into()];
        assert!(!is_empty(&one));
        let said = awaited(&one, &[]);
        let expected = "waiting for box; 2 run there that this informer does not know (set aside: x.1, y.3); they end by themselves, \
                        or by --stop";
        assert_eq!(said, expected);
        one.set_drain(DrainMode::Stop);
        assert!(awaited(&one, &[]).ends_with("they are being stopped"));
        let older = Sidecar {
            set_aside_count: 0,
            set_aside: Some(proto::v1::Resources { cpu_millis: 100, memory_bytes: 0 }),
            ..one.clone()
        };
        assert!(!is_empty(&older), "of one that does not tell how many they are");
        let silent = Sidecar { set_aside_count: 0, state: SidecarState::Suspect.into(), ..one };
        assert!(!is_empty(&silent), "nobody can say so");
    }

    #[test]
    fn of_a_lost_sidecar_nothing_is_known_but_what_it_had() {
        let nothing = lost("box", &[]);
        assert!(nothing.starts_with("sidecar box is lost, so what runs there is not known; look on"), "{nothing}");
        let task = Task { id: "i".into(), name: "n".into(), kind: "command".into(), ..Task::default() };
        assert!(lost("box", &[task]).contains("not known; 1 may: n (command, i); look on"));
    }

    #[test]
    fn a_draining_sidecar_says_how() {
        let mut one = sidecar("a", "h", SidecarState::Draining);
        one.set_drain(DrainMode::HandBack);
        assert_eq!(state(&one), "draining (hand back)");
        assert!(is_empty(&one));
        one.allocated = Some(proto::v1::Resources { cpu_millis: 1, memory_bytes: 0 });
        assert!(!is_empty(&one), "an assignment is on its way");
        assert_eq!(state(&sidecar("a", "h", SidecarState::Live)), "live");
    }
}
