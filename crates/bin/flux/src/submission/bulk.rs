//! Inputs and replacement fields of `flux bulksubmit`.
//!
//! Lists of inputs follow `:::` (words) or `::::` (files); the jobs are all combinations, the last
//! list varying fastest. A list that follows `:::+` or `::::+` goes in step with the one before.

use super::SubmitError;

/// Most jobs of one command line.
const MAX_JOBS: u64 = 10_000_000;

/// The values of one list.
type Values = Vec<String>;

/// The inputs: groups of lists that go in step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    groups: Vec<Vec<Values>>,
}

/// The command words before the first `:::`, and the inputs after it. `read` opens a file of
/// inputs (`-`: standard input) and splits it.
///
/// # Errors
/// A link without a list before it, or a file that cannot be read.
pub(crate) fn split(
    words: &[String],
    read: &mut dyn FnMut(&str) -> Result<Values, SubmitError>,
) -> Result<(Vec<String>, Option<Inputs>), SubmitError> {
    let is_mark = |w: &String| matches!(w.as_str(), ":::" | ":::+" | "::::" | "::::+");
    let first = words.iter().position(is_mark).unwrap_or(words.len());
    let (command, mut rest) = words.split_at(first);
    let mut inputs = Inputs::default();
    let found = !rest.is_empty();
    while let Some((mark, after)) = rest.split_first() {
        let end = after.iter().position(is_mark).unwrap_or(after.len());
        let (values, next) = after.split_at(end);
        let values = if mark.starts_with("::::") {
            let mut all = Vec::new();
            for file in values {
                all.extend(read(file)?);
            }
            all
        } else {
            values.to_vec()
        };
        if mark.ends_with('+') {
            inputs.groups.last_mut().ok_or(SubmitError::NothingToLink)?.push(values);
        } else {
            inputs.groups.push(vec![values]);
        }
        rest = next;
    }
    Ok((command.to_vec(), found.then_some(inputs)))
}

/// Splits the text of an input file: by lines, by blanks (`none`), or by a string.
pub(crate) fn split_text(text: &str, separator: Option<&str>) -> Values {
    let parts: Vec<&str> = match separator {
        None => text.lines().collect(),
        Some("none" | "") => text.split_whitespace().collect(),
        Some(separator) => text.strip_suffix('\n').unwrap_or(text).split(separator).collect(),
    };
    parts.into_iter().filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

impl Inputs {
    /// One list, as read from standard input.
    pub(crate) fn single(values: Values) -> Inputs {
        Inputs { groups: vec![vec![values]] }
    }

    /// How many jobs there are.
    ///
    /// # Errors
    /// [`SubmitError::TooMany`].
    pub(crate) fn count(&self) -> Result<usize, SubmitError> {
        let mut count = 1u64;
        for group in &self.groups {
            count = count.checked_mul(steps(group) as u64).ok_or(SubmitError::TooMany(MAX_JOBS))?;
        }
        usize::try_from(count)
            .ok()
            .filter(|_| count <= MAX_JOBS)
            .ok_or(SubmitError::TooMany(MAX_JOBS))
    }

    /// The inputs of one job: each value with its place in its list.
    pub(crate) fn of(&self, job: usize) -> Vec<(usize, &str)> {
        let mut rest = job;
        let mut picked = Vec::new();
        for group in self.groups.iter().rev() {
            let steps = steps(group).max(1);
            let at = rest % steps;
            rest /= steps;
            for list in group.iter().rev() {
                picked.push((at, list.get(at).map_or("", String::as_str)));
            }
        }
        picked.reverse();
        picked
    }
}

/// Lists in step end with the shortest.
fn steps(group: &[Values]) -> usize {
    group.iter().map(Vec::len).min().unwrap_or(0)
}

/// Whether a word has a field that an input replaces.
pub(crate) fn has_field(word: &str) -> bool {
    fields(word).any(|(_, _, field)| input_field(field).is_some())
}

/// Replaces the fields of a word. `{{...}}` and `{cc}` stay, as do braces around anything that is
/// no field.
///
/// # Errors
/// A field that asks for an input or a function that does not exist.
pub(crate) fn substitute(
    word: &str,
    inputs: &[(usize, &str)],
    seq: usize,
) -> Result<String, SubmitError> {
    let mut out = String::with_capacity(word.len());
    let mut done = 0;
    for (start, end, field) in fields(word) {
        let value = if field == "seq" {
            seq.to_string()
        } else if field == "seq1" {
            (seq + 1).to_string()
        } else if let Some((index, function)) = input_field(field) {
            let unknown = || SubmitError::Replacement(format!("{{{field}}}"));
            let (place, input) = inputs.get(index).ok_or_else(unknown)?;
            apply(function, input, *place).ok_or_else(unknown)?
        } else {
            continue;
        };
        out.push_str(&word[done..start]);
        out.push_str(&value);
        done = end;
    }
    out.push_str(&word[done..]);
    Ok(out)
}

/// `{...}` without braces inside and not doubled: start, end, content.
fn fields(word: &str) -> impl Iterator<Item = (usize, usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let open = at + word[at..].find('{')?;
            if word[open..].starts_with("{{") {
                at = match word[open..].find("}}") {
                    Some(close) => open + close + 2,
                    None => word.len(),
                };
                continue;
            }
            let close = open + word[open..].find('}')?;
            if let Some(inner) = word[open + 1..close].rfind('{') {
                at = open + 1 + inner;
                continue;
            }
            at = close + 1;
            return Some((open, close + 1, &word[open + 1..close]));
        }
    })
}

/// `INDEX.FUNCTION`, both optional.
fn input_field(field: &str) -> Option<(usize, &str)> {
    let (index, function) = match field.split_once('.') {
        Some((index, function)) if !function.is_empty() => (index, function),
        Some(_) => return None,
        None => (field, ""),
    };
    let index = if index.is_empty() { 0 } else { index.parse().ok()? };
    Some((index, function))
}

fn apply(function: &str, input: &str, place: usize) -> Option<String> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    Some(match function {
        "" => input.to_owned(),
        "%" => without_extension(input),
        "/" => base(input),
        "//" => input.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned(),
        "/%" => without_extension(&base(input)),
        "n" => place.to_string(),
        _ => return None,
    })
}

/// Removes the last extension; dots at the start of the file name are part of the name.
fn without_extension(path: &str) -> String {
    let start = path.rfind('/').map_or(0, |at| at + 1);
    let name = &path[start..];
    let lead = name.len() - name.trim_start_matches('.').len();
    match name[lead..].rfind('.') {
        Some(dot) => path[..start + lead + dot].to_owned(),
        None => path.to_owned(),
    }
}

/// An order of `count` things from a seed (Fisher-Yates with an xorshift generator).
pub(crate) fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = seed | 1;
    for i in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bound = u64::try_from(i + 1).unwrap_or(u64::MAX);
        order.swap(i, usize::try_from(state % bound).unwrap_or(0));
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn jobs(text: &str) -> Vec<String> {
        let mut read = |_: &str| Ok(vec!["f1".into(), "f2".into()]);
        let (command, inputs) = split(&words(text), &mut read).expect("valid");
        let inputs = inputs.expect("inputs");
        let command = command.join(" ");
        (0..inputs.count().expect("few"))
            .map(|i| substitute(&command, &inputs.of(i), i).expect("known fields"))
            .collect()
    }

    #[test]
    fn inputs_combine_or_go_in_step() {
        assert_eq!(jobs("echo {} ::: a b"), ["echo a", "echo b"]);
        assert_eq!(jobs("{0}{1} ::: a b ::: 1 2"), ["a1", "a2", "b1", "b2"]);
        assert_eq!(jobs("{0}{1} ::: a b :::+ 1 2 3"), ["a1", "b2"]);
        assert_eq!(jobs("{0}{1} ::: a b :::: file"), ["af1", "af2", "bf1", "bf2"]);
        assert_eq!(jobs("{seq}:{seq1} ::: a b"), ["0:1", "1:2"]);
        assert!(jobs("{} :::").is_empty());
        let lost = split(&words("x :::+ a"), &mut |_| Ok(vec![]));
        assert_eq!(lost, Err(SubmitError::NothingToLink));
    }

    #[test]
    fn functions_take_paths_apart() {
        let of = |field: &str| substitute(field, &[(3, "/a/b.tar.gz")], 0);
        assert_eq!(of("{.%}").as_deref(), Ok("/a/b.tar"));
        assert_eq!(of("{./}").as_deref(), Ok("b.tar.gz"));
        assert_eq!(of("{.//}").as_deref(), Ok("/a"));
        assert_eq!(of("{./%}").as_deref(), Ok("b.tar"));
        assert_eq!(of("{0.n}").as_deref(), Ok("3"));
        assert_eq!(of("{1}"), Err(SubmitError::Replacement("{1}".into())));
        assert_eq!(of("{.x}"), Err(SubmitError::Replacement("{.x}".into())));
        assert_eq!(without_extension(".bashrc"), ".bashrc");
    }

    #[test]
    fn other_braces_stay() {
        let of = |word: &str| substitute(word, &[(0, "I")], 0).expect("no unknown field");
        assert_eq!(of("{{id}}-{}-{cc}"), "{{id}}-I-{cc}");
        assert_eq!(of("awk '{print $1}' {}"), "awk '{print $1}' I");
        assert_eq!(of("{ {} }"), "{ I }");
        assert!(has_field("x{}") && has_field("{0.%}"));
        assert!(!has_field("{{id}}") && !has_field("{cc}") && !has_field("{seq}"));
    }

    #[test]
    fn input_files_are_split() {
        assert_eq!(split_text("a b\nc\n\n", None), ["a b", "c"]);
        assert_eq!(split_text("a b\nc\n", Some("none")), ["a", "b", "c"]);
        assert_eq!(split_text("a,b\n", Some(",")), ["a", "b"]);
    }

    proptest! {
        #[test]
        fn any_word_is_replaced_or_refused(word in "[{}.%/0n a-z]{0,20}") {
            drop(substitute(&word, &[(0, "x")], 0));
        }

        #[test]
        fn shuffling_loses_nothing(count in 0usize..50, seed: u64) {
            let mut order = shuffled(count, seed);
            order.sort_unstable();
            prop_assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }
}
