//! Leases, and what stands on them: locks and elections.

use anyhow::{Context, Result, ensure};
use etcd_client::{
    Client, LeaderKey, LeaseClientPrefix, LeaseGrantOptions, LeaseTimeToLiveOptions, LockOptions, ProclaimOptions,
    PutOptions, ResignOptions, WatchOptions,
};

use crate::transcript::note;

pub(crate) async fn run(mut client: Client) -> Result<()> {
    leases(&mut client).await?;
    expiry(&mut client).await?;
    locks(&mut client).await?;
    elections(&mut client).await
}

fn id(id: i64) -> Option<LeaseGrantOptions> {
    Some(LeaseGrantOptions::new().with_id(id))
}

/// etcd tells the keys of a lease in any order.
fn names(keys: &[Vec<u8>]) -> Vec<String> {
    let mut names: Vec<String> = keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    names.sort_unstable();
    names
}

async fn leases(client: &mut Client) -> Result<()> {
    note("grant", client.lease_grant(600, id(70)).await);
    note("grant again", client.lease_grant(600, id(70)).await);
    note("grant nothing", client.lease_grant(0, id(71)).await);
    note("grant too much", client.lease_grant(9_000_000_001, id(71)).await);
    ensure!(client.lease_grant(600, None).await?.id() != 0, "the store chooses an id");
    for key in ["space/b", "space/a"] {
        note("put", client.put(key, "1", Some(PutOptions::new().with_lease(70))).await);
    }
    let keys = || Some(LeaseTimeToLiveOptions::new().with_keys());
    let left = client.lease_time_to_live(70, keys()).await?;
    ensure!((500..=600).contains(&left.ttl()), "{} seconds are left", left.ttl());
    println!("left: of {} {:?}", left.granted_ttl(), names(left.keys()));
    let left = client.lease_time_to_live(70, None).await?;
    println!("left: of {} {} keys", left.granted_ttl(), left.keys().len());
    let inside = LeaseClientPrefix::new(client.lease_client(), b"space/".to_vec()).time_to_live(70, keys()).await?;
    println!("left inside: {:?}", names(inside.keys()));
    note("left of nothing", client.lease_time_to_live(404, keys()).await);
    let (mut keeper, mut answers) = client.lease_keep_alive(70).await?;
    for _ in 0..2 {
        keeper.keep_alive().await?;
        note("kept alive", answers.message().await);
    }
    note("keep nothing alive", client.lease_keep_alive(404).await.map(|_| ()));
    let all = client.leases().await?;
    println!("leases: {} with 70: {}", all.leases().len(), all.leases().iter().any(|lease| lease.id() == 70));
    note("revoke", client.lease_revoke(70).await);
    note("revoke again", client.lease_revoke(70).await);
    keeper.keep_alive().await?;
    note("kept alive after that", answers.message().await);
    note("what hung on it", client.get("space/a", None).await);
    Ok(())
}

async fn expiry(client: &mut Client) -> Result<()> {
    let mut stream = client.watch("short", Some(WatchOptions::new().with_prev_key())).await?;
    note("watch", stream.message().await);
    note("a short lease", client.lease_grant(1, id(72)).await.map(|granted| granted.id()));
    note("put", client.put("short", "1", Some(PutOptions::new().with_lease(72))).await);
    note("it is there", stream.message().await);
    note("it ends", stream.message().await);
    Ok(())
}

async fn locks(client: &mut Client) -> Result<()> {
    client.lease_grant(600, id(73)).await?;
    client.lease_grant(600, id(74)).await?;
    let held = note("lock", client.lock("lock", Some(LockOptions::new().with_lease(73))).await).context("a lock")?;
    let mut other = client.clone();
    let waits = tokio::spawn(async move { other.lock("lock", Some(LockOptions::new().with_lease(74))).await });
    // The one that waits has written its key, and has not got the lock.
    let mut behind = client.watch("lock/4a", Some(WatchOptions::new().with_start_revision(1))).await?;
    drop(behind.message().await?);
    while client.get("lock/4a", None).await?.count() == 0 {
        tokio::task::yield_now().await;
    }
    ensure!(!waits.is_finished(), "two hold one lock");
    note("unlock", client.unlock(held.key()).await);
    let held = note("lock, in turn", waits.await?).context("a lock")?;
    note("the lock's lease ends", client.lease_revoke(74).await);
    note("unlock what is gone", client.unlock(held.key()).await);
    note("lock with no such lease", client.lock("lock", Some(LockOptions::new().with_lease(404))).await);
    ensure!(client.lock("own", None).await?.key().starts_with(b"own/"), "a lock has a lease of its own");
    Ok(())
}

async fn elections(client: &mut Client) -> Result<()> {
    client.lease_grant(600, id(75)).await?;
    client.lease_grant(600, id(76)).await?;
    note("nobody leads", client.leader("seat").await);
    // etcd answers an observer when there is something to observe.
    let mut other = client.clone();
    let observer = tokio::spawn(async move { other.observe("seat").await });
    let won = note("campaign", client.campaign("seat", "first", 75).await).context("won")?;
    let leader = won.leader().context("a leader")?;
    let key = LeaderKey::new()
        .with_name(leader.name())
        .with_key(leader.key())
        .with_rev(leader.rev())
        .with_lease(leader.lease());
    let mut observer = observer.await??;
    note("observed", observer.message().await);
    note("who leads", client.leader("seat").await);
    note("proclaim", client.proclaim("more", Some(ProclaimOptions::new().with_leader(key.clone()))).await);
    note("observed", observer.message().await);
    let mut other = client.clone();
    let waits = tokio::spawn(async move { other.campaign("seat", "second", 76).await });
    while client.get("seat/4c", None).await?.count() == 0 {
        tokio::task::yield_now().await;
    }
    ensure!(!waits.is_finished(), "two lead");
    note("resign", client.resign(Some(ResignOptions::new().with_leader(key.clone()))).await);
    note("campaign, in turn", waits.await?);
    note("observed", observer.message().await);
    note("proclaim after that", client.proclaim("no", Some(ProclaimOptions::new().with_leader(key))).await);
    note("proclaim nothing", client.proclaim("no", None).await);
    note("campaign with no such lease", client.campaign("seat", "third", 404).await);
    Ok(())
}
