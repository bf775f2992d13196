//! jq, without a host.

use std::rc::Rc;

use super::super::engine::jq::{check, run};
use super::super::engine::{Fault, Limits};
use super::limits;

fn outputs(source: &str) -> String {
    let input = r#"{"a": 1, "f": 1.0, "list": [3, 1, 2], "big": 12345678901234567890123}"#;
    run(source, input, &limits()).unwrap_or_else(|fault| panic!("{source}: {fault}"))
}

fn fault(source: &str) -> Fault {
    run(source, "{}", &limits()).expect_err(source)
}

#[test]
fn every_output_is_an_element() {
    assert_eq!(outputs(".list[]"), "[3,1,2]");
    assert_eq!(outputs(".list | sort | {first: .[0], rest: .[1:]}"), r#"[{"first":1,"rest":[2,3]}]"#);
    assert_eq!(outputs("empty"), "[]");
    assert_eq!(outputs("1, halt, 2"), "[1]");
    assert_eq!(outputs("1, halt_error"), "[1]");
}

#[test]
fn whole_numbers_are_integers() {
    assert_eq!(outputs(".a, 4 / 2, 1 / 4, (.list | add / length), .f"), "[1,2,0.25,2,1.0]");
    let read = |source: &str| serde_json::from_str::<serde_json::Value>(&outputs(source)).expect("JSON");
    assert_eq!(read("nan, infinite, -infinite, 1e1000"), serde_json::json!([null, f64::MAX, f64::MIN, f64::MAX]));
    assert_eq!(outputs(".big, -(0.0)"), "[12345678901234567890123,-0.0]");
}

#[test]
fn text_that_is_none_is_mended() {
    assert_eq!(outputs(r#""/w==" | @base64d"#), "[\"\u{fffd}\"]");
    assert_eq!(outputs(r#""\u0000\"""#), r#"["\u0000\""]"#);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (source, line, word) in [
        (".a |\n.b |", 2, "the end"),
        (".a\n| nope", 2, "nope/0"),
        (".a |\n $x", 2, "$x"),
        ("\n(.a", 2, "("),
        (".a § 1", 1, "§"),
        (".a ) 1", 1, ")"),
    ] {
        match fault(source) {
            Fault::Syntax { line: Some(found), message } => {
                assert!(found == line && message.contains(word), "{source}: {found}: {message}");
            }
            other => panic!("{source}: {other:?}"),
        }
    }
    for import in ["import \"x\" as x; 1", "import \"x\" as $x; $x", "include \"x\"; 1"] {
        assert!(matches!(fault(import), Fault::Syntax { line: Some(1), .. }), "{import}: {:?}", fault(import));
    }
    assert!(matches!(fault("input"), Fault::Syntax { .. }));
    assert_eq!(check(".a | repeat(1)"), Ok(()));
}

#[test]
fn what_is_thrown_is_told() {
    assert_eq!(fault("error(\"no\")"), Fault::Thrown("no".into()));
    assert_eq!(fault("error({code: 3})"), Fault::Thrown(r#"{"code":3}"#.into()));
    assert!(matches!(fault(".a.b.c | keys"), Fault::Thrown(_)));
    assert_eq!(fault("{([1]): 2}"), Fault::Thrown("the key [1] of an object is no text".into()));
}

#[test]
fn outputs_and_time_are_bounded() {
    assert_eq!(fault("repeat(1)"), Fault::TooLarge);
    assert_eq!(fault("[range(1000000)]"), Fault::TooLarge);
    let over = Limits { is_over: Rc::new(|| true), ..limits() };
    assert_eq!(run("repeat(1)", "{}", &over), Err(Fault::TooSlow));
}
