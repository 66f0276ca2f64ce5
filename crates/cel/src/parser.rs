//! Tokens to a tree: recursive descent over cel-go's grammar, for the texts that have no mistake of syntax. What it
//! cannot read it leaves to [`crate::syntax`], which finds the words that ANTLR's parser would complain in.

use std::sync::Arc;

use crate::ast::{Element, Entry, Expr, Field, Id, Kind as Node};
use crate::lexer::{Kind, Token, tokens};
use crate::source::{Findings, Issues};
use crate::value::Val;
use crate::{literal, macros, syntax};

/// Longer expressions are refused unread.
const CODE_POINTS_MAX: usize = 100_000;
/// How deep expressions nest.
const DEPTH_MAX: usize = 250;

/// Names that no variable has.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// A tree, and where each node begins (by id).
pub(crate) struct Parsed {
    pub(crate) root: Expr,
    pub(crate) places: Vec<Option<usize>>,
}

/// Reads an expression.
///
/// # Errors
/// Every mistake that cel-go's parser finds.
pub(crate) fn parse(source: &str) -> Result<Parsed, Issues> {
    let mut parser =
        Parser { source, tokens: Vec::new(), next: 0, depth: 0, places: Vec::new(), found: Findings::default() };
    let size = source.chars().count();
    if size > CODE_POINTS_MAX {
        let text = format!("expression code point size exceeds limit: size: {size}, limit {CODE_POINTS_MAX}");
        parser.found.report(None, text);
        return Err(parser.found.into_issues(source));
    }
    let (tokens, wrong) = tokens(source);
    parser.tokens = tokens;
    let root = parser.expr().and_then(|root| parser.expect(Kind::Eof).map(|_| root));
    let is_too_deep = matches!(root, Err(Fault::TooDeep));
    if is_too_deep {
        parser.found = Findings::default();
        parser.found.report(None, format!("expression recursion limit exceeded: {DEPTH_MAX}"));
    } else {
        for (at, message) in &wrong {
            parser.found.report(Some(*at), format!("Syntax error: {message}"));
        }
        if root.is_err() {
            syntax::complain(source, &parser.tokens, &mut parser.found);
        }
    }
    match root {
        Ok(root) if parser.found.is_empty() => Ok(Parsed { root, places: parser.places }),
        _ => Err(parser.found.into_issues(source)),
    }
}

/// Why the reading ended.
enum Fault {
    Syntax,
    TooDeep,
}

type Outcome<T> = Result<T, Fault>;

pub(crate) struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
    places: Vec<Option<usize>>,
    found: Findings,
}

impl Parser<'_> {
    /// A new id for a node that begins at `at`.
    pub(crate) fn id(&mut self, at: Option<usize>) -> Id {
        self.places.push(at);
        (self.places.len() - 1) as Id
    }

    /// How many nodes there are.
    pub(crate) fn count(&self) -> usize {
        self.places.len()
    }

    /// Where the node with this id begins.
    pub(crate) fn place(&self, id: Id) -> Option<usize> {
        self.places[id as usize]
    }

    /// Reports a fault there and stands an empty node in its place.
    pub(crate) fn fault(&mut self, at: Option<usize>, message: impl Into<String>) -> Expr {
        self.found.report(at, message);
        self.node(at, Node::Unspecified)
    }

    fn node(&mut self, at: Option<usize>, kind: Node) -> Expr {
        Expr { id: self.id(at), kind }
    }

    fn peek(&self) -> Token {
        self.tokens[self.next]
    }

    fn peek_after(&self, count: usize) -> Kind {
        self.tokens.get(self.next + count).map_or(Kind::Eof, |token| token.kind)
    }

    fn text(&self, token: Token) -> &str {
        &self.source[token.start..token.end]
    }

    fn accept(&mut self, kind: Kind) -> Option<Token> {
        let token = self.peek();
        (token.kind == kind).then(|| {
            self.next += usize::from(kind != Kind::Eof);
            token
        })
    }

    fn expect(&mut self, kind: Kind) -> Outcome<Token> {
        self.accept(kind).ok_or(Fault::Syntax)
    }

    fn deeper(&mut self) -> Outcome<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(Fault::TooDeep) } else { Ok(()) }
    }

    fn expr(&mut self) -> Outcome<Expr> {
        self.deeper()?;
        let condition = self.logic(Kind::Or)?;
        let whole = match self.accept(Kind::Question) {
            None => condition,
            Some(question) => {
                let id = self.id(Some(question.start));
                let yes = self.logic(Kind::Or)?;
                self.expect(Kind::Colon)?;
                let no = self.expr()?;
                call(id, "_?_:_", vec![condition, yes, no])
            }
        };
        self.depth -= 1;
        Ok(whole)
    }

    /// `||` over `&&` over relations, as a balanced tree so that long ones stay shallow.
    fn logic(&mut self, operator: Kind) -> Outcome<Expr> {
        let (function, is_or) = if operator == Kind::Or { ("_||_", true) } else { ("_&&_", false) };
        let term = |parser: &mut Self| if is_or { parser.logic(Kind::And) } else { parser.binary(0) };
        let first = term(self)?;
        if self.peek().kind != operator {
            return Ok(first);
        }
        let (mut terms, mut ids) = (vec![Some(first)], Vec::new());
        while let Some(token) = self.accept(operator) {
            terms.push(Some(term(self)?));
            ids.push(self.id(Some(token.start)));
        }
        Ok(balance(function, &mut terms, &ids))
    }

    /// Relations (0), sums (1) and products (2), each left-associative.
    fn binary(&mut self, level: usize) -> Outcome<Expr> {
        if level == 3 {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        let depth = self.depth;
        while let Some(function) = operator(level, self.peek().kind) {
            self.deeper()?;
            let token = self.peek();
            self.next += 1;
            let id = self.id(Some(token.start));
            let right = self.binary(level + 1)?;
            left = call(id, function, vec![left, right]);
        }
        self.depth = depth;
        Ok(left)
    }

    fn unary(&mut self) -> Outcome<Expr> {
        let first = self.peek();
        let function = match first.kind {
            Kind::Exclamation => "!_",
            // A minus before a number is part of the number.
            Kind::Minus if !matches!(self.peek_after(1), Kind::Int | Kind::Float) => "-_",
            _ => return self.member(),
        };
        let mut count = 0;
        while self.accept(first.kind).is_some() {
            count += 1;
        }
        if count % 2 == 0 {
            return self.member();
        }
        let id = self.id(Some(first.start));
        let operand = self.member()?;
        Ok(call(id, function, vec![operand]))
    }

    fn member(&mut self) -> Outcome<Expr> {
        let mut operand = self.primary()?;
        let depth = self.depth;
        loop {
            let token = self.peek();
            match token.kind {
                Kind::Dot => operand = self.select(operand)?,
                Kind::LeftBracket => {
                    self.next += 1;
                    let is_optional = self.accept(Kind::Question).is_some();
                    let id = self.id(Some(token.start));
                    let index = self.expr()?;
                    self.expect(Kind::RightBracket)?;
                    operand = call(id, if is_optional { "_[?_]" } else { "_[_]" }, vec![operand, index]);
                }
                _ => break,
            }
            self.deeper()?;
        }
        self.depth = depth;
        Ok(operand)
    }

    fn select(&mut self, operand: Expr) -> Outcome<Expr> {
        let dot = self.expect(Kind::Dot)?;
        let is_optional = self.accept(Kind::Question).is_some();
        if let Some(name) = self.accept(Kind::Escaped) {
            return Ok(self.fault(Some(name.start), "unsupported syntax: '`'"));
        }
        let name = self.expect(Kind::Identifier)?;
        let field = self.text(name).to_owned();
        if is_optional {
            let literal = Node::Literal(Val::from_string(&field));
            let args = vec![operand, self.node(Some(name.start), literal)];
            let id = self.id(Some(dot.start));
            return Ok(call(id, "_?._", args));
        }
        let Some(open) = self.accept(Kind::LeftParen) else {
            return Ok(self.node(Some(dot.start), Node::Select { operand: Box::new(operand), field, is_test: false }));
        };
        let id = self.id(Some(open.start));
        let args = self.arguments()?;
        Ok(macros::expand(self, id, field, Some(operand), args))
    }

    fn arguments(&mut self) -> Outcome<Vec<Expr>> {
        let mut args = Vec::new();
        if self.accept(Kind::RightParen).is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.accept(Kind::RightParen).is_some() {
                return Ok(args);
            }
            self.expect(Kind::Comma)?;
        }
    }

    fn primary(&mut self) -> Outcome<Expr> {
        let token = self.peek();
        match token.kind {
            Kind::Dot | Kind::Identifier => self.name(),
            Kind::LeftParen => {
                self.next += 1;
                let inner = self.expr()?;
                self.expect(Kind::RightParen)?;
                Ok(inner)
            }
            Kind::LeftBracket => self.list(),
            Kind::LeftBrace => {
                self.next += 1;
                let id = self.id(Some(token.start));
                let entries = self.braced(Self::entry)?;
                Ok(Expr { id, kind: Node::Map(entries) })
            }
            _ => self.literal(),
        }
    }

    fn name(&mut self) -> Outcome<Expr> {
        let start = self.peek().start;
        let leading = if self.accept(Kind::Dot).is_some() { "." } else { "" };
        if let Some(message) = self.message_name() {
            let open = self.expect(Kind::LeftBrace)?;
            let id = self.id(Some(open.start));
            let fields = self.braced(Self::field)?;
            return Ok(Expr { id, kind: Node::Struct { name: format!("{leading}{message}"), fields } });
        }
        let token = self.expect(Kind::Identifier)?;
        let name = self.text(token).to_owned();
        let is_reserved = RESERVED.contains(&name.as_str());
        let Some(open) = self.accept(Kind::LeftParen) else {
            if is_reserved {
                return Ok(self.fault(Some(start), format!("reserved identifier: {name}")));
            }
            return Ok(self.node(Some(token.start), Node::Ident(format!("{leading}{name}"))));
        };
        if is_reserved {
            let fault = self.fault(Some(start), format!("reserved identifier: {name}"));
            self.arguments()?;
            return Ok(fault);
        }
        let id = self.id(Some(open.start));
        let args = self.arguments()?;
        Ok(macros::expand(self, id, format!("{leading}{name}"), None, args))
    }

    /// `a.b.C` when a brace follows.
    fn message_name(&mut self) -> Option<String> {
        let mut length = 1;
        while self.peek_after(length) == Kind::Dot && self.peek_after(length + 1) == Kind::Identifier {
            length += 2;
        }
        if self.peek().kind != Kind::Identifier || self.peek_after(length) != Kind::LeftBrace {
            return None;
        }
        let parts = &self.tokens[self.next..self.next + length];
        let name = parts.iter().map(|token| self.text(*token)).collect();
        self.next += length;
        Some(name)
    }

    fn list(&mut self) -> Outcome<Expr> {
        let open = self.expect(Kind::LeftBracket)?;
        let id = self.id(Some(open.start));
        let mut elements = Vec::new();
        loop {
            if self.accept(Kind::RightBracket).is_some() {
                break;
            }
            // `[,]` is an empty list.
            if elements.is_empty() && self.accept(Kind::Comma).is_some() {
                self.expect(Kind::RightBracket)?;
                break;
            }
            let is_optional = self.accept(Kind::Question).is_some();
            elements.push(Element { value: self.expr()?, is_optional });
            if self.accept(Kind::Comma).is_none() {
                self.expect(Kind::RightBracket)?;
                break;
            }
        }
        Ok(Expr { id, kind: Node::List(elements) })
    }

    /// What stands in braces, with commas between and perhaps one behind.
    fn braced<T>(&mut self, one: fn(&mut Self) -> Outcome<T>) -> Outcome<Vec<T>> {
        let mut all = Vec::new();
        loop {
            if self.accept(Kind::RightBrace).is_some() {
                return Ok(all);
            }
            if all.is_empty() && self.accept(Kind::Comma).is_some() {
                self.expect(Kind::RightBrace)?;
                return Ok(all);
            }
            all.push(one(self)?);
            if self.accept(Kind::Comma).is_none() {
                self.expect(Kind::RightBrace)?;
                return Ok(all);
            }
        }
    }

    fn entry(&mut self) -> Outcome<Entry> {
        let is_optional = self.accept(Kind::Question).is_some();
        let key = self.expr()?;
        self.expect(Kind::Colon)?;
        Ok(Entry { key, value: self.expr()?, is_optional })
    }

    fn field(&mut self) -> Outcome<Field> {
        let start = self.peek().start;
        let is_optional = self.accept(Kind::Question).is_some();
        let name = match self.accept(Kind::Escaped) {
            Some(_) => {
                self.found.report(Some(start), "unsupported syntax: '`'");
                String::new()
            }
            None => {
                let token = self.expect(Kind::Identifier)?;
                self.text(token).to_owned()
            }
        };
        let colon = self.expect(Kind::Colon)?;
        let id = self.id(Some(colon.start));
        Ok(Field { id, name, value: self.expr()?, is_optional })
    }

    fn literal(&mut self) -> Outcome<Expr> {
        let start = self.peek().start;
        let is_negative = self.accept(Kind::Minus).is_some();
        let token = self.peek();
        self.next += usize::from(token.kind != Kind::Eof);
        let text = self.text(token);
        let value = match token.kind {
            Kind::Int => literal::int(text, is_negative),
            Kind::Float => literal::double(text, is_negative),
            _ if is_negative => return Err(Fault::Syntax),
            Kind::Uint => literal::uint(text),
            Kind::String => literal::unescape(text, false).map(|text| {
                let text = String::from_utf8(text).unwrap_or_default();
                Val::from_string(&text)
            }),
            Kind::Bytes => literal::unescape(&text[1..], true).map(|bytes| Val::Bytes(Arc::from(bytes))),
            Kind::True => Ok(Val::Bool(true)),
            Kind::False => Ok(Val::Bool(false)),
            Kind::Null => Ok(Val::Null),
            _ => return Err(Fault::Syntax),
        };
        Ok(match value {
            Ok(value) => self.node(Some(start), Node::Literal(value)),
            Err(message) => self.fault(Some(start), message),
        })
    }
}

pub(crate) fn call(id: Id, function: &str, args: Vec<Expr>) -> Expr {
    Expr { id, kind: Node::Call { target: None, function: function.to_owned(), args } }
}

const fn operator(level: usize, kind: Kind) -> Option<&'static str> {
    Some(match (level, kind) {
        (0, Kind::Less) => "_<_",
        (0, Kind::LessEquals) => "_<=_",
        (0, Kind::Greater) => "_>_",
        (0, Kind::GreaterEquals) => "_>=_",
        (0, Kind::Equals) => "_==_",
        (0, Kind::NotEquals) => "_!=_",
        (0, Kind::In) => "@in",
        (1, Kind::Plus) => "_+_",
        (1, Kind::Minus) => "_-_",
        (2, Kind::Star) => "_*_",
        (2, Kind::Slash) => "_/_",
        (2, Kind::Percent) => "_%_",
        _ => return None,
    })
}

/// The balanced tree over `terms`, between which the operators `ids` stand.
fn balance(function: &str, terms: &mut [Option<Expr>], ids: &[Id]) -> Expr {
    let Some(last) = ids.len().checked_sub(1) else { return terms[0].take().expect("each term is used once") };
    let middle = last.div_ceil(2);
    let (left, right) = terms.split_at_mut(middle + 1);
    let left = balance(function, left, &ids[..middle]);
    let right = balance(function, right, &ids[middle + 1..]);
    call(ids[middle], function, vec![left, right])
}
