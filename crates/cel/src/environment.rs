//! What expressions may name: variables, and types with fields.

use std::collections::BTreeMap;

use crate::functions::registered_types;
use crate::types::Type;

/// The names an expression is checked against, beyond the libraries that Kubernetes 1.33 gives to all.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<(String, Type)>,
    structs: BTreeMap<String, BTreeMap<String, Type>>,
}

impl Environment {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a variable more. Programs take its value in the order of these calls.
    #[must_use]
    pub fn with(mut self, name: &str, known: Type) -> Self {
        self.variables.push((name.to_owned(), known));
        self
    }

    /// With a type that has fields.
    #[must_use]
    pub fn with_struct<'f>(mut self, name: &str, fields: impl IntoIterator<Item = (&'f str, Type)>) -> Self {
        let fields = fields.into_iter().map(|(field, known)| (field.to_owned(), known)).collect();
        self.structs.insert(name.to_owned(), fields);
        self
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&Type> {
        self.variables.iter().find(|(other, _)| other == name).map(|(_, known)| known)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn struct_type(&self, name: &str) -> Option<&BTreeMap<String, Type>> {
        self.structs.get(name)
    }

    pub(crate) fn type_named(&self, name: &str) -> Option<Type> {
        if self.structs.contains_key(name) {
            return Some(Type::object(name));
        }
        registered_types().iter().find(|known| known.name() == name).cloned()
    }
}
