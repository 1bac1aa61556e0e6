//! Topic strings: services, methods and subscriptions.

/// Whether an event with `topic` belongs to a subscription. A subscription is a plain prefix;
/// the empty one matches everything.
#[must_use]
pub fn subscription_matches(prefix: &str, topic: &str) -> bool {
    topic.starts_with(prefix)
}

/// Whether `topic` matches a shell pattern: `*` is any run of characters, `?` one character,
/// `[..]` a set with ranges (`[!..]` or `[^..]` everything else), `\` quotes the next one.
///
/// Message handlers select topics this way. Time is at most pattern length times topic length.
#[must_use]
pub fn glob_matches(pattern: &str, topic: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let topic: Vec<char> = topic.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on when the last `*` has to take one more character.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        match topic.get(t) {
            None if p == pattern.len() => return true,
            None => return false,
            Some(&c) => {
                if let Some(next) = one(&pattern, p, c) {
                    p = next;
                    t += 1;
                    continue;
                }
            }
        }
        match retry {
            Some((rp, rt)) => {
                retry = Some((rp, rt + 1));
                p = rp;
                t = rt + 1;
            }
            None => return false,
        }
    }
}

/// Matches one character against the pattern element at `p`; the place after that element.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match *pattern.get(p)? {
        '?' => Some(p + 1),
        '\\' => match pattern.get(p + 1) {
            Some(&quoted) => (quoted == c).then_some(p + 2),
            None => (c == '\\').then_some(p + 1),
        },
        '[' => match set(pattern, p + 1, c) {
            Some((end, matched)) => matched.then_some(end),
            // A set without end is a plain bracket.
            None => (c == '[').then_some(p + 1),
        },
        literal => (literal == c).then_some(p + 1),
    }
}

/// Reads a set that begins at `p`; the place after it and whether `c` is a member.
fn set(pattern: &[char], mut p: usize, c: char) -> Option<(usize, bool)> {
    let negated = matches!(pattern.get(p), Some('!' | '^'));
    if negated {
        p += 1;
    }
    let first = p;
    let mut member = false;
    loop {
        let low = match *pattern.get(p)? {
            ']' if p > first => return Some((p + 1, member != negated)),
            '\\' => {
                p += 1;
                *pattern.get(p)?
            }
            low => low,
        };
        p += 1;
        match (pattern.get(p), pattern.get(p + 1)) {
            (Some('-'), Some(&high)) if high != ']' => {
                member |= (low..=high).contains(&c);
                p += 2;
            }
            _ => member |= low == c,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_prefixes() {
        assert!(subscription_matches("", "job-state"));
        assert!(subscription_matches("job", "job-state"));
        assert!(!subscription_matches("job-state.x", "job-state"));
        assert!(!subscription_matches("*", "job-state"));
    }

    #[test]
    fn globs_match_like_a_shell() {
        for (pattern, topic, expected) in [
            ("*", "", true),
            ("*", "a.b", true),
            ("kvs.*", "kvs.get", true),
            ("kvs.*", "kvsx.get", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("?", "é", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[a", "[a", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob_matches(pattern, topic), expected, "{pattern} on {topic}");
        }
    }

    #[test]
    fn many_stars_stay_cheap() {
        let pattern = "*a".repeat(200);
        assert!(!glob_matches(&pattern, &"a".repeat(199)));
    }
}
