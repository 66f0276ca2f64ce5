//! One control-plane instance: store, API server, controllers, scheduler and, here, the simulated nodes.

mod addons;
mod control_plane;
mod machines;
mod metadata;
mod nodes;
mod questions;

use std::net::TcpStream;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use pki::{Signer, SignerClient};
use tokio::io::AsyncWriteExt;
use tracing::{info, warn};

use crate::channel::{Channel, stream};
use crate::cli::RoleArgs;
use crate::confine::GaveUp;
use crate::fleet::MemberListeners;
use crate::fleet::message::{FromInstance, ToInstance};

pub(crate) use control_plane::{Doors, Instance};

/// The instance's process: runs until it is told to stop, or the fleet is gone.
///
/// # Errors
/// When the fleet does not speak first, or a part does not start.
pub(crate) async fn run(args: &RoleArgs, gave_up: &[GaveUp]) -> Result<()> {
    let channel = Channel::from_stdin().context("an instance is started by the fleet, not by hand")?;
    let (mut instance, signer) = match start(&channel, args).await {
        Ok(started) => started,
        Err(error) => {
            channel.send(&FromInstance::Failed { message: crate::failure::line(&error) }, &[]).await?;
            return Err(error);
        }
    };
    channel.send(&FromInstance::Ready { gave_up: gave_up.to_vec() }, &[]).await?;
    info!(cluster = args.cluster, "serving");
    instance.begin().await;
    let store_ended = instance.store_ended();
    tokio::pin!(store_ended);
    loop {
        let received = tokio::select! {
            received = channel.receive::<ToInstance>() => received?,
            () = &mut store_ended => bail!("the store's state thread is gone; the fleet starts this instance again"),
        };
        let Some((message, files)) = received else { break };
        match message {
            ToInstance::Connection => {
                for file in files {
                    instance.serve(TcpStream::from(file));
                }
            }
            ToInstance::Signer => match files.into_iter().next().map(stream) {
                Some(Ok(stream)) => signer.reconnect(stream),
                other => warn!(?other, "a new signer without a stream"),
            },
            ToInstance::Key { data_key } => instance.take_key(&data_key)?,
            ToInstance::Nodes { nodes, machines } => instance.set_nodes(nodes, machines).await,
            ToInstance::Report => match files.into_iter().next().map(stream) {
                Some(Ok(mut stream)) => {
                    let report = serde_json::to_vec(&instance.report().await)?;
                    if let Err(error) = stream.write_all(&report).await {
                        info!(%error, "nobody waited for the report");
                    }
                }
                other => warn!(?other, "a report without a stream"),
            },
            ToInstance::Ask { question } => match files.into_iter().next().map(stream) {
                Some(Ok(end)) => instance.answer(question, end),
                other => warn!(?other, "a question without a stream"),
            },
            ToInstance::Hear => drop(files),
            ToInstance::Access { settings } => instance.set_access(settings),
            ToInstance::Stop => {
                instance.stop().await;
                return Ok(());
            }
            ToInstance::Start(_) => warn!("started twice"),
        }
    }
    info!("the fleet is gone; ending");
    instance.stop().await;
    Ok(())
}

async fn start(channel: &Channel, args: &RoleArgs) -> Result<(Instance, SignerClient)> {
    let Some((ToInstance::Start(start), files)) = channel.receive().await? else {
        bail!("the fleet did not say what to serve");
    };
    if start.data_dir != args.data_dir {
        bail!("the command line names {}, the fleet {}", args.data_dir.display(), start.data_dir.display());
    }
    let files: [OwnedFd; 5] =
        files.try_into().map_err(|_| anyhow::anyhow!("the fleet sent not the files of {}", start.instance))?;
    let [signer, identity, client, peer, metadata] = files;
    let signer = SignerClient::new(stream(signer)?);
    let identity = apiserver::Identity::channel(stream(identity)?);
    let doors = Doors {
        signer: Signer::Socket(signer.clone()),
        keys: identity.keys(),
        identity,
        etcd: MemberListeners { client: client.into(), peer: peer.into() },
        metadata,
    };
    Ok((Instance::start(*start, doors).await?, signer))
}
