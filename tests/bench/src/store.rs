//! etcd's own operations: durable puts and linearizable ranges of 256-byte values.

use anyhow::Result;
use bytes::Bytes;
use etcd::{RemoteStore, Store};
use mvcc::{PutRequest, RangeRequest};

use crate::phase::{Server, Worker};

const VALUE: [u8; 256] = [b'v'; 256];
/// Clients share connections as etcd's own benchmark lets them.
const CONNECTIONS: usize = 8;

struct Put {
    store: Store,
    worker: usize,
}

impl Worker for Put {
    async fn operate(&mut self, i: u64) -> Result<bool> {
        let key = format!("bench/{}/{}", self.worker, i % 1000);
        let request = PutRequest { key: key.into(), value: Bytes::from_static(&VALUE), ..PutRequest::default() };
        Ok(self.store.put(request).await.is_ok())
    }
}

struct Range(Put);

impl Worker for Range {
    async fn operate(&mut self, _: u64) -> Result<bool> {
        let key = format!("bench/{}/0", self.0.worker);
        Ok(self.0.store.range(RangeRequest::key(key)).await?.kvs.len() == 1)
    }
}

/// With several members, clients are spread over them.
pub(crate) async fn run(server: &Server, endpoints: &[String]) -> Result<()> {
    let connect = |i: usize| RemoteStore::connect(&endpoints[i % endpoints.len()..][..1], None).map(Store::Remote);
    let connections = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>, _>>()?;
    let worker = |worker: usize| Put { store: connections[worker % CONNECTIONS].clone(), worker };
    let of = if endpoints.len() > 1 { format!("{} members, ", endpoints.len()) } else { String::new() };
    for workers in [1, 100] {
        server.phase(&format!("{of}etcd put 256 B"), (0..workers).map(worker).collect()).await?;
        server.phase(&format!("{of}etcd linearizable range"), (0..workers).map(|w| Range(worker(w))).collect()).await?;
    }
    Ok(())
}
