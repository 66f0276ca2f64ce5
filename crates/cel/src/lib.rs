//! Kubernetes CEL: the Common Expression Language with the libraries, limits and error texts of `k8s.io/apiserver` 1.33
//! over cel-go 0.23.
//!
//! ```text
//!  text ─ parser ─ macros ─→ tree ─ check ─→ typed tree ─ plan ─→ Program ─ eval ─→ value, cost
//!           └ syntax: what ANTLR would say        └ functions: one row per overload ┘
//! ```
//!
//! An [`Environment`] declares variables; [`Program::compile`] makes a program of an expression once; it runs as often
//! as wanted on values that may borrow from JSON trees. Nothing is asked of the world: the only question an expression
//! can have, whether somebody may do something, comes back as [`Fault::Need`] and is answered in the next run.
//!
//! `testdata/recorded.jsonl` is what the published libraries say to `testdata/expressions.txt` (`cargo xtask cel`); a
//! test compares.

mod ast;
mod check;
mod cost;
mod environment;
mod eval;
mod functions;
mod lexer;
mod literal;
mod macros;
mod number;
mod opaque;
mod parser;
mod plan;
mod program;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod robust;
mod source;
mod syntax;
mod time;
mod types;
mod value;

pub use environment::Environment;
pub use eval::Fault;
pub use functions::{Authorizer, Decision, Question};
pub use opaque::Opaque;
pub use program::{CompileError, PER_CALL_COST_MAX, Program};
pub use source::{Issue, Issues};
pub use time::Time;
pub use types::{Declared, Type};
pub use value::{Entries, List, Map, Text, Val};
