//! Simple tokens: 16 letters and the log index of the entry that made them, known to each member by that entry.
//!
//! They are kept in memory only: a restart, a changed password and some unused minutes end them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Entropy, Timestamp};
use mvcc::TokenChange;
use tokio::sync::Notify;

use crate::hub::lock;

const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LENGTH: usize = 16;
/// etcd's default, which it also takes for none.
const TTL_DEFAULT: Duration = Duration::from_secs(300);
/// Tokens kept at once; the one that ends first makes room.
const TOKENS_MAX: usize = 100_000;

/// The simple tokens of a member.
pub(super) struct SimpleTokens {
    ttl: Duration,
    tokens: Mutex<BTreeMap<String, Token>>,
    /// A token was made.
    made: Notify,
}

struct Token {
    user: Arc<str>,
    ends: Timestamp,
}

/// Random letters, each as likely as the others.
pub(super) fn letters(entropy: &Entropy) -> String {
    let mut letters = String::with_capacity(LENGTH);
    while letters.len() < LENGTH {
        let byte = usize::from(entropy.bytes::<1>()[0]);
        // 208 is the largest multiple of 52 in a byte.
        if byte < 208 {
            letters.push(char::from(LETTERS[byte % LETTERS.len()]));
        }
    }
    letters
}

impl SimpleTokens {
    pub(super) fn new(ttl: Duration) -> Self {
        let ttl = if ttl.is_zero() { TTL_DEFAULT } else { ttl };
        Self { ttl, tokens: Mutex::default(), made: Notify::new() }
    }

    pub(super) fn follow(&self, change: TokenChange, index: u64, now: Timestamp) {
        let mut tokens = lock(&self.tokens);
        match change {
            TokenChange::Issue { user, token } => {
                tokens.retain(|_, token| token.ends > now);
                if tokens.len() >= TOKENS_MAX {
                    let first = tokens.iter().min_by_key(|(_, token)| token.ends).map(|(name, _)| name.clone());
                    first.and_then(|first| tokens.remove(&first));
                }
                tokens.insert(format!("{token}.{index}"), Token { user: user.into(), ends: now + self.ttl });
                drop(tokens);
                self.made.notify_waiters();
            }
            TokenChange::DropUser(name) => tokens.retain(|_, token| *token.user != *name),
            TokenChange::DropAll => tokens.clear(),
        }
    }

    /// The token that begins like this.
    pub(super) fn whole(&self, first: &str) -> Option<String> {
        let tokens = lock(&self.tokens);
        let (token, _) = tokens.range(first.to_owned()..).next()?;
        token.starts_with(first).then(|| token.clone())
    }

    /// Whose token this is; it lives on from now. Waits for a token of an entry that is not applied here yet.
    pub(super) async fn find(
        &self,
        token: &str,
        applied: impl Fn() -> u64,
        now: impl Fn() -> Timestamp,
    ) -> Option<Arc<str>> {
        let (_, index) = token.split_once('.')?;
        let index: u64 = index.parse().ok()?;
        loop {
            // Heard of from here on, so that none is missed between the look and the wait.
            let made = self.made.notified();
            let is_applied = applied() >= index;
            if let Some(user) = self.renew(token, now()) {
                return Some(user);
            }
            if is_applied {
                return None;
            }
            made.await;
        }
    }

    fn renew(&self, token: &str, now: Timestamp) -> Option<Arc<str>> {
        let mut tokens = lock(&self.tokens);
        let token = tokens.get_mut(token).filter(|token| token.ends > now)?;
        token.ends = now + self.ttl;
        Some(token.user.clone())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn issue(user: &str, token: &str) -> TokenChange {
        TokenChange::Issue { user: user.to_owned(), token: token.to_owned() }
    }

    /// Looks at a moment when entry 10 is applied; `None` when it waits.
    fn find(tokens: &SimpleTokens, token: &str, now: i64) -> Option<Option<Arc<str>>> {
        tokens.find(token, || 10, || at(now)).now_or_never()
    }

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let tokens = SimpleTokens::new(Duration::from_secs(10));
        tokens.follow(issue("eve", "abc"), 5, at(0));
        let eve = || Some(Some(Arc::from("eve")));
        assert_eq!(tokens.whole("abc"), Some("abc.5".to_owned()));
        assert_eq!(tokens.whole("ab"), Some("abc.5".to_owned()));
        assert_eq!(tokens.whole("abd"), None);
        for now in [9, 18, 27] {
            assert_eq!(find(&tokens, "abc.5", now), eve(), "at {now}");
        }
        assert_eq!(find(&tokens, "abc.5", 37), Some(None));
        tokens.follow(issue("eve", "xyz"), 6, at(37));
        assert_eq!(lock(&tokens.tokens).len(), 1, "the one that ended is gone");
    }

    #[test]
    fn tokens_go_with_their_user_or_all_together() {
        let tokens = SimpleTokens::new(Duration::ZERO);
        tokens.follow(issue("eve", "a"), 1, at(0));
        tokens.follow(issue("bob", "b"), 2, at(0));
        tokens.follow(TokenChange::DropUser("eve".to_owned()), 3, at(0));
        assert_eq!(find(&tokens, "a.1", 1), Some(None));
        assert_eq!(find(&tokens, "b.2", 299), Some(Some(Arc::from("bob"))));
        tokens.follow(TokenChange::DropAll, 4, at(0));
        assert_eq!(find(&tokens, "b.2", 1), Some(None));
    }

    #[test]
    fn only_a_token_of_a_later_entry_is_waited_for() {
        let tokens = SimpleTokens::new(Duration::ZERO);
        for (token, waits) in [("a.10", false), ("a.11", true), ("a", false), ("a.b", false), ("a.1.1", false)] {
            assert_eq!(find(&tokens, token, 0), if waits { None } else { Some(None) }, "{token}");
        }
        let mut found = Box::pin(tokens.find("a.11", || 10, || at(0)));
        assert_eq!((&mut found).now_or_never(), None);
        tokens.follow(issue("eve", "b"), 11, at(0));
        assert_eq!((&mut found).now_or_never(), None, "another's");
        tokens.follow(issue("eve", "a"), 11, at(0));
        assert_eq!(found.now_or_never(), Some(Some(Arc::from("eve"))));
    }

    #[test]
    fn letters_are_letters_and_differ() {
        let count = std::sync::atomic::AtomicU8::new(0);
        let entropy = Entropy::new(move |buffer| {
            buffer.iter_mut().for_each(|byte| *byte = count.fetch_add(37, std::sync::atomic::Ordering::Relaxed));
        });
        let (a, b) = (letters(&entropy), letters(&entropy));
        assert!(a.len() == 16 && a.bytes().all(|letter| letter.is_ascii_alphabetic()), "{a}");
        assert_ne!(a, b);
    }
}
