//! An expression, compiled: what all users of this crate hold.

use std::fmt;

use crate::ast::{Expr, Kind};
use crate::check::{check, check_literals};
use crate::environment::Environment;
use crate::eval::{Fault, run};
use crate::functions::{Decision, Question};
use crate::parser::parse;
use crate::plan::{Node, plan};
use crate::source::Issues;
use crate::types::Type;
use crate::value::Val;

/// What one evaluation may cost (`PerCallLimit` of `k8s.io/apiserver/pkg/apis/cel`).
pub const PER_CALL_COST_MAX: u64 = 1_000_000;

/// Why an expression is no program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompileError {
    /// Its syntax or its types are wrong.
    Issues(Issues),
    /// A part that is constant cannot be computed.
    Program(String),
}

impl std::error::Error for CompileError {}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issues(issues) => write!(f, "{issues}"),
            Self::Program(text) => f.write_str(text),
        }
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    root: Node,
    tree: Expr,
    output: Type,
}

impl Program {
    /// Compiles an expression over the environment's variables.
    ///
    /// # Errors
    /// In the words of cel-go.
    pub fn compile(source: &str, environment: &Environment) -> Result<Self, CompileError> {
        let parsed = parse(source).map_err(CompileError::Issues)?;
        let (checked, mut found) = check(parsed, environment);
        if found.is_empty() {
            check_literals(&checked, &mut found);
        }
        if !found.is_empty() {
            return Err(CompileError::Issues(found.into_issues(source)));
        }
        let root = plan(&checked, environment).map_err(CompileError::Program)?;
        let output = checked.type_of(checked.root.id).clone();
        Ok(Self { root, output, tree: checked.root })
    }

    /// The type of what it yields.
    pub const fn output_type(&self) -> &Type {
        &self.output
    }

    /// Runs it with the values of the environment's variables, in the order of their declaration.
    ///
    /// # Errors
    /// What went wrong, in cel-go's words.
    pub fn run<'a>(&'a self, variables: Vec<Val<'a>>) -> Result<Val<'a>, Fault> {
        run(&self.root, variables, &[], PER_CALL_COST_MAX).0
    }

    /// As [`Program::run`], with answers to what it may ask and a budget of its own; also says what it cost.
    pub fn run_within<'a>(
        &'a self,
        variables: Vec<Val<'a>>,
        answers: &'a [(Question, Decision)],
        cost_max: u64,
    ) -> (Result<Val<'a>, Fault>, u64) {
        run(&self.root, variables, answers, cost_max)
    }

    /// Does it select `field` from the variable, as `variable.field`, `variable.?field` or in `has(variable.field)`?
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        let mut is_found = false;
        self.tree.walk(&mut |expr| {
            let selected = match &expr.kind {
                Kind::Select { operand, field, .. } => Some((operand.as_ref(), field.as_str())),
                Kind::Call { function, args, .. } if function == "_?._" => match &args[..] {
                    [operand, Expr { kind: Kind::Literal(key), .. }] => key.as_str().map(|key| (operand, key)),
                    _ => None,
                },
                _ => None,
            };
            let is_it = |(operand, selected): (&Expr, &str)| {
                selected == field && matches!(&operand.kind, Kind::Ident(name) if name == variable)
            };
            is_found = is_found || selected.is_some_and(is_it);
        });
        is_found
    }
}
