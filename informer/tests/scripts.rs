//! Scripts on real hosts: whatever one does, it does to itself.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "what a test arranges is there, or the test has failed"
)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use informer::scripts::{Config, Error, Language, Pool};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Between two looks at another process, which has no event to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// One host at a time, so that a test knows who is asked.
fn config() -> Config {
    Config { program: Some(PathBuf::from(env!("CARGO_BIN_EXE_informer"))), hosts: 1, ..Config::default() }
}

fn pool() -> Pool {
    Pool::new(config())
}

/// The hosts that this process started: its children, as every test has a process of its own.
fn hosts() -> BTreeSet<i32> {
    let own = std::process::id();
    let tasks = std::fs::read_dir(format!("/proc/{own}/task")).unwrap();
    let children = tasks.flat_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")));
    children.flat_map(|line| line.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()).collect()
}

fn the_host() -> i32 {
    let hosts = hosts();
    assert_eq!(hosts.len(), 1, "{hosts:?}");
    *hosts.first().unwrap()
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The pool runs scripts as if nothing had been.
fn is_well(pool: &Pool) {
    assert_eq!(pool.javascript("$.a + 1", &json!({"a": 1})).unwrap(), json!(2));
    assert_eq!(pool.jq(".a, .a + 1", &json!({"a": 1})).unwrap(), [json!(1), json!(2)]);
}

#[test]
fn a_host_is_started_once_and_asked_again() {
    let pool = pool();
    assert_eq!(hosts(), BTreeSet::new(), "none before the first script");
    is_well(&pool);
    let host = the_host();
    is_well(&pool);
    assert_eq!(the_host(), host);
    drop(pool);
    assert_eq!(hosts(), BTreeSet::new());
}

/// Runs a script that must fail as expected, and then others.
fn fails(pool: &Pool, language: Language, source: &str, is_expected: impl Fn(&Error) -> bool) {
    let result = match language {
        Language::JavaScript => pool.javascript(source, &json!({})),
        Language::Jq => pool.jq(source, &json!({})).map(Value::from),
    };
    let error = result.expect_err(source);
    assert!(is_expected(&error) && error.is_of_script(), "{source}: {error:?}");
    is_well(pool);
}

#[test]
fn a_javascript_that_faults_costs_only_itself() {
    let pool = Pool::new(Config { cpu: Duration::from_secs(1), ..config() });
    let fails = |source: &str, is_expected: &dyn Fn(&Error) -> bool| {
        fails(&pool, Language::JavaScript, source, is_expected);
    };
    let is_slow = |error: &Error| matches!(error, Error::TooSlow { .. });
    let is_hungry = |error: &Error| matches!(error, Error::OutOfMemory { .. });
    let throws =
        |word: &'static str| move |error: &Error| matches!(error, Error::Thrown { message } if message.contains(word));
    fails("while (true) {}", &is_slow);
    fails("try { while (true) {} } catch (e) {} finally { while (true) {} }", &is_slow);
    // The engine's clock is not asked within a regular expression: the kernel ends it.
    fails("/(a+)+$/.test('a'.repeat(60) + 'b')", &is_slow);
    fails("let a = []; while (true) a.push(new Array(1000000).fill(1));", &|error| is_hungry(error) || is_slow(error));
    fails("new ArrayBuffer(10000000000)", &throws("array buffer"));
    fails("'x'.repeat(1000000000)", &|error| is_hungry(error) || is_slow(error));
    fails("'x'.repeat(11000000)", &|error| matches!(error, Error::TooLarge { what: "result", .. }) || is_slow(error));
    fails("function f(n) { return f(n + 1) + 1; } f(0)", &throws("stack"));
    fails("let d = []; for (let i = 0; i < 500; i++) d = [d]; d", &|error| matches!(error, Error::Result(_)));
    fails("throw new Error('no')", &throws("no"));
    fails("1 +", &|error| matches!(error, Error::Syntax { line: Some(1), .. }));
    fails("'\0'", &|error| matches!(error, Error::Syntax { line: Some(1), .. }));
}

#[test]
fn a_jq_that_faults_costs_only_itself() {
    let pool = Pool::new(Config { cpu: Duration::from_secs(1), ..config() });
    let fails = |source: &str, is_expected: &dyn Fn(&Error) -> bool| fails(&pool, Language::Jq, source, is_expected);
    let is_slow = |error: &Error| matches!(error, Error::TooSlow { .. });
    let is_hungry = |error: &Error| matches!(error, Error::OutOfMemory { .. });
    fails("def f: f; f", &is_slow);
    fails("[range(1e12)] | length", &|error| is_slow(error) || is_hungry(error));
    fails("\"x\" * 10000000000 | length", &is_hungry);
    fails("reduce range(100) as $i (\"x\"; . + .) | length", &|error| is_hungry(error) || is_slow(error));
    fails("def f: 1 + f; f", &|error| matches!(error, Error::TooDeep));
    fails("reduce range(200000) as $i (0; [.])", &|error| {
        matches!(error, Error::TooDeep | Error::Result(_)) || is_slow(error)
    });
    fails("repeat(\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\")", &|error| {
        matches!(error, Error::TooLarge { .. }) || is_slow(error)
    });
    fails("error(\"no\")", &|error| matches!(error, Error::Thrown { message } if message == "no"));
    fails(".a |", &|error| matches!(error, Error::Syntax { line: Some(1), .. }));
}

#[test]
fn sizes_are_bounded_before_a_host_is_asked() {
    let pool = Pool::new(Config { cpu: Duration::from_secs(60), ..config() });
    let large = pool.javascript(&format!("'{}'", "x".repeat(300_000)), &json!({})).unwrap_err();
    assert!(matches!(large, Error::TooLarge { what: "script", .. }), "{large}");
    let large = pool.jq(".", &json!({"a": "x".repeat(11 << 20)})).unwrap_err();
    assert!(matches!(large, Error::TooLarge { what: "input", .. }), "{large}");
    assert_eq!(hosts(), BTreeSet::new());
    // What is allowed is possible.
    let list: Vec<Value> = (0..200_000).map(|n| json!(n)).collect();
    let input = json!({"list": list});
    assert_eq!(pool.javascript("$.list.map(n => n)", &input).unwrap(), input["list"]);
    assert_eq!(pool.jq(".list", &input).unwrap(), [input["list"].clone()]);
    is_well(&pool);
}

#[test]
fn one_script_sees_nothing_of_another() {
    let pool = pool();
    let spoil = "Object.prototype.evil = 1; Array.prototype.map = null; JSON.stringify = () => '666'; globalThis.left = 1; $ = 3; \
                 JSON.parse = null; print = 5; 7";
    assert_eq!(pool.javascript(spoil, &json!({})).unwrap(), json!(7));
    let sees = "[typeof left, ({}).evil === undefined, [1].map(x => x + 1), JSON.stringify({a: 1}), typeof print]";
    assert_eq!(pool.javascript(sees, &json!({})).unwrap(), json!(["undefined", true, [2], "{\"a\":1}", "function"]));
    assert_eq!(hosts().len(), 1, "it was the same host");
}

#[test]
fn a_script_has_neither_files_nor_environment() {
    let pool = pool();
    let none = "[typeof require, typeof process, typeof std, typeof os, typeof fetch, typeof load]";
    assert_eq!(pool.javascript(none, &json!({})).unwrap(), json!(["undefined"; 6].map(|_| "undefined")));
    assert_eq!(pool.jq("env", &json!({})).unwrap(), [json!({})]);
    let read = pool.jq("import \"/etc/passwd\" as $x; $x", &json!({})).unwrap_err();
    assert!(matches!(read, Error::Syntax { .. }), "{read:?}");
    let host = the_host();
    let fact = |name: &str| std::fs::read_to_string(format!("/proc/{host}/{name}")).unwrap();
    assert_eq!(std::fs::read_link(format!("/proc/{host}/cwd")).unwrap(), PathBuf::from("/"));
    assert_eq!((fact("environ").as_str(), fact("comm").trim()), ("", "script-host"));
    assert!(fact("status").contains("NoNewPrivs:\t1"));
    let limits = fact("limits");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    for name in ["Max core file size", "Max open files", "Max file size", "Max processes"] {
        assert_eq!(limit(name), ["0", "0"], "{name}");
    }
    assert_ne!(limit("Max address space")[1], "unlimited");
    assert_ne!(limit("Max cpu time")[0], "unlimited");
}

#[test]
fn a_host_that_is_killed_is_replaced() {
    let pool = pool();
    is_well(&pool);
    signal(the_host(), Signal::KILL);
    is_well(&pool);
}

/// Runs a script that does not end by itself, does something to its host, and gives the script's error.
fn meanwhile(pool: &Pool, deed: impl Fn(i32)) -> Error {
    let first = the_host();
    thread::scope(|scope| {
        let script = scope.spawn(|| pool.javascript("while (true) {}", &json!({})).unwrap_err());
        // A host at work uses processor time, which an idle one does not.
        let ticks = || -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
            let after_name = stat.rsplit(')').next().unwrap_or_default();
            after_name.split_whitespace().nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
        };
        let idle = ticks();
        while ticks() == idle && !script.is_finished() {
            thread::sleep(LOOK_AGAIN);
        }
        deed(first);
        script.join().unwrap()
    })
}

#[test]
fn a_host_killed_at_work_is_replaced_and_the_script_run_again() {
    let pool = Pool::new(Config { cpu: Duration::from_millis(900), ..config() });
    is_well(&pool);
    // The second time it meets its own limit, which shows that it ran again.
    let error = meanwhile(&pool, |host| signal(host, Signal::KILL));
    assert!(matches!(error, Error::TooSlow { .. }), "{error:?}");
    is_well(&pool);
}

#[test]
fn a_host_that_stands_still_is_killed_at_the_deadline() {
    /// Many times what an answer takes on a loaded machine.
    const WALL: Duration = Duration::from_secs(10);
    let pool = Pool::new(Config { wall: WALL, cpu: Duration::from_secs(60), ..config() });
    is_well(&pool);
    let error = meanwhile(&pool, |host| signal(host, Signal::STOP));
    assert!(matches!(error, Error::TooSlow { limit } if limit == WALL), "{error:?}");
    is_well(&pool);
}

#[test]
fn closing_ends_the_host_at_work_and_whoever_waits() {
    let pool =
        Arc::new(Pool::new(Config { cpu: Duration::from_secs(600), wall: Duration::from_secs(600), ..config() }));
    is_well(&pool);
    let error = meanwhile(&pool, |_| {
        let waiting = thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.javascript("1", &json!({}))
        });
        pool.close();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
    });
    assert!(matches!(error, Error::Closed), "{error:?}");
    assert!(matches!(pool.javascript("1", &json!({})), Err(Error::Closed)));
    assert_eq!(hosts(), BTreeSet::new());
}

#[test]
fn many_callers_take_turns_on_few_hosts() {
    const CALLERS: usize = 24;
    let pool = Pool::new(Config { hosts: 2, ..config() });
    let all = Barrier::new(CALLERS);
    thread::scope(|scope| {
        for n in 0..CALLERS {
            let (pool, all) = (&pool, &all);
            scope.spawn(move || {
                all.wait();
                for _ in 0..5 {
                    assert_eq!(pool.javascript("$.n * 2", &json!({"n": n})).unwrap(), json!(n * 2));
                    assert!(hosts().len() <= 2, "{:?}", hosts());
                }
            });
        }
    });
    assert!((1..=2).contains(&hosts().len()));
}

#[test]
fn an_idle_host_ends() {
    let pool = Pool::new(Config { idle: Duration::from_millis(1), ..config() });
    is_well(&pool);
    // Nobody asks it again: it is gone as soon as it is noticed, and this waits for nothing else.
    while !hosts().is_empty() {
        thread::sleep(LOOK_AGAIN);
    }
    is_well(&pool);
}

#[test]
fn syntax_is_checked_without_running() {
    let pool = pool();
    for (language, good, bad, line) in [
        (Language::JavaScript, "while (true) {}", "var a = 1;\nvar = 2;", 2),
        (Language::Jq, "repeat(1)", ".a\n| nope", 2),
    ] {
        pool.syntax(language, good).unwrap();
        match pool.syntax(language, bad) {
            Err(Error::Syntax { line: Some(found), .. }) => assert_eq!(found, line),
            other => panic!("{bad}: {other:?}"),
        }
    }
    let definition = json!({"tasks": [
        {"type": "LAMBDA", "inputParameters": {"scriptExpression": "var a;\nreturn a +;"}},
        {"type": "DO_WHILE", "loopCondition": "if ($.n < 3) { true; } else { false; }"}]});
    let told: Vec<String> = informer::scripts::scripts_of(&definition)
        .into_iter()
        .filter_map(|script| script.check(&pool).err().map(|error| format!("{}: {error}", script.path)))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("$.tasks[0].inputParameters.scriptExpression: line 2: "), "{told:?}");
}

#[test]
fn what_is_no_host_is_told_as_such() {
    for (program, says) in
        [("/nonexistent/informer", "cannot start"), ("/bin/true", "cannot run scripts"), ("/", "cannot start")]
    {
        let pool = Pool::new(Config { program: Some(program.into()), ..config() });
        let error = pool.javascript("1", &json!({})).unwrap_err();
        assert!(error.to_string().contains(says) && error.to_string().contains(program), "{error}");
        assert!(!error.is_of_script());
    }
    // This test is no informer, and lies beside none.
    let error = Pool::new(Config { program: None, ..config() }).javascript("1", &json!({})).unwrap_err();
    assert!(matches!(error, Error::NoProgram { .. }), "{error}");
    assert_eq!(hosts(), BTreeSet::new());
}

/// What the process of the next test does: it runs a script that does not end, in a host whose process it prints.
#[test]
#[ignore = "it is started by the test after it"]
fn an_informer_that_is_killed() {
    let pool = Pool::new(Config { cpu: Duration::from_secs(600), wall: Duration::from_secs(600), ..config() });
    is_well(&pool);
    let error = meanwhile(&pool, |host| {
        eprintln!("host={host}=");
        // The parent kills this process now.
        thread::park();
    });
    panic!("nobody killed it: {error}");
}

/// A process that ends with the test, however the test ends.
struct Informer(Child);

impl Drop for Informer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_host_outlives_its_informer() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "an_informer_that_is_killed", "--ignored", "--nocapture"]);
    let mut informer = Informer(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(informer.0.stderr.take().unwrap()).lines();
    let host = lines.map_while(Result::ok).find_map(|line| line.split('=').nth(1).map(str::to_owned)).unwrap();
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{host}/stat")).unwrap_or_default();
        // Whoever inherits it may take its time to reap it.
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(' ') && !rest.starts_with(" Z"))
    };
    assert!(runs());
    drop(informer);
    while runs() {
        thread::sleep(LOOK_AGAIN);
    }
}
