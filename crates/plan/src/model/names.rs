//! Names made of other names.

use sha2::{Digest as _, Sha256};

/// PostgreSQL cuts names after as many bytes (`NAMEDATALEN` - 1).
pub const NAME_BYTES_MAX: usize = 63;

/// Hexadecimal digits of the hash in a name that is too long.
const HASH_DIGITS: usize = 8;

/// A name between a prefix and a suffix. Where that is too long for PostgreSQL, which would cut it, the middle is cut and gets a hash of
/// the whole: two names stay two.
pub fn fitted(prefix: &str, name: &str, suffix: &str) -> String {
    let whole = format!("{prefix}{name}{suffix}");
    if whole.len() <= NAME_BYTES_MAX {
        return whole;
    }
    let hash: String = Sha256::digest(name.as_bytes()).iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
    let mut room = NAME_BYTES_MAX.saturating_sub(prefix.len() + suffix.len() + 1 + HASH_DIGITS).min(name.len());
    while !name.is_char_boundary(room) {
        room -= 1;
    }
    format!("{prefix}{}_{hash}{suffix}", &name[..room])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_fit_are_put_together() {
        assert_eq!(fitted("new_", "orders_status", ""), "new_orders_status");
        let longest = "x".repeat(NAME_BYTES_MAX - 4);
        assert_eq!(fitted("new_", &longest, ""), format!("new_{longest}"));
    }

    #[test]
    fn long_names_stay_apart_and_fit() {
        let (one, other) = (format!("{}a", "x".repeat(62)), format!("{}b", "x".repeat(62)));
        assert_ne!(fitted("new_", &one, "__old"), fitted("new_", &other, "__old"));
        for name in [one.as_str(), other.as_str(), &"ü".repeat(31), &format!("x{}", "€".repeat(20))] {
            let made = fitted("new_", name, "__old");
            assert!(made.len() <= NAME_BYTES_MAX && made.starts_with("new_") && made.ends_with("__old"), "{made}");
        }
    }
}
