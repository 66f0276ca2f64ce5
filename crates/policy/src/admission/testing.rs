//! A request in one line, for the plugins' tests.

use base::Timestamp;
use machinery::{GroupVersionKind, GroupVersionResource, Status, Value, json};

use super::{AdmissionRequest, MapReader, Mutate, Operation, Validate};
use crate::UserInfo;

/// Namespace and service account `default`.
pub(crate) fn reader() -> MapReader {
    let mut reader = MapReader::default();
    reader.put("", "namespaces", json!({"metadata": {"name": "default"}, "status": {"phase": "Active"}}));
    reader.put("", "serviceaccounts", json!({"metadata": {"namespace": "default", "name": "default"}}));
    reader
}

pub(crate) struct Case<'a> {
    pub(crate) operation: Operation,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) object: Value,
    pub(crate) old: Option<Value>,
    pub(crate) user: UserInfo,
}

impl<'a> Case<'a> {
    pub(crate) fn create(group: &'a str, resource: &'a str, namespace: &'a str, object: Value) -> Self {
        let user = UserInfo::new("u", &[]);
        Self {
            operation: Operation::Create,
            group,
            resource,
            subresource: "",
            namespace,
            name: "",
            object,
            old: None,
            user,
        }
    }

    fn with<T>(&self, object: Option<&Value>, run: impl FnOnce(&AdmissionRequest<'_>) -> T) -> T {
        run(&AdmissionRequest {
            operation: self.operation,
            kind: &GroupVersionKind::new(self.group, "v1", ""),
            resource: &GroupVersionResource::new(self.group, "v1", self.resource),
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            object,
            old: self.old.as_ref(),
            user: &self.user,
            dry_run: false,
            now: Timestamp::from_unix_seconds(0),
            seed: 1,
            may: &|_| false,
        })
    }

    pub(crate) fn mutate_by(&self, plugin: Mutate, reader: &MapReader) -> Result<Value, Status> {
        let mut object = self.object.clone();
        self.with(None, |request| plugin(request, &mut object, reader)).map(|()| object)
    }

    pub(crate) fn with_request<T>(&self, run: impl FnOnce(&AdmissionRequest<'_>) -> T) -> T {
        self.with(Some(&self.object), run)
    }

    pub(crate) fn validate_by(&self, plugin: Validate, reader: &MapReader) -> Result<(), Status> {
        self.with(Some(&self.object), |request| plugin(request, reader))
    }
}
