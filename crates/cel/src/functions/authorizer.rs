//! May somebody do something? (`k8s.io/apiserver/pkg/cel/library/authz.go`) The expression puts the question together;
//! who runs it answers.

use machinery::names::{is_dns1123_label, is_dns1123_subdomain};

use super::{NO_SUCH_OVERLOAD, Outcome, Row, row, text};
use crate::opaque::Opaque;
use crate::value::Val;

pub(super) const ROWS: &[Row] = &[
    row(
        "kubernetes.authorization.Authorizer::path(string) -> kubernetes.authorization.PathCheck",
        "authorizer_path",
        |args| {
            let (authorizer, path) = (authorizer(&args[0])?, text(&args[1])?);
            if path.trim().is_empty() {
                return Err("path must not be empty".to_owned());
            }
            Ok(made(Check::Path { subject: authorizer.clone(), path: path.to_owned() }))
        },
    ),
    row(
        "kubernetes.authorization.Authorizer::group(string) -> kubernetes.authorization.GroupCheck",
        "authorizer_group",
        |args| Ok(made(Check::Group { subject: authorizer(&args[0])?.clone(), group: text(&args[1])?.to_owned() })),
    ),
    row(
        "kubernetes.authorization.Authorizer::serviceAccount(string, string) -> kubernetes.authorization.Authorizer",
        "authorizer_serviceaccount",
        service_account,
    ),
    row(
        "kubernetes.authorization.GroupCheck::resource(string) -> kubernetes.authorization.ResourceCheck",
        "groupcheck_resource",
        |args| {
            let Check::Group { subject, group } = check(&args[0])? else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
            let resource = text(&args[1])?;
            if resource.trim().is_empty() {
                return Err("resource must not be empty".to_owned());
            }
            let (subject, group, resource) = (subject.clone(), group.clone(), resource.to_owned());
            Ok(made(Check::Resource(Box::new(Resource { subject, group, resource, ..Resource::default() }))))
        },
    ),
    row(
        "kubernetes.authorization.ResourceCheck::subresource(string) -> kubernetes.authorization.ResourceCheck",
        "resourcecheck_subresource",
        |args| with(args, |resource, text| resource.subresource = text),
    ),
    row(
        "kubernetes.authorization.ResourceCheck::namespace(string) -> kubernetes.authorization.ResourceCheck",
        "resourcecheck_namespace",
        |args| with(args, |resource, text| resource.namespace = text),
    ),
    row(
        "kubernetes.authorization.ResourceCheck::name(string) -> kubernetes.authorization.ResourceCheck",
        "resourcecheck_name",
        |args| with(args, |resource, text| resource.name = text),
    ),
    row(
        "kubernetes.authorization.PathCheck::check(string) -> kubernetes.authorization.Decision",
        "pathcheck_check",
        |_| Err(NO_SUCH_OVERLOAD.to_owned()),
    ),
    row(
        "kubernetes.authorization.ResourceCheck::check(string) -> kubernetes.authorization.Decision",
        "resourcecheck_check",
        |_| Err(NO_SUCH_OVERLOAD.to_owned()),
    ),
    row("kubernetes.authorization.Decision::errored() -> bool", "decision_errored", |args| {
        Ok(Val::Bool(decision(&args[0])?.error.is_some()))
    }),
    row("kubernetes.authorization.Decision::error() -> string", "decision_error", |args| {
        Ok(Val::from_string(decision(&args[0])?.error.as_deref().unwrap_or_default()))
    }),
    row("kubernetes.authorization.Decision::allowed() -> bool", "decision_allowed", |args| {
        Ok(Val::Bool(decision(&args[0])?.is_allowed))
    }),
    row("kubernetes.authorization.Decision::reason() -> string", "decision_reason", |args| {
        Ok(Val::from_string(&decision(&args[0])?.reason))
    }),
    row(
        "kubernetes.authorization.ResourceCheck::fieldSelector(string) -> kubernetes.authorization.ResourceCheck",
        "authorizer_fieldselector",
        |args| with(args, |resource, text| resource.field_selector = text),
    ),
    row(
        "kubernetes.authorization.ResourceCheck::labelSelector(string) -> kubernetes.authorization.ResourceCheck",
        "authorizer_labelselector",
        |args| with(args, |resource, text| resource.label_selector = text),
    ),
];

/// Whose permissions are asked about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Authorizer {
    /// The one who makes the request.
    #[default]
    Requester,
    /// A service account, by namespace and name.
    ServiceAccount(String, String),
}

/// A question that is being put together.
#[derive(Clone, Debug)]
pub enum Check {
    Path { subject: Authorizer, path: String },
    Group { subject: Authorizer, group: String },
    Resource(Box<Resource>),
}

/// A resource that is asked about. Selectors are as they were written; empty means none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resource {
    pub subject: Authorizer,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

/// May the subject do this?
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    Path { subject: Authorizer, path: String, verb: String },
    Resource { of: Box<Resource>, verb: String },
}

/// The answer to a [`Question`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    pub is_allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

impl Check {
    pub(crate) const fn type_name(&self) -> &'static str {
        match self {
            Self::Path { .. } => "kubernetes.authorization.PathCheck",
            Self::Group { .. } => "kubernetes.authorization.GroupCheck",
            Self::Resource(_) => "kubernetes.authorization.ResourceCheck",
        }
    }
}

/// The question that `check(verb)` asks.
pub(crate) fn question(args: &[Val<'_>]) -> Result<Question, String> {
    let verb = text(&args[1])?.to_owned();
    match check(&args[0])? {
        Check::Path { subject, path } => Ok(Question::Path { subject: subject.clone(), path: path.clone(), verb }),
        Check::Resource(of) => Ok(Question::Resource { of: of.clone(), verb }),
        Check::Group { .. } => Err(NO_SUCH_OVERLOAD.to_owned()),
    }
}

fn made<'a>(check: Check) -> Val<'a> {
    Val::from_opaque(Opaque::Check(check))
}

fn opaque<'v>(value: &'v Val<'_>) -> Result<&'v Opaque, String> {
    if let Val::Opaque(opaque) = value { Ok(opaque) } else { Err(NO_SUCH_OVERLOAD.to_owned()) }
}

fn authorizer<'v>(value: &'v Val<'_>) -> Result<&'v Authorizer, String> {
    if let Opaque::Authorizer(it) = opaque(value)? { Ok(it) } else { Err(NO_SUCH_OVERLOAD.to_owned()) }
}

fn check<'v>(value: &'v Val<'_>) -> Result<&'v Check, String> {
    if let Opaque::Check(it) = opaque(value)? { Ok(it) } else { Err(NO_SUCH_OVERLOAD.to_owned()) }
}

fn decision<'v>(value: &'v Val<'_>) -> Result<&'v Decision, String> {
    if let Opaque::Decision(it) = opaque(value)? { Ok(it) } else { Err(NO_SUCH_OVERLOAD.to_owned()) }
}

fn with<'a>(args: &[Val<'a>], set: fn(&mut Resource, String)) -> Outcome<'a> {
    let Check::Resource(resource) = check(&args[0])? else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    let mut copy = resource.clone();
    set(&mut copy, text(&args[1])?.to_owned());
    Ok(made(Check::Resource(copy)))
}

fn service_account<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    authorizer(&args[0])?;
    let (namespace, name) = (text(&args[1])?, text(&args[2])?);
    if !is_dns1123_subdomain(name).is_empty() {
        return Err("Invalid service account name".to_owned());
    }
    if !is_dns1123_label(namespace).is_empty() {
        return Err("Invalid service account namespace".to_owned());
    }
    let subject = Authorizer::ServiceAccount(namespace.to_owned(), name.to_owned());
    Ok(Val::from_opaque(Opaque::Authorizer(subject)))
}
