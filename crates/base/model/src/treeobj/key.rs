//! Keys of the key-value store: names joined by `.`, where `.` alone is the root.

use std::borrow::Cow;

/// Longest key accepted, in bytes.
pub const MAX_KEY_LEN: usize = 4096;

/// Why text is no KVS key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is the empty string.
    #[error("kvs key is empty")]
    Empty,
    /// The key is longer than [`MAX_KEY_LEN`].
    #[error("kvs key of {0} bytes is longer than {MAX_KEY_LEN}")]
    TooLong(usize),
    /// The key holds a NUL character, which C clients could not name.
    #[error("kvs key holds a NUL character")]
    Nul,
}

/// Brings a key into its one canonical form: no leading, trailing or doubled `.`; all dots is `.`,
/// the root. Borrows when the key is canonical already.
///
/// # Errors
/// [`KeyError`] for an empty or overlong key, or one with a NUL character.
pub fn normalize_key(key: &str) -> Result<Cow<'_, str>, KeyError> {
    if key.is_empty() {
        return Err(KeyError::Empty);
    }
    if key.len() > MAX_KEY_LEN {
        return Err(KeyError::TooLong(key.len()));
    }
    if key.contains('\0') {
        return Err(KeyError::Nul);
    }
    if key == "." || !(key.starts_with('.') || key.ends_with('.') || key.contains("..")) {
        return Ok(Cow::Borrowed(key));
    }
    let mut canonical = String::with_capacity(key.len());
    for name in key_names(key) {
        if !canonical.is_empty() {
            canonical.push('.');
        }
        canonical.push_str(name);
    }
    if canonical.is_empty() {
        canonical.push('.');
    }
    Ok(Cow::Owned(canonical))
}

/// The names along the path of a key, from the root down; none for the root itself. The key need
/// not be normalised.
pub fn key_names(key: &str) -> impl DoubleEndedIterator<Item = &str> {
    key.split('.').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dots_are_collapsed_and_the_root_is_one_dot() {
        for (given, canonical) in [
            ("a", "a"),
            ("a.b.c", "a.b.c"),
            (".", "."),
            ("...", "."),
            (".a", "a"),
            ("a.", "a"),
            ("a..b", "a.b"),
            ("..a...b..", "a.b"),
        ] {
            assert_eq!(normalize_key(given).unwrap(), canonical, "{given}");
        }
    }

    #[test]
    fn impossible_keys_are_refused() {
        assert_eq!(normalize_key(""), Err(KeyError::Empty));
        assert_eq!(normalize_key(&"x".repeat(4097)), Err(KeyError::TooLong(4097)));
        assert_eq!(normalize_key("a\0b"), Err(KeyError::Nul));
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(key in "[.ab]{1,20}") {
            let once = normalize_key(&key).unwrap().into_owned();
            prop_assert_eq!(normalize_key(&once).unwrap(), once.clone());
            prop_assert!(key_names(&once).eq(key_names(&key)));
        }
    }
}
