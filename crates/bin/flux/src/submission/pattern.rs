//! Patterns of environment and limit rules: shell globs, or regular expressions behind a `/`.

use super::SubmitError;

/// A compiled pattern.
pub(crate) enum Pattern {
    Glob(Vec<char>),
    Regex(regex_lite::Regex),
}

impl Pattern {
    /// Reads `GLOB`, `/REGEX` or `/REGEX/`. `option` is the option it came from, for the error.
    pub(crate) fn parse(option: &'static str, text: &str) -> Result<Pattern, SubmitError> {
        let Some(body) = text.strip_prefix('/') else {
            return Ok(Pattern::Glob(text.chars().collect()));
        };
        let body = body.strip_suffix('/').unwrap_or(body);
        // As in Python's `re.match`, the match begins at the start.
        regex_lite::Regex::new(&format!("^(?:{body})")).map(Pattern::Regex).map_err(|error| {
            SubmitError::Pattern { option, pattern: text.to_owned(), problem: error.to_string() }
        })
    }

    /// Whether a name matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::Glob(glob) => {
                let name: Vec<char> = name.chars().collect();
                glob_matches(glob, &name)
            }
            Pattern::Regex(regex) => regex.is_match(name),
        }
    }
}

/// `*`, `?`, `[set]`, `[!set]`; backtracks to the last star only, so time is at most quadratic.
fn glob_matches(glob: &[char], name: &[char]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match glob.get(g) {
            Some('*') => {
                star = Some((g, n));
                g += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => match set_matches(&glob[g..], name[n]) {
                Some((true, length)) => Some(length),
                Some((false, _)) => None,
                None => (name[n] == '[').then_some(1),
            },
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                g += length;
                n += 1;
            }
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                g = at + 1;
                n = from + 1;
            }
            (None, None) => return false,
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// Whether the set at the start of `glob` holds `c`, and the length of the set; `None` when it is
/// not closed, which makes the bracket an ordinary character.
fn set_matches(glob: &[char], c: char) -> Option<(bool, usize)> {
    let negated = matches!(glob.get(1), Some('!' | '^'));
    let start = if negated { 2 } else { 1 };
    let close = start + 1 + glob.get(start + 1..)?.iter().position(|c| *c == ']')?;
    let set = &glob[start..close];
    let mut found = false;
    let mut at = 0;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == '-' {
            found |= (set[at]..=set[at + 2]).contains(&c);
            at += 3;
        } else {
            found |= set[at] == c;
            at += 1;
        }
    }
    Some((found != negated, close + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse("env", pattern).expect("a pattern").matches(name)
    }

    #[test]
    fn globs_match_whole_names() {
        assert!(matches("*", ""));
        assert!(matches("FLUX_*_PATH", "FLUX_EXEC_PATH"));
        assert!(!matches("FLUX_*_PATH", "FLUX_PATH"));
        assert!(matches("a?c", "abc") && !matches("a?c", "ac"));
        assert!(matches("[a-c]x", "bx") && !matches("[!a-c]x", "bx") && matches("[!a]x", "bx"));
        assert!(matches("[", "[") && matches("[]]", "]"));
        assert!(!matches("PATH", "PATHS"));
    }

    #[test]
    fn regexes_match_from_the_start() {
        assert!(matches("/^OMP.*/", "OMP_X"));
        assert!(matches("/OMP", "OMP_X") && !matches("/OMP", "X_OMP"));
        assert!(Pattern::parse("env", "/(").is_err());
    }

    proptest! {
        #[test]
        fn any_glob_ends(glob in "[*?a\\[\\]!-]{0,20}", name in "[ab\\[]{0,20}") {
            matches(&glob, &name);
        }
    }
}
