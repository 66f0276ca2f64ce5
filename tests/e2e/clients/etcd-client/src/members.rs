//! What three members do together: one leads, all say the same, and a client that knows all of them needs none in particular.

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, GetOptions};

use crate::Store;
use crate::transcript::note;

pub(crate) async fn run(mut client: Client, store: &Store) -> Result<()> {
    let mut each = Vec::new();
    for endpoint in &store.endpoints {
        each.push(store.connect_to(endpoint).await?);
    }
    for (place, member) in each.iter_mut().enumerate() {
        note("put at one", member.put(format!("k{place}"), "1", None).await);
    }
    for member in &mut each {
        note("get at one", member.get("k", Some(GetOptions::new().with_prefix())).await.map(|got| got.count()));
    }
    let (leader, ids) = leader(&mut each).await?;
    let follower = (leader + 1) % each.len();
    note("lead is not given by who has it not", each[follower].move_leader(ids[follower]).await);
    note("lead is given", each[leader].move_leader(ids[follower]).await.map(|_| ()));
    while self::leader(&mut each).await?.0 != follower {
        tokio::task::yield_now().await;
    }
    note("put after that", client.put("k9", "1", None).await);
    let mut sums = Vec::new();
    for member in &mut each {
        ensure!(member.get("k9", None).await?.count() == 1, "a linearizable read");
        let sum = member.hash_kv(0).await?;
        sums.push((sum.hash(), sum.compact_version(), sum.hash_revision()));
    }
    println!("all have the same: {}", sums.windows(2).all(|pair| pair[0] == pair[1]));
    let members = client.member_list().await?;
    let mut names: Vec<&str> = members.members().iter().map(etcd_client::Member::name).collect();
    names.sort_unstable();
    println!("members: {names:?}");
    // Endpoints come and go while a client runs.
    client.remove_endpoint(&store.endpoints[0]).await?;
    note("without one endpoint", client.get("k9", None).await.map(|got| got.count()));
    client.add_endpoint(&store.endpoints[0]).await?;
    note("with all of them", client.get("k9", None).await.map(|got| got.count()));
    Ok(())
}

/// The place of the member that leads as all of them see it, and the members' ids.
async fn leader(each: &mut [Client]) -> Result<(usize, Vec<u64>)> {
    loop {
        let (mut ids, mut leaders) = (Vec::new(), Vec::new());
        for member in each.iter_mut() {
            let status = member.status().await?;
            ids.push(status.header().context("a header")?.member_id());
            leaders.push(status.leader());
        }
        let leader = ids.iter().position(|id| leaders.iter().all(|leader| leader == id));
        if let Some(leader) = leader {
            return Ok((leader, ids));
        }
        tokio::task::yield_now().await;
    }
}
