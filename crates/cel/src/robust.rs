//! Nothing that is written makes the compiler or a program panic, overflow its stack or run on.

use crate::{CompileError, Environment, Fault, Program, Type, Val};

fn environment() -> Environment {
    Environment::new().with("a", Type::Dyn).with("s", Type::String)
}

fn values<'a>() -> Vec<Val<'a>> {
    vec![Val::from_list((0..100).map(Val::Int).collect()), Val::from_string("text")]
}

fn run(text: &str) -> Result<String, String> {
    let program = Program::compile(text, &environment()).map_err(|why| why.to_string())?;
    program.run(values()).map(|value| value.to_string()).map_err(|why| why.to_string())
}

#[rustfmt::skip]
const FRAGMENTS: &[&str] = &[
    "a", "s", "1", "-", "2u", "1.5", "'x'", "\"é\"", "b'\\xff'", "r'\\'", "'''", "\\", "(", ")", "[", "]",
    "{", "}", ".", "?", ":", ",", "+", "*", "/", "%", "!", "&&", "||", "==", "<", "in", "true", "null", "has",
    ".map", ".all(", "i, ", ".filter(i, i)", ".matches('[')", ".format([", "%s", "size(", ".?x", "[?", "`",
    "😀", "\n", "//", "0x", "optional.of(", ".optMap(v, v)", "timestamp('", "duration(", "@", "Foo{",
    ".split('')", ".substring(", "int(", ".find('(')", "quantity('1')", "ip('::", "url('", "semver(", "cidr(",
    "string(", ".join()",
];

#[test]
fn heaps_of_fragments_end_in_a_value_or_an_error() {
    let mut seed: u64 = 1;
    let mut next = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % bound
    };
    let mut good = 0;
    for _ in 0..20_000 {
        let length = 1 + next(9);
        let text: String = (0..length).map(|_| FRAGMENTS[next(FRAGMENTS.len())]).collect();
        good += usize::from(run(&text).is_ok());
    }
    assert!(good > 300, "hardly anything made sense: {good}");
}

#[test]
fn what_is_too_deep_or_too_long_is_refused() {
    let deep = |open: &str, close: &str, count: usize| format!("{}1{}", open.repeat(count), close.repeat(count));
    for (open, close) in [("(", ")"), ("[", "]"), ("{1: ", "}"), ("size(", ")"), ("true ? 1 : ", ""), ("a[", "]")] {
        let refused = run(&deep(open, close, 5000)).unwrap_err();
        assert_eq!(refused, "ERROR: <input>:-1:0: expression recursion limit exceeded: 250", "{open}");
        let most = run(&deep(open, close, 200));
        assert!(!most.is_err_and(|why| why.contains("recursion")), "{open}");
    }
    assert!(run(&format!("a{}", ".b".repeat(5000))).unwrap_err().contains("recursion limit"));
    assert!(run(&format!("1{}", " + 1".repeat(5000))).unwrap_err().contains("recursion limit"));
    assert_eq!(run(&format!("true{}", " && true".repeat(5000))).unwrap(), "true");
    let long = format!("'{}'", "x".repeat(100_000));
    let refused = run(&long).unwrap_err();
    assert_eq!(refused, "ERROR: <input>:-1:0: expression code point size exceeds limit: size: 100002, limit 100000");
    // Each of these doubles what it is called on.
    let doubled = run(&format!("optional.of(1){}", ".optMap(v, v)".repeat(60))).unwrap_err();
    assert!(doubled.contains("too large"), "{doubled}");
}

#[test]
fn a_program_ends_when_its_budget_does() {
    let nested = "a.map(b, a.map(c, a.map(d, a.map(e, e)))).size()";
    assert_eq!(run(nested).unwrap_err(), "operation cancelled: actual cost limit exceeded");
    // No error is overcome by it.
    let absorbed = format!("({nested} == 1) || true");
    assert_eq!(run(&absorbed).unwrap_err(), "operation cancelled: actual cost limit exceeded");
    let program = Program::compile("a.map(b, b).size()", &environment()).unwrap();
    let (outcome, cost) = program.run_within(values(), &[], 100);
    assert!(matches!(outcome, Err(Fault::Error(_))) && cost > 100);
    assert!(matches!(Program::compile("int('x')", &environment()), Err(CompileError::Program(_))));
}
