//! The signer's process: opens its sealed directory with the key it was handed, then serves the streams it is given.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use pki::SignerCore;
use tracing::{info, warn};

use crate::channel::{Channel, stream};
use crate::cli::RoleArgs;
use crate::confine::GaveUp;
use crate::fleet::SealedDirectory;
use crate::fleet::message::{FromSigner, ToSigner};
use crate::system;

/// Runs until it is told to stop, or the fleet is gone.
///
/// # Errors
/// When the fleet does not speak first, or its directory cannot be opened.
pub(crate) async fn run(args: &RoleArgs, gave_up: &[GaveUp]) -> Result<()> {
    let channel = Channel::from_stdin().context("the signer is started by the fleet, not by hand")?;
    let (core, directory) = match open(&channel, args).await {
        Ok(opened) => opened,
        Err(error) => {
            channel.send(&FromSigner::Failed { message: crate::failure::line(&error) }, &[]).await?;
            return Err(error);
        }
    };
    channel.send(&FromSigner::Ready { gave_up: gave_up.to_vec() }, &[]).await?;
    info!(target: "signer", cluster = args.cluster, "serving");
    if directory.has_earlier_keys() {
        seal_anew(&directory);
    }
    while let Some((message, files)) = channel.receive::<ToSigner>().await? {
        match message {
            ToSigner::Connect { requester } => match files.into_iter().next().map(stream) {
                Some(Ok(stream)) => {
                    tokio::spawn(pki::serve_signer(Arc::clone(&core), requester, stream));
                }
                Some(Err(error)) => warn!(target: "signer", %error, "cannot use a stream"),
                None => warn!(target: "signer", "a connection without a stream"),
            },
            ToSigner::Key { data_key } => match directory.take_key(&data_key) {
                Ok(()) => seal_anew(&directory),
                Err(error) => warn!(target: "signer", %error, "a new data key"),
            },
            ToSigner::Stop => break,
            ToSigner::Start { .. } => warn!(target: "signer", "started twice"),
        }
    }
    Ok(())
}

/// A handful of small files: nobody waits long.
fn seal_anew(directory: &SealedDirectory) {
    match directory.reseal_files().and_then(|()| directory.forget_earlier_keys()) {
        Ok(()) => info!(target: "signer", "everything is sealed with the new data key"),
        Err(error) => warn!(target: "signer", "the data key before is still needed: {error:#}"),
    }
}

async fn open(channel: &Channel, args: &RoleArgs) -> Result<(Arc<SignerCore>, Arc<SealedDirectory>)> {
    let Some((ToSigner::Start { cluster, data_dir, data_key, outside }, files)) = channel.receive().await? else {
        bail!("the fleet did not say what to sign for");
    };
    if data_dir != args.data_dir {
        bail!("the command line names {}, the fleet {}", args.data_dir.display(), data_dir.display());
    }
    let entropy = system::entropy();
    let directory = SealedDirectory::open(&data_dir, &cluster, crate::fleet::SIGNER, &data_key, entropy.clone())?;
    let directory = Arc::new(directory);
    let outside = match (outside, files.into_iter().next()) {
        (Some(outside), Some(end)) => Some(outside.reached_by(stream(end)?)?),
        (None, _) => None,
        (Some(_), None) => bail!("the fleet named authorities or keys of the user's, and no way to them"),
    };
    let core = SignerCore::open_with(&cluster, Arc::clone(&directory) as _, outside, system::clock(), entropy)?;
    Ok((Arc::new(core), directory))
}
