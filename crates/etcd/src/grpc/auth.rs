//! Service `Auth`: users, roles, and tokens for passwords.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mvcc::{Auth, AuthCommand, AuthError, Caller, Command, Permission, PermissionKind, Response as Answer};
use tonic::{Request, Response, Status};

use super::{Api, status};
use crate::local::{done, unexpected};
use crate::shared::Published;
use crate::{StoreError, proto as pb};

/// The role that may do everything, whether or not it was made.
const ROOT: &str = "root";

fn refused(error: AuthError) -> Status {
    status(StoreError::Refused(error.into()))
}

impl Api {
    /// Changes users and roles; returns the answer's header.
    async fn change<T>(
        &self,
        request: &Request<T>,
        command: AuthCommand,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        self.check(request)?;
        let answer = self.client(request).propose(Command::Auth(command)).await.map_err(status)?;
        Ok(self.header(done(answer).map_err(status)?))
    }

    /// Users and roles as of now, if the client may see them.
    async fn look<T>(
        &self,
        request: &Request<T>,
        permit: impl Fn(&Auth, &Caller) -> Result<(), AuthError>,
    ) -> Result<(Arc<Published>, Option<pb::ResponseHeader>), Status> {
        self.check(request)?;
        let store = self.client(request);
        store.linearize(false).await.map_err(status)?;
        let published = store.permit(|snapshot, caller| permit(snapshot.auth(), caller)).await.map_err(status)?;
        let header = self.header(published.snapshot.revision());
        Ok((published, header))
    }

    async fn hash(&self, password: String) -> Result<Bytes, Status> {
        let shared = &self.store.shared;
        shared.auth.hash(password, &shared.entropy).await.map(Bytes::from).map_err(refused)
    }

    /// Gives a token for a password. It is compared before anything goes to the log, which must not hold it, and again
    /// when users changed meanwhile.
    async fn login(&self, name: String, password: &str) -> Result<(String, i64), Status> {
        let shared = &self.store.shared;
        self.store.linearize(false).await.map_err(status)?;
        loop {
            let published = shared.published();
            let auth = published.snapshot.auth();
            if !auth.is_enabled() {
                return Err(refused(AuthError::NotEnabled));
            }
            let user = auth.user(&name).ok_or_else(|| refused(AuthError::AuthFailed))?;
            if user.no_password {
                return Err(refused(AuthError::NoPasswordUser));
            }
            if !shared.auth.is_password(user, password).await {
                tracing::warn!(target: "etcd", user = name, "invalid authentication was requested");
                return Err(refused(AuthError::AuthFailed));
            }
            let token = shared.auth.first_part(&shared.entropy);
            let command = Command::Auth(AuthCommand::Authenticate { name: name.clone(), token: token.clone() });
            match self.store.propose_for(Caller::Anonymous, command, false).await.map_err(status)? {
                Answer::Authenticated { revision, auth_revision } if auth_revision == auth.revision() => {
                    let token = shared.auth.token(&name, &token, auth_revision, shared.clock.now()).map_err(refused)?;
                    return Ok((token, revision));
                }
                Answer::Authenticated { .. } => {}
                other => return Err(status(unexpected(&other))),
            }
        }
    }
}

#[tonic::async_trait]
impl pb::auth_server::Auth for Api {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let header = self.change(&request, AuthCommand::Enable).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let header = self.change(&request, AuthCommand::Disable).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let (published, header) = self.look(&request, Auth::permit_admin).await?;
        let auth = published.snapshot.auth();
        let (enabled, auth_revision) = (auth.is_enabled(), auth.revision());
        Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        self.check(&request)?;
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        let (token, revision) = self.login(name, &password).await?;
        Ok(Response::new(pb::AuthenticateResponse { header: self.header(revision), token }))
    }

    async fn user_add(
        &self,
        mut request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let pb::AuthUserAddRequest { name, password, options, .. } = std::mem::take(request.get_mut());
        let no_password = options.is_some_and(|options| options.no_password);
        let password = if no_password { Bytes::new() } else { self.hash(password).await? };
        let header = self.change(&request, AuthCommand::UserAdd { name, password, no_password }).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let name = &request.get_ref().name;
        let (published, header) = self.look(&request, |auth, caller| auth.permit_user_get(caller, name)).await?;
        let user = published.snapshot.auth().user(name).ok_or_else(|| refused(AuthError::UserNotFound))?;
        Ok(Response::new(pb::AuthUserGetResponse { header, roles: user.roles.clone() }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let (published, header) = self.look(&request, Auth::permit_admin).await?;
        let users = published.snapshot.auth().users().map(|user| user.name.clone()).collect();
        Ok(Response::new(pb::AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let name = request.get_ref().name.clone();
        let header = self.change(&request, AuthCommand::UserDelete { name }).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        mut request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let message = std::mem::take(request.get_mut());
        let pb::AuthUserChangePasswordRequest { name, password, hashed_password } = message;
        // Without a password the client may send its hash; with neither nobody can log in as that user any more.
        let password = if password.is_empty() {
            let hash = STANDARD.decode(hashed_password).map_err(|_| refused(AuthError::NoPasswordUser))?;
            Bytes::from(hash)
        } else {
            self.hash(password).await?
        };
        let header = self.change(&request, AuthCommand::UserChangePassword { name, password }).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let pb::AuthUserGrantRoleRequest { user, role } = request.get_ref().clone();
        let header = self.change(&request, AuthCommand::UserGrantRole { user, role }).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let pb::AuthUserRevokeRoleRequest { name: user, role } = request.get_ref().clone();
        let header = self.change(&request, AuthCommand::UserRevokeRole { user, role }).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let name = request.get_ref().name.clone();
        let header = self.change(&request, AuthCommand::RoleAdd { name }).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let name = &request.get_ref().role;
        let (published, header) = self.look(&request, |auth, caller| auth.permit_role_get(caller, name)).await?;
        let role = published.snapshot.auth().role(name).ok_or_else(|| refused(AuthError::RoleNotFound))?;
        let perm = if name == ROOT {
            let all = Bytes::from_static(b"\0");
            vec![Permission { kind: PermissionKind::ReadWrite, key: Bytes::new(), range_end: all }.into()]
        } else {
            role.permissions.iter().cloned().map(Into::into).collect()
        };
        Ok(Response::new(pb::AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let (published, header) = self.look(&request, Auth::permit_admin).await?;
        let roles = published.snapshot.auth().roles().map(|role| role.name.clone()).collect();
        Ok(Response::new(pb::AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let name = request.get_ref().role.clone();
        let header = self.change(&request, AuthCommand::RoleDelete { name }).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let command = request.get_ref().clone().into();
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let command = request.get_ref().clone().into();
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header }))
    }
}
