//! The query syntax of label selectors, token by token as upstream reads it so that errors read the same.

use super::{Operator, Requirement};
use crate::{CompactString, names};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

const SYMBOLS: &[(&str, Token)] = &[
    (")", Token::Close),
    (",", Token::Comma),
    ("!", Token::Not),
    ("==", Token::DoubleEquals),
    ("=", Token::Equals),
    (">", Token::Greater),
    ("<", Token::Less),
    ("!=", Token::NotEquals),
    ("(", Token::Open),
];

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The next token, its literal, and what follows it.
fn lex(text: &str) -> (Token, String, &str) {
    let text = text.trim_start_matches(is_space);
    let Some(first) = text.chars().next().filter(|c| *c != '\0') else { return (Token::End, String::new(), "") };
    if !is_symbol(first) {
        let end = text.find(|c| is_symbol(c) || is_space(c) || c == '\0').unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let token = match word {
            "in" => Token::In,
            "notin" => Token::NotIn,
            _ => Token::Identifier,
        };
        return (token, word.to_owned(), rest);
    }
    let run = text.find(|c| !is_symbol(c)).unwrap_or(text.len());
    let longest = (1..=run.min(2)).rev().find_map(|n| {
        SYMBOLS.iter().find(|(s, _)| *s == &text[..n]).map(|(s, token)| (*token, (*s).to_owned(), &text[n..]))
    });
    longest.unwrap_or_else(|| (Token::Error, format!("error expected: keyword found '{}'", &text[..run]), &text[run..]))
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

/// As upstream's `Values` context: `in` and `notin` are plain words.
fn as_value(token: Token) -> Token {
    if matches!(token, Token::In | Token::NotIn) { Token::Identifier } else { token }
}

impl Parser {
    fn look(&self) -> (Token, &str) {
        let (token, literal) = &self.tokens[self.at.min(self.tokens.len() - 1)];
        (as_value(*token), literal)
    }

    fn next_raw(&mut self) -> (Token, String) {
        let i = self.at.min(self.tokens.len() - 1);
        self.at += 1;
        self.tokens[i].clone()
    }

    fn next(&mut self) -> (Token, String) {
        let (token, literal) = self.next_raw();
        (as_value(token), literal)
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            let (token, literal) = self.look();
            match token {
                Token::Identifier | Token::Not => {
                    out.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    let (token, literal) = self.next();
                    match token {
                        Token::End => return Ok(out),
                        Token::Comma => {
                            let (token, literal) = self.look();
                            if token != Token::Identifier && token != Token::Not {
                                return Err(format!("found '{literal}', expected: identifier after ','"));
                            }
                        }
                        _ => return Err(format!("found '{literal}', expected: ',' or 'end of string'")),
                    }
                }
                Token::End => return Ok(out),
                _ => return Err(format!("found '{literal}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next();
        let mut operator = None;
        if token == Token::Not {
            operator = Some(Operator::DoesNotExist);
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let bad = names::is_qualified_name(&key);
        if !bad.is_empty() {
            return Err(format!("<nil>: Invalid value: {}: {}", crate::go::quote(&key), bad.join("; ")));
        }
        if operator.is_none() && matches!(self.look().0, Token::End | Token::Comma) {
            operator = Some(Operator::Exists);
        }
        if let Some(operator) = operator {
            return Requirement::new(&key, operator, Vec::new());
        }
        let operator = self.operator()?;
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        values.sort_unstable();
        values.dedup();
        Requirement::new(&key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let (token, literal) = self.next_raw();
        Ok(match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return Err(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn values(&mut self) -> Result<Vec<CompactString>, String> {
        let (token, literal) = self.next();
        if token != Token::Open {
            return Err(format!("found '{literal}' expected: '('"));
        }
        let (token, literal) = self.look();
        let literal = literal.to_owned();
        match token {
            Token::Identifier | Token::Comma => {
                let values = self.identifiers()?;
                if self.next().0 == Token::Close {
                    Ok(values)
                } else {
                    Err(format!("found '{literal}', expected: ')'"))
                }
            }
            Token::Close => {
                self.next();
                Ok(vec![CompactString::default()])
            }
            _ => Err(format!("found '{literal}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<CompactString>, String> {
        let mut out: Vec<CompactString> = Vec::new();
        loop {
            let (token, literal) = self.next();
            match token {
                Token::Identifier => {
                    out.push(literal.into());
                    let (token, literal) = self.look();
                    match token {
                        Token::Comma => {}
                        Token::Close => return Ok(out),
                        _ => return Err(format!("found '{literal}', expected: ',' or ')'")),
                    }
                }
                Token::Comma => {
                    if out.is_empty() {
                        out.push(CompactString::default());
                    }
                    match self.look().0 {
                        Token::Close => {
                            out.push(CompactString::default());
                            return Ok(out);
                        }
                        Token::Comma => {
                            self.next();
                            out.push(CompactString::default());
                        }
                        _ => {}
                    }
                }
                _ => return Err(format!("found '{literal}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<CompactString, String> {
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Ok(CompactString::default());
        }
        let (token, literal) = self.next();
        if token == Token::Identifier {
            Ok(literal.into())
        } else {
            Err(format!("found '{literal}', expected: identifier"))
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        let (token, literal, after) = lex(rest);
        tokens.push((token, literal));
        if token == Token::End {
            break;
        }
        rest = after;
    }
    Parser { tokens, at: 0 }.requirements()
}
