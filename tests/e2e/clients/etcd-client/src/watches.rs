//! Watches: history, filters, several on one stream, progress, fragments, what cannot be watched any more.

use anyhow::{Context, Result, bail};
use etcd_client::{
    Client, DeleteOptions, KeyValue, PutOptions, Txn, TxnOp, WatchFilterType, WatchOptions, WatchStream,
};

use crate::transcript::note;

/// Two values make a request that is taken; four do not fit into one message.
const LARGE_BYTES: usize = 700_000;

pub(crate) async fn run(mut client: Client) -> Result<()> {
    let began = client.put("w1", "1", None).await?.header().context("a header")?.revision();
    client.put("w1", "2", None).await?;
    client.put("w2", "1", None).await?;
    client.delete("w1", None).await?;
    let since = |revision: i64| WatchOptions::new().with_prefix().with_start_revision(revision);

    let mut stream = client.watch("w", Some(since(began).with_prev_key())).await?;
    next(&mut stream, "created").await?;
    next(&mut stream, "history").await?;
    client.put("w3", "1", Some(PutOptions::new().with_prev_key())).await?;
    next(&mut stream, "an event").await?;

    stream.watch("w", Some(since(began).with_watch_id(7).with_filters([WatchFilterType::NoPut]))).await?;
    next(&mut stream, "created, deletions only").await?;
    next(&mut stream, "deletions").await?;
    stream.watch("w", Some(WatchOptions::new().with_watch_id(7))).await?;
    next(&mut stream, "an id twice").await?;
    stream.cancel(7).await?;
    next(&mut stream, "cancelled").await?;
    stream.watch("w", Some(since(began).with_watch_id(8).with_filters([WatchFilterType::NoDelete]))).await?;
    next(&mut stream, "created, writes only").await?;
    next(&mut stream, "writes").await?;
    stream.request_progress().await?;
    next(&mut stream, "progress").await?;
    drop(stream);

    let mut stream = client.watch("w", Some(since(1))).await?;
    next(&mut stream, "created in the past").await?;
    next(&mut stream, "too far in the past").await?;

    let mut stream = client.watch("quiet", Some(WatchOptions::new().with_progress_notify())).await?;
    next(&mut stream, "created with notices").await?;
    next(&mut stream, "a notice by itself").await?;
    fragments(&mut client).await
}

async fn next(stream: &mut WatchStream, what: &str) -> Result<()> {
    note(&format!("watch: {what}"), stream.message().await).context("a message")?;
    Ok(())
}

/// A revision that does not fit into one message comes in parts: all of it, and nothing twice.
async fn fragments(client: &mut Client) -> Result<()> {
    let write = |byte: u8| {
        Txn::new().and_then(["large-1", "large-2"].map(|key| TxnOp::put(key, vec![byte; LARGE_BYTES], None)))
    };
    client.txn(write(b'x')).await?;
    // With the values before, both changes together are too large.
    let options = WatchOptions::new().with_prefix().with_prev_key().with_fragment();
    let mut stream = client.watch("large", Some(options)).await?;
    next(&mut stream, "created in fragments").await?;
    client.txn(write(b'y')).await?;
    let mut events = 0;
    while events < 2 {
        let Some(message) = stream.message().await? else { bail!("the watch ended") };
        for event in message.events() {
            let value = |kv: Option<&KeyValue>, byte| kv.is_some_and(|kv| kv.value() == vec![byte; LARGE_BYTES]);
            let key = event.kv().context("a key")?.key_str()?;
            println!("watch: {key} {} after {}", value(event.kv(), b'y'), value(event.prev_kv(), b'x'));
            events += 1;
        }
        println!("watch: {} of it in this part, more: {}", message.events().len(), message.0.fragment);
    }
    client.delete("large", Some(DeleteOptions::new().with_prefix())).await?;
    Ok(())
}
