//! Maintenance, members, and last, as it changes who may do what, users and roles.

use anyhow::{Context, Result, ensure};
use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, GetOptions, MemberAddOptions, Permission,
    RoleRevokePermissionOptions, UserAddOptions,
};

use crate::Store;
use crate::transcript::note;

pub(crate) async fn run(mut client: Client, store: &Store) -> Result<()> {
    maintenance(&mut client).await?;
    members(&mut client).await?;
    refusals(&mut client).await;
    users(&mut client).await?;
    as_user(store).await?;
    as_root(store).await
}

async fn maintenance(client: &mut Client) -> Result<()> {
    let status = client.status().await?;
    ensure!(status.version().starts_with("3.6."), "version {}", status.version());
    ensure!(status.leader() != 0 && status.raft_index() >= status.raft_applied_index(), "{status:?}");
    ensure!(status.db_size() >= status.raft_used_db_size() && status.raft_used_db_size() > 0, "{status:?}");
    println!(
        "status: learner {} storage {} quota {} errors {:?} downgrade {:?}",
        status.is_learner(),
        status.storage_version(),
        status.db_size_quota(),
        status.errors(),
        status.downgrade_info().map(|info| (info.enabled(), info.target_version().to_owned())),
    );
    note("alarms", client.alarm(AlarmAction::Get, AlarmType::None, None).await);
    let mut here = AlarmOptions::new();
    here.with_member(status.header().context("a header")?.member_id());
    note("alarm", client.alarm(AlarmAction::Activate, AlarmType::Nospace, Some(here)).await);
    note("put without room", client.put("full", "1", None).await);
    note("get without room", client.get("full", None).await);
    println!("status: errors {:?}", client.status().await?.errors().len());
    let mut here = AlarmOptions::new();
    here.with_member(status.header().context("a header")?.member_id());
    note("alarm off", client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(here)).await);
    note("alarms", client.alarm(AlarmAction::Get, AlarmType::None, None).await);
    note("defragment", client.defragment().await.map(|_| ()));
    ensure!(client.hash().await?.hash() != 0, "a hash");
    let hash = client.hash_kv(0).await?;
    println!("hash of keys: compacted {} at {}", hash.compact_version(), hash.hash_revision());
    note("hash of what will be", client.hash_kv(1_000_000).await);
    note("hash of what is compacted", client.hash_kv(2).await);
    snapshot(client).await?;
    note("lead is not given to nobody", client.move_leader(404).await);
    Ok(())
}

/// A snapshot is a file of pages and a sum; it says before how much is left.
async fn snapshot(client: &mut Client) -> Result<()> {
    let mut parts = client.snapshot().await?;
    let (mut bytes, mut left) = (0, None);
    while let Some(part) = parts.message().await? {
        ensure!(part.version().is_empty() || part.version().starts_with("3.6."), "version {}", part.version());
        ensure!(left.is_none_or(|left| part.remaining_bytes() <= left), "more is left than before");
        (bytes, left) = (bytes + part.blob().len(), Some(part.remaining_bytes()));
    }
    println!("snapshot: left at the end {left:?}, pages and a sum: {}", bytes % 512 == 32);
    Ok(())
}

async fn members(client: &mut Client) -> Result<()> {
    let learner = Some(MemberAddOptions::new().with_is_learner());
    let list = |members: &[etcd_client::Member]| -> Vec<String> {
        let mut list: Vec<String> = members
            .iter()
            .map(|m| {
                format!(
                    "{:?} learner {} peers {} clients {}",
                    m.name(),
                    m.is_learner(),
                    m.peer_urls().len(),
                    m.client_urls().len()
                )
            })
            .collect();
        list.sort_unstable();
        list
    };
    println!("members: {:?}", list(client.member_list().await?.members()));
    note("add nobody", client.member_add([""; 0], None).await.map(|_| ()));
    note("add what is no URL", client.member_add(["here"], None).await.map(|_| ()));
    let added = client.member_add(["http://127.0.0.1:1"], learner.clone()).await?;
    println!("added: {:?}", list(added.member_list()));
    let id = added.member().context("a member")?.id();
    note("add it again", client.member_add(["http://127.0.0.1:1"], learner.clone()).await.map(|_| ()));
    note("add another", client.member_add(["http://127.0.0.1:2"], learner).await.map(|_| ()));
    note("promote", client.member_promote(id).await.map(|_| ()));
    let changed = client.member_update(id, urls(&["http://127.0.0.1:2", "http://127.0.0.1:3"])).await?;
    println!("changed: {:?}", list(changed.members()));
    println!("removed: {:?}", list(client.member_remove(id).await?.members()));
    note("remove again", client.member_remove(id).await.map(|_| ()));
    note("change what is gone", client.member_update(id, urls(&["http://127.0.0.1:2"])).await.map(|_| ()));
    note("promote what is not there", client.member_promote(404).await.map(|_| ()));
    Ok(())
}

async fn refusals(client: &mut Client) {
    note("on without root", client.auth_enable().await);
    note("log in while off", client.auth_client().authenticate("root".to_owned(), "x".to_owned()).await);
    note("a user without a name", client.user_add("", "x", None).await);
    note("a user without a password", client.user_add("eve", "", None).await);
    note("get no user", client.user_get("eve").await);
    note("delete no user", client.user_delete("eve").await);
    note("give a role to nobody", client.user_grant_role("eve", "root").await);
    note("a password for nobody", client.user_change_password("eve", "x").await);
    note("a role without a name", client.role_add("").await);
    note("get no role", client.role_get("none").await);
    note("delete no role", client.role_delete("none").await);
    note("rights for no role", client.role_grant_permission("none", Permission::read("k")).await);
}

async fn users(client: &mut Client) -> Result<()> {
    note("user", client.user_add("root", "secret", None).await);
    note("root's role", client.user_grant_role("root", "root").await);
    note("user", client.user_add("alice", "wonder", None).await);
    note("user again", client.user_add("alice", "wonder", None).await);
    note("user of certificates", client.user_add("bob", "", Some(UserAddOptions::new().with_no_pwd())).await);
    note("role", client.role_add("reader").await);
    note("role again", client.role_add("reader").await);
    note("role", client.role_add("writer").await);
    for permission in [
        Permission::read("k").with_prefix(),
        Permission::read("l1"),
        Permission::read_write("m").with_range_end("n"),
        Permission::write("z").with_from_key(),
    ] {
        note("right", client.role_grant_permission("reader", permission).await);
    }
    note("right to all", client.role_grant_permission("writer", Permission::read_write("").with_all_keys()).await);
    note("role", client.role_get("reader").await);
    note("role", client.role_get("writer").await);
    note("less", client.role_revoke_permission("reader", "l1", None).await);
    note(
        "less",
        client.role_revoke_permission("reader", "z", Some(RoleRevokePermissionOptions::new().with_from_key())).await,
    );
    note("less than nothing", client.role_revoke_permission("reader", "l1", None).await);
    note("role", client.role_get("reader").await);
    note("give", client.user_grant_role("alice", "reader").await);
    note("give again", client.user_grant_role("alice", "reader").await);
    note("give what is not there", client.user_grant_role("alice", "none").await);
    note("take what was not given", client.user_revoke_role("alice", "writer").await);
    note("alice", client.user_get("alice").await);
    note("users", client.user_list().await);
    note("roles", client.role_list().await);
    note("on", client.auth_enable().await);
    note("nobody", client.get("k1", None).await);
    Ok(())
}

async fn as_user(store: &Store) -> Result<()> {
    note("wrong password", store.connect_as("alice", "under").await.map(|_| ()));
    note("no such user", store.connect_as("eve", "x").await.map(|_| ()));
    note("no password to log in with", store.connect_as("bob", "").await.map(|_| ()));
    let mut alice = store.connect_as("alice", "wonder").await?;
    note("alice reads", alice.get("k1", None).await.map(|answer| answer.count()));
    note("alice reads more", alice.get("", Some(GetOptions::new().with_all_keys())).await.map(|_| ()));
    note("alice writes", alice.put("k1", "x", None).await.map(|_| ()));
    note("alice writes her own", alice.put("mine", "x", None).await.map(|_| ()));
    note("alice sees herself", alice.user_get("alice").await.map(|user| user.roles().to_vec()));
    note("alice sees her role", alice.role_get("reader").await.map(|role| role.permissions().len()));
    note("alice sees root", alice.user_get("root").await.map(|_| ()));
    note("alice adds a user", alice.user_add("eve", "x", None).await.map(|_| ()));
    note("alice lists users", alice.user_list().await.map(|_| ()));
    note("alice defragments", alice.defragment().await.map(|_| ()));
    note("alice compacts", alice.compact(5, None).await.map(|_| ()));
    let mut watch = alice.watch("l1", None).await?;
    note(
        "alice watches",
        watch.message().await.map(|message| message.map(|m| (m.canceled(), m.cancel_reason().to_owned()))),
    );
    note("a new token", alice.refresh_token().await);
    note("alice reads", alice.get("k1", None).await.map(|answer| answer.count()));
    note("as root", alice.update_user(Some(("root".to_owned(), "secret".to_owned()))).await);
    note("she lists users", alice.user_list().await.map(|users| users.users().to_vec()));
    Ok(())
}

async fn as_root(store: &Store) -> Result<()> {
    let mut root = store.connect_as("root", "secret").await?;
    let patient = store.options().with_user("alice", "wonder").with_auto_token_refresh(true);
    let mut alice = etcd_client::Client::connect(&store.endpoints, Some(patient)).await?;
    let token = root.auth_client().authenticate("alice".to_owned(), "wonder".to_owned()).await?.token().len();
    ensure!(token > 0, "a token");
    note("another password", root.user_change_password("alice", "land").await.map(|_| ()));
    note("alice's old token", alice.get("k1", None).await.map(|_| ()));
    note("her new password", alice.update_user(Some(("alice".to_owned(), "land".to_owned()))).await);
    note("alice reads", alice.get("k1", None).await.map(|answer| answer.count()));
    note("take", root.user_revoke_role("alice", "reader").await.map(|_| ()));
    note("alice reads no more", alice.get("k1", None).await.map(|_| ()));
    note("delete role", root.role_delete("reader").await.map(|_| ()));
    note("delete user", root.user_delete("alice").await.map(|_| ()));
    note("alice is nobody", alice.get("k1", None).await.map(|_| ()));
    note("delete root", root.user_delete("root").await.map(|_| ()));
    note("take root's role", root.user_revoke_role("root", "root").await.map(|_| ()));
    note("off", root.auth_disable().await.map(|_| ()));
    let mut anybody = store.connect().await?;
    note("off again", anybody.auth_disable().await.map(|_| ()));
    note("anybody", anybody.get("k1", None).await.map(|answer| answer.count()));
    Ok(())
}

fn urls(urls: &[&str]) -> Vec<String> {
    urls.iter().map(|url| (*url).to_owned()).collect()
}
