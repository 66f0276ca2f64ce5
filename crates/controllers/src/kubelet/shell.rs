//! A shell in a page: what short scripts come to, without running anything.
//!
//! It knows what scripts of Jobs and init containers are commonly made of: `if`, `[ … ]`, `&&`, `||`, variables, `expr`,
//! `$(( … ))`, `sleep`, `exit`, `echo`, `touch`, `rm`, `cat`, `true`, `false`. Files have names and no content. A script
//! with anything else in it is not understood, and nothing is said about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a script ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ends(Duration, i64),
    Endless,
}

/// What a script finds, and what it leaves behind.
#[derive(Default)]
pub(super) struct Place {
    pub(super) variables: BTreeMap<String, String>,
    pub(super) files: BTreeSet<String>,
}

/// Longer scripts are not short: nobody waits for them to be read.
const BYTES_MAX: usize = 4096;
/// How deep `if` and `while` may stand in each other.
const DEPTH_MAX: usize = 32;

/// Runs a script; none when it is not understood. `stop_at_error` is `sh -e`.
pub(super) fn run(script: &str, place: &mut Place, stop_at_error: bool) -> Option<Outcome> {
    if script.len() > BYTES_MAX {
        return None;
    }
    let mut shell = Shell { place, time: Duration::ZERO, stop_at_error };
    let tokens = tokens(script)?;
    let (list, rest) = parse_list(&tokens, DEPTH_MAX)?;
    if !rest.is_empty() {
        return None;
    }
    match shell.list(&list) {
        Ok(code) | Err(Stop::Exit(code)) => Some(Outcome::Ends(shell.time, code)),
        Err(Stop::Endless) => Some(Outcome::Endless),
        Err(Stop::Unknown) => None,
    }
}

/// As [`run`], for a command that needs no shell.
pub(super) fn run_words(words: &[&str], place: &mut Place) -> Option<Outcome> {
    if words.iter().map(|word| word.len() + 1).sum::<usize>() > BYTES_MAX {
        return None;
    }
    let mut shell = Shell { place, time: Duration::ZERO, stop_at_error: false };
    let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
    match shell.command(&words) {
        Ok(code) => Some(Outcome::Ends(shell.time, code)),
        Err(Stop::Endless) => Some(Outcome::Endless),
        // Only a shell has `exit`.
        Err(Stop::Exit(_) | Stop::Unknown) => None,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// As it stands in the script, quotes included.
    Word(String),
    /// `;`, a newline, `&&`, `||` or `>`.
    Sign(&'static str),
}

enum Command {
    Simple {
        words: Vec<String>,
        into: Option<String>,
    },
    /// Conditions with what follows from them, and the rest.
    If(Vec<(List, List)>, List),
    /// `while` with a condition that never changes.
    Loop,
}

/// Commands, each with the sign before it.
type List = Vec<(&'static str, Command)>;

enum Stop {
    Exit(i64),
    Endless,
    Unknown,
}

fn tokens(script: &str) -> Option<Vec<Token>> {
    let (mut found, mut word) = (Vec::new(), String::new());
    let mut rest = script;
    while let Some(c) = rest.chars().next() {
        let signs = [("&&", "&&"), ("||", "||"), (">>", ">"), (">", ">"), (";", ";"), ("\n", ";")];
        if let Some((sign, meaning)) = signs.iter().find(|(s, _)| rest.starts_with(s)) {
            flush(&mut word, &mut found);
            found.push(Token::Sign(meaning));
            rest = &rest[sign.len()..];
            continue;
        }
        let taken = match c {
            ' ' | '\t' | '\r' => {
                flush(&mut word, &mut found);
                rest = &rest[1..];
                continue;
            }
            '#' if word.is_empty() => {
                rest = rest.find('\n').map_or("", |at| &rest[at..]);
                continue;
            }
            '\'' => rest[1..].find('\'')? + 2,
            '"' => rest[1..].find('"')? + 2,
            '$' if rest.starts_with("$((") => rest.find("))")? + 2,
            '$' if rest.starts_with("$(") => rest.find(')')? + 1,
            '$' if rest.starts_with("${") => rest.find('}')? + 1,
            '|' | '&' | '<' | '`' | '(' | ')' | '{' | '}' | '*' | '?' | '\\' | '~' => return None,
            c => c.len_utf8(),
        };
        word.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    flush(&mut word, &mut found);
    Some(found)
}

fn flush(word: &mut String, found: &mut Vec<Token>) {
    if !word.is_empty() {
        found.push(Token::Word(std::mem::take(word)));
    }
}

fn is_word(token: Option<&Token>, text: &str) -> bool {
    matches!(token, Some(Token::Word(word)) if word == text)
}

const CLOSING: [&str; 6] = ["then", "elif", "else", "fi", "do", "done"];

/// Commands up to a closing word or the end, at most so deep.
fn parse_list(mut tokens: &[Token], depth: usize) -> Option<(List, &[Token])> {
    let (mut list, mut sign) = (List::new(), ";");
    loop {
        match tokens.first() {
            Some(Token::Sign(";")) if sign == ";" => tokens = &tokens[1..],
            None => break,
            Some(Token::Word(word)) if CLOSING.contains(&word.as_str()) => break,
            _ => {
                let (command, rest) = parse_command(tokens, depth)?;
                list.push((sign, command));
                tokens = rest;
                match tokens.first() {
                    Some(Token::Sign(next)) if *next != ">" => {
                        sign = next;
                        tokens = &tokens[1..];
                    }
                    _ => break,
                }
            }
        }
    }
    Some((list, tokens))
}

fn expect<'t>(tokens: &'t [Token], word: &str) -> Option<&'t [Token]> {
    is_word(tokens.first(), word).then(|| &tokens[1..])
}

fn parse_command(tokens: &[Token], depth: usize) -> Option<(Command, &[Token])> {
    let inner = |tokens| parse_list(tokens, depth.checked_sub(1)?);
    if is_word(tokens.first(), "while") {
        let (condition, rest) = inner(&tokens[1..])?;
        let (_, rest) = inner(expect(rest, "do")?)?;
        let rest = expect(rest, "done")?;
        let always = matches!(condition.as_slice(),
            [(_, Command::Simple { words, into: None })] if matches!(words.as_slice(), [w] if w == "true" || w == ":"));
        return always.then_some((Command::Loop, rest));
    }
    if is_word(tokens.first(), "if") {
        let (mut cases, mut rest) = (Vec::new(), tokens);
        while is_word(rest.first(), "if") || is_word(rest.first(), "elif") {
            let (condition, after) = inner(&rest[1..])?;
            let (body, after) = inner(expect(after, "then")?)?;
            cases.push((condition, body));
            rest = after;
        }
        let mut otherwise = List::new();
        if is_word(rest.first(), "else") {
            (otherwise, rest) = inner(&rest[1..])?;
        }
        return Some((Command::If(cases, otherwise), expect(rest, "fi")?));
    }
    let (mut words, mut into, mut rest) = (Vec::new(), None, tokens);
    loop {
        match rest {
            [Token::Sign(">"), Token::Word(file), after @ ..] => {
                into = Some(file.clone());
                rest = after;
            }
            [Token::Word(word), after @ ..] => {
                words.push(word.clone());
                rest = after;
            }
            _ => break,
        }
    }
    (!words.is_empty()).then_some((Command::Simple { words, into }, rest))
}

struct Shell<'p> {
    place: &'p mut Place,
    time: Duration,
    stop_at_error: bool,
}

impl Shell<'_> {
    fn list(&mut self, list: &List) -> Result<i64, Stop> {
        let mut last = 0;
        for (n, (sign, command)) in list.iter().enumerate() {
            if (*sign == "&&" && last != 0) || (*sign == "||" && last == 0) {
                continue;
            }
            last = match command {
                Command::Loop => return Err(Stop::Endless),
                Command::If(cases, otherwise) => self.choose(cases, otherwise)?,
                Command::Simple { words, into } => {
                    let words = words.iter().map(|w| self.expand(w)).collect::<Result<Vec<String>, Stop>>()?;
                    if let Some(file) = into {
                        let file = self.expand(file)?;
                        self.place.files.insert(file);
                    }
                    self.command(&words)?
                }
            };
            let tested = list.get(n + 1).is_some_and(|(next, _)| *next != ";");
            if last != 0 && self.stop_at_error && !tested {
                return Err(Stop::Exit(last));
            }
        }
        Ok(last)
    }

    fn choose(&mut self, cases: &[(List, List)], otherwise: &List) -> Result<i64, Stop> {
        for (condition, body) in cases {
            let before = std::mem::replace(&mut self.stop_at_error, false);
            let met = self.list(condition);
            self.stop_at_error = before;
            if met? == 0 {
                return self.list(body);
            }
        }
        self.list(otherwise)
    }

    fn command(&mut self, words: &[String]) -> Result<i64, Stop> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some((program, arguments)) = words.split_first() else { return Ok(0) };
        let named = || arguments.iter().filter(|a| !a.starts_with('-'));
        match program.rsplit('/').next().unwrap_or_default() {
            "true" | ":" | "echo" | "date" | "pwd" | "hostname" | "printf" | "mkdir" | "sync" => Ok(0),
            "false" => Ok(1),
            "exit" => {
                let code = arguments.first().map_or(Ok(0), |c| c.parse()).map_err(|_| Stop::Unknown)?;
                Err(Stop::Exit(code))
            }
            "sleep" => match arguments {
                ["infinity" | "inf"] => Err(Stop::Endless),
                [time] => {
                    let seconds = super::behaviour::seconds(time).ok_or(Stop::Unknown)?;
                    self.time = self.time.saturating_add(seconds);
                    Ok(0)
                }
                _ => Ok(1),
            },
            "touch" => {
                self.place.files.extend(named().map(|f| (*f).to_owned()));
                Ok(0)
            }
            "rm" => {
                let inside = |file: &str, path: &str| file == path || file.starts_with(&format!("{path}/"));
                for path in named() {
                    self.place.files.retain(|file| !inside(file, path));
                }
                Ok(0)
            }
            "cat" => Ok(i64::from(!named().all(|f| self.place.files.contains(*f)))),
            "[" | "[[" | "test" => self.test(arguments).map(|met| i64::from(!met)),
            "expr" => Ok(i64::from(matches!(calculate(arguments).ok_or(Stop::Unknown)?, 0))),
            _ => Err(Stop::Unknown),
        }
    }

    fn test(&self, arguments: &[&str]) -> Result<bool, Stop> {
        let arguments = match arguments {
            [inner @ .., "]" | "]]"] => inner,
            all => all,
        };
        let denials = arguments.iter().take_while(|a| **a == "!").count();
        let arguments = &arguments[denials..];
        let number = |text: &str| text.parse::<i64>().map_err(|_| Stop::Unknown);
        let met = match arguments {
            ["-r" | "-e" | "-f", file] => Ok(self.place.files.contains(*file)),
            ["-z", text] => Ok(text.is_empty()),
            ["-n", text] | [text] => Ok(!text.is_empty()),
            [a, "=" | "==", b] => Ok(a == b),
            [a, "!=", b] => Ok(a != b),
            [a, "-eq", b] => Ok(number(a)? == number(b)?),
            [a, "-ne", b] => Ok(number(a)? != number(b)?),
            [a, "-lt", b] => Ok(number(a)? < number(b)?),
            [a, "-le", b] => Ok(number(a)? <= number(b)?),
            [a, "-gt", b] => Ok(number(a)? > number(b)?),
            [a, "-ge", b] => Ok(number(a)? >= number(b)?),
            _ => Err(Stop::Unknown),
        };
        met.map(|met| met == denials.is_multiple_of(2))
    }

    /// A word without its quotes, its variables and calculations put in.
    fn expand(&self, word: &str) -> Result<String, Stop> {
        let (mut out, mut rest, mut quoted) = (String::new(), word, false);
        while let Some(c) = rest.chars().next() {
            let end = |sign: &str| rest.find(sign).ok_or(Stop::Unknown);
            match c {
                '\'' if !quoted => {
                    let close = rest[1..].find('\'').ok_or(Stop::Unknown)?;
                    out.push_str(&rest[1..=close]);
                    rest = &rest[close + 2..];
                }
                '"' => {
                    quoted = !quoted;
                    rest = &rest[1..];
                }
                '$' if rest.starts_with("$((") => {
                    let close = end("))")?;
                    let inner = self.expand(&rest[3..close])?;
                    let words: Vec<&str> = inner.split_whitespace().collect();
                    out.push_str(&calculate(&words).ok_or(Stop::Unknown)?.to_string());
                    rest = &rest[close + 2..];
                }
                '$' if rest.starts_with("$(") => {
                    let close = end(")")?;
                    let inner = self.expand(&rest[2..close])?;
                    let words: Vec<&str> = inner.split_whitespace().collect();
                    match words.split_first() {
                        Some((&"expr", words)) => out.push_str(&calculate(words).ok_or(Stop::Unknown)?.to_string()),
                        Some((&"echo", words)) => out.push_str(&words.join(" ")),
                        _ => return Err(Stop::Unknown),
                    }
                    rest = &rest[close + 1..];
                }
                '$' => {
                    let braced = rest.starts_with("${");
                    let body = &rest[if braced { 2 } else { 1 }..];
                    let length = body.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(body.len());
                    let (name, after) = body.split_at(length);
                    // What only a shell knows, as `$RANDOM` and `$$`, is not guessed.
                    let value = self.place.variables.get(name).ok_or(Stop::Unknown)?;
                    out.push_str(value);
                    rest = if braced { after.strip_prefix('}').ok_or(Stop::Unknown)? } else { after };
                }
                c => {
                    out.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        Ok(out)
    }
}

/// Integer arithmetic of two numbers, or one.
fn calculate(words: &[&str]) -> Option<i64> {
    let number = |text: &str| text.parse::<i64>().ok();
    match words {
        [a] => number(a),
        [a, sign, b] => {
            let (a, b) = (number(a)?, number(b)?);
            match *sign {
                "+" => a.checked_add(b),
                "-" => a.checked_sub(b),
                "*" => a.checked_mul(b),
                "/" => a.checked_div(b),
                "%" => a.checked_rem(b),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)], files: &[&str]) -> Place {
        Place {
            variables: variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            files: files.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    #[test]
    fn short_scripts_come_to_what_a_shell_makes_of_them() {
        let check = |script: &str, expect: Option<Outcome>| {
            let mut place = with(&[("N", "3")], &["/data/there"]);
            assert_eq!(run(script, &mut place, false), expect, "{script}");
        };
        let ends = |seconds: u64, code: i64| Some(Outcome::Ends(Duration::from_secs(seconds), code));
        check("exit 1", ends(0, 1));
        check("echo hello; sleep 3 && false", ends(3, 1));
        check("false || sleep 2; exit $N", ends(2, 3));
        check("if [ $(expr ${N} % 2) -ne 0 ]; then\n exit 1\nelse\n exit 0\nfi", ends(0, 1));
        check("if [[ -r /data/there ]]\nthen\n exit 0\nelse\n touch /data/x\n exit 42\nfi", ends(0, 0));
        check("if [ -e /data/x ]; then exit 7; elif [ \"$N\" = 3 ]; then sleep 5; fi; echo 'done $X'", ends(5, 0));
        check("exit $(( $N - 1 ))", ends(0, 2));
        check("# a comment\nwhile true; do sleep 1; done", Some(Outcome::Endless));
        check("sleep infinity", Some(Outcome::Endless));
        for unknown in
            ["curl http://x", "exit $RANDOM", "ls | wc", "for i in 1; do echo; done", "if true; then", "echo `x`"]
        {
            check(unknown, None);
        }
    }

    #[test]
    fn scripts_that_are_long_or_deep_or_sleep_for_ever_hurt_nobody() {
        let none = |script: &str| assert_eq!(run(script, &mut with(&[], &[]), false), None);
        none(&"if ".repeat(100_000));
        none(&format!("{}true{}", "if ".repeat(100), "; then true; fi".repeat(100)));
        assert_eq!(run_words(&vec!["rm"; 100_000], &mut with(&[], &[])), None);
        let slept = run("sleep 1e19; sleep 1e19", &mut with(&[], &[]), false);
        assert_eq!(slept, Some(Outcome::Ends(Duration::MAX, 0)));
        let denied = |count: usize| run(&format!("[ {}a = a ]", "! ".repeat(count)), &mut with(&[], &[]), false);
        assert_eq!(denied(1001), Some(Outcome::Ends(Duration::ZERO, 1)));
        assert_eq!(denied(1000), Some(Outcome::Ends(Duration::ZERO, 0)));
    }

    #[test]
    fn files_stay_and_go() {
        let mut place = with(&[], &[]);
        let once = "if [[ -r /d/foo ]]\nthen\nexit 0\nelse\ntouch /d/foo\nexit 1\nfi";
        let mut code = |script: &str| match run(script, &mut place, true) {
            Some(Outcome::Ends(_, code)) => code,
            other => panic!("{script}: {other:?}"),
        };
        assert_eq!((code(once), code(once)), (1, 0));
        assert_eq!(code("rm -rf /d; cat /d/foo"), 1);
        assert_eq!(code("echo x > /d/bar; cat /d/bar"), 0);
        assert_eq!(code("false\nexit 5"), 1, "sh -e ends with the first error");
        assert_eq!(code("false || true\nexit 5"), 5);
    }
}
