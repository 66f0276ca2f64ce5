//! What ANTLR would say of a text that is no expression: the parser that cel-go generates, with its ways to recover
//! (`DefaultErrorStrategy`): a token too many, a token missing, or on to what may follow. It runs only on texts that the
//! real parser refused, and makes nothing but messages.

use crate::lexer::{Kind, Token};
use crate::source::Findings;

/// After so many recoveries the rest is not looked at.
const RECOVERIES_MAX: usize = 30;
/// As deep as expressions nest.
const DEPTH_MAX: usize = 250;

/// A set of tokens; `ends` when the rule may also end there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Set {
    kinds: u64,
    ends: bool,
}

const fn set(kinds: &[Kind]) -> Set {
    let (mut bits, mut i) = (0, 0);
    while i < kinds.len() {
        bits |= 1 << kinds[i] as u64;
        i += 1;
    }
    Set { kinds: bits, ends: false }
}

impl Set {
    const fn or(self, other: Self) -> Self {
        Self { kinds: self.kinds | other.kinds, ends: self.ends || other.ends }
    }

    const fn or_end(self) -> Self {
        Self { kinds: self.kinds, ends: true }
    }

    const fn has(self, kind: Kind) -> bool {
        self.kinds >> kind as u64 & 1 == 1
    }
}

const END: Set = set(&[]).or_end();
const QUESTION: Set = set(&[Kind::Question]);
const IDENTIFIER: Set = set(&[Kind::Identifier]);
const NAMES: Set = set(&[Kind::Identifier, Kind::Escaped]);
/// What a number, text or constant begins with.
const LITERAL: Set = set(&[
    Kind::Minus,
    Kind::True,
    Kind::False,
    Kind::Null,
    Kind::Float,
    Kind::Int,
    Kind::Uint,
    Kind::String,
    Kind::Bytes,
]);
/// What a member begins with.
const MEMBER: Set =
    set(&[Kind::LeftBracket, Kind::LeftBrace, Kind::LeftParen, Kind::Dot, Kind::Identifier]).or(LITERAL);
/// What an expression begins with.
const EXPR: Set = set(&[Kind::Exclamation]).or(MEMBER);
const OPTIONAL_EXPR: Set = EXPR.or(QUESTION);
const OPTIONAL_NAME: Set = NAMES.or(QUESTION);
const SUFFIX: Set = set(&[Kind::Dot, Kind::LeftBracket]).or_end();
const RELATION: Set =
    set(&[Kind::Less, Kind::LessEquals, Kind::GreaterEquals, Kind::Greater, Kind::Equals, Kind::NotEquals, Kind::In])
        .or_end();
const PRODUCT: Set = set(&[Kind::Star, Kind::Slash, Kind::Percent]);
const CALCULATION: Set = set(&[Kind::Plus, Kind::Minus]).or(PRODUCT).or_end();
const MORE: Set = set(&[Kind::Comma]).or_end();

/// Why a rule is left.
enum Raised {
    Mismatch {
        expected: Set,
        at: usize,
    },
    NoAlternative {
        from: usize,
        at: usize,
    },
    /// Enough was said.
    Halt,
}

type Parse = Result<(), Raised>;

/// Reports what is wrong with the tokens.
pub(crate) fn complain(source: &str, tokens: &[Token], found: &mut Findings) {
    let mut antlr = Antlr {
        source,
        tokens,
        next: 0,
        is_recovering: false,
        follow: Vec::new(),
        state: 0,
        wrong_at: None,
        wrong_states: Vec::new(),
        recoveries: 0,
        depth: 0,
        found,
    };
    let _ = antlr.start();
}

struct Antlr<'t, 'f> {
    source: &'t str,
    tokens: &'t [Token],
    next: usize,
    /// Nothing is reported until a token fits again.
    is_recovering: bool,
    /// What may follow each rule that is being read.
    follow: Vec<Set>,
    /// Where in the grammar it is.
    state: u16,
    wrong_at: Option<usize>,
    wrong_states: Vec<u16>,
    recoveries: usize,
    depth: usize,
    found: &'f mut Findings,
}

impl Antlr<'_, '_> {
    fn peek(&self) -> Kind {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Kind {
        self.tokens.get(self.next + ahead).map_or(Kind::Eof, |token| token.kind)
    }

    fn consume(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    fn report(&mut self, at: usize, message: &str) {
        self.found.report(Some(self.tokens[at].start), format!("Syntax error: {message}"));
    }

    /// The token as messages show it.
    fn shown(&self, at: usize) -> String {
        let token = self.tokens[at];
        let text = if token.kind == Kind::Eof { "<EOF>" } else { &self.source[token.start..token.end] };
        quoted(text)
    }

    /// What is expected where `here` is what the grammar says by itself: where a rule may end, what follows it too.
    fn expected(&self, here: Set) -> Set {
        let mut all = here;
        for follow in self.follow.iter().rev() {
            if !all.ends {
                break;
            }
            all = Set { kinds: all.kinds | follow.kinds, ends: follow.ends };
        }
        if all.ends { all.or(set(&[Kind::Eof])) } else { all }
    }

    fn skip_until(&mut self, wanted: Set) {
        while self.peek() != Kind::Eof && !wanted.has(self.peek()) {
            self.consume();
        }
    }

    fn recovery_set(&self) -> Set {
        self.follow.iter().fold(set(&[]), |all, follow| all.or(*follow))
    }

    fn matched(&mut self) {
        self.is_recovering = false;
        self.wrong_at = None;
        self.wrong_states.clear();
    }

    fn attempt(&mut self) -> Parse {
        if self.recoveries == RECOVERIES_MAX {
            let text = format!("error recovery attempt limit exceeded: {RECOVERIES_MAX}");
            self.report(self.next, &text);
            return Err(Raised::Halt);
        }
        self.recoveries += 1;
        Ok(())
    }

    fn unwanted(&mut self, expected: Set) {
        if !self.is_recovering {
            self.is_recovering = true;
            let text = format!("extraneous input {} expecting {}", self.shown(self.next), names(expected));
            self.report(self.next, &text);
        }
    }

    /// Drops a token when the next one would fit.
    fn delete(&mut self, here: Set) -> bool {
        let expected = self.expected(here);
        let fits = expected.has(self.peek_at(1));
        if fits {
            self.unwanted(expected);
            self.consume();
            self.matched();
        }
        fits
    }

    /// Before a choice: does the next token fit any branch?
    fn sync(&mut self, state: u16, here: Set) -> Parse {
        self.state = state;
        if self.is_recovering || here.ends || here.has(self.peek()) || self.delete(here) {
            return Ok(());
        }
        Err(Raised::Mismatch { expected: self.expected(here), at: self.next })
    }

    /// Within a loop, which goes on with what fits.
    fn sync_loop(&mut self, state: u16, here: Set) {
        self.state = state;
        if self.is_recovering || here.ends || here.has(self.peek()) {
            return;
        }
        let expected = self.expected(here);
        self.unwanted(expected);
        self.skip_until(expected.or(self.recovery_set()));
    }

    /// Takes a token; `after` is what may come next.
    fn token(&mut self, state: u16, kind: Kind, after: Set) -> Parse {
        self.state = state;
        let here = set(&[kind]);
        if self.peek() == kind {
            self.matched();
            self.consume();
            return Ok(());
        }
        self.attempt()?;
        if self.delete(here) {
            self.consume();
            return Ok(());
        }
        if self.expected(after).has(self.peek()) {
            if !self.is_recovering {
                self.is_recovering = true;
                let text = format!("missing {} at {}", names(here), self.shown(self.next));
                self.report(self.next, &text);
            }
            return Ok(());
        }
        Err(Raised::Mismatch { expected: here, at: self.next })
    }

    fn accept(&mut self, state: u16, kind: Kind, after: Set) -> Parse {
        if self.peek() == kind { self.token(state, kind, after) } else { Ok(()) }
    }

    /// Reads a rule after which `follow` may stand; what goes wrong within is reported and recovered from here.
    fn rule(&mut self, state: u16, follow: Set, body: impl FnOnce(&mut Self) -> Parse) -> Parse {
        self.state = state;
        self.follow.push(follow);
        let outcome = match body(self) {
            Ok(()) => Ok(()),
            Err(Raised::Halt) => Err(Raised::Halt),
            Err(raised) => {
                self.say(&raised);
                self.recover()
            }
        };
        self.follow.pop();
        self.state = state;
        outcome
    }

    fn say(&mut self, raised: &Raised) {
        if self.is_recovering {
            return;
        }
        self.is_recovering = true;
        match raised {
            Raised::Mismatch { expected, at } => {
                let text = format!("mismatched input {} expecting {}", self.shown(*at), names(*expected));
                self.report(*at, &text);
            }
            Raised::NoAlternative { from, at } => {
                let input = self.input(*from, *at);
                // cel-go words it otherwise where a constant stands for a name.
                let text = match input.get(1..).unwrap_or_default() {
                    word @ ("true" | "false" | "null") => format!("mismatched input '{word}' expecting IDENTIFIER"),
                    _ => format!("no viable alternative at input {}", quoted(&input)),
                };
                self.report(*at, &text);
            }
            Raised::Halt => {}
        }
    }

    /// The text of these tokens and of what is skipped between them, but not of what is no token.
    fn input(&self, from: usize, to: usize) -> String {
        if self.tokens[from].kind == Kind::Eof {
            return "<EOF>".to_owned();
        }
        let mut text = String::new();
        let mut end = self.tokens[from].start;
        for token in &self.tokens[from..=to] {
            text.extend(self.source[end..token.start].chars().filter(|c| c.is_ascii_whitespace()));
            text.push_str(&self.source[token.start..token.end]);
            end = token.end;
        }
        text
    }

    fn recover(&mut self) -> Parse {
        self.attempt()?;
        if self.wrong_at == Some(self.next) && self.wrong_states.contains(&self.state) {
            // Nothing was consumed since it was here last.
            self.consume();
        }
        self.wrong_at = Some(self.next);
        self.wrong_states.push(self.state);
        self.skip_until(self.recovery_set());
        Ok(())
    }

    const fn no_alternative(&self, ahead: usize) -> Parse {
        let at = self.next + ahead;
        let last = self.tokens.len() - 1;
        Err(Raised::NoAlternative { from: self.next, at: if at < last { at } else { last } })
    }

    fn start(&mut self) -> Parse {
        let body = |antlr: &mut Self| {
            antlr.rule(1, set(&[Kind::Eof]), Self::expr)?;
            antlr.token(2, Kind::Eof, END)
        };
        // The outermost rule has nothing around it.
        match body(self) {
            Ok(()) | Err(Raised::Halt) => Ok(()),
            Err(raised) => {
                self.say(&raised);
                Ok(())
            }
        }
    }

    fn expr(&mut self) -> Parse {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            self.found.report(None, format!("expression recursion limit exceeded: {DEPTH_MAX}"));
            return Err(Raised::Halt);
        }
        let outcome = self.expr_body();
        self.depth -= 1;
        outcome
    }

    fn expr_body(&mut self) -> Parse {
        self.rule(10, QUESTION.or_end(), Self::any_of)?;
        self.sync(11, QUESTION.or_end())?;
        if self.peek() == Kind::Question {
            self.token(12, Kind::Question, EXPR)?;
            self.rule(13, set(&[Kind::Colon]), Self::any_of)?;
            self.token(14, Kind::Colon, EXPR)?;
            self.rule(15, END, Self::expr)?;
        }
        Ok(())
    }

    fn any_of(&mut self) -> Parse {
        let follow = set(&[Kind::Or]).or_end();
        self.rule(20, follow, Self::all_of)?;
        while self.peek() == Kind::Or {
            self.token(21, Kind::Or, EXPR)?;
            self.rule(22, follow, Self::all_of)?;
        }
        Ok(())
    }

    fn all_of(&mut self) -> Parse {
        let follow = set(&[Kind::And]).or_end();
        self.rule(30, follow, |antlr| antlr.relation(true))?;
        while self.peek() == Kind::And {
            self.token(31, Kind::And, EXPR)?;
            self.rule(32, follow, |antlr| antlr.relation(true))?;
        }
        Ok(())
    }

    /// What stands right of an operator takes none of the same kind.
    fn relation(&mut self, may_go_on: bool) -> Parse {
        self.rule(40, RELATION, |antlr| antlr.calculation(1))?;
        while may_go_on && RELATION.has(self.peek()) {
            self.token(41, self.peek(), EXPR)?;
            self.rule(42, RELATION, |antlr| antlr.relation(false))?;
        }
        Ok(())
    }

    fn calculation(&mut self, precedence: u8) -> Parse {
        self.rule(50, CALCULATION, Self::unary)?;
        loop {
            let operator = self.peek();
            if PRODUCT.has(operator) && precedence <= 2 {
                self.token(51, operator, EXPR)?;
                self.rule(52, CALCULATION, |antlr| antlr.calculation(3))?;
            } else if matches!(operator, Kind::Plus | Kind::Minus) && precedence <= 1 {
                self.token(53, operator, EXPR)?;
                self.rule(54, CALCULATION, |antlr| antlr.calculation(2))?;
            } else {
                return Ok(());
            }
        }
    }

    fn unary(&mut self) -> Parse {
        self.sync(60, EXPR)?;
        match (self.peek(), self.peek_at(1)) {
            (Kind::Exclamation, _) => {
                while self.peek() == Kind::Exclamation {
                    self.token(61, Kind::Exclamation, EXPR)?;
                    self.sync_loop(62, EXPR);
                }
                self.rule(63, END, Self::member)
            }
            (Kind::Minus, Kind::Int | Kind::Float) => self.rule(64, END, Self::member),
            (Kind::Minus, after) if !MEMBER.has(after) => self.no_alternative(1),
            (Kind::Minus, _) => {
                self.token(65, Kind::Minus, MEMBER)?;
                self.sync_loop(66, MEMBER);
                while self.peek() == Kind::Minus {
                    if !MEMBER.has(self.peek_at(1)) {
                        return self.no_alternative(1);
                    }
                    self.token(65, Kind::Minus, MEMBER)?;
                    self.sync_loop(66, MEMBER);
                }
                if !MEMBER.has(self.peek()) {
                    return self.no_alternative(0);
                }
                self.rule(67, END, Self::member)
            }
            (kind, _) if MEMBER.has(kind) => self.rule(64, END, Self::member),
            _ => self.no_alternative(0),
        }
    }

    fn member(&mut self) -> Parse {
        self.rule(70, SUFFIX, Self::primary)?;
        loop {
            match (self.peek(), self.peek_at(1)) {
                (Kind::LeftBracket, _) => {
                    self.token(71, Kind::LeftBracket, OPTIONAL_EXPR)?;
                    self.sync(72, OPTIONAL_EXPR)?;
                    self.accept(73, Kind::Question, EXPR)?;
                    self.rule(74, set(&[Kind::RightBracket]), Self::expr)?;
                    self.token(75, Kind::RightBracket, SUFFIX)?;
                }
                (Kind::Dot, Kind::Identifier) if self.peek_at(2) == Kind::LeftParen => {
                    self.token(76, Kind::Dot, IDENTIFIER)?;
                    self.token(77, Kind::Identifier, set(&[Kind::LeftParen]))?;
                    self.arguments(SUFFIX)?;
                }
                (Kind::Dot, after) if OPTIONAL_NAME.has(after) => {
                    self.token(78, Kind::Dot, OPTIONAL_NAME)?;
                    self.sync(79, OPTIONAL_NAME)?;
                    self.accept(80, Kind::Question, NAMES)?;
                    self.rule(81, SUFFIX, Self::name)?;
                }
                (Kind::Dot, _) => return self.no_alternative(1),
                _ => return Ok(()),
            }
        }
    }

    fn arguments(&mut self, after: Set) -> Parse {
        let close = set(&[Kind::RightParen]);
        self.token(90, Kind::LeftParen, EXPR.or(close))?;
        self.sync(91, EXPR.or(close))?;
        if EXPR.has(self.peek()) {
            self.rule(92, close, |antlr| {
                antlr.rule(93, MORE, Self::expr)?;
                while antlr.peek() == Kind::Comma {
                    antlr.token(94, Kind::Comma, EXPR)?;
                    antlr.rule(95, MORE, Self::expr)?;
                }
                Ok(())
            })?;
        }
        self.token(96, Kind::RightParen, after)
    }

    fn name(&mut self) -> Parse {
        self.sync(100, NAMES)?;
        match self.peek() {
            kind @ (Kind::Identifier | Kind::Escaped) => self.token(101, kind, END),
            _ => self.no_alternative(0),
        }
    }

    fn primary(&mut self) -> Parse {
        self.sync(110, MEMBER)?;
        match self.peek() {
            Kind::LeftParen => {
                self.token(111, Kind::LeftParen, EXPR)?;
                self.rule(112, set(&[Kind::RightParen]), Self::expr)?;
                self.token(113, Kind::RightParen, END)
            }
            Kind::LeftBracket => {
                let close = Kind::RightBracket;
                self.token(114, Kind::LeftBracket, OPTIONAL_EXPR.or(set(&[Kind::Comma, close])))?;
                self.listed(120, OPTIONAL_EXPR, close, Self::list)
            }
            Kind::LeftBrace => {
                let close = Kind::RightBrace;
                self.token(115, Kind::LeftBrace, OPTIONAL_EXPR.or(set(&[Kind::Comma, close])))?;
                self.listed(130, OPTIONAL_EXPR, close, Self::entries)
            }
            Kind::Dot | Kind::Identifier => self.named(),
            kind if LITERAL.has(kind) => self.rule(116, END, Self::literal),
            _ => self.no_alternative(0),
        }
    }

    /// A variable, a call, or a message: told apart by what comes after the names.
    fn named(&mut self) -> Parse {
        let leading = usize::from(self.peek() == Kind::Dot);
        if self.peek_at(leading) != Kind::Identifier {
            return self.no_alternative(leading);
        }
        let mut ahead = leading + 1;
        while self.peek_at(ahead) == Kind::Dot && self.peek_at(ahead + 1) == Kind::Identifier {
            ahead += 2;
        }
        let is_message = self.peek_at(ahead) == Kind::LeftBrace;
        let is_call = self.peek_at(leading + 1) == Kind::LeftParen;
        self.accept(140, Kind::Dot, IDENTIFIER)?;
        if is_message {
            let after = set(&[Kind::Dot, Kind::LeftBrace]);
            self.token(141, Kind::Identifier, after)?;
            while self.peek() == Kind::Dot {
                self.token(142, Kind::Dot, IDENTIFIER)?;
                self.token(143, Kind::Identifier, after)?;
            }
            self.token(144, Kind::LeftBrace, OPTIONAL_NAME.or(set(&[Kind::Comma, Kind::RightBrace])))?;
            return self.listed(150, OPTIONAL_NAME, Kind::RightBrace, Self::fields);
        }
        if is_call {
            self.token(145, Kind::Identifier, set(&[Kind::LeftParen]))?;
            return self.arguments(END);
        }
        self.token(146, Kind::Identifier, END)
    }

    /// What stands between brackets, perhaps nothing, perhaps with a comma behind.
    fn listed(&mut self, state: u16, first: Set, close: Kind, all: fn(&mut Self) -> Parse) -> Parse {
        let rest = set(&[Kind::Comma, close]);
        self.sync(state, first.or(rest))?;
        if first.has(self.peek()) {
            self.rule(state + 1, rest, all)?;
        }
        self.sync(state + 2, rest)?;
        self.accept(state + 3, Kind::Comma, set(&[close]))?;
        self.token(state + 4, close, END)
    }

    fn list(&mut self) -> Parse {
        self.rule(160, MORE, Self::optional_expr)?;
        while self.peek() == Kind::Comma && OPTIONAL_EXPR.has(self.peek_at(1)) {
            self.token(161, Kind::Comma, OPTIONAL_EXPR)?;
            self.rule(162, MORE, Self::optional_expr)?;
        }
        Ok(())
    }

    fn optional_expr(&mut self) -> Parse {
        self.sync(170, OPTIONAL_EXPR)?;
        self.accept(171, Kind::Question, EXPR)?;
        self.rule(172, END, Self::expr)
    }

    fn entries(&mut self) -> Parse {
        loop {
            self.rule(180, set(&[Kind::Colon]), Self::optional_expr)?;
            self.token(181, Kind::Colon, EXPR)?;
            self.rule(182, MORE, Self::expr)?;
            if self.peek() != Kind::Comma || !OPTIONAL_EXPR.has(self.peek_at(1)) {
                return Ok(());
            }
            self.token(183, Kind::Comma, OPTIONAL_EXPR)?;
        }
    }

    fn fields(&mut self) -> Parse {
        loop {
            self.rule(190, set(&[Kind::Colon]), |antlr| {
                antlr.sync(191, OPTIONAL_NAME)?;
                antlr.accept(192, Kind::Question, NAMES)?;
                antlr.rule(193, END, Self::name)
            })?;
            self.token(194, Kind::Colon, EXPR)?;
            self.rule(195, MORE, Self::expr)?;
            if self.peek() != Kind::Comma || !OPTIONAL_NAME.has(self.peek_at(1)) {
                return Ok(());
            }
            self.token(196, Kind::Comma, OPTIONAL_NAME)?;
        }
    }

    fn literal(&mut self) -> Parse {
        self.sync(200, LITERAL)?;
        match (self.peek(), self.peek_at(1)) {
            (Kind::Minus, kind @ (Kind::Int | Kind::Float)) => {
                self.token(201, Kind::Minus, set(&[kind]))?;
                self.token(202, kind, END)
            }
            (Kind::Minus, _) => self.no_alternative(1),
            (kind, _) if LITERAL.has(kind) => self.token(203, kind, END),
            _ => self.no_alternative(0),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t"))
}

/// The names of a set's tokens, in the grammar's order.
fn names(of: Set) -> String {
    const ALL: [Kind; 36] = [
        Kind::Eof,
        Kind::Equals,
        Kind::NotEquals,
        Kind::In,
        Kind::Less,
        Kind::LessEquals,
        Kind::GreaterEquals,
        Kind::Greater,
        Kind::And,
        Kind::Or,
        Kind::LeftBracket,
        Kind::RightBracket,
        Kind::LeftBrace,
        Kind::RightBrace,
        Kind::LeftParen,
        Kind::RightParen,
        Kind::Dot,
        Kind::Comma,
        Kind::Minus,
        Kind::Exclamation,
        Kind::Question,
        Kind::Colon,
        Kind::Plus,
        Kind::Star,
        Kind::Slash,
        Kind::Percent,
        Kind::True,
        Kind::False,
        Kind::Null,
        Kind::Float,
        Kind::Int,
        Kind::Uint,
        Kind::String,
        Kind::Bytes,
        Kind::Identifier,
        Kind::Escaped,
    ];
    let names: Vec<&str> = ALL.iter().filter(|kind| of.has(**kind)).map(|kind| kind.name()).collect();
    match names[..] {
        [one] => one.to_owned(),
        _ => format!("{{{}}}", names.join(", ")),
    }
}
