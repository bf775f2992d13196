//! JavaScript, without a host.

use std::rc::Rc;

use super::super::engine::javascript::{check, run};
use super::super::engine::{Fault, Limits};
use super::limits;

fn value(source: &str) -> String {
    run(source, r#"{"a": 1, "f": 1.0, "s": "x", "list": [1, 2]}"#, &limits())
        .unwrap_or_else(|fault| panic!("{source}: {fault}"))
}

fn fault(source: &str) -> Fault {
    run(source, "{}", &limits()).expect_err(source)
}

#[test]
fn a_program_gives_its_last_expression() {
    assert_eq!(value("$.a + 1"), "2");
    assert_eq!(value("function e() { if ($.a == 1) { return {'x': $.list}; } return 2; } e();"), r#"{"x":[1,2]}"#);
    assert_eq!(value("x = $.s + 'y'; x"), r#""xy""#, "an undeclared name");
    assert_eq!(value("if ($['a'] < 5) { true; } else { false; }"), "true");
    assert_eq!(value("console.log($); print(1); 'ü\\u0000'"), "\"ü\\u0000\"");
}

#[test]
fn what_json_has_no_word_for_has_a_fixed_one() {
    for source in ["undefined", "var x;", "NaN", "Infinity", "(function () {})", "null", "", "Symbol('x')"] {
        assert_eq!(value(source), "null", "{source}");
    }
    assert_eq!((value("1.0").as_str(), value("$.f").as_str(), value("2.5").as_str()), ("1", "1", "2.5"));
    assert_eq!(value("new Date(0)"), r#""1970-01-01T00:00:00.000Z""#);
    assert_eq!(value("[undefined, NaN]"), "[null,null]");
    assert_eq!(value(r#"["\ud800", "\\ud800", "😀", "\udfffx"]"#), r#"["\ufffd","\\ud800","😀","\ufffdx"]"#);
}

#[test]
fn what_is_thrown_is_told_with_its_line() {
    assert_eq!(
        fault("var a;\n$.b.c"),
        Fault::Thrown("TypeError: cannot read property 'c' of undefined (line 2)".into())
    );
    assert_eq!(fault("throw 'no'"), Fault::Thrown("no".into()));
    assert_eq!(fault("throw {code: 3}"), Fault::Thrown(r#"{"code":3}"#.into()));
    assert!(matches!(fault("1 +\n+\n;"), Fault::Syntax { line: Some(3), .. }), "{:?}", fault("1 +\n+\n;"));
    assert!(matches!(fault("1\n\0"), Fault::Syntax { line: Some(2), .. }));
    assert!(matches!(fault("let a = {}; a.a = a; a"), Fault::Thrown(_)), "a circle");
    assert!(matches!(fault("10n"), Fault::Thrown(_)), "a big integer");
}

#[test]
fn depth_memory_and_time_are_bounded() {
    let deep = fault("function f(n) { return f(n + 1) + 1; } f(0)");
    assert!(matches!(&deep, Fault::Thrown(text) if text.contains("stack")), "{deep:?}");
    assert_eq!(fault("let a = []; while (true) { a.push('x'.repeat(1000000) + a.length); }"), Fault::OutOfMemory);
    let limits = Limits { is_over: Rc::new(|| true), ..limits() };
    assert_eq!(run("try { while (true) {} } catch (e) { 1 }", "{}", &limits), Err(Fault::TooSlow));
    assert_eq!(fault("'x'.repeat(2000000)"), Fault::TooLarge);
}

#[test]
fn a_program_is_read_and_not_run() {
    assert_eq!(check("while (true) {}", &limits()), Ok(()));
    assert_eq!(check("throw 'x'", &limits()), Ok(()));
    assert_eq!(check("function e() { return 1; } e();", &limits()), Ok(()));
    assert!(matches!(check("\n\nfunction (", &limits()), Err(Fault::Syntax { line: Some(3), .. })));
    assert!(matches!(check("return 1", &limits()), Err(Fault::Syntax { line: Some(1), .. })));
}
