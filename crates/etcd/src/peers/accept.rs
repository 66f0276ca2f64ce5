//! The called side: who may speak to this member, and what is done with what it says.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use raft::MemberId;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;

use super::identity::Binding;
use super::tls::in_words;
use super::wire::{Frame, FrameReader, PREFACE, read_greeting, write_greeting};
use super::{Inner, Peers, hashkv, snapshot};
use crate::connector::Wire;
use crate::hub::lock;
use crate::listen::Listener;
use crate::members::Change;
use crate::proto as pb;
use crate::serve::accept_all;
use crate::shared::Message;
use crate::{EtcdError, LocalStore, Member, StoreError, grpc, http_routes};
use pb::peer_hello::Purpose;
use pb::peer_reply::Answer;
use pb::peer_request::Ask;
use pb::peer_welcome::Verdict;

/// A member must finish its handshake and greeting in this time.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

impl Member {
    /// Takes the other members' connections until `shutdown` is done. With TLS each must show a certificate that the
    /// configuration trusts and that is good for the host of the member's peer URL.
    ///
    /// # Errors
    /// When the listener fails, or the member was configured without [`crate::MemberConfig::peers`].
    pub async fn serve_peers(
        &self,
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), EtcdError> {
        self.serve_peers_on(Listener::Tcp(listener), tls, Binding::Strict, shutdown).await
    }

    /// As [`Member::serve_peers`], on any listener, with the caller's certificate bound to it as far as `binding` says.
    pub(crate) async fn serve_peers_on(
        &self,
        listener: Listener,
        tls: Option<Arc<rustls::ServerConfig>>,
        binding: Binding,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), EtcdError> {
        let store = self.local();
        let Some(peers) = store.shared.peers.clone() else {
            return Err(EtcdError::Join("this member was started without a network".to_owned()));
        };
        let acceptor = tls.map(TlsAcceptor::from);
        let serve = |(stream, remote): (Box<dyn Wire>, String)| {
            Caller { peers: peers.clone(), store: store.clone(), remote, binding }.connection(stream, acceptor.clone())
        };
        accept_all(listener, serve, shutdown).await
    }
}

/// One caller of the peer port.
struct Caller {
    peers: Peers,
    store: LocalStore,
    remote: String,
    binding: Binding,
}

impl Caller {
    async fn connection(self, stream: Box<dyn Wire>, acceptor: Option<TlsAcceptor>) {
        let remote = self.remote.clone();
        let handshake = async {
            match acceptor {
                None => Ok::<_, io::Error>((stream, None)),
                Some(acceptor) => {
                    let stream = acceptor.accept(stream).await?;
                    let chain = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
                    Ok((Box::new(stream) as Box<dyn Wire>, Some(chain)))
                }
            }
        };
        let result: io::Result<()> = match tokio::time::timeout(GREETING_TIMEOUT, handshake).await {
            Ok(Ok((stream, certificate))) => self.greeted(stream, certificate).await,
            Ok(Err(error)) => {
                let error = in_words(&error);
                tracing::warn!(target: "etcd", remote_addr = remote, error, "rejected connection on peer endpoint");
                return;
            }
            Err(_) => return,
        };
        if let Err(error) = result {
            tracing::debug!(target: "etcd", remote_addr = remote, %error, "a peer connection ended");
        }
    }

    /// `certificate`: nothing without TLS; `Some(None)` with TLS and no certificate shown.
    async fn greeted(
        self,
        mut stream: Box<dyn Wire>,
        certificate: Option<Option<CertificateDer<'static>>>,
    ) -> io::Result<()> {
        let inner = self.peers.0.clone();
        let mut first = [0; PREFACE.len()];
        tokio::time::timeout(GREETING_TIMEOUT, stream.read_exact(&mut first)).await??;
        if first != *PREFACE {
            return self.http(first, stream).await;
        }
        let hello: pb::PeerHello = tokio::time::timeout(GREETING_TIMEOUT, read_greeting(&mut stream)).await??;
        let judged = judge(&inner, &hello, certificate.as_ref(), self.binding);
        let members = inner.members.borrow().to_wire();
        let (verdict, reason) = judged.err().unwrap_or((Verdict::Welcome, String::new()));
        let welcome = pb::PeerWelcome {
            verdict: verdict.into(),
            reason: reason.clone(),
            cluster_id: inner.cluster_id,
            members: Some(members),
        };
        write_greeting(&mut stream, &welcome).await?;
        if verdict != Verdict::Welcome {
            let (remote, member) = (self.remote.as_str(), format!("{:x}", hello.from));
            tracing::warn!(target: "etcd", remote_addr = remote, member, name = hello.name, reason, "refused a peer");
            return stream.shutdown().await;
        }
        match Purpose::try_from(hello.purpose) {
            Ok(Purpose::Stream) => {
                self.peers.learn(hello.from, hello.peer_urls);
                if let Some(line) = lock(&inner.lines).get(&hello.from) {
                    line.state.poke.notify_one();
                }
                self.listen(hello.from, stream).await
            }
            Ok(Purpose::Snapshot) => snapshot::receive(&inner, hello.from, stream).await,
            _ => stream.shutdown().await,
        }
    }

    /// Takes what a member says until it ends or is removed.
    async fn listen(self, from: MemberId, stream: Box<dyn Wire>) -> io::Result<()> {
        let inner = self.peers.0.clone();
        let mut members = inner.members.subscribe();
        let (read, _write) = tokio::io::split(stream);
        let mut frames = FrameReader::new(read);
        let counts = inner.counts.of(from);
        loop {
            let frame = tokio::select! {
                frame = frames.next() => frame?,
                gone = members.wait_for(|members| members.is_removed(from)) => {
                    drop(gone);
                    return Ok(());
                }
            };
            counts.received_bytes.add(frames.take_received());
            match frame {
                None => return Ok(()),
                // A snapshot comes with its state, on a connection of its own.
                Some(Frame::Raft(raft::Message { body: raft::Body::Snapshot(_), .. })) => {
                    return Err(io::Error::from(io::ErrorKind::InvalidData));
                }
                Some(Frame::Raft(message)) => drop(inner.inbox.send(Message::Peer { from, message })),
                Some(Frame::Reply(reply)) => inner.answered(reply),
                Some(Frame::Request(request)) => {
                    let (peers, store) = (self.peers.clone(), self.store.clone());
                    tokio::spawn(async move {
                        let answer = answer(&store, request.ask).await.unwrap_or_else(refusal);
                        peers.push(from, &Frame::Reply(pb::PeerReply { id: request.id, answer: Some(answer) }));
                    });
                }
                Some(Frame::Records(_) | Frame::End) => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
        }
    }

    /// What of etcd's peer API is plain HTTP: `/version`, `/members` and `/members/hashkv`.
    async fn http(self, first: [u8; PREFACE.len()], stream: Box<dyn Wire>) -> io::Result<()> {
        let (read, write) = tokio::io::split(stream);
        let stream = tokio::io::join(AsyncReadExt::chain(io::Cursor::new(first), read), write);
        let (inner, store) = (self.peers.0.clone(), self.store.clone());
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let (inner, store) = (inner.clone(), store.clone());
            async move {
                let (head, body) = request.into_parts();
                Ok::<_, Infallible>(match head.uri.path() {
                    hashkv::PATH => hashkv::answer(&store, &head.headers, body).await,
                    path => route(&inner, &store, path),
                })
            }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        builder.serve_connection(TokioIo::new(stream), service).await.map_err(io::Error::other)
    }
}

fn route(inner: &Inner, store: &LocalStore, path: &str) -> Response<Body> {
    match path {
        "/version" => http_routes::typed(StatusCode::OK, "application/json", http_routes::version(store)),
        "/members" => {
            let members = inner.members.borrow().list();
            let list: Vec<serde_json::Value> = members.into_iter().map(|member| member_json(&member)).collect();
            let mut response =
                http_routes::typed(StatusCode::OK, "application/json", format!("{}\n", serde_json::Value::from(list)));
            if let Ok(id) = http::HeaderValue::from_str(&format!("{:x}", inner.cluster_id)) {
                response.headers_mut().insert("X-Etcd-Cluster-ID", id);
            }
            response
        }
        _ => http_routes::plain_error(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// A member as etcd's peer port shows it.
fn member_json(member: &pb::Member) -> serde_json::Value {
    let mut json = serde_json::json!({ "id": member.id, "peerURLs": member.peer_ur_ls });
    if member.is_learner {
        json["isLearner"] = true.into();
    }
    if !member.name.is_empty() {
        json["name"] = member.name.clone().into();
        json["clientURLs"] = member.client_ur_ls.clone().into();
    }
    json
}

/// Whether the caller may speak, and why not.
fn judge(
    inner: &Inner,
    hello: &pb::PeerHello,
    certificate: Option<&Option<CertificateDer<'static>>>,
    binding: Binding,
) -> Result<(), (Verdict, String)> {
    let members = inner.members.borrow().clone();
    let known = members.get(hello.from).map(|member| member.peer_ur_ls.clone());
    let asks = hello.purpose == i32::from(Purpose::Inquire);
    if members.is_removed(hello.from) {
        return Err((Verdict::Removed, "the member was removed from the cluster".to_owned()));
    }
    if !asks && hello.cluster_id != inner.cluster_id {
        let reason = format!("cluster ID mismatch: {:x} is not {:x}", hello.cluster_id, inner.cluster_id);
        return Err((Verdict::WrongCluster, reason));
    }
    if !asks && hello.to != inner.member_id {
        let reason = format!("this is member {:x}, not {:x}", inner.member_id, hello.to);
        return Err((Verdict::WrongMember, reason));
    }
    let Some(shown) = certificate else { return Ok(()) };
    let urls = known.unwrap_or_else(|| hello.peer_urls.clone());
    binding.check(shown.as_ref(), &urls).map_err(|why| (Verdict::WrongIdentity, why.to_owned()))
}

/// Answers what another member asks.
async fn answer(store: &LocalStore, ask: Option<Ask>) -> Result<Answer, StoreError> {
    Ok(match ask.ok_or(StoreError::Timeout)? {
        Ask::Ping(_) => Answer::Pong(true),
        Ask::Renew(id) => Answer::Renewed(store.renew_here(id).await?),
        Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys }) => {
            let left = store.time_to_live_here(id, keys)?;
            Answer::TimeToLive(pb::LeaseTimeToLiveResponse {
                header: None,
                id,
                ttl: left.ttl,
                granted_ttl: left.granted_ttl,
                keys: left.keys,
            })
        }
        Ask::Change(change) => {
            store.change_members_here(Change::try_from(change)?).await?;
            Answer::Members(store.shared.published().members.to_wire())
        }
    })
}

fn refusal(error: StoreError) -> Answer {
    let status = grpc::status(error);
    Answer::Refusal(pb::PeerRefusal { code: status.code().into(), message: status.message().to_owned() })
}
