//! Submission directives embedded in a script (RFC 36).
//!
//! A directive is a line that starts with a *sentinel*: a prefix without word characters followed
//! by `flux:` or `FLUX:`. What follows is split into words with POSIX shell quoting, `#` comments
//! at the start of a word and triple quoted literals.

use thiserror::Error;

mod words;

#[cfg(test)]
mod tests;

/// The directives of one file, in file order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// The sentinel all directives share, e.g. `# flux:`; `None` when the file has no directive.
    pub sentinel: Option<String>,
    /// The directives that have at least one word.
    pub items: Vec<Directive>,
}

/// One directive: the words of one line, or of several when a literal spans lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Line number of its first line, counted from 1.
    pub line: usize,
    /// Its words after quote removal; never empty.
    pub words: Vec<String>,
}

/// Why the directives of a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DirectiveError {
    /// A directive stands after the end of the directive block.
    #[error("line {line}: orphan directive '{text}': directives must precede the script body")]
    Orphan {
        /// Line number, from 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// A directive uses another sentinel than the first one.
    #[error("line {line}: sentinel '{found}' differs from the first one, '{expected}'")]
    Sentinel {
        /// Line number, from 1.
        line: usize,
        /// Sentinel of the first directive.
        expected: String,
        /// Sentinel found here.
        found: String,
    },
    /// A quote is opened and not closed.
    #[error("line {line}: unclosed {quote} quote")]
    Unclosed {
        /// Line number where the quote opens, from 1.
        line: usize,
        /// The quote as written.
        quote: &'static str,
    },
    /// A backslash ends the directive.
    #[error("line {line}: nothing follows the final backslash")]
    Backslash {
        /// Line number, from 1.
        line: usize,
    },
    /// Text follows the opening triple quote of a literal that spans lines.
    #[error("line {line}: an opening {quote} of several lines must end its line")]
    OpeningNotLast {
        /// Line number, from 1.
        line: usize,
        /// The quote as written.
        quote: &'static str,
    },
    /// Text follows the closing triple quote of a literal that spans lines.
    #[error("line {line}: a closing {quote} of several lines must end its line")]
    ClosingNotLast {
        /// Line number, from 1.
        line: usize,
        /// The quote as written.
        quote: &'static str,
    },
    /// A line inside a literal that spans lines lacks the sentinel.
    #[error("line {line}: inside {quote} every line must begin with '{sentinel}'")]
    NoSentinel {
        /// Line number, from 1.
        line: usize,
        /// The quote as written.
        quote: &'static str,
        /// Sentinel of the file.
        sentinel: String,
    },
}

impl Directives {
    /// Reads the directives of a script.
    ///
    /// # Errors
    /// The first fault of the file, with its line number.
    pub fn parse(script: &str) -> Result<Self, DirectiveError> {
        let mut found = Self::default();
        let mut stopped = false;
        let mut lines = script
            .split('\n')
            .map(|line| line.strip_suffix('\r').unwrap_or(line))
            .enumerate()
            .map(|(at, line)| (at + 1, line));

        while let Some((number, line)) = lines.next() {
            let Some(end) = sentinel_end(line) else {
                if let Some(sentinel) = &found.sentinel
                    && !continues(line, sentinel)
                {
                    stopped = true;
                }
                continue;
            };
            let sentinel = &line[..end];
            match &found.sentinel {
                None => found.sentinel = Some(sentinel.to_owned()),
                Some(_) if stopped => {
                    return Err(DirectiveError::Orphan { line: number, text: shorten(line) });
                }
                Some(first) if first != sentinel => {
                    return Err(DirectiveError::Sentinel {
                        line: number,
                        expected: first.clone(),
                        found: sentinel.to_owned(),
                    });
                }
                Some(_) => {}
            }
            let words = words::split(number, &line[end..], sentinel, &mut lines)?;
            if !words.is_empty() {
                found.items.push(Directive { line: number, words });
            }
        }
        Ok(found)
    }

    /// The words of all directives that are options (those starting with `-`), in file order.
    pub fn options(&self) -> impl Iterator<Item = &str> {
        self.items
            .iter()
            .filter(|item| item.words.first().is_some_and(|word| word.starts_with('-')))
            .flat_map(|item| item.words.iter().map(String::as_str))
    }
}

/// Length of the sentinel a line starts with, or `None` if the line is no directive.
fn sentinel_end(line: &str) -> Option<usize> {
    let tag = line.find(|c: char| c.is_alphanumeric() || c == '_')?;
    let rest = &line[tag..];
    (rest.starts_with("flux:") || rest.starts_with("FLUX:")).then_some(tag + "flux:".len())
}

/// True for lines that keep the directive block open: blank ones, and those with its prefix.
///
/// A bare prefix whose trailing blanks an editor removed counts as blank.
fn continues(line: &str, sentinel: &str) -> bool {
    let prefix = &sentinel[..sentinel.len() - "flux:".len()];
    line.trim().is_empty()
        || line.starts_with(prefix)
        || (!prefix.trim_end().is_empty() && line.trim_end() == prefix.trim_end())
}

/// The first characters of a line, for a message.
fn shorten(line: &str) -> String {
    const SHOWN: usize = 60;
    let line = line.trim();
    match line.char_indices().nth(SHOWN) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}...", &line[..end]),
    }
}
