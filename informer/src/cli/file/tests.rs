//! Task files, good and bad.

use proto::v1::task_spec::Kind;

use super::*;
use crate::cli::array::Members;

fn parsed(name: &str, text: &str) -> Result<Task, String> {
    parse(Path::new(name), text, Path::new("/jobs")).map_err(|error| error.to_string())
}

const SERVICE: &str = r#"
# A web server.
name = "web"
key = "web-1"
delay = "5m"
log_cap = "1MiB"
[labels]
team = "a"
[resources]
cpu_millis = 250
memory = "64MiB"
[stop]
signal = "SIGINT"
grace = "3s"
[retry]
tries = 2
backoff = "1s"
final_codes = [2]
[service]
argv = ["hello", "--port", "80"]
[service.health]
http = { url = "http://127.0.0.1:80/healthz" }
interval = "500ms"
failures = 2
[service.restart]
when = "on_failure"
backoff_ms = 100
"#;

#[test]
fn a_service_reads_as_the_grpc_form() {
    let task = parsed("web.toml", SERVICE).expect("a task");
    assert_eq!((task.key.as_deref(), task.spec.start_after_ms), (Some("web-1"), 300_000));
    let spec = task.spec;
    assert_eq!((spec.name.as_str(), spec.log_cap_bytes), ("web", 1 << 20));
    assert_eq!(spec.resources, Some(v1::Resources { cpu_millis: 250, memory_bytes: 64 << 20 }));
    assert_eq!(spec.stop, Some(v1::Stop { signal: 2, grace_ms: 3_000, main_only: false }));
    let retry = spec.retry.expect("a policy");
    assert_eq!((retry.max_attempts, retry.backoff_ms, retry.final_codes), (2, 1_000, vec![2]));
    let Some(Kind::Service(service)) = spec.kind else { panic!("not a service") };
    let health = service.health.expect("a check");
    assert_eq!((health.interval_ms, health.failures), (500, 2));
    assert!(matches!(health.probe, Some(v1::health_check::Probe::Http(ref http)) if http.url.ends_with("/healthz")));
    let restart = service.restart.expect("a policy");
    assert_eq!((restart.when(), restart.backoff_ms), (v1::restart_policy::When::OnFailure, 100));
}

#[test]
fn json_and_toml_mean_the_same() {
    let toml = "timeouts = { attempt = \"2s\" }\n[command]\nargv = [\"true\"]\n";
    let json = r#"{"timeouts": {"attempt_ms": 2000}, "command": {"argv": ["true"]}}"#;
    let (toml, json) = (parsed("a.toml", toml).expect("toml"), parsed("-", json).expect("json"));
    assert_eq!(toml, json);
}

#[test]
fn paths_are_relative_to_the_file() {
    let text = "cwd = \"..\"\n[transcode]\ninput = \"../media/./a.mp4\"\noutput = \"/out/b.mp4\"\n";
    let spec = parsed("t.toml", text).expect("a task").spec;
    assert_eq!(spec.cwd, "/");
    let Some(Kind::Transcode(transcode)) = spec.kind else { panic!("not a transcode") };
    assert_eq!((transcode.input.as_str(), transcode.output.as_str()), ("/media/a.mp4", "/out/b.mp4"));
}

#[test]
fn what_is_wrong_is_told_with_file_and_line() {
    let table = [
        ("a.toml", "name = \"x\"\ntypo = 1\n[command]\nargv = []\n", "a.toml:2: unknown field `typo`"),
        ("a.toml", "[command]\nargv = \"true\"\n", "a.toml:2: invalid type"),
        ("a.toml", "[command]\n", "a.toml:1: missing field `argv`"),
        ("a.toml", "name = \n", "a.toml:1: "),
        ("a.toml", "x\n\n= 3", "a.toml:1: "),
        ("a.toml", "name = \"x\"\n", "a.toml:1: it does not say what to run"),
        ("a.toml", "[command]\nargv=[\"a\"]\n[script]\nbody=\"b\"\n", "a.toml:1: it holds more than one"),
        (
            "a.toml",
            "[timeouts]\nattempt = \"5 parsecs\"\n[command]\nargv=[\"a\"]\n",
            "a.toml:2: \"5 parsecs\" is not a duration",
        ),
        ("a.toml", "[timeouts]\nattempt_ms = \"5\"\n[command]\nargv=[\"a\"]\n", "a.toml:2: \"5\" has no unit"),
        (
            "a.toml",
            "[timeouts]\nattempt = 5\nattempt_ms = 5\n[command]\nargv=[\"a\"]\n",
            "a.toml:2: attempt and attempt_ms say the same thing",
        ),
        ("a.toml", "[timeouts]\natempt = 5\n", "a.toml:2: unknown field `atempt`; did you mean `attempt`?"),
        ("a.toml", "[timeouts]\nattempt = -5\n[command]\nargv=[\"a\"]\n", "a.toml:2: invalid value"),
        ("a.toml", "log_cap = \"5M\"\n[command]\nargv=[\"a\"]\n", "a.toml:1: \"5M\" is not a number of bytes"),
        ("a.toml", "[command]\nargv=[\"a\"]\n[stop]\nsignal = \"NOPE\"\n", "a.toml:4: \"NOPE\" is not a signal"),
        (
            "a.toml",
            "delay = \"1s\"\nstart_at = \"1970-01-01T00:00:05Z\"\n[command]\nargv=[\"a\"]\n",
            "a.toml:2: start_at,",
        ),
        ("a.toml", "on_disconnect = \"explode\"\n[command]\nargv=[\"a\"]\n", "a.toml:1: unknown variant `explode`"),
        ("a.toml", "[script]\ninterpreter = \"sh\"\n", "a.toml:1: a script needs either"),
        (
            "a.toml",
            "[service]\nargv=[\"a\"]\n[service.health]\nfailures = 1\n",
            "a.toml:3: a health check needs exactly one",
        ),
        ("a.toml", "retry = { max_attempts = 5000000000 }\n[command]\nargv=[\"a\"]\n", "a.toml:1: invalid value"),
        ("a.json", "{\n  \"name\": 3\n}", "a.json:2: invalid type"),
        ("a.json", "{\n  \"command\": {\"argv\": [\"a\"]},\n  \"typo\": 1\n}", "a.json:3: unknown field `typo`"),
        ("a.json", "{\"command\": ", "a.json:1: EOF while parsing"),
        ("a.json", "[]", "a.json:1: "),
        ("a.json", "", "a.json:1: EOF while parsing"),
        ("a.toml", "", "a.toml:1: it does not say what to run"),
        ("a.toml", "[transcode]\ninput = \"a\"\n", "a.toml:1: missing field `output`"),
    ];
    for (name, text, expected) in table {
        let problem = parsed(name, text).expect_err(text);
        assert!(problem.starts_with(expected), "{text:?}\n gave {problem:?}\n not {expected:?}");
        assert_eq!(problem.lines().count(), 1, "{problem:?}");
    }
}

const FILES: &str = r#"
[array]
items = ["a b", 7, { w = 1 }]
max_failures = 2
[typed]
type = "resize"
input = { width = 640, tags = ["x"] }
[[inputs]]
source = "../film.mp4"
path = "in.mp4"
[[inputs]]
source = "http://h/tool?x=1"
sha256 = "00"
executable = true
[[outputs]]
path = "out.mp4"
destination = "out/b.mp4"
optional = true
"#;

#[test]
fn files_types_and_members_read_as_the_grpc_form() {
    let task = parsed("a.toml", FILES).expect("a task");
    let array = task.array.expect("an array");
    let items = ["a b", "7", "{\"w\":1}"].map(String::from).to_vec();
    assert_eq!((array.members, array.max_failures), (Members::Listed(items), Some(2)));
    let Some(Kind::Typed(typed)) = task.spec.kind else { panic!("not of a type") };
    assert_eq!(typed.r#type, "resize");
    let input: serde_json::Value = serde_json::from_str(&typed.input).expect("JSON");
    assert_eq!(input, serde_json::json!({"width": 640, "tags": ["x"]}));
    let [film, tool] = task.spec.inputs.as_slice() else { panic!("{:?}", task.spec.inputs) };
    assert_eq!((film.source.as_str(), film.path.as_str(), film.executable), ("/film.mp4", "in.mp4", false));
    assert_eq!((tool.source.as_str(), tool.sha256.as_str(), tool.executable), ("http://h/tool?x=1", "00", true));
    let output = v1::Output { path: "out.mp4".into(), destination: "/jobs/out/b.mp4".into(), optional: true };
    assert_eq!(task.spec.outputs, [output]);
}

#[test]
fn members_come_from_a_range_or_a_file_beside_the_task() {
    let members = |table: &str| {
        let text = format!("[command]\nargv = [\"a\"]\n[array]\n{table}\n");
        parsed("a.toml", &text).map(|task| task.array.map(|array| array.members))
    };
    assert_eq!(members("range = \"0-9\""), Ok(Some(Members::Range { first: 0, count: 10 })));
    assert_eq!(members("each_line = \"../films\""), Ok(Some(Members::Lines("/films".into()))));
    assert_eq!(members("each_line = \"-\""), Ok(Some(Members::Lines("-".into()))));
    assert_eq!(members("from_json = \"f.json\""), Ok(Some(Members::Json("/jobs/f.json".into()))));
    for (table, problem) in
        [("", "a.toml:3: an array needs exactly one"), ("range = \"9\"", "a.toml:4: \"9\" is not a range")]
    {
        let error = members(table).expect_err(table);
        assert!(error.starts_with(problem), "{error}");
    }
}

#[test]
fn a_container_reads_as_the_grpc_form() {
    let text = "[container]\nimage = \"root\"\nargv = [\"ls\"]\nnetwork = \"host\"\nuser = \"1:2\"\n\
                mounts = [{ source = \"media\", target = \"/media\", writable = true }]\n";
    let Some(Kind::Container(container)) = parsed("a.toml", text).expect("a task").spec.kind else { panic!("none") };
    assert_eq!((container.image.as_str(), container.network()), ("/jobs/root", v1::container::Network::Host));
    let mount = v1::container::Mount { source: "/jobs/media".into(), target: "/media".into(), writable: true };
    assert_eq!((container.mounts, container.user.as_str()), (vec![mount], "1:2"));
}

#[test]
fn a_request_reads_as_conductors() {
    let input = |text: &str| {
        let Some(Kind::Http(http)) = parsed("a.toml", text)?.spec.kind else { panic!("none") };
        Ok::<serde_json::Value, String>(serde_json::from_str(&http.input).expect("JSON"))
    };
    let text = "[http]\nuri = \"https://h/p\"\nmethod = \"POST\"\nheaders = { x-a = \"1\" }\nbody = { n = 1 }\n\
                read_timeout = \"5s\"\nexpect_status = [200, 201]\n";
    let request = serde_json::json!({"uri": "https://h/p", "method": "POST", "headers": {"x-a": "1"}, "body": {"n": 1},
        "readTimeOut": 5000, "expectStatus": [200, 201]});
    assert_eq!(input(text), Ok(serde_json::json!({"http_request": request})));
    assert_eq!(
        input("[http]\ninput = { http_request = { uri = \"http://h\" } }\n"),
        Ok(serde_json::json!({"http_request": {"uri": "http://h"}}))
    );
    for (text, problem) in [
        ("[http]\nmethod = \"GET\"\n", "a.toml:1: a request needs `uri`"),
        ("[http]\nuri = \"http://h\"\ninput = \"{}\"\n", "a.toml:1: `input` says all of it"),
    ] {
        let error = input(text).expect_err(text);
        assert!(error.starts_with(problem), "{error}");
    }
}

#[test]
fn garbage_is_refused_and_never_panics() {
    for text in ["\u{0}", "}{", "[[[[", "\"", "é=é", "a.b.c.d = 1\n", "{\"a\":{\"a\":{\"a\":1}}}"] {
        for name in ["x", "x.json", "x.toml"] {
            assert!(parsed(name, text).is_err(), "{name} {text:?}");
        }
    }
}

#[test]
fn a_missing_or_too_large_file_is_named() {
    let missing = read(Path::new("/nonexistent/task.toml")).expect_err("missing").to_string();
    assert!(missing.starts_with("cannot read /nonexistent/task.toml: "), "{missing}");
    let endless = read(Path::new("/dev/zero")).expect_err("endless").to_string();
    assert!(endless.contains("larger than"), "{endless}");
}

#[test]
fn the_examples_are_task_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tasks");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of examples") {
        let path = entry.expect("an entry").path();
        read(&path).unwrap_or_else(|error| panic!("{error}"));
        seen += 1;
    }
    assert!(seen >= 7, "{seen} examples");
}

#[test]
fn a_bare_number_is_what_its_key_says() {
    let attempt_ms = |name: &str, text: &str| {
        let task = parse(Path::new(name), text, Path::new("/f")).unwrap_or_else(|error| panic!("{text}: {error}"));
        task.spec.timeouts.unwrap_or_default().attempt_ms
    };
    for (value, ms) in
        [("attempt = 5", 5_000), ("attempt = 0.5", 500), ("attempt = \"5\"", 5_000), ("attempt_ms = 5", 5)]
    {
        let text = format!("timeouts = {{ {value} }}\n[command]\nargv = [\"true\"]\n");
        assert_eq!(attempt_ms("a.toml", &text), ms, "{value}");
    }
    for (value, ms) in [(r#""attempt": 5"#, 5_000), (r#""attempt_ms": 5000"#, 5_000), (r#""attempt_ms": "5s""#, 5_000)]
    {
        let text = format!(r#"{{"timeouts": {{{value}}}, "command": {{"argv": ["true"]}}}}"#);
        assert_eq!(attempt_ms("a.json", &text), ms, "{value}");
    }
}
