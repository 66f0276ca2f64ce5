//! `pilothouse token`: what Google's log-in would end with, for anybody.

use anyhow::Result;

use crate::cli::TokenArgs;
use crate::control::{self, NewToken, TokenWish};
use crate::layout::Layout;

/// An access token of the account, for an hour.
///
/// # Errors
/// When no sandbox runs, or there can be no such account.
pub(crate) async fn run(args: &TokenArgs) -> Result<String> {
    let layout = Layout::resolve(args.data.data_dir.as_deref(), None)?;
    let full = |scope: &String| match scope.contains("://") || scope == "email" || scope == "openid" {
        true => scope.clone(),
        false => format!("https://www.googleapis.com/auth/{scope}"),
    };
    let wish = TokenWish { account: args.account.clone(), scopes: args.scopes.iter().map(full).collect() };
    let made: NewToken = control::tell(&layout, "tokens", &wish).await?;
    Ok(format!("{}\n", made.access_token))
}
