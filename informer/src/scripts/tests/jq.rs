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
    assert_eq!(outputs("env, $ENV | length"), outputs("env, env | length"), "whatever is set where this test runs");
}

#[test]
fn whole_numbers_are_integers() {
    assert_eq!(outputs(".a, 4 / 2, 1 / 4, (.list | add / length), .f"), "[1,2,2.5e-1,2,1.0]");
    assert_eq!(outputs("nan, infinite, -infinite"), "[null,1.7976931348623157e308,-1.7976931348623157e308]");
    assert_eq!(outputs(".big, 1e1000, -(0.0)"), "[12345678901234567890123,1.7976931348623157e308,-0]");
    for text in ["2.5e-1", "1.7976931348623157e308", "-0"] {
        assert!(serde_json::from_str::<f64>(text).is_ok(), "{text}");
    }
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
    assert!(matches!(fault("import \"x\" as x; 1"), Fault::Syntax { .. }));
    assert!(matches!(fault("input"), Fault::Syntax { .. }));
    assert_eq!(check(".a | repeat(1)"), Ok(()));
}

#[test]
fn what_is_thrown_is_told() {
    assert_eq!(fault("error(\"no\")"), Fault::Thrown("no".into()));
    assert_eq!(fault("error({code: 3})"), Fault::Thrown(r#"{"code":3}"#.into()));
    assert!(matches!(fault(".a.b.c | keys"), Fault::Thrown(_)));
    assert!(matches!(
        fault("{(1|tojson): 1} | to_entries[0].key | {(.): {}} | .[\"1\"] |= 1 | [.] | {(.[0]): 1}"),
        Fault::Thrown(_)
    ));
}

#[test]
fn outputs_and_time_are_bounded() {
    assert_eq!(fault("repeat(1)"), Fault::TooLarge);
    assert_eq!(fault("[range(1000000)]"), Fault::TooLarge);
    let over = Limits { is_over: Rc::new(|| true), ..limits() };
    assert_eq!(run("repeat(1)", "{}", &over), Err(Fault::TooSlow));
}
