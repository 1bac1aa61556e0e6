//! Which release this program is.

/// `major.minor.patch`: the version of the workspace, or `FERROFLUX_VERSION` of the environment in
/// which it was built, for tests of updates.
pub(crate) const RELEASE: &str = match option_env!("FERROFLUX_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The three numbers; what is missing or no number counts as 0.
pub(crate) fn numbers() -> (u32, u32, u32) {
    let mut numbers = RELEASE.split('.').map(|word| {
        let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    });
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_has_numbers() {
        let (major, minor, patch) = numbers();
        assert!(RELEASE.starts_with(&format!("{major}.{minor}.{patch}")), "{RELEASE}");
    }
}
