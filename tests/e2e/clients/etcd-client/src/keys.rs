//! Keys and transactions.

use anyhow::Result;
use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, GetOptions, KvClientPrefix, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp,
};

use crate::transcript::note;

pub(crate) async fn run(mut client: Client) -> Result<()> {
    puts(&mut client).await;
    gets(&mut client).await;
    deletes(&mut client).await;
    transactions(&mut client).await;
    prefixed(&client).await;
    compactions(&mut client).await
}

async fn puts(client: &mut Client) {
    note("put", client.put("k1", "1", None).await);
    note("put again", client.put("k1", "2", Some(PutOptions::new().with_prev_key())).await);
    note("put with the old value", client.put("k1", "", Some(PutOptions::new().with_ignore_value())).await);
    note("put with the old lease", client.put("k1", "3", Some(PutOptions::new().with_ignore_lease())).await);
    note("old value of nothing", client.put("none", "", Some(PutOptions::new().with_ignore_value())).await);
    note("two values", client.put("k1", "x", Some(PutOptions::new().with_ignore_value())).await);
    note("a lease that is not there", client.put("k1", "x", Some(PutOptions::new().with_lease(404))).await);
    note("no key", client.put("", "x", None).await);
    note("too large", client.put("k1", vec![b'x'; 1_600_000], None).await);
    for (key, value) in [("k2", "b"), ("k3", "a"), ("l1", "c")] {
        note("put", client.put(key, value, None).await);
    }
}

async fn gets(client: &mut Client) {
    let all = || GetOptions::new().with_all_keys();
    let prefix = || GetOptions::new().with_prefix();
    let cases: Vec<(&str, &str, GetOptions)> = vec![
        ("one", "k1", GetOptions::new()),
        ("none", "k", GetOptions::new()),
        ("a prefix", "k", prefix()),
        ("a range", "k1", GetOptions::new().with_range("k3")),
        ("from a key", "k3", GetOptions::new().with_from_key()),
        ("all", "", all()),
        ("two at most", "", all().with_limit(2)),
        ("keys", "", all().with_keys_only()),
        ("how many", "", all().with_count_only()),
        ("as it was", "k1", GetOptions::new().with_revision(2)),
        ("as it will be", "k1", GetOptions::new().with_revision(4000)),
        ("what this member has", "k1", GetOptions::new().with_serializable()),
        ("by value", "", all().with_sort(SortTarget::Value, SortOrder::Ascend)),
        ("by version, down", "", all().with_sort(SortTarget::Version, SortOrder::Descend)),
        ("by creation, down, one", "", all().with_sort(SortTarget::Create, SortOrder::Descend).with_limit(1)),
        ("by change", "", all().with_sort(SortTarget::Mod, SortOrder::Ascend).with_keys_only()),
        ("changed since", "", all().with_min_mod_revision(7).with_keys_only()),
        ("changed until", "", all().with_max_mod_revision(6).with_keys_only()),
        ("made since", "", all().with_min_create_revision(7).with_keys_only()),
        ("made until", "", all().with_max_create_revision(2).with_keys_only()),
    ];
    for (what, key, options) in cases {
        note(&format!("get {what}"), client.get(key, Some(options)).await);
    }
    // A method of etcd 3.7.
    let streamed = async { client.kv_client().get_stream("k1", None).await?.message().await };
    note("get as a stream", streamed.await);
}

async fn deletes(client: &mut Client) {
    for key in ["d1", "d2", "d3", "d4"] {
        note("put", client.put(key, "x", None).await);
    }
    note("delete", client.delete("d1", Some(DeleteOptions::new().with_prev_key())).await);
    note("delete what is gone", client.delete("d1", None).await);
    note("delete a range", client.delete("d2", Some(DeleteOptions::new().with_range("d4").with_prev_key())).await);
    note("delete a prefix", client.delete("d", Some(DeleteOptions::new().with_prefix())).await);
}

async fn transactions(client: &mut Client) {
    let holds = [
        Compare::version("k1", CompareOp::Equal, 4),
        Compare::create_revision("k1", CompareOp::Less, 3),
        Compare::mod_revision("k1", CompareOp::Greater, 4),
        Compare::value("k1", CompareOp::NotEqual, "2"),
        Compare::lease("k1", CompareOp::Equal, 0),
        Compare::value("k", CompareOp::Greater, "").with_prefix(),
        Compare::version("k1", CompareOp::Greater, 0).with_range("k4"),
    ];
    let inner = Txn::new()
        .when([Compare::version("t1", CompareOp::Equal, 0)])
        .or_else([TxnOp::put("t2", "inner", None), TxnOp::get("t1", None)]);
    let everything = [
        TxnOp::put("t1", "1", Some(PutOptions::new().with_prev_key())),
        TxnOp::get("t1", None),
        TxnOp::txn(inner),
        TxnOp::delete("l1", Some(DeleteOptions::new().with_prev_key())),
        TxnOp::get("", Some(GetOptions::new().with_all_keys().with_count_only())),
    ];
    note("transaction", client.txn(Txn::new().when(holds).and_then(everything)).await);
    for compare in [
        Compare::value("k1", CompareOp::Equal, "none"),
        Compare::value("none", CompareOp::Equal, ""),
        Compare::version("k", CompareOp::Greater, 1).with_prefix(),
    ] {
        let txn = Txn::new().when([compare]).and_then([TxnOp::put("t3", "then", None)]);
        note("the other branch", client.txn(txn.or_else([TxnOp::get("t1", None)])).await);
    }
    note("an empty one", client.txn(Txn::new()).await);
    let twice = Txn::new().and_then([TxnOp::put("t4", "1", None), TxnOp::put("t4", "2", None)]);
    note("a key twice", client.txn(twice).await);
    let nothing = Txn::new().and_then([TxnOp::put("", "1", None)]);
    note("no key", client.txn(nothing).await);
    let many = (0..129).map(|place| TxnOp::put(format!("many-{place}"), "", None)).collect::<Vec<_>>();
    note("too many operations", client.txn(Txn::new().and_then(many)).await);
    let future = Txn::new().and_then([TxnOp::get("k1", Some(GetOptions::new().with_revision(4000)))]);
    note("a read of the future", client.txn(future).await);
}

async fn prefixed(client: &Client) {
    let mut inside = KvClientPrefix::new(client.kv_client(), b"space/".to_vec());
    note("put inside", inside.put("a", "1", Some(PutOptions::new().with_prev_key())).await);
    note("get inside", inside.get("a", Some(GetOptions::new().with_prefix())).await);
    let txn = Txn::new()
        .when([Compare::value("a", CompareOp::Equal, "1")])
        .and_then([TxnOp::put("b", "2", None), TxnOp::get("a", None)]);
    note("transaction inside", inside.txn(txn).await);
    note("all that is inside", client.kv_client().get("space/", Some(GetOptions::new().with_prefix())).await);
    note("delete inside", inside.delete("", Some(DeleteOptions::new().with_prefix().with_prev_key())).await);
}

async fn compactions(client: &mut Client) -> Result<()> {
    note("compact", client.compact(4, Some(CompactionOptions::new().with_physical())).await);
    note("compact again", client.compact(4, None).await);
    note("compact what will be", client.compact(4000, None).await);
    note("get what is compacted", client.get("k1", Some(GetOptions::new().with_revision(3))).await);
    note("get what is not", client.get("k1", Some(GetOptions::new().with_revision(4))).await);
    Ok(())
}
