//! Recorded expressions, mutated: the compiler and what it makes end in a value or an error, soon.

use cel::{Environment, Program, Type, Val};
use fuzz::Fuzz;

const RECORDED: &str = include_str!("../testdata/recorded.jsonl");

#[test]
fn any_mutation_of_an_expression_ends_in_a_value_or_an_error() {
    let environment = Environment::new().with("a", Type::Dyn).with("s", Type::String);
    let expression = |line: &str| -> Option<String> {
        let row: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(row["expression"].as_str()?.to_owned())
    };
    let seeds: Vec<String> = RECORDED.lines().filter_map(expression).filter(|text| text.len() < 2000).collect();
    assert!(seeds.len() > 1000, "{}", seeds.len());
    let words = [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "?",
        ":",
        ".map(i, ",
        ".all(i, ",
        ".?",
        "[?",
        "optional.of(",
        "'",
        "\"\"\"",
        "b'\\xff'",
        "\\",
        "-9223372036854775808",
        "0x",
        "1e999",
        "duration('",
        ".format([",
        "matches('(",
        "é",
        "😀",
        "//",
        "\n",
        "has(",
        "dyn(",
    ];
    Fuzz::of(seeds).words(words).run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let program = match Program::compile(&text, &environment) {
            Ok(program) => program,
            Err(why) => return drop(why.to_string()),
        };
        let values = vec![Val::from_list((0..10).map(Val::Int).collect()), Val::from_string("text")];
        let _ = program.run(values).map(|value| value.to_string()).map_err(|why| why.to_string());
    });
}
