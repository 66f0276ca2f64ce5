//! etcd's own operations: durable puts and linearizable ranges of 256-byte values.

use anyhow::Result;
use bytes::Bytes;
use etcd::{RemoteStore, Store};
use mvcc::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};

use crate::phase::{Server, Worker};

pub(crate) const VALUE: [u8; 256] = [b'v'; 256];
/// Clients share connections as etcd's own benchmark lets them.
const CONNECTIONS: usize = 8;

struct Put {
    store: Store,
    /// Tells the keys of one phase from those of another.
    run: usize,
    worker: usize,
}

impl Worker for Put {
    async fn operate(&mut self, i: u64) -> Result<bool> {
        let key = format!("bench/{}/{}", self.worker, i % 1000);
        let request = PutRequest { key: key.into(), value: Bytes::from_static(&VALUE), ..PutRequest::default() };
        Ok(self.store.put(request).await.is_ok())
    }
}

/// What an API server does for a new object: a put if the key is absent.
struct Create(Put);

impl Worker for Create {
    async fn operate(&mut self, i: u64) -> Result<bool> {
        let key = Bytes::from(format!("bench-create/{}/{}/{i}", self.0.run, self.0.worker));
        let put = PutRequest { key: key.clone(), value: Bytes::from_static(&VALUE), ..PutRequest::default() };
        let request = TxnRequest {
            compare: vec![Compare::mod_revision(key, 0)],
            success: vec![RequestOp::Put(put)],
            failure: Vec::new(),
        };
        Ok(self.0.store.txn(request).await?.succeeded)
    }
}

struct Range(Put);

impl Worker for Range {
    async fn operate(&mut self, _: u64) -> Result<bool> {
        let key = format!("bench/{}/0", self.0.worker);
        Ok(self.0.store.range(RangeRequest::key(key)).await?.kvs.len() == 1)
    }
}

/// With several members, the `workers` clients are spread over them.
pub(crate) async fn run(server: &Server, endpoints: &[String], workers: usize) -> Result<()> {
    let connect = |i: usize| RemoteStore::connect(&endpoints[i % endpoints.len()..][..1], None).map(Store::Remote);
    let connections = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>, _>>()?;
    let worker = |run: usize, worker: usize| Put { store: connections[worker % CONNECTIONS].clone(), run, worker };
    let of = if endpoints.len() > 1 { format!("{} members, ", endpoints.len()) } else { String::new() };
    let all = || (0..workers).map(|number| worker(workers, number));
    server.phase(&format!("{of}etcd put 256 B"), all().collect()).await?;
    server.phase(&format!("{of}etcd linearizable range"), all().map(Range).collect()).await?;
    server.phase(&format!("{of}etcd create (transaction) 256 B"), all().map(Create).collect()).await
}
