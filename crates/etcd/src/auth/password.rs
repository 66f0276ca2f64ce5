//! Passwords: bcrypt, in the form etcd stores (Go's `golang.org/x/crypto/bcrypt`: version `2a`).

use mvcc::AuthError;

/// What bcrypt looks at; Go refuses to hash more.
const PASSWORD_BYTES_MAX: usize = 72;
/// etcd's default, which it also takes for a cost that cannot be.
const COST_DEFAULT: u32 = 10;

/// The cost to hash with.
pub(super) fn cost(given: u32) -> u32 {
    if (4..=31).contains(&given) {
        return given;
    }
    tracing::warn!(target: "etcd", given, default = COST_DEFAULT, "use default bcrypt cost instead of the invalid given cost");
    COST_DEFAULT
}

/// The hash to store.
///
/// # Errors
/// When the password is too long.
pub(super) fn hash(password: &str, cost: u32, salt: [u8; 16]) -> Result<String, AuthError> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(AuthError::PasswordTooLong);
    }
    let parts = bcrypt::hash_with_salt(password, cost, salt).map_err(|_| AuthError::AuthFailed)?;
    Ok(parts.format_for_version(bcrypt::Version::TwoA))
}

/// Whether a stored hash is that of this password; one that cannot be read is of none.
pub(super) fn is(hash: &[u8], password: &str) -> bool {
    let hash = std::str::from_utf8(hash).unwrap_or_default();
    bcrypt::verify(password, hash).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_gos_library() {
        // Made by golang.org/x/crypto/bcrypt.
        assert!(is(GO_HASH.as_bytes(), "rp"));
        assert!(!is(GO_HASH.as_bytes(), "rq"));
        assert!(!is(b"", ""));
        let own = hash("rp", 4, [7; 16]).expect("short enough");
        assert!(own.starts_with("$2a$04$"), "{own}");
        assert!(is(own.as_bytes(), "rp"));
        assert_ne!(own, hash("rp", 4, [8; 16]).expect("short enough"));
    }

    #[test]
    fn long_passwords_are_refused_and_odd_costs_replaced() {
        assert!(hash(&"p".repeat(72), 4, [0; 16]).is_ok());
        assert_eq!(hash(&"p".repeat(73), 4, [0; 16]), Err(AuthError::PasswordTooLong));
        assert_eq!([cost(3), cost(4), cost(31), cost(32)], [10, 4, 31, 10]);
    }

    const GO_HASH: &str = "$2a$04$dsvJBbaB1fK53zDFmjz0N.CSanK2mEogDkwN7geOq93gW41pgxYQm";
}
