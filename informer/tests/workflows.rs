//! Workflows whose scripts run on hosts come to the same as those whose scripts run in this process.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "what a test arranges is there, or the test has failed"
)]

#[path = "../workflow/tests/driver/mod.rs"]
mod driver;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use driver::{Engine, Engines, World};
use informer::scripts::{Config, Language, Pool, scripts_of};
use serde_json::{Value, json};
use workflow::evaluate::Scripts;

/// Debug builds of both engines are slow, and this is about what they give.
const PATIENCE: Duration = Duration::from_secs(60);

fn pool() -> Pool {
    Pool::new(Config {
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_informer"))),
        cpu: PATIENCE,
        ..Config::default()
    })
}

/// Every kind of task that has a script.
fn definition() -> Value {
    let task = |name: &str, kind: &str, more: Value| {
        let mut task = json!({"name": name, "taskReferenceName": name, "type": kind});
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        task
    };
    let set = |name: &str| task(name, "SET_VARIABLE", json!({"inputParameters": {name: true}}));
    json!({"name": "w", "version": 1, "schemaVersion": 2, "ownerEmail": "a@b.c", "tasks": [
        task("inline", "INLINE", json!({"inputParameters": {"evaluatorType": "graaljs", "n": "${workflow.input.n}",
            "expression": "function e() { total = $.n * 1.0; return {total: total, when: new Date(0), none: undefined}; } e();"}})),
        task("lambda", "LAMBDA", json!({"inputParameters": {"list": [3, 1, 2], "scriptExpression": "return $.list.sort()"}})),
        task("switch", "SWITCH", json!({"evaluatorType": "javascript", "expression": "$.n > 1 ? 'many' : 'one'",
            "inputParameters": {"n": "${inline.output.result.total}"}, "decisionCases": {"many": [set("many")], "one": [set("one")]}})),
        task("decision", "DECISION", json!({"caseExpression": "$.n % 2 == 0 ? 'even' : 'odd'",
            "inputParameters": {"n": "${workflow.input.n}"}, "decisionCases": {"even": [set("even")], "odd": [set("odd")]}})),
        task("loop", "DO_WHILE", json!({"loopCondition": "if ($.loop['iteration'] < 3) { true; } else { false; }", "loopOver": [
            task("round", "INLINE", json!({"inputParameters": {"evaluatorType": "javascript", "expression": "1"}}))]})),
        task("jq", "JSON_JQ_TRANSFORM", json!({"inputParameters": {"list": "${lambda.output.result}",
            "queryExpression": ".list[] | {n: ., half: (. / 2)}"}})),
        task("bad", "LAMBDA", json!({"optional": true, "inputParameters": {"scriptExpression": "return $.no.such.thing"}})),
    ], "outputParameters": {"inline": "${inline.output}", "lambda": "${lambda.output}", "loop": "${loop.output}",
        "jq": "${jq.output}", "many": "${workflow.variables}"}})
}

#[test]
fn a_run_comes_to_the_same_on_hosts() {
    let pool: Rc<dyn Scripts> = Rc::new(pool());
    for n in [1, 2] {
        let mut ends = Vec::new();
        for scripts in [Rc::new(Engines) as Rc<dyn Scripts>, Rc::clone(&pool)] {
            let mut world = World::default();
            world.engines = Engine(scripts);
            world.register(definition()).unwrap();
            let run = world.start("w", json!({"n": n}));
            ends.push((world.show(&run), world.output(&run), world.variables(&run)));
        }
        let [here, there] = ends.try_into().unwrap();
        assert_eq!(here, there);
        let (shown, output, variables) = there;
        assert!(shown.starts_with("COMPLETED:") && shown.contains("bad:COMPLETED_WITH_ERRORS"), "{shown}");
        assert_eq!(output["inline"]["result"], json!({"total": n, "when": "1970-01-01T00:00:00.000Z"}));
        assert_eq!(output["lambda"]["result"], json!([1, 2, 3]));
        assert_eq!(output["loop"]["iteration"], json!(3));
        let halves = json!([{"n": 1, "half": 0.5}, {"n": 2, "half": 1}, {"n": 3, "half": 1.5}]);
        assert_eq!((&output["jq"]["result"], &output["jq"]["resultList"]), (&halves[0], &halves));
        assert_eq!(
            variables,
            if n == 1 { json!({"one": true, "odd": true}) } else { json!({"many": true, "even": true}) }
        );
    }
}

/// JSON files at a place and below it.
fn files(at: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(at) else { return vec![at.to_owned()] };
    let mut found: Vec<PathBuf> = entries.flat_map(|entry| files(&entry.unwrap().path())).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    found.sort();
    found
}

#[test]
fn scripts_of_another_project_can_be_read_and_give_the_same_on_hosts() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conductor-samples");
    if !samples.is_dir() {
        println!("SKIP: the samples of conductor-oss are not beside the repository");
        return;
    }
    let pool = pool();
    let mut seen = 0;
    for path in files(&samples) {
        let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap_or_default();
        let definition = json.get("workflowDef").unwrap_or(&json);
        for script in scripts_of(definition) {
            let what = format!("{}: {}", path.display(), script.path);
            script.check(&pool).unwrap_or_else(|error| panic!("{what}: {error}"));
            let input = json!({"n": 1, "list": [1, 2], "key1": {"value1": [1]}, "key2": {"value2": [2]}});
            let (here, there) = match script.language {
                Language::JavaScript => {
                    let source = format!("(function () {{ {} }})()", script.source);
                    (Engines.javascript(&source, &input), Scripts::javascript(&pool, &source, &input))
                }
                Language::Jq => (
                    Engines.jq(&script.source, &input).map(Value::from),
                    Scripts::jq(&pool, &script.source, &input).map(Value::from),
                ),
            };
            assert_eq!(here, there, "{what}");
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen} scripts are fewer than there were");
}
