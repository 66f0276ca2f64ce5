//! CEL in an authenticator: what claims must satisfy, whom they stand for, and what that user must satisfy
//! (`apiserver/pkg/authentication/cel`).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use cel::{CompileError, Environment, Program, Type, Val};
use machinery::{FieldError, FieldPath, Value};

use crate::UserInfo;

/// Claims as an expression sees them: of any type until it runs.
static CLAIMS: LazyLock<Environment> =
    LazyLock::new(|| Environment::new().with("claims", Type::map(Type::String, Type::Any)));

/// The user that was made of them.
static USER: LazyLock<Environment> = LazyLock::new(|| {
    let texts = || Type::list(Type::String);
    let fields = [
        ("username", Type::String),
        ("uid", Type::String),
        ("groups", texts()),
        ("extra", Type::map(Type::String, texts())),
    ];
    Environment::new().with_struct("kubernetes.UserInfo", fields).with("user", Type::object("kubernetes.UserInfo"))
});

/// A compiled expression; two are equal when their texts are.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    /// What is said when it yields false.
    message: String,
    program: Arc<Program>,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.message == other.message
    }
}

impl Eq for Expression {}

/// The expressions of an authenticator.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expressions {
    pub(super) username: Option<Expression>,
    pub(super) groups: Option<Expression>,
    pub(super) uid: Option<Expression>,
    /// By key.
    pub(super) extra: Vec<(String, Expression)>,
    pub(super) claim_rules: Vec<Expression>,
    pub(super) user_rules: Vec<Expression>,
}

/// What an expression is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// Claims become something.
    Mapping,
    /// Claims are right or wrong.
    ClaimRule,
    /// A user is right or wrong.
    UserRule,
}

impl Expression {
    /// Compiles; in upstream's words what is wrong.
    pub(super) fn compile(text: &str, message: &str, use_: Use, path: &FieldPath) -> Result<Self, FieldError> {
        let environment = if use_ == Use::UserRule { &*USER } else { &*CLAIMS };
        let invalid = |detail: String| FieldError::invalid(path, &text.into(), detail);
        let program = Program::compile(text, environment).map_err(|why| match why {
            CompileError::Issues(issues) => invalid(format!("compilation failed: {issues}")),
            CompileError::Program(why) => FieldError::internal(path, format!("program instantiation failed: {why}")),
        })?;
        if use_ != Use::Mapping && *program.output_type() != Type::Bool {
            return Err(invalid("must evaluate to bool".to_owned()));
        }
        Ok(Self { text: text.to_owned(), message: message.to_owned(), program: Arc::new(program) })
    }

    /// Does it read this claim by name?
    pub(super) fn reads(&self, claim: &str) -> bool {
        self.program.selects("claims", claim)
    }

    fn run<'a>(&'a self, variable: &'a Value) -> Result<Val<'a>, String> {
        let outcome = self.program.run(vec![Val::from(variable)]);
        outcome.map_err(|why| format!("expression '{}' resulted in error: {why}", self.text))
    }

    /// What claims become: one text.
    pub(super) fn text(&self, claims: &Value, name: &str) -> Result<String, String> {
        let context = |why: String| format!("oidc: error evaluating {name} claim expression: {why}");
        match self.run(claims).map_err(context)? {
            Val::String(text) => Ok(text.to_string()),
            _ => Err(context(format!("{name} claim expression must return a string"))),
        }
    }

    /// What claims become: texts, without the empty ones.
    fn texts(&self, claims: &Value) -> Result<Result<Vec<String>, String>, String> {
        let wrong = || "expression must return a string or a list of strings".to_owned();
        let all = match self.run(claims)? {
            Val::Null => Ok(Vec::new()),
            Val::String(text) => Ok(vec![text.to_string()]),
            Val::List(list) => {
                list.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect::<Result<_, _>>()
            }
            _ => Err(wrong()),
        };
        Ok(all.map(|mut texts: Vec<String>| {
            texts.retain(|text| !text.is_empty());
            texts
        }))
    }

    /// The names of groups.
    pub(super) fn groups(&self, claims: &Value) -> Result<Vec<String>, String> {
        let context = |why: String| format!("oidc: error evaluating group claim expression: {why}");
        self.texts(claims).map_err(context)?.map_err(context)
    }
}

impl Expressions {
    /// The extra information that claims become.
    pub(super) fn extra(&self, claims: &Value, into: &mut BTreeMap<String, Vec<String>>) -> Result<(), String> {
        for (key, expression) in &self.extra {
            let context =
                |why: String| format!("oidc: error evaluating extra claim expression: {}: {why}", expression.text);
            let values = expression.texts(claims)?.map_err(context)?;
            if !values.is_empty() {
                into.insert(key.clone(), values);
            }
        }
        Ok(())
    }

    /// Are the claims as they must be?
    pub(super) fn check_claims(&self, claims: &Value) -> Result<(), String> {
        check(&self.claim_rules, claims)
            .map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))
    }

    /// Is the user as it must be? What is empty is absent, as in the API's type.
    pub(super) fn check_user(&self, user: &UserInfo) -> Result<(), String> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        let mut object = Value::object();
        for (key, text) in [("username", &user.name), ("uid", &user.uid)] {
            if !text.is_empty() {
                object.set(key, text.as_str());
            }
        }
        let texts = |texts: &[String]| texts.iter().map(|text| Value::from(text.as_str())).collect::<Vec<_>>();
        if !user.groups.is_empty() {
            object.set("groups", texts(&user.groups));
        }
        for (key, values) in &user.extra {
            object.at_mut(&["extra"]).set(key, texts(values));
        }
        check(&self.user_rules, &object)
            .map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))
    }
}

fn check(rules: &[Expression], variable: &Value) -> Result<(), String> {
    // All are evaluated before the first is judged, so that an error in any is what is reported.
    let outcomes = rules.iter().map(|rule| rule.run(variable)).collect::<Result<Vec<_>, _>>()?;
    for (rule, outcome) in rules.iter().zip(outcomes) {
        match outcome {
            Val::Bool(true) => {}
            Val::Bool(false) => {
                return Err(format!("validation expression '{}' failed: {}", rule.text, rule.message));
            }
            _ => return Err("validation expression must return a boolean".to_owned()),
        }
    }
    Ok(())
}
