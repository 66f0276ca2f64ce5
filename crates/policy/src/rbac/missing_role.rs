//! A role that a binding refers to and that is not there, in upstream's two wordings.
//!
//! The authorizer looks roles up in informers' listers, which name one thing (`role`, `clusterrole`); the check on writes
//! looks them up in the storage, which names the resource (`roles`, `clusterroles`).

use std::fmt;

use machinery::{CompactString, GroupResource, Reason, Status};

const GROUP: &str = "rbac.authorization.k8s.io";

/// What a `roleRef` says of a role that cannot be found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingRole {
    /// `Role` or `ClusterRole`; anything else is no kind of role.
    pub kind: CompactString,
    pub name: CompactString,
}

impl MissingRole {
    /// The storage's answer: 404 about the role, or 500 when there are no roles of such a kind (an error upstream makes no
    /// status of).
    pub fn status(&self) -> Status {
        match self.kind.as_str() {
            "Role" => Status::not_found(&GroupResource::new(GROUP, "roles"), &self.name),
            "ClusterRole" => Status::not_found(&GroupResource::new(GROUP, "clusterroles"), &self.name),
            _ => Status { code: 500, ..Status::new(Reason::Unknown, self.to_string()) },
        }
    }
}

/// The listers' text.
impl fmt::Display for MissingRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = match self.kind.as_str() {
            "Role" => "role",
            "ClusterRole" => "clusterrole",
            other => return write!(f, "unsupported role reference kind: {other:?}"),
        };
        write!(f, "{resource}.{GROUP} {:?} not found", self.name)
    }
}
