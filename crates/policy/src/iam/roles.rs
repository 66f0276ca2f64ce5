//! Predefined roles and the permissions they hold, as patterns over `service.resource.verb`.
//!
//! Only what this emulator asks for is told apart; Google's lists name thousands of permissions more.

/// A role: what it allows, less what it leaves out.
struct Role {
    name: &'static str,
    allows: &'static [&'static str],
    except: &'static [&'static str],
}

/// Changing who may do what inside a cluster belongs to owners and Kubernetes Engine admins; using keys and being somebody
/// else, to the roles made for it.
const EDITOR_EXCEPT: &[&str] = &[
    "container.roles.create",
    "container.roles.update",
    "container.roles.delete",
    "container.roles.bind",
    "container.roles.escalate",
    "container.roleBindings.create",
    "container.roleBindings.update",
    "container.roleBindings.delete",
    "container.clusterRoles.create",
    "container.clusterRoles.update",
    "container.clusterRoles.delete",
    "container.clusterRoles.bind",
    "container.clusterRoles.escalate",
    "container.clusterRoleBindings.create",
    "container.clusterRoleBindings.update",
    "container.clusterRoleBindings.delete",
    "container.*.impersonate",
    "container.certificateSigningRequests.approve",
    "container.localSubjectAccessReviews.create",
    "container.serviceAccounts.createToken",
    "container.subjectAccessReviews.create",
    "*.*.setIamPolicy",
    "cloudkms.cryptoKeyVersions.destroy",
    "cloudkms.cryptoKeyVersions.restore",
    "cloudkms.cryptoKeyVersions.useToDecrypt",
    "cloudkms.cryptoKeyVersions.useToEncrypt",
    "cloudkms.cryptoKeyVersions.useToSign",
    "cloudkms.cryptoKeyVersions.useToVerify",
    "cloudkms.cryptoKeyVersions.viewPublicKey",
    "iam.serviceAccounts.getAccessToken",
    "iam.serviceAccounts.getOpenIdToken",
    "iam.serviceAccounts.implicitDelegation",
    "iam.serviceAccounts.signBlob",
    "iam.serviceAccounts.signJwt",
];

const DEVELOPER_EXCEPT: &[&str] = &[
    "container.roles.create",
    "container.roles.update",
    "container.roles.delete",
    "container.roles.bind",
    "container.roles.escalate",
    "container.roleBindings.create",
    "container.roleBindings.update",
    "container.roleBindings.delete",
    "container.clusterRoles.create",
    "container.clusterRoles.update",
    "container.clusterRoles.delete",
    "container.clusterRoles.bind",
    "container.clusterRoles.escalate",
    "container.clusterRoleBindings.create",
    "container.clusterRoleBindings.update",
    "container.clusterRoleBindings.delete",
    "container.*.impersonate",
    "container.clusters.create",
    "container.clusters.update",
    "container.clusters.delete",
    "container.clusters.getCredentials",
    "container.clusters.setIamPolicy",
    "container.operations.*",
    "container.certificateSigningRequests.approve",
    "container.certificateSigningRequests.getStatus",
    "container.controllerRevisions.create",
    "container.controllerRevisions.update",
    "container.controllerRevisions.delete",
    "container.mutatingWebhookConfigurations.create",
    "container.mutatingWebhookConfigurations.update",
    "container.mutatingWebhookConfigurations.delete",
    "container.validatingWebhookConfigurations.create",
    "container.validatingWebhookConfigurations.update",
    "container.validatingWebhookConfigurations.delete",
];

/// Logs of pods are not among them, nor questions about rights: those about one's own RBAC allows to everybody.
const READS: &[&str] = &[
    "container.*.get",
    "container.*.list",
    "container.*.getStatus",
    "container.*.getScale",
    "container.clusters.connect",
    "container.tokenReviews.create",
    "resourcemanager.projects.get",
    "resourcemanager.projects.list",
];

const ALL_READS: &[&str] = &[
    "*.*.get",
    "*.*.list",
    "container.*.getStatus",
    "container.*.getScale",
    "container.pods.getLogs",
    "container.clusters.connect",
    "container.tokenReviews.create",
    "container.selfSubjectAccessReviews.create",
    "container.selfSubjectRulesReviews.create",
    "resourcemanager.projects.getIamPolicy",
];

/// Who administers keys does not use them.
const CLOUDKMS_USES: &[&str] = &[
    "cloudkms.cryptoKeyVersions.useToDecrypt",
    "cloudkms.cryptoKeyVersions.useToEncrypt",
    "cloudkms.cryptoKeyVersions.useToSign",
    "cloudkms.cryptoKeyVersions.useToVerify",
    "cloudkms.cryptoKeyVersions.viewPublicKey",
];
const PRIVATECA_READS: &[&str] =
    &["privateca.*.get", "privateca.*.list", "privateca.*.getIamPolicy", "resourcemanager.projects.get"];

const ROLES: &[Role] = &[
    Role { name: "roles/owner", allows: &["*.*.*"], except: &[] },
    Role { name: "roles/editor", allows: &["*.*.*"], except: EDITOR_EXCEPT },
    Role { name: "roles/viewer", allows: ALL_READS, except: &["container.secrets.get", "container.secrets.list"] },
    Role {
        name: "roles/browser",
        allows: &[
            "resourcemanager.projects.get",
            "resourcemanager.projects.list",
            "resourcemanager.projects.getIamPolicy",
        ],
        except: &[],
    },
    Role {
        name: "roles/container.admin",
        allows: &["container.*.*", "resourcemanager.projects.get", "resourcemanager.projects.list"],
        except: &["container.clusters.setIamPolicy"],
    },
    Role {
        name: "roles/container.developer",
        allows: &["container.*.*", "resourcemanager.projects.get", "resourcemanager.projects.list"],
        except: DEVELOPER_EXCEPT,
    },
    Role {
        name: "roles/container.viewer",
        allows: READS,
        except: &["container.secrets.get", "container.secrets.list"],
    },
    Role {
        name: "roles/container.clusterViewer",
        allows: &[
            "container.clusters.get",
            "container.clusters.list",
            "container.clusters.connect",
            "resourcemanager.projects.get",
            "resourcemanager.projects.list",
        ],
        except: &[],
    },
    Role {
        name: "roles/container.clusterAdmin",
        allows: &[
            "container.clusters.*",
            "container.operations.*",
            "compute.*.get",
            "compute.*.list",
            "resourcemanager.projects.get",
            "resourcemanager.projects.list",
        ],
        except: &[
            "container.clusters.setIamPolicy",
            "container.clusters.impersonate",
            "container.clusters.getCredentials",
        ],
    },
    Role {
        name: "roles/container.serviceAgent",
        allows: &[
            "compute.*.*",
            "container.*.*",
            "iam.serviceAccounts.actAs",
            "iam.serviceAccounts.get",
            "iam.serviceAccounts.getAccessToken",
            "logging.logEntries.create",
            "resourcemanager.projects.get",
            "serviceusage.services.use",
        ],
        except: &[],
    },
    Role {
        name: "roles/container.defaultNodeServiceAccount",
        allows: &[
            "logging.logEntries.create",
            "monitoring.timeSeries.create",
            "monitoring.timeSeries.list",
            "monitoring.metricDescriptors.create",
            "monitoring.metricDescriptors.list",
            "autoscaling.sites.writeMetrics",
        ],
        except: &[],
    },
    Role {
        name: "roles/iam.serviceAccountAdmin",
        allows: &["iam.serviceAccounts.*", "resourcemanager.projects.get"],
        except: &[
            "iam.serviceAccounts.actAs",
            "iam.serviceAccounts.getAccessToken",
            "iam.serviceAccounts.getOpenIdToken",
            "iam.serviceAccounts.implicitDelegation",
            "iam.serviceAccounts.signBlob",
            "iam.serviceAccounts.signJwt",
        ],
    },
    Role {
        name: "roles/iam.serviceAccountKeyAdmin",
        allows: &["iam.serviceAccountKeys.*", "iam.serviceAccounts.get", "iam.serviceAccounts.list"],
        except: &[],
    },
    Role {
        name: "roles/iam.serviceAccountUser",
        allows: &["iam.serviceAccounts.actAs", "iam.serviceAccounts.get", "iam.serviceAccounts.list"],
        except: &[],
    },
    Role {
        name: "roles/iam.serviceAccountTokenCreator",
        allows: &[
            "iam.serviceAccounts.get",
            "iam.serviceAccounts.getAccessToken",
            "iam.serviceAccounts.getOpenIdToken",
            "iam.serviceAccounts.implicitDelegation",
            "iam.serviceAccounts.list",
            "iam.serviceAccounts.signBlob",
            "iam.serviceAccounts.signJwt",
        ],
        except: &[],
    },
    Role {
        name: "roles/iam.serviceAccountOpenIdTokenCreator",
        allows: &["iam.serviceAccounts.getOpenIdToken"],
        except: &[],
    },
    Role {
        name: "roles/iam.workloadIdentityUser",
        allows: &[
            "iam.serviceAccounts.get",
            "iam.serviceAccounts.getAccessToken",
            "iam.serviceAccounts.getOpenIdToken",
            "iam.serviceAccounts.list",
        ],
        except: &[],
    },
    Role {
        name: "roles/iam.securityAdmin",
        allows: &[
            "*.*.getIamPolicy",
            "*.*.setIamPolicy",
            "resourcemanager.projects.get",
            "iam.serviceAccounts.get",
            "iam.serviceAccounts.list",
        ],
        except: &[],
    },
    Role {
        name: "roles/resourcemanager.projectIamAdmin",
        allows: &[
            "resourcemanager.projects.get",
            "resourcemanager.projects.getIamPolicy",
            "resourcemanager.projects.setIamPolicy",
        ],
        except: &[],
    },
    Role { name: "roles/serviceusage.serviceUsageAdmin", allows: &["serviceusage.*.*"], except: &[] },
    Role {
        name: "roles/serviceusage.serviceUsageConsumer",
        allows: &["serviceusage.services.get", "serviceusage.services.list", "serviceusage.services.use"],
        except: &[],
    },
    Role {
        name: "roles/compute.viewer",
        allows: &["compute.*.get", "compute.*.list", "resourcemanager.projects.get"],
        except: &[],
    },
    Role { name: "roles/privateca.admin", allows: &["privateca.*.*", "resourcemanager.projects.get"], except: &[] },
    Role { name: "roles/privateca.auditor", allows: PRIVATECA_READS, except: &[] },
    Role {
        name: "roles/privateca.caManager",
        allows: &[
            "privateca.*.get",
            "privateca.*.list",
            "privateca.*.getIamPolicy",
            "privateca.caPools.create",
            "privateca.caPools.delete",
            "privateca.caPools.update",
            "privateca.certificateAuthorities.create",
            "privateca.certificateAuthorities.delete",
            "privateca.certificateAuthorities.update",
            "privateca.certificates.update",
            "resourcemanager.projects.get",
        ],
        except: &[],
    },
    Role {
        name: "roles/privateca.certificateManager",
        allows: &[
            "privateca.*.get",
            "privateca.*.list",
            "privateca.*.getIamPolicy",
            "privateca.certificates.create",
            "resourcemanager.projects.get",
        ],
        except: &[],
    },
    Role { name: "roles/privateca.certificateRequester", allows: &["privateca.certificates.create"], except: &[] },
    Role { name: "roles/privateca.poolReader", allows: &["privateca.caPools.get"], except: &[] },
    Role { name: "roles/compute.admin", allows: &["compute.*.*", "resourcemanager.projects.get"], except: &[] },
    Role {
        name: "roles/container.cloudKmsKeyUser",
        allows: &[
            "cloudkms.cryptoKeyVersions.get",
            "cloudkms.cryptoKeyVersions.useToSign",
            "cloudkms.cryptoKeyVersions.viewPublicKey",
        ],
        except: &[],
    },
    Role {
        name: "roles/cloudkms.admin",
        allows: &["cloudkms.*.*", "resourcemanager.projects.get"],
        except: CLOUDKMS_USES,
    },
    Role {
        name: "roles/cloudkms.viewer",
        allows: &["cloudkms.*.get", "cloudkms.*.list", "resourcemanager.projects.get"],
        except: &[],
    },
    Role {
        name: "roles/cloudkms.cryptoKeyEncrypterDecrypterViaDelegation",
        allows: &[
            "cloudkms.cryptoKeyVersions.useToDecryptViaDelegation",
            "cloudkms.cryptoKeyVersions.useToEncryptViaDelegation",
            "cloudkms.locations.get",
            "cloudkms.locations.list",
            "resourcemanager.projects.get",
        ],
        except: &[],
    },
    Role {
        name: "roles/cloudkms.cryptoKeyEncrypterDecrypter",
        allows: &[
            "cloudkms.cryptoKeyVersions.useToDecrypt",
            "cloudkms.cryptoKeyVersions.useToEncrypt",
            "cloudkms.locations.get",
            "cloudkms.locations.list",
            "resourcemanager.projects.get",
        ],
        except: &[],
    },
    Role {
        name: "roles/cloudkms.cryptoKeyEncrypter",
        allows: &[
            "cloudkms.cryptoKeyVersions.useToEncrypt",
            "cloudkms.locations.get",
            "cloudkms.locations.list",
            "resourcemanager.projects.get",
        ],
        except: &[],
    },
    Role {
        name: "roles/cloudkms.cryptoKeyDecrypter",
        allows: &[
            "cloudkms.cryptoKeyVersions.useToDecrypt",
            "cloudkms.locations.get",
            "cloudkms.locations.list",
            "resourcemanager.projects.get",
        ],
        except: &[],
    },
    Role {
        name: "roles/cloudkms.signer",
        allows: &[
            "cloudkms.cryptoKeyVersions.useToSign",
            "cloudkms.locations.get",
            "cloudkms.locations.list",
            "resourcemanager.projects.get",
        ],
        except: &[],
    },
    Role {
        name: "roles/cloudkms.signerVerifier",
        allows: &[
            "cloudkms.cryptoKeyVersions.useToSign",
            "cloudkms.cryptoKeyVersions.useToVerify",
            "cloudkms.cryptoKeyVersions.viewPublicKey",
            "cloudkms.locations.get",
            "cloudkms.locations.list",
            "resourcemanager.projects.get",
        ],
        except: &[],
    },
    Role {
        name: "roles/cloudkms.publicKeyViewer",
        allows: &[
            "cloudkms.cryptoKeyVersions.viewPublicKey",
            "cloudkms.locations.get",
            "cloudkms.locations.list",
            "resourcemanager.projects.get",
        ],
        except: &[],
    },
];

/// Is it a predefined role that this emulator knows?
pub fn is_known_role(role: &str) -> bool {
    ROLES.iter().any(|r| r.name == role)
}

/// Does the role hold the permission (`container.pods.list`)? Unknown roles hold nothing.
pub fn role_allows(role: &str, permission: &str) -> bool {
    ROLES.iter().find(|r| r.name == role).is_some_and(|role| {
        role.allows.iter().any(|p| matches(p, permission)) && !role.except.iter().any(|p| matches(p, permission))
    })
}

/// Could a project's policy name the role? Of the services that this emulator has, the roles in the table and no other;
/// of all others any name, as nobody here can tell: they hold nothing.
pub fn is_possible_role(role: &str) -> bool {
    let Some(name) = role.strip_prefix("roles/") else { return false };
    let letters = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    match name.split_once('.') {
        None => is_known_role(role),
        Some((service, name)) => {
            letters(service)
                && name.split('.').all(letters)
                && match service {
                    "container" => is_known_role(role) || OTHER_CONTAINER_ROLES.contains(&name),
                    "cloudkms" => is_known_role(role) || OTHER_CLOUDKMS_ROLES.contains(&name),
                    _ => true,
                }
        }
    }
}

/// Roles of Kubernetes Engine that hold nothing this emulator asks for.
const OTHER_CONTAINER_ROLES: &[&str] =
    &["defaultNodeServiceAgent", "hostServiceAgentUser", "nodeServiceAccount", "nodeServiceAgent"];

/// Roles of Cloud KMS for what is not here: other kinds of keys, and use by way of other services.
const OTHER_CLOUDKMS_ROLES: &[&str] = &[
    "autokeyAdmin",
    "autokeyUser",
    "cryptoKeyDecrypterViaDelegation",
    "cryptoKeyEncrypterViaDelegation",
    "cryptoOperator",
    "ekmConnectionsAdmin",
    "expertRawAesCbc",
    "expertRawAesCtr",
    "expertRawPKCS1",
    "importer",
    "protectedResourcesViewer",
    "verifier",
];

/// The roles that hold a permission, the one that holds least first.
pub fn roles_with(permission: &str) -> impl Iterator<Item = &'static str> {
    const SMALLEST_FIRST: &[&str] = &[
        "roles/container.clusterViewer",
        "roles/container.viewer",
        "roles/container.developer",
        "roles/container.clusterAdmin",
        "roles/container.admin",
        "roles/viewer",
        "roles/editor",
        "roles/owner",
    ];
    let permission = permission.to_owned();
    SMALLEST_FIRST.iter().copied().filter(move |role| role_allows(role, &permission))
}

fn matches(pattern: &str, permission: &str) -> bool {
    let (mut pattern, mut permission) = (pattern.split('.'), permission.split('.'));
    loop {
        match (pattern.next(), permission.next()) {
            (None, None) => return true,
            (Some(p), Some(q)) if p == "*" || p == q => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_hold_what_the_documentation_says() {
        let cases = [
            ("roles/owner", "container.clusterRoleBindings.create", true),
            ("roles/editor", "container.clusters.create", true),
            ("roles/editor", "container.clusterRoleBindings.create", false),
            ("roles/viewer", "container.pods.list", true),
            ("roles/viewer", "container.secrets.list", false),
            ("roles/viewer", "container.pods.create", false),
            ("roles/container.admin", "container.clusterRoles.bind", true),
            ("roles/container.developer", "container.secrets.get", true),
            ("roles/container.developer", "container.pods.exec", true),
            ("roles/container.developer", "container.clusters.delete", false),
            ("roles/container.viewer", "container.thirdPartyObjects.list", true),
            ("roles/container.viewer", "container.secrets.get", false),
            ("roles/container.viewer", "container.pods.getLogs", false),
            ("roles/container.developer", "container.pods.getLogs", true),
            ("roles/container.clusterViewer", "container.clusters.get", true),
            ("roles/container.clusterViewer", "container.pods.list", false),
            ("roles/container.clusterAdmin", "container.clusters.delete", true),
            ("roles/container.clusterAdmin", "container.pods.list", false),
            ("roles/container.admin", "container.clusters.impersonate", true),
            ("roles/editor", "container.clusters.impersonate", false),
            ("roles/container.developer", "container.clusters.impersonate", false),
            ("roles/container.clusterAdmin", "container.clusters.impersonate", false),
            ("roles/editor", "iam.serviceAccounts.getOpenIdToken", false),
            ("roles/iam.serviceAccountAdmin", "iam.serviceAccounts.getAccessToken", false),
            ("roles/iam.serviceAccountAdmin", "iam.serviceAccounts.setIamPolicy", true),
            ("roles/iam.workloadIdentityUser", "iam.serviceAccounts.getAccessToken", true),
            ("roles/iam.workloadIdentityUser", "iam.serviceAccounts.actAs", false),
            ("roles/owner", "cloudkms.cryptoKeyVersions.useToDecrypt", true),
            ("roles/editor", "cloudkms.cryptoKeyVersions.useToDecrypt", false),
            ("roles/editor", "cloudkms.cryptoKeys.create", true),
            ("roles/cloudkms.admin", "cloudkms.cryptoKeyVersions.destroy", true),
            ("roles/cloudkms.admin", "cloudkms.cryptoKeys.setIamPolicy", true),
            ("roles/cloudkms.admin", "cloudkms.cryptoKeyVersions.useToEncrypt", false),
            ("roles/cloudkms.viewer", "cloudkms.cryptoKeys.list", true),
            ("roles/cloudkms.viewer", "cloudkms.cryptoKeyVersions.viewPublicKey", false),
            ("roles/cloudkms.cryptoKeyEncrypter", "cloudkms.cryptoKeyVersions.useToDecrypt", false),
            ("roles/cloudkms.cryptoKeyEncrypterDecrypter", "cloudkms.cryptoKeyVersions.useToDecrypt", true),
            ("roles/cloudkms.cryptoKeyEncrypterDecrypter", "cloudkms.cryptoKeys.get", false),
            (
                "roles/cloudkms.cryptoKeyEncrypterDecrypterViaDelegation",
                "cloudkms.cryptoKeyVersions.useToDecryptViaDelegation",
                true,
            ),
            (
                "roles/cloudkms.cryptoKeyEncrypterDecrypterViaDelegation",
                "cloudkms.cryptoKeyVersions.useToDecrypt",
                false,
            ),
            ("roles/cloudkms.signer", "cloudkms.cryptoKeyVersions.viewPublicKey", false),
            ("roles/container.cloudKmsKeyUser", "cloudkms.cryptoKeyVersions.useToSign", true),
            ("roles/container.serviceAgent", "cloudkms.cryptoKeyVersions.useToEncrypt", false),
            ("roles/privateca.admin", "privateca.caPools.setIamPolicy", true),
            ("roles/privateca.caManager", "privateca.certificateAuthorities.create", true),
            ("roles/privateca.caManager", "privateca.certificates.create", false),
            ("roles/privateca.certificateManager", "privateca.certificates.create", true),
            ("roles/privateca.certificateManager", "privateca.certificates.update", false),
            ("roles/privateca.certificateRequester", "privateca.certificates.list", false),
            ("roles/privateca.auditor", "privateca.caPools.getIamPolicy", true),
            ("roles/unheard.of", "container.clusters.get", false),
        ];
        for (role, permission, expected) in cases {
            assert_eq!(role_allows(role, permission), expected, "{role} {permission}");
        }
    }

    /// By the lists that Google publishes of each role (`gcloud iam roles describe`).
    #[test]
    fn neighbouring_roles_differ_where_googles_do() {
        let cases = [
            ("roles/container.viewer", "container.pods.getStatus", true),
            ("roles/container.viewer", "container.tokenReviews.create", true),
            ("roles/container.viewer", "container.subjectAccessReviews.create", false),
            ("roles/container.viewer", "container.selfSubjectAccessReviews.create", false),
            ("roles/viewer", "container.pods.getLogs", true),
            ("roles/viewer", "container.selfSubjectAccessReviews.create", true),
            ("roles/viewer", "container.subjectAccessReviews.create", false),
            ("roles/container.developer", "container.operations.list", false),
            ("roles/container.developer", "container.controllerRevisions.get", true),
            ("roles/container.developer", "container.controllerRevisions.delete", false),
            ("roles/container.developer", "container.validatingWebhookConfigurations.list", true),
            ("roles/container.developer", "container.validatingWebhookConfigurations.update", false),
            ("roles/container.clusterAdmin", "container.clusters.getCredentials", false),
            ("roles/container.clusterAdmin", "container.clusters.connect", true),
            ("roles/container.admin", "container.clusters.getCredentials", true),
            ("roles/editor", "container.certificateSigningRequests.approve", false),
            ("roles/editor", "container.serviceAccounts.createToken", false),
            ("roles/editor", "container.subjectAccessReviews.create", false),
            ("roles/editor", "cloudkms.cryptoKeyVersions.destroy", false),
        ];
        for (role, permission, expected) in cases {
            assert_eq!(role_allows(role, permission), expected, "{role} {permission}");
        }
    }

    #[test]
    fn roles_that_cannot_be_are_told_from_those_that_hold_nothing_here() {
        for role in ["roles/owner", "roles/container.viewer", "roles/storage.admin", "roles/container.nodeServiceAgent"]
        {
            assert!(is_possible_role(role), "{role}");
        }
        for role in
            ["viewer", "roles/", "roles/king", "roles/container.king", "roles/.x", "roles/a b.c", "projects/p/roles/x"]
        {
            assert!(!is_possible_role(role), "{role}");
        }
        let least = |permission: &str| roles_with(permission).next();
        assert_eq!(least("container.clusters.get"), Some("roles/container.clusterViewer"));
        assert_eq!(least("container.pods.list"), Some("roles/container.viewer"));
        assert_eq!(least("container.pods.create"), Some("roles/container.developer"));
        assert_eq!(least("container.clusterRoleBindings.create"), Some("roles/container.admin"));
    }
}
